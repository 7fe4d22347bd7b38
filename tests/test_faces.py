"""The public names of the packages: declared once, shown by `dir`, known to type checkers, loaded on first use."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import phdlspec

PUBLIC = {
    "phdlspec": {
        "DEFAULT_INTERVALS", "Emulator", "FitResult", "FitSettings", "LABELS", "LabelFlag", "LabelSet", "MaskInterval",
        "Measurement", "PRIORS", "Spectrum", "StarFlag", "UserError", "ages", "air_to_vacuum", "as_spectrum",
        "default_resolving_power", "fit", "fit_many", "from_specutils", "mask_table", "mock_lamost", "to_specutils",
        "vacuum_to_air", "write_lamost", "write_packed",
        "load_direct_synthesis", "lux", "load_emulator", "read_catalog", "read_spectrum", "__version__",
    },
    "kurucz_grids": {
        "AtmosphereGrid", "LineList", "Synthesized", "Synthesizer", "check_grid", "import_grid", "read_line_list",
        "sample_labels", "synthesize",
    },
    "calibration": {
        "Calibration", "Catalog", "ClusterTable", "LabelTable", "LearnSettings", "PairTable", "Stars", "apply", "learn",
        "report",
    },
}  # fmt: skip


@pytest.mark.parametrize("package", PUBLIC)
def test_dir_shows_the_public_names(package):
    module = importlib.import_module(package)
    assert set(module.__all__) == PUBLIC[package]
    assert PUBLIC[package] <= {*dir(module), "__version__"}


@pytest.mark.parametrize(("package", "name"), [(p, n) for p, names in PUBLIC.items() for n in sorted(names)])
def test_every_public_name_can_be_loaded_and_says_what_it_is(package, name):
    found = getattr(importlib.import_module(package), name)
    assert found.__doc__


@pytest.mark.parametrize("package", PUBLIC)
def test_a_name_that_is_not_there_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match="attribute nonsense"):
        _ = importlib.import_module(package).nonsense


@pytest.mark.parametrize("package", PUBLIC)
def test_the_packages_are_marked_as_typed(package):
    assert (Path(str(importlib.import_module(package).__file__)).parent / "py.typed").is_file()


def test_type_checkers_know_what_fit_returns(tmp_path):
    pytest.importorskip("mypy")
    script = tmp_path / "user.py"
    script.write_text(
        "import calibration\nimport kurucz_grids\nimport phdlspec\n"
        "reveal_type(phdlspec.fit)\nreveal_type(kurucz_grids.synthesize)\nreveal_type(calibration.learn)\n"
    )
    root = str(Path(phdlspec.__file__).parents[1])
    asked = [sys.executable, "-m", "mypy", "--follow-imports=silent", f"--config-file={root}/mypy.ini", str(script)]
    told = subprocess.run(asked, capture_output=True, text=True, cwd=root, check=False).stdout
    assert "phdlspec.results.FitResult" in told
    assert "kurucz_grids.direct_synthesis.Synthesized" in told
    assert "calibration.store.Calibration" in told


def test_importing_the_package_costs_no_library():
    code = (
        "import sys, phdlspec, kurucz_grids, calibration, phdlspec.labels; "
        "print([name for name in ('torch', 'astropy', 'scipy', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
