"""What the documentation and the docstrings name is there."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = "phdlspec", "kurucz_grids", "calibration"
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
_PATH = re.compile(r"`(?:python )?((?:[a-z_]+/)+[a-z_0-9]+\.py)\b")
_NAME = re.compile(r"`((?:phdlspec|kurucz_grids|calibration)(?:\.(?!json|html|evidence)[A-Za-z_]\w*)+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
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
