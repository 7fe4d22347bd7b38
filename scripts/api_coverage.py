"""How much of the public API the tests run: functions and methods without a leading underscore, and lines.

    coverage run --source phdlspec,kurucz_grids,calibration -m pytest && coverage json
    python scripts/api_coverage.py coverage.json

A function counts as run when a line of its body was; what only worker processes run is not seen.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

from harness import table_head


def is_public(name: str, file: str) -> bool:
    """Whether neither the function nor a class, module or folder around it starts with an underscore."""
    parts = [*name.split("."), *Path(file).with_suffix("").parts]
    return all(not part.startswith("_") or part.startswith("__") for part in parts if part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coverage", type=Path, help="JSON of `coverage json`")
    files = json.loads(parser.parse_args().coverage.read_text())["files"]
    run: dict[str, list[bool]] = defaultdict(list)
    lines: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    missed = []
    for file, found in sorted(files.items()):
        package = Path(file).parts[0]
        lines[package][0] += found["summary"]["covered_lines"]
        lines[package][1] += found["summary"]["num_statements"]
        for name, function in found["functions"].items():
            if name and is_public(name, file) and function["summary"]["num_statements"]:
                run[package].append(bool(function["executed_lines"]))
                if not run[package][-1]:
                    missed.append(f"{file}: {name}")
    print(table_head("package", "public functions and methods", "run by tests", "lines run"))
    for package, hits in run.items():
        covered, total = lines[package]
        print(f"| {package} | {len(hits)} | {100 * sum(hits) / len(hits):.0f}% | {100 * covered / total:.0f}% |")
    print("\nnot run:", *missed, sep="\n  ")


if __name__ == "__main__":
    main()
