"""Figures of the house at some commits: directions of imports, long functions, types, lines, tests, size.

  python scripts/house_figures.py 0f67b66 HEAD          # the end of the first stage, and now: docs/architecture.md

Imports that run back are those of `phdlspec` from the two packages that stand on it; imports inside functions, of the
packages themselves, are those that a cycle or a slow start would force. Tests are counted by their functions, each
once whatever its parameters. Types: `mypy --strict`, with the stubs that are installed.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness import ROOT, table

PACKAGES = ("phdlspec", "kurucz_grids", "calibration")
LONG = 50  # lines of a function


def trees(folder: Path, names: tuple[str, ...]) -> Iterator[tuple[Path, ast.Module]]:
    """The modules of some folders."""
    for name in names:
        for path in sorted((folder / name).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def imported(node: ast.AST) -> list[str]:
    """What an import statement imports of the packages."""
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        names = [node.module]
    return [name for name in names if name.split(".")[0] in PACKAGES]


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def mypy_errors(folder: Path) -> int:
    """Errors of `mypy --strict` in the three packages."""
    command = [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "--config-file", "/dev/null",
               "--cache-dir", "/dev/null", *PACKAGES]  # fmt: skip
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
    return sum(": error:" in line for line in told.splitlines())


def figures(folder: Path, types: bool) -> dict[str, int]:
    """The figures of one state of the repository."""
    code = list(trees(folder, PACKAGES))
    back, inside, long = set(), 0, 0
    for path, tree in code:
        own = path.relative_to(folder).parts[0]
        for node in ast.walk(tree):
            above = [name for name in imported(node) if own == "phdlspec" and name.split(".")[0] != own]
            back |= {(path, name) for name in above}
        statements = {node for function in functions(tree) for node in ast.walk(function) if imported(node)}
        inside += len(statements)
        long += sum((function.end_lineno or 0) - function.lineno + 1 > LONG for function in functions(tree))
    tests = sum(f.name.startswith("test_") for _, tree in trees(folder, ("tests",)) for f in functions(tree))
    kept = [path for name in PACKAGES for path in (folder / name).rglob("*") if path.is_file()]
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path, _ in code)
    return {
        "imports that run back": len(back),
        "imports of the packages inside functions": inside,
        f"functions above {LONG} lines": long,
        **({"errors of mypy --strict": mypy_errors(folder)} if types else {}),
        "lines of the packages": lines,
        "modules of the packages": len(code),
        "lines a module": round(lines / len(code)),
        "lines of scripts": sum(
            len(p.read_text(encoding="utf-8").splitlines()) for p, _ in trees(folder, ("scripts",))
        ),
        "test functions": tests,
        "size of the packages (MB)": round(sum(path.stat().st_size for path in kept) / 1e6),
    }


def at(commit: str, types: bool) -> dict[str, int]:
    """The figures at a commit."""
    with tempfile.TemporaryDirectory() as name:
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", name], input=archive, check=True)
        return figures(Path(name), types)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="+")
    parser.add_argument("--types", action="store_true", help="count errors of mypy --strict too (minutes)")
    args = parser.parse_args()
    columns = [at(commit, args.types) for commit in args.commits]
    print(table(["", *args.commits], [[name, *(column[name] for column in columns)] for name in columns[0]]))


if __name__ == "__main__":
    main()
