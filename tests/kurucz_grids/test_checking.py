import numpy as np
import pytest

from kurucz_grids.checking import KNOWN_LINES, check_grid
from kurucz_grids.grid import FORMS, GRID_LABELS, Grid, collect, grid_attributes, make_manifest
from kurucz_grids.parts import Parts
from kurucz_grids.sampling import sample_labels, split_rows
from phdlspec.wavelength import log_grid

WAVE = log_grid(3700.0, 9000.0, 1 / 2000)
LINES = np.linspace(3720.0, 8980.0, 32)
N = 120


def _model(labels):
    """A smooth toy: each label deepens its own lines."""
    unit = GRID_LABELS.to_unit(labels)
    profiles = np.exp(-0.5 * (np.log(WAVE / LINES[:, None]) / 8e-4) ** 2)
    for name, lines in KNOWN_LINES.items():
        distance = np.log(WAVE[:, None] / np.array(lines))
        profiles[GRID_LABELS.index(name)] = np.exp(-0.5 * (distance / 6e-4) ** 2).sum(axis=1)
    depth = 0.1 * 4.0**unit
    flux = np.exp(-(depth @ profiles))
    slopes = np.log(4.0) / (GRID_LABELS.upper - GRID_LABELS.lower)
    return flux, -flux * (depth * slopes)[:, None] * profiles


@pytest.fixture
def make(tmp_path):
    def make(spoil=None):
        labels = sample_labels(N, 1)
        parts = Parts(tmp_path / "g.h5")
        with parts.lock():
            attrs = grid_attributes(FORMS["survey"], {}, 1)
            parts.write_manifest(make_manifest(attrs, WAVE), labels, split_rows(N, 1))
            for i in range(N):
                flux, jacobian = _model(labels[i])
                continuum = np.ones(272)
                if spoil:
                    flux, jacobian, continuum = spoil(i, flux, jacobian, continuum)
                if flux is None:
                    parts.write_failure(i, "sad")
                else:
                    parts.write_row(i, labels[i], flux, continuum, jacobian)
            return Grid(collect(tmp_path / "g.h5"))

    return make


def _levels(grid, **options):
    return {finding.check: finding for finding in check_grid(grid, **options)}


def test_a_sound_grid(make):
    found = _levels(make())
    wrong = {name: finding for name, finding in found.items() if finding.level != "ok"}
    assert set(wrong) == {"holes"}  # 120 models do not fill 378 cells
    assert _levels(make(), contains=lambda *_: False)["holes"].level == "ok"


def test_rows_that_are_wrong_are_found(make):
    def spoil(i, flux, jacobian, continuum):
        if i == 3:
            flux = flux + 0.5
        if i == 4:
            continuum = -continuum
        if i == 5:
            flux = np.where(np.arange(len(flux)) == 7, np.nan, flux)
        if i == 6:
            flux = flux**4
        return (None if i == 9 else flux), jacobian, continuum

    found = _levels(make(spoil))
    assert found["complete"].level == "warning"
    assert "row 9: sad" in found["complete"].text
    for check, row in (("flux", 3), ("continuum", 4), ("finite", 5)):
        assert found[check].level == "error"
        assert found[check].text.endswith(f": {row}")
    assert found["outliers"].level == "warning"


def test_derivatives_that_are_wrong_are_found(make):
    found = _levels(make(lambda i, f, j, c: (f, -j, c)))
    assert found["derivatives"].level == "error"
    assert found["sign"].level == "warning"
    found = _levels(make(lambda i, f, j, c: (f, np.roll(j, 200, axis=1), c)))
    assert found["lines"].level == "error"
