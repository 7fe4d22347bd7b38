"""Differential spectra against finite differences of the synthesis itself, on a grey atmosphere and a few lines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array, eye_array

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.atmospheres import Atmosphere
from kurucz_grids.direct_synthesis import synthesize
from kurucz_grids.linelists import LineList
from kurucz_grids.synthesis import SynthesisSettings, Synthesizer
from phdlspec.errors import UserError
from phdlspec.labels import GRID_LABELS
from phdlspec.solar import SOLAR_ABUNDANCES

pytest.importorskip("pysme", reason="synthesis needs the extra [grids]")


@pytest.fixture(scope="module")
def lines() -> LineList:
    rows = [
        ("Fe", 5150.5, 1.0, -3.0), ("Fe", 5152.0, 3.5, -1.0), ("Fe+", 5153.2, 2.8, -2.0),
        ("Mg", 5154.5, 2.7, -1.0), ("Ti", 5155.5, 0.8, -0.5), ("C2", 5156.5, 0.5, -0.3), ("MgH", 5157.5, 0.3, -0.5),
    ]  # fmt: skip
    n = len(rows)
    return LineList.from_columns(
        np.array([row[0] for row in rows]),
        wave_vacuum=np.array([row[1] for row in rows]),
        elow_ev=np.array([row[2] for row in rows]),
        loggf=np.array([row[3] for row in rows]),
        gamma_rad=np.full(n, 1e8),
        gamma_stark=np.full(n, 1e-6),
        gamma_vdw=np.full(n, 3e-8),
        vdw_exponent=np.full(n, 0.38),
        isotope_fraction=np.ones(n),
    )


def grey_atmosphere(teff: float = 5000.0, gravity: float = 3e3, mh: float = 0.0) -> Atmosphere:
    tau = np.logspace(-5.5, 1.5, 50)
    temperature = teff * (0.75 * (tau + 2 / 3)) ** 0.25
    rosseland = (0.05 + 0.4 * tau**0.5) * 10 ** (0.3 * mh)
    rhox = np.cumsum(np.gradient(tau) / rosseland)
    pressure = gravity * rhox
    n_e = 1e-4 * pressure / (1.380649e-16 * temperature)
    return Atmosphere(teff, np.log10(gravity), mh, 2.0, rhox, temperature, pressure, n_e, rosseland, 0 * tau + 1e-3)


def small_grid() -> AtmosphereGrid:
    axes = (4750.0, 5000.0, 5250.0, 5500.0), (3.0, 3.5, 4.0, 4.5), (-0.5, 0.0, 0.5)
    grid = [grey_atmosphere(teff, 10**logg, mh) for teff in axes[0] for logg in axes[1] for mh in axes[2]]
    return AtmosphereGrid.from_atmospheres(grid)


@pytest.fixture(scope="module")
def synthesizer(lines) -> Synthesizer:
    settings = SynthesisSettings(wave_min=5150.0, wave_max=5158.0, compiled=False, line_cut=1e-6, window_cut=1e-5)
    return Synthesizer(None, lines, settings)


def flux(synthesizer: Synthesizer, abundances: dict[str, float], vmic: float = 1.5) -> torch.Tensor:
    return synthesizer.solve(synthesizer.prepare_atmosphere(grey_atmosphere(), abundances, vmic, False)).flux


@pytest.fixture(scope="module")
def spectrum(synthesizer):
    return synthesizer.solve(synthesizer.prepare_atmosphere(grey_atmosphere(), dict(SOLAR_ABUNDANCES), 1.5))


def test_what_is_no_star_is_refused(lines, synthesizer):
    with pytest.raises(UserError, match="the abundances lack H, He, Li"):
        synthesizer.prepare_atmosphere(grey_atmosphere(), {"Fe": 7.5, "Mg": 7.6}, 1.5)
    with pytest.raises(UserError, match="vmic is -3 km/s"):
        synthesizer.prepare_atmosphere(grey_atmosphere(), dict(SOLAR_ABUNDANCES), -3.0)
    of_labels = Synthesizer(small_grid(), lines, synthesizer.settings)
    with pytest.raises(UserError, match="MG_FE is 8, expected -0.5 to 0.5 dex"):
        of_labels.prepare({"TEFF": 5000.0, "LOGG": 3.5, "MG_FE": 8.0})
    with pytest.raises(UserError, match="TEFF is 3500, expected 3600 to 8000 K"):
        of_labels.prepare({"TEFF": 3500.0, "LOGG": 3.5})
    with pytest.raises(UserError, match="no atmosphere at Teff 7900, logg 3.5"):
        of_labels.prepare({"TEFF": 7900.0, "LOGG": 3.5})


def test_spectrum_is_normalised_and_lines_sit_at_their_centres(spectrum):
    assert float(spectrum.flux.max()) <= 1.001
    assert float(spectrum.flux.min()) > 0
    window = (spectrum.wave > 5154.0) & (spectrum.wave < 5155.0)
    centre = spectrum.wave[window][spectrum.flux[window].argmin()]
    assert float(centre) == pytest.approx(5154.5, abs=0.02)


@pytest.mark.parametrize("element", ["Fe", "Mg", "Ti", "C", "O", "Si"])
def test_abundance_derivative_is_the_finite_difference(synthesizer, spectrum, element):
    step = 0.05  # large against rounding in float32, small against curvature
    ends = [
        flux(synthesizer, {**SOLAR_ABUNDANCES, element: SOLAR_ABUNDANCES[element] + sign * step}) for sign in (-1, 1)
    ]
    numeric = (ends[1] - ends[0]) / (2 * step)
    if element == "Fe":
        # FE_H moves all metals: take the single ratios away.
        ours = spectrum.jacobian[GRID_LABELS.index("FE_H")].clone()
        for k, label in enumerate(GRID_LABELS):
            if label.element:
                ours -= spectrum.jacobian[k]
        tolerance = 0.03  # Ne, P, Cl … move with [Fe/H] as well
    else:
        ours = spectrum.jacobian[GRID_LABELS.index(f"{element.upper()}_FE")]
        tolerance = 0.03
    assert float((ours - numeric).norm() / numeric.norm()) < tolerance


def test_microturbulence_derivative_is_the_finite_difference(synthesizer, spectrum):
    step = 0.02
    abundances = dict(SOLAR_ABUNDANCES)
    numeric = (flux(synthesizer, abundances, 1.5 + step) - flux(synthesizer, abundances, 1.5 - step)) / (2 * step)
    ours = spectrum.jacobian[GRID_LABELS.index("VMIC")]
    assert float((ours - numeric).norm() / numeric.norm()) < 0.02


def test_electrons_of_an_element_broaden_the_wings_of_another():
    """Ca II K with a strong Stark effect: what magnesium does to its wings it does through electrons alone."""
    one = np.ones(1)
    columns = {"wave_vacuum": 3934.8 * one, "elow_ev": 0 * one, "loggf": 0.1 * one, "gamma_rad": 1.5e8 * one}
    widths = {"gamma_stark": 1e-4 * one, "gamma_vdw": 1e-8 * one, "vdw_exponent": 0.38 * one}
    line = LineList.from_columns(np.array(["Ca+"]), **columns, **widths, isotope_fraction=one)
    synthesizer = Synthesizer(None, line, SynthesisSettings(wave_min=3925.0, wave_max=3933.0, compiled=False))
    atmosphere, step = grey_atmosphere(5800.0), 0.05
    spectrum = synthesizer.solve(synthesizer.prepare_atmosphere(atmosphere, dict(SOLAR_ABUNDANCES), 1.5))
    low, high = (
        synthesizer.solve(
            synthesizer.prepare_atmosphere(
                atmosphere, {**SOLAR_ABUNDANCES, "Mg": SOLAR_ABUNDANCES["Mg"] + sign * step}, 1.5, False
            )
        ).flux
        for sign in (-1, 1)
    )
    numeric = (high - low) / (2 * step)
    ours = spectrum.jacobian[GRID_LABELS.index("MG_FE")]
    assert float((ours - numeric).norm() / numeric.norm()) < 0.05


@pytest.mark.parametrize(("label", "step"), [("TEFF", 10.0), ("LOGG", 0.02), ("FE_H", 0.02)])
def test_derivative_along_the_atmosphere_is_the_finite_difference(lines, label, step):
    # Hbeta, whose wings are the hardest, and the lines around 5155 Å.
    settings = SynthesisSettings(wave_min=4850.0, wave_max=5160.0, compiled=False, line_cut=1e-6, window_cut=1e-5)
    synthesizer = Synthesizer(small_grid(), lines, settings)
    star = {"TEFF": 5100.0, "LOGG": 3.7, "VMIC": 1.5, "FE_H": -0.1}
    spectrum = synthesizer.synthesize(star)
    ours = spectrum.jacobian[GRID_LABELS.index(label)]
    low, high = (
        synthesizer.synthesize({**star, label: star[label] + sign * step}, derivatives=False).flux for sign in (-1, 1)
    )
    numeric = (high - low) / (2 * step)
    distance = (spectrum.wave - 4862.7).abs()  # nearer to the core SMElib's profile jumps with temperature
    for part in ((distance > 3.0) & (distance < 12.0), spectrum.wave > 5000.0):
        assert float((ours - numeric)[part].norm() / numeric[part].norm()) < 0.025


@pytest.mark.parametrize(("label", "step"), [("MG_FE", 0.05), ("SI_FE", 0.05)])
def test_an_electron_donor_acts_through_the_structure(lines, label, step):
    settings = SynthesisSettings(wave_min=5150.0, wave_max=5158.0, compiled=False, line_cut=1e-6, window_cut=1e-5)
    synthesizer = Synthesizer(small_grid(), lines, settings)
    star = {"TEFF": 5100.0, "LOGG": 3.7, "VMIC": 1.5, "FE_H": -0.1}
    model = synthesizer.prepare(star)
    ours = synthesizer.solve(model).jacobian[GRID_LABELS.index(label)]
    low, high = (synthesizer.synthesize({**star, label: sign * step}, derivatives=False).flux for sign in (-1, 1))
    numeric = (high - low) / (2 * step)
    assert float((ours - numeric).norm() / numeric.norm()) < 0.03
    still = replace(model, answers=replace(model.answers, enrichment=np.zeros(len(GRID_LABELS))))
    fixed = synthesizer.solve(still).jacobian[GRID_LABELS.index(label)]
    assert float((ours - fixed).norm() / numeric.norm()) > 0.1


def test_an_abundance_acts_through_its_own_lines(spectrum):
    nickel = spectrum.jacobian[GRID_LABELS.index("NI_FE")]
    titanium = spectrum.jacobian[GRID_LABELS.index("TI_FE")]
    assert float(nickel.abs().max()) < 0.05 * float(titanium.abs().max())
    near = (spectrum.wave - 5155.5).abs() < 1.0
    assert float(titanium[near].norm() / titanium.norm()) > 0.95


def test_compiled_kernels_give_the_same_numbers(lines, spectrum):
    compiled = Synthesizer(
        None, lines, SynthesisSettings(wave_min=5150.0, wave_max=5158.0, line_cut=1e-6, window_cut=1e-5, compiled=True)
    )
    again = compiled.solve(compiled.prepare_atmosphere(grey_atmosphere(), dict(SOLAR_ABUNDANCES), 1.5))
    assert torch.allclose(again.flux, spectrum.flux, atol=2e-6)
    assert torch.allclose(again.jacobian, spectrum.jacobian, atol=2e-5)


def test_one_spectrum_with_its_derivatives_in_one_call(lines, tmp_path):
    settings = SynthesisSettings(wave_min=5150.0, wave_max=5158.0, compiled=False)
    star = {"TEFF": 5000.0, "LOGG": 3.4, "FE_H": 0.0, "MG_FE": 0.1}
    wave, flux, jacobian = synthesize(star, atmospheres=small_grid(), line_list=lines, settings=settings)
    expected = Synthesizer(small_grid(), lines, settings).synthesize(star)
    assert expected.jacobian is not None
    np.testing.assert_array_equal(wave, expected.wave.numpy())
    np.testing.assert_array_equal(flux, expected.flux.numpy())
    np.testing.assert_array_equal(jacobian, expected.jacobian.numpy())
    assert jacobian.shape == (len(GRID_LABELS), len(wave))
    with pytest.raises(UserError, match="no such"):
        synthesize(star, atmospheres=tmp_path / "none.npz", line_list=lines)


def test_responses_to_single_lines_are_what_finite_differences_say(synthesizer, lines):
    model = synthesizer.prepare_atmosphere(grey_atmosphere(), dict(SOLAR_ABUNDANCES), 1.5, derivatives=False)
    size = synthesizer.grid.size
    everywhere = csr_array(eye_array(size))
    by_gf, by_vdw = synthesizer.line_responses(model, everywhere)
    base, step = synthesizer.solve(model).flux.double().numpy(), 0.02
    for kind, response in (("loggf", by_gf), ("gamma_vdw", by_vdw)):
        for line in (1, 3):
            changed = getattr(lines, kind).astype(float)
            changed[line] = changed[line] + step / np.log(10) if kind == "loggf" else changed[line] * np.exp(step)
            other = Synthesizer(None, replace(lines, **{kind: changed}), synthesizer.settings)
            difference = (other.solve(model).flux.double().numpy() - base) / step
            ours = response[[line]].toarray()[0]
            assert np.abs(ours - difference).max() < 0.03 * np.abs(difference).max() + 2e-4
