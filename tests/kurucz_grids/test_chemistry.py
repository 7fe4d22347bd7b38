from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kurucz_grids.chemistry import BOLTZMANN, Chemistry, SpeciesFormula
from kurucz_grids.hydrogen import hydrogen_lines
from phdlspec.solar import SOLAR_ABUNDANCES
from tests.kurucz_grids.test_synthesis import grey_atmosphere

pytest.importorskip("pysme", reason="chemistry needs the extra [grids]")


@pytest.fixture(scope="module")
def chemistry() -> Chemistry:
    return Chemistry(["Fe", "Fe+", "Mg", "S", "Si", "TiO", "CN", "CH"], hydrogen_lines(3600, 9400), 3690.0, 9110.0)


def solve(chemistry: Chemistry, **changes: float):
    a = grey_atmosphere()
    abundances = {el: value + changes.get(el, 0.0) for el, value in SOLAR_ABUNDANCES.items()}
    return chemistry.solve(a.temperature, a.gas_pressure, a.rhox, a.electron_density, abundances, a.teff, a.logg, 1.5)


def test_compositions():
    assert SpeciesFormula.of("TiO") == SpeciesFormula((("Ti", 1), ("O", 1)), 0)
    assert SpeciesFormula.of("H2O") == SpeciesFormula((("H", 2), ("O", 1)), 0)
    assert SpeciesFormula.of("Fe+").charge == 1
    assert SpeciesFormula.of("H-").charge == -1


def test_pressure_charge_and_nuclei_are_conserved(chemistry):
    state = solve(chemistry)
    total = sum(state.number.values()) + state.electron_density
    np.testing.assert_allclose(total * BOLTZMANN * state.temperature / state.gas_pressure, 1.0, rtol=1e-2)
    charge = sum(SpeciesFormula.of(name).charge * n for name, n in state.number.items())
    np.testing.assert_allclose(charge / state.electron_density, 1.0, rtol=0.05)


def test_sulphur_is_not_silicon(chemistry):
    state = solve(chemistry)
    hydrogen = state.number["H"] + 2 * state.number["H2"] + state.number["H+"]
    for element in ("S", "Si"):
        nuclei = sum(dict(SpeciesFormula.of(name).atoms).get(element, 0) * n for name, n in state.number.items())
        np.testing.assert_allclose(np.log10(nuclei / hydrogen) + 12, SOLAR_ABUNDANCES[element], atol=0.02)


@pytest.mark.parametrize("element", ["Mg", "Fe", "C", "O"])
def test_linear_response_is_that_of_a_second_solution(chemistry, element):
    base = solve(chemistry)
    low, high = solve(chemistry, **{element: -0.02}), solve(chemistry, **{element: 0.02})
    step = 0.04 * np.log(10)
    k = base.response.inputs.index(element)
    np.testing.assert_allclose(
        np.log(high.electron_density / low.electron_density) / step, base.response.electrons[k], atol=0.004
    )
    for species in ("Fe", "Fe+", "CN", "TiO", "CH", "H-"):
        numeric = np.log(high.number[species] / low.number[species]) / step
        np.testing.assert_allclose(numeric, base.response.species[species][k], atol=0.03)


def test_hydrogen_opacity_is_finite_and_peaks_at_h_alpha(chemistry):
    solve(chemistry)
    opacity = chemistry.hydrogen_opacity(np.array([6500.0, 6564.6, 6600.0]))
    assert np.isfinite(opacity).all()
    assert (opacity[1] > opacity[0]).all()


def test_hydrogen_opacity_leaves_no_file_and_the_continuum_as_it_was(chemistry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    solve(chemistry)
    wave = np.array([4000.0, 6500.0])
    before = chemistry.continuum(wave)
    chemistry.hydrogen_opacity(wave)
    after = chemistry.continuum(wave)
    np.testing.assert_array_equal(after.absorption, before.absorption)
    np.testing.assert_array_equal(after.scattering, before.scattering)
    assert Path.cwd() == tmp_path
    assert not list(tmp_path.iterdir())  # SMElib would leave its syntherr.log
