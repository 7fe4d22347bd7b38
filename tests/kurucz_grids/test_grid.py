import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from kurucz_grids.grid_writer import collect, grid_attributes, make_manifest
from phdlspec.errors import UserError
from phdlspec.files import DiskFullError
from phdlspec.gridfile import FORMS, Grid
from phdlspec.gridfile.parts import GridParts, quantise
from phdlspec.labels import GRID_LABELS
from phdlspec.wavelength import log_grid

WAVE = log_grid(4000, 4100, 1e-4)
SIZE = len(WAVE)
REPOSITORY = Path(__file__).resolve().parents[2]


def _row(i, size=SIZE):
    rng = np.random.default_rng(i)
    return (
        rng.uniform(size=32),
        rng.uniform(size=size),
        rng.uniform(1, 2, 272),
        rng.normal(size=(32, size)) * np.logspace(-6, 0, 32)[:, None],
    )


def _begin(path, n, has_jacobian=True, wave=WAVE, form="survey"):
    # As a build that goes on does, with the attributes that are there: they tell when it began.
    parts = GridParts(path)
    begun = parts.manifest()["attrs"] if parts.exists() else None
    attrs = begun or grid_attributes(FORMS[form], {"line_list_checksum": "abc"}, seed=1)
    labels = np.array([_row(i)[0] for i in range(n)])
    with parts.lock():
        manifest = make_manifest(attrs, wave, has_jacobian=has_jacobian)
        parts.write_manifest(manifest, labels, np.arange(n, dtype=np.uint8) % 3)
    return parts


def _write(parts, i, jacobian=True, size=SIZE):
    labels, flux, continuum, derivatives = _row(i, size)
    parts.write_row(i, labels, flux, continuum, derivatives if jacobian else None)


def test_forms_are_those_of_the_contract():
    assert len(FORMS["survey"].wave) == 7909
    for form in FORMS.values():
        assert form.wave[0] == 3690.0
        assert 9110.0 <= form.wave[-1] < 9110.3


def test_quantised_derivatives_are_close():
    jacobian = _row(0)[3]
    jacobian[4] = 0.0
    values, scale = quantise(jacobian)
    assert values.dtype == np.int16
    error = np.abs(values * scale[:, None] - jacobian).max(axis=1)
    assert (error <= 1.6e-5 * np.abs(jacobian).max(axis=1)).all()


@pytest.mark.parametrize("collected", [False, True])
def test_what_is_written_is_read(tmp_path, collected):
    path = tmp_path / "grid.h5"
    parts = _begin(path, 5)
    for i in (0, 1, 3):
        _write(parts, i)
    parts.write_failure(2, "no\nconvergence")
    if collected:
        collect(path)
        assert parts.exists(), "row 4 is still to come"
        _write(parts, 4)
        parts.row_path(4).unlink()
    with Grid(path) as grid:
        assert len(grid) == 5
        assert grid.finished is collected
        assert list(grid.rows()) == [0, 1, 3]
        assert list(grid.rows("train")) == [0, 3]
        assert grid.reason[2] == "no convergence"
        assert grid.label_names == GRID_LABELS.names
        assert grid.label_units[0] == "K"
        assert grid.attrs["seed"] == 1
        assert grid.attrs["line_list_checksum"] == "abc"
        _, flux, continuum, jacobian = _row(3)
        assert np.allclose(grid.flux(3), flux, rtol=1e-6)
        assert np.allclose(grid.continuum(3), continuum, rtol=1e-6)
        assert np.allclose(grid.jacobian(3)[7], jacobian[7], atol=2e-5 * np.abs(jacobian[7]).max())
        assert np.array_equal(grid.flux([3, 0, 3]), np.stack([grid.flux(3), grid.flux(0), grid.flux(3)]))
        assert grid.jacobian([0]).shape == (1, 32, len(WAVE))
        with pytest.raises(UserError, match="row 2 is not complete no convergence"):
            grid.flux(2)
        with pytest.raises(UserError, match="no part 'tes'"):
            grid.rows("tes")


def test_parts_go_when_every_row_is_in_the_file(tmp_path):
    path = tmp_path / "grid.h5"
    parts = _begin(path, 2)
    _write(parts, 0)
    parts.write_failure(1, "sad")
    collect(path)
    assert [p.name for p in tmp_path.iterdir()] == ["grid.h5"]


