"""Every public name has an example in its docstring, and the examples are right.

They begin where the docstring of their package leaves off; those of constants are in the module that declares them.
"""

import ast
import doctest
import importlib
import inspect
import types
from pathlib import Path

import pytest

PACKAGES = "phdlspec", "kurucz_grids", "calibration"
NEEDS = {
    "to_specutils": "specutils", "from_specutils": "specutils", "ages": "lachesis_grids", "Synthesizer": "pysme",
    "synthesize": "pysme", "load_direct_synthesis": "pysme",
}  # fmt: skip


def _declared_in(package: str) -> dict[str, str]:
    """The modules that public names come from, of the package's stub."""
    stub = Path(str(importlib.import_module(package).__file__)).with_suffix(".pyi")
    imports = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
    return {alias.name: f"{package}.{node.module or ''}".rstrip(".") for node in imports for alias in node.names}


NAMES = [(package, name) for package in PACKAGES for name in sorted(_declared_in(package))]


def _docstring(package: str, name: str) -> str:
    found = getattr(importlib.import_module(package), name)
    documented = inspect.isclass(found) or inspect.isroutine(found) or isinstance(found, types.ModuleType)
    return inspect.getdoc(found if documented else importlib.import_module(_declared_in(package)[name])) or ""


@pytest.fixture(scope="module")
def beginnings(tmp_path_factory):
    """What the examples of each package begin with, made once."""
    made: dict[str, dict] = {}
    folder = tmp_path_factory.mktemp("examples")

    def of(package: str) -> tuple[Path, dict]:
        if package not in made:
            made[package] = {}
            _run(inspect.getdoc(importlib.import_module(package)) or "", package, made[package])
        return folder, made[package]

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield of


def _run(text: str, name: str, names: dict) -> None:
    test = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
    assert test.examples
    assert not any(example.options.get(doctest.SKIP) for example in test.examples)
    told: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append, clear_globs=False)
    assert not told, "".join(told)
    names.update(test.globs)


@pytest.mark.parametrize(("package", "name"), NAMES, ids=lambda word: word)
def test_every_public_name_has_an_example_that_is_right(package, name, beginnings):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"the example of {name} needs an extra")
    text = _docstring(package, name)
    assert ">>>" in text, f"{package}.{name} has no example"
    _, begin = beginnings(package)
    names = dict(begin)
    if name == "load_direct_synthesis":
        names |= beginnings("kurucz_grids")[1]
    _run(text, f"{package}.{name}", names)
