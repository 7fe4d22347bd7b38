from functools import cache
from pathlib import Path

import numpy as np
import pytest

from kurucz_grids.checking import KNOWN_LINES, check_grid, line_offset
from kurucz_grids.sampling import sample_labels, split_rows
from phdlspec.gridfile import Grid
from phdlspec.labels import GRID_LABELS
from phdlspec.wavelength import air_to_vacuum, log_grid

WAVE = log_grid(3700.0, 9000.0, 1 / 5000)
LINES = np.linspace(3720.0, 8980.0, 32)
N = 120


def _profiles(wave):
    profiles = np.exp(-0.5 * (np.log(wave / LINES[:, None]) / 8e-4) ** 2)
    for name, lines in KNOWN_LINES.items():
        distance = np.log(wave[:, None] / np.array(lines))
        profiles[GRID_LABELS.index(name)] = np.exp(-0.5 * (distance / 2.5e-4) ** 2).sum(axis=1)
    profiles[0] = np.exp(-0.5 * (np.log(wave[:, None] / np.linspace(3750.0, 8950.0, 100)) / 4e-4) ** 2).sum(axis=1)
    return profiles


PROFILES = _profiles(WAVE)


def _model(labels, profiles=PROFILES):
    """A smooth toy: each label deepens its own lines, Teff a hundred."""
    unit = GRID_LABELS.to_unit(labels)
    depth = 0.1 * 4.0**unit
    flux = np.exp(-(depth @ profiles))
    slopes = np.log(4.0) / (GRID_LABELS.upper - GRID_LABELS.lower)
    return flux, -flux * (depth * slopes)[:, None] * profiles


@cache
def _toys():
    return [_model(labels) for labels in sample_labels(N, 1)]


class _Memory(Grid):
    """A grid that is in no file."""

    def __init__(self, labels, rows, derivatives):
        self.path, self._file, self._parts = Path("toy"), None, None
        self.wave, self.labels, self.label_names = WAVE, labels, GRID_LABELS.names
        self.done = np.array([flux is not None for flux, _, _ in rows])
        self.reason = np.where(self.done, "", "sad")
        self.split = split_rows(len(rows), 1)
        self.has_jacobian = derivatives
        self._rows = rows

    def flux(self, rows):
        return self._rows[rows][0].astype(np.float32)

    def jacobian(self, rows):
        return self._rows[rows][1].astype(np.float32)

    def continuum(self, rows):
        return self._rows[rows][2]


def make(spoil=None, relabel=None, derivatives=True, labels=None, profiles=PROFILES):
    if labels is None and profiles is PROFILES:
        models = _toys()
    else:
        models = [_model(row, profiles) for row in (sample_labels(N, 1) if labels is None else labels)]
    rows = [(flux, jacobian, np.ones(272)) for flux, jacobian in models]
    if spoil:
        rows = [spoil(i, *row) for i, row in enumerate(rows)]
    told = (sample_labels(N, 1) if labels is None else labels).copy()
    if relabel:
        relabel(told)
    return _Memory(told, rows, derivatives)


def _levels(grid, **options):
    return {result.check: result for result in check_grid(grid, **options)}


def test_a_sound_grid():
    found = _levels(make())
    wrong = {name: result for name, result in found.items() if result.level != "ok"}
    assert set(wrong) == {"holes"}  # 120 models do not fill 378 cells
    assert _levels(make(), contains=lambda *_: False)["holes"].level == "ok"


def test_rows_that_are_wrong_are_found():
    def spoil(i, flux, jacobian, continuum):
        if i == 3:
            flux = flux + 0.03
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
    assert found["outliers"].level == "error"
    assert ": 6 (" in found["outliers"].text


def test_derivatives_that_are_wrong_are_found():
    found = _levels(make(lambda i, f, j, c: (f, -j, c)))
    assert found["derivatives"].level == "error"
    assert found["sign"].level == "warning"
    found = _levels(make(lambda i, f, j, c: (f, np.roll(j, 200, axis=1), c)))
    assert found["lines"].level == "error"


@pytest.mark.parametrize("factor", [0.5, 0.9, 3.0])
def test_flux_that_is_scaled_is_found(factor):
    assert _levels(make(lambda i, f, j, c: (factor * f, factor * j, c)))["normalised"].level == "error"


def test_air_taken_for_vacuum_is_found():
    found = _levels(make(profiles=_profiles(air_to_vacuum(WAVE))))["wavelengths"]
    assert found.level == "error"
    assert "wavelengths in air taken for vacuum" in found.text


def test_the_place_of_lines_is_told_to_a_fraction_of_a_pixel():
    shift = 3e-5
    lines = [GRID_LABELS.index(name) for name in ("NA_FE", "CA_FE")]
    flux = np.exp(-2 * _profiles(WAVE * (1 - shift))[lines].sum(axis=0))
    assert line_offset(WAVE, flux) == pytest.approx(shift, abs=1e-5)
    assert np.isnan(line_offset(WAVE, np.ones_like(WAVE)))


def test_a_wrong_label_is_found_and_innocent_neighbours_are_not():
    def relabel(labels):
        labels[9, 0] += 1500 if labels[9, 0] < 5750 else -1500

    found = _levels(make(relabel=relabel))["outliers"]
    assert found.level == "error"
    assert "1 rows depart from their neighbours: 9 (" in found.text


def test_a_flat_spectrum_and_a_twin_are_found():
    twin = {}

    def spoil(i, flux, jacobian, continuum):
        twin[i] = flux, jacobian
        if i == 3:
            flux, jacobian = np.ones_like(flux), np.zeros_like(jacobian)
        if i == 17:
            flux, jacobian = twin[5]
        return flux, jacobian, continuum

    found = _levels(make(spoil))
    assert found["outliers"].level == "error"
    assert " 3 (" in found["outliers"].text
    assert found["twins"].level == "error"
    assert found["twins"].text.endswith("5 and 17")


def test_derivatives_of_single_labels_are_held_against_the_differences():
    def spoil(i, flux, jacobian, continuum):
        jacobian = jacobian.copy()
        jacobian[GRID_LABELS.index("LOGG")] *= -1
        jacobian[GRID_LABELS.index("EU_FE")] *= 30
        return flux, jacobian, continuum

    found = _levels(make(spoil))["slopes"]
    assert found.level == "error"
    assert "not 1 for 2 labels: LOGG -" in found.text
    assert "EU_FE 0.0" in found.text


def test_rows_without_derivatives_are_held_against_their_neighbours():
    labels = np.tile(GRID_LABELS.from_unit(np.full(32, 0.5)), (N, 1))
    labels[:, [0, 1, 3]] = sample_labels(N, 1)[:, [0, 1, 3]]

    def relabel(told):
        told[9, 0] += 2200 if told[9, 0] < 5800 else -2200

    assert _levels(make(derivatives=False, labels=labels))["outliers"].level == "ok"
    found = _levels(make(derivatives=False, labels=labels, relabel=relabel))["outliers"]
    assert found.level == "error"
    assert "1 rows depart from their neighbours: 9 (" in found.text