def test_a_longer_table_keeps_the_rows_of_the_file(tmp_path):
    path = tmp_path / "grid.h5"
    parts = _begin(path, 2)
    _write(parts, 0)
    parts.write_failure(1, "sad")
    collect(path)
    parts = _begin(path, 4)
    _write(parts, 3)
    parts.write_failure(2, "bad")
    collect(path)
    with Grid(path) as grid:
        assert list(grid.rows()) == [0, 3]
        assert list(grid.reason) == ["", "sad", "bad", ""]
        assert np.allclose(grid.flux(0), _row(0)[1], rtol=1e-6)


def test_without_derivatives(tmp_path):
    path = tmp_path / "grid.h5"
    parts = _begin(path, 1, has_jacobian=False)
    _write(parts, 0, jacobian=False)
    collect(path)
    with Grid(path) as grid:
        assert not grid.has_jacobian
        with pytest.raises(UserError, match="no differential spectra"):
            grid.jacobian(0)


@pytest.mark.parametrize("damage", ["truncated", "text", "other", "missing", "future", "array"])
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path, damage):
    path = tmp_path / "grid.h5"
    parts = _begin(path, 2)
    for i in range(2):
        _write(parts, i)
    collect(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:20_000])
    elif damage == "text":
        path.write_text("no grid")
    elif damage == "missing":
        path.unlink()
    elif damage == "other":
        with h5py.File(path, "w") as file:
            file["a"] = 1
    else:
        with h5py.File(path, "a") as file:
            if damage == "future":
                file.attrs["version"] = 99
            else:
                del file["flux"]
    with pytest.raises(UserError, match="grid.h5") as caught:
        Grid(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_row_is_computed_again(tmp_path):
    parts = _begin(tmp_path / "grid.h5", 2)
    _write(parts, 0)
    _write(parts, 1)
    parts.row_path(1).write_bytes(parts.row_path(1).read_bytes()[:1000])
    assert parts.whole_rows() == {0}
    assert parts.rows() == {0}


def test_one_build_at_a_time(tmp_path):
    parts = GridParts(tmp_path / "grid.h5")
    with parts.lock(), pytest.raises(UserError, match="another run is making it"), parts.lock():
        pass


_FILL = """
import resource, sys
from tests.kurucz_grids.test_grid import _write
from kurucz_grids.grid_writer import collect
from phdlspec.files import DiskFullError
from phdlspec.gridfile.parts import GridParts
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    _write(GridParts(sys.argv[1]), 2, size=20000) if sys.argv[2] == "row" else collect(sys.argv[1])
except DiskFullError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit of file sizes on this system")
@pytest.mark.parametrize(("what", "limit"), [("row", 50_000), ("collect", 20_000), ("collect", 0)])
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, what, limit):
    path = tmp_path / "grid.h5"
    parts = _begin(path, 3)
    _write(parts, 0)
    _write(parts, 1)
    before = sorted(p.name for p in parts.folder.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", _FILL, str(path), what, str(limit)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 7, done.stderr
    assert "the disk is full" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert sorted(p.name for p in parts.folder.iterdir()) == before
    assert not path.exists()
    with Grid(path) as grid:
        assert grid.n_done == 2
    _write(parts, 2)
    collect(path)
    with Grid(path) as grid:
        assert grid.n_done == 3
    assert issubclass(DiskFullError, UserError)


@pytest.mark.parametrize("row", [0, 2])
def test_labels_that_were_changed_are_refused_also_of_rows_not_yet_made(tmp_path, row):
    parts = _begin(tmp_path / "g.h5", 3)
    _write(parts, 0)
    labels = np.load(parts.folder / "labels.npy")
    labels[row, 5] += 0.1
    np.save(parts.folder / "labels.npy", labels)
    with pytest.raises(UserError, match="no whole table"):
        GridParts(tmp_path / "g.h5").whole_rows()


def test_a_longer_table_is_the_same_job(tmp_path):
    parts = _begin(tmp_path / "g.h5", 3)
    job = parts.job
    _write(parts, 0)
    longer = _begin(tmp_path / "g.h5", 5)
    assert longer.job == job
    assert longer.whole_rows() == {0}
