"""What the documentation and the docstrings name is there."""

import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "guide").glob("*.md"))]
PACKAGES = "phdlspec", "kurucz_grids", "calibration"
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
_PATH = re.compile(r"`(?:python )?((?:[a-z_]+/)+[a-z_0-9]+\.py)\b")
_NAME = re.compile(r"`((?:phdlspec|kurucz_grids|calibration)(?:\.(?!json|html|evidence)[A-Za-z_]\w*)+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_named_in_the_documentation_exist(page):
    for name in _PATH.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file() or (ROOT / "phdlspec" / name).is_file(), name


@pytest.mark.parametrize("page", [*PAGES, *SOURCES], ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_named_in_words_exist(page):
    for name in _NAME.findall(page.read_text(encoding="utf-8")):
        assert _exists(name), name


def _exists(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False


def test_every_public_name_is_used_in_a_tutorial_that_is_run():
    """CI runs the code cells of these pages; what they do not show has its own page or needs data."""
    code = "".join(
        cell
        for page in sorted((ROOT / "docs" / "guide").glob("*.md"))
        for cell in re.findall(r"```{code-cell}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    )
    elsewhere = {"lux", "load_direct_synthesis", "__version__"}
    phdlspec = importlib.import_module("phdlspec")
    missing = [name for name in phdlspec.__all__ if name not in elsewhere and not re.search(rf"\b{name}\b", code)]
    assert not missing


def _listed(page: Path) -> list[str]:
    """What the tables of contents of a page list."""
    trees = re.findall(r"```{toctree}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]


def test_pages_of_users_and_studies_are_apart():
    """Every page is listed once, either for users or among the studies; what users read asks for no study."""
    docs = ROOT / "docs"
    for_users, studies = _listed(docs / "guide" / "index.md"), _listed(docs / "measured.md")
    assert _listed(docs / "index.md") == ["guide/index", "reference/index", "measured"]
    assert sorted(["index", *for_users]) == sorted(page.stem for page in (docs / "guide").glob("*.md"))
    beside = ["index", "measured", "model_card"]  # the model card is listed with what the package declares
    assert sorted([*beside, *studies]) == sorted(page.stem for page in docs.glob("*.md"))
    for name in for_users:
        text = (docs / "guide" / f"{name}.md").read_text(encoding="utf-8")
        assert "scripts/" not in text, f"{name}: commands of studies belong to a study"


def test_the_reference_pages_are_made_from_the_declarations(monkeypatch):
    pytest.importorskip("myst_nb")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    monkeypatch.syspath_prepend(str(ROOT))
    declared = importlib.import_module("declared")
    pages = {name: page() for name, page in declared.PAGES.items()}
    sys.modules.pop("declared")
    assert "| 65536 | `IMPERFECT_FIT` |" in pages["flags"]
    assert "| `telluric` | 6860.0 | 6960.0 | observed |" in pages["masks"]
    assert "`[Mg/Fe]`" in pages["labels"] or "| [Mg/Fe] |" in pages["labels"]
    assert "usage: phdlspec calibrate learn" in pages["commands"]
    assert ".. autofunction:: phdlspec.fit" in pages["api"]
    assert "`_RAJ2000`" in pages["names"]
    assert all(page.startswith("# ") for page in pages.values())
