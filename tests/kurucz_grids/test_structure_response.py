"""What single abundances do to the structure of an atmosphere, from the shipped table."""

from __future__ import annotations

import numpy as np
import pytest

from kurucz_grids.atmospheres import Atmosphere
from kurucz_grids.structure_response import ALPHA, DONORS, response_at

DEPTH = np.linspace(-6.0, 2.0, 65)
SUN = (5772.0, 4.44, 0.0)
ALPHA_RICH = dict.fromkeys(ALPHA, 0.4)
FORMING = (DEPTH > -3.0) & (DEPTH < 0.0)


@pytest.fixture(scope="module")
def sun():
    return response_at(*SUN, DEPTH)


def test_shares_are_those_of_electrons(sun):
    shares = dict(zip(DONORS, sun.shares))
    assert sun.shares.sum() == pytest.approx(1.0)
    assert shares["Mg"] > shares["Fe"] > shares["Si"] > 0.1 > shares["Al"] > 0.02 > shares["S"]
    cool = dict(zip(DONORS, response_at(3900.0, 4.7, 0.0, DEPTH).shares))
    assert cool["Na"] + cool["Ca"] + cool["Al"] > 0.5 > cool["Mg"]


def test_scaled_solar_atmospheres_stay_as_they_are(sun):
    assert sun.enrichment({}) == pytest.approx(0.0, abs=1e-12)
    assert sun.enrichment({"Fe": 0.3, "Eu": 0.5}) == pytest.approx(0.0, abs=1e-12)


def test_enrichment_by_element_is_its_derivative(sun):
    ratios = {"Mg": 0.3, "Si": -0.2, "Na": 0.1}
    by_element = sun.by_element(ratios)
    for element in ("Mg", "Si", "Na", "Ca"):
        up, down = ({**ratios, element: ratios.get(element, 0.0) + step} for step in (1e-4, -1e-4))
        numeric = (sun.enrichment(up) - sun.enrichment(down)) / 2e-4
        assert by_element[element] == pytest.approx(numeric, rel=1e-5)
    assert "Fe" not in by_element


def test_alpha_rich_stars_have_less_pressure(sun):
    pressure = sun.enrichment(ALPHA_RICH) * sun.gas_pressure[FORMING]
    assert ((pressure > -0.36) & (pressure < -0.22)).all()
    assert np.abs(sun.enrichment(ALPHA_RICH) * sun.temperature[FORMING] * SUN[0]).max() < 25.0
    warm = response_at(7500.0, 4.0, 0.0, DEPTH)
    assert np.abs(warm.enrichment(ALPHA_RICH) * warm.gas_pressure[FORMING]).max() < 0.06


def test_answers_are_smooth_in_labels_and_end_with_the_table(sun):
    for axis, step in enumerate((5.0, 0.01, 0.01)):
        low, high = (response_at(*(np.array(SUN) + sign * step * np.eye(3)[axis]), DEPTH) for sign in (-1, 1))
        middle = 0.5 * (low.gas_pressure + high.gas_pressure)
        assert np.abs(middle - sun.gas_pressure).max() < 1e-3
    end, beyond = (response_at(teff, 4.0, 0.0, DEPTH) for teff in (7750.0, 8000.0))
    np.testing.assert_array_equal(end.gas_pressure, beyond.gas_pressure)


def test_optical_depths_stay(sun):
    tau = 10.0**DEPTH
    opacity = 0.05 + 0.4 * tau**0.5
    rhox = np.cumsum(np.diff(tau, prepend=0.0) / opacity)
    state = 5772.0 * (0.75 * (tau + 2 / 3)) ** 0.25, 3e4 * rhox, 1e12 * rhox, opacity, 0 * tau
    atmosphere = Atmosphere(*SUN, 2.0, rhox, *state)
    changed = sun.applied(atmosphere, 0.3)
    assert (changed.gas_pressure[FORMING] < 0.9 * atmosphere.gas_pressure[FORMING]).all()
    np.testing.assert_allclose(np.log10(changed.tau_rosseland), np.log10(atmosphere.tau_rosseland), atol=0.02)
