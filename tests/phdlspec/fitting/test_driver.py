"""Fits of mock stars made from the toy emulator: values, errors, flags, independence of the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import phdlspec
from phdlspec.errors import UserError
from phdlspec.fitting import driver, hmc, posteriors, summary
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.laplace import importance_sample
from phdlspec.fitting.preparation import highest_fitted_power
from phdlspec.fitting.settings import FitSettings
from phdlspec.flags import LabelFlag, StarFlag
from phdlspec.masks import MaskInterval, mask_table
from phdlspec.mock import mock_lamost
from phdlspec.spectrum import Spectrum
from tests.phdlspec import tiny

FAST = FitSettings(mode="fast", seed=2)
TRUTH = {"TEFF": 5300.0, "LOGG": 3.2, "VMIC": 1.4, "FE_H": -0.2, "MG_FE": 0.15, "CA_FE": -0.1, "TI_FE": 0.1}


def mock(emulator, snr=150.0, seed=4, name="mock", red_velocity=6.0, **labels) -> Spectrum:
    theta = emulator.labels.complete({**TRUTH, **labels})
    native = emulator.native_flux(torch.as_tensor(theta[None], dtype=torch.float32))[0].numpy()
    velocity = {"rv": 55.0, "red_velocity": red_velocity}
    return mock_lamost(native, emulator.native, theta[0], snr, seed, **velocity, identifier=name)


@pytest.fixture(scope="module")
def stars(toy_emulator):
    return [
        mock(toy_emulator, name="a"),
        mock(toy_emulator, name="b", seed=5, TEFF=6200.0, LOGG=4.1),
        mock(toy_emulator, name="c", seed=6, snr=20.0),
    ]


@pytest.fixture(scope="module")
def results(toy_emulator, stars):
    return fit_batch(stars, toy_emulator, FAST, keep=True)


def test_labels_are_recovered_within_their_errors(results):
    first = results[0]
    for name in tiny.ACTIVE:
        i = first.names.index(name)
        truth = TRUTH.get(name, 0.0)
        assert abs(first.value[i] - truth) < 4.5 * first.err[i] + 1e-3, name
    for name in ("TEFF", "FE_H", "MG_FE", "CA_FE", "TI_FE"):
        i = first.names.index(name)
        assert first.err[i] == pytest.approx(first.crlb[i], rel=0.5), name
    assert abs(first["RV"] - 55.0) < 3.0
    assert first.diagnostics["red_arm_km_s"] == pytest.approx(6.0, abs=4.0)
    assert first.rchi2 == pytest.approx(1.0, abs=0.35)


def test_labels_without_lines_are_flagged_as_the_priors(results):
    first = results[0]
    flag = first.label_flag[first.names.index("EU_FE")]
    assert flag & LabelFlag.PRIOR_DOMINATED
    assert np.isinf(first.crlb[first.names.index("EU_FE")]) or first.crlb[first.names.index("EU_FE")] > 0.3


def test_percentiles_and_covariance_are_consistent(results):
    for result in results:
        assert (result.p16 <= result.p50).all()
        assert (result.p50 <= result.p84).all()
        assert np.allclose(np.sqrt(np.diag(result.cov)), result.err)
        assert np.linalg.eigvalsh(result.cov).min() > -1e-6


def test_abundances_carry_the_covariance_with_iron(results):
    first = results[0]
    table = first.abundances()
    iron, magnesium = first.names.index("FE_H"), first.names.index("MG_FE")
    row = table[list(table["element"]).index("Mg")]
    assert row["x_h"] == pytest.approx(first.value[iron] + first.value[magnesium])
    expected = first.cov[iron, iron] + first.cov[magnesium, magnesium]
    expected += 2 * first.cov[iron, magnesium]
    assert row["x_h_err"] == pytest.approx(expected**0.5)
    assert row["a_x"] == pytest.approx(row["x_h"] + 7.60)


def test_noise_makes_errors(results):
    good, noisy = results[0], results[2]
    i = good.names.index("TEFF")
    assert noisy.err[i] > 2 * good.err[i]  # of which the emulator has its share


def test_a_star_does_not_depend_on_its_company(toy_emulator, stars, results):
    alone = fit_batch(stars[:1], toy_emulator, FAST)[0]
    together = results[0]
    active = [alone.names.index(n) for n in tiny.ACTIVE]
    assert (np.abs(alone.value - together.value)[active] / together.err[active]).max() < 0.1


def test_arms_out_of_line_are_no_misfit_of_the_model(toy_emulator):
    """Their shift is taken out before noise is added for what the model does not reproduce."""
    fits = fit_batch([mock(toy_emulator, 400.0, red_velocity=v) for v in (0.0, 15.0)], toy_emulator, FAST)
    aligned, shifted = fits
    assert shifted.diagnostics["red_arm_km_s"] == pytest.approx(15.0, abs=3.0)
    assert shifted.diagnostics["outliers"] <= aligned.diagnostics["outliers"] + 2
    for name in ("RV", "TEFF", "FE_H", "MG_FE"):
        i = shifted.names.index(name)
        assert shifted.crlb[i] == pytest.approx(aligned.crlb[i], rel=0.1), name


def test_wavelengths_in_air_are_suspected_where_the_header_knows_the_velocity(toy_emulator, stars):
    honest = replace(stars[0], meta={**stars[0].meta, "Z": 55.0 / 299792.458})
    in_air = replace(honest, meta={**honest.meta, "Z": 138.0 / 299792.458})  # 83 km/s more than is measured
    first, second = fit_batch([honest, in_air], toy_emulator, FAST)
    assert not first.flag & StarFlag.VELOCITY_UNSURE
    assert second.flag & StarFlag.VELOCITY_UNSURE
    assert "in air" in " ".join(second.meta["WARNINGS"])


def test_an_error_of_ours_costs_one_star_not_the_others(toy_emulator, stars, monkeypatch):
    original = driver.first_velocities

    def broken_for_b(data, spectrum, *rest):
        if len(data) > 1 or spectrum.meta["OBSID"] == "b":
            raise IndexError("index 7 is out of bounds")
        return original(data, spectrum, *rest)

    monkeypatch.setattr(driver, "first_velocities", broken_for_b)
    found = fit_batch(stars[:2], toy_emulator, FAST)
    assert not found[0].flag & StarFlag.FAILED
    assert found[1].flag & StarFlag.FAILED
    assert "IndexError: index 7 is out of bounds" in found[1].reason


def test_spectra_that_cannot_be_fitted_get_a_reason(toy_emulator, stars):
    wave = stars[0].wave
    below = -1.0 - 0.1 * np.sin(wave)
    dark = Spectrum(wave, below, np.ones_like(wave), wave < 0, 1800.0, path="dark.fits")
    cut = Spectrum(wave[:200], stars[0].flux[:200], stars[0].ivar[:200], wave[:200] < 0, 1800.0, path="cut.fits")
    found = fit_batch([dark, cut], toy_emulator, FAST)
    assert all(r.flag & StarFlag.FAILED for r in found)
    assert "median flux" in found[0].reason
    assert "pixels" in found[1].reason
    assert np.isnan(found[0].value).all()
    with pytest.raises(UserError, match="median flux"):
        phdlspec.fit(dark, toy_emulator, mode="fast")


@pytest.mark.parametrize("power", [1.8, 18.0, 299.0])
def test_a_resolving_power_below_all_use_is_refused_not_fitted(toy_emulator, stars, power):
    first = stars[0]
    by_pixel = np.where(first.wave > 9000.0, power, 1800.0)
    blunt = Spectrum(first.wave, first.flux, first.ivar, first.mask, by_pixel, path="blunt.fits")
    found = fit_batch([blunt], toy_emulator, FAST)[0]
    assert found.flag & StarFlag.FAILED
    assert f"blunt.fits: its resolving power is {power:g} at 9001 Å, expected at least 300" in found.reason
    row = phdlspec.fit_many([blunt], toy_emulator)[0]
    assert row["FLAG"] & StarFlag.FAILED
    assert "blunt.fits: its resolving power" in row["REASON"]


def test_settings_are_checked():
    with pytest.raises(UserError, match="unknown mode"):
        FitSettings(mode="quick")
    with pytest.raises(UserError, match="unknown sampler"):
        FitSettings(sampler="gibbs")
    with pytest.raises(UserError):
        FitSettings(priors=("no such prior",))
    for width in (float("nan"), float("inf"), -0.1):
        with pytest.raises(UserError, match="width of the prior on the resolving power"):
            FitSettings(resolution_width=width)


def test_fast_mode_samples_what_importance_sampling_cannot_but_no_star_outside_the_models(
    toy_emulator, stars, monkeypatch
):
    def unreliable(*args):
        sample = importance_sample(*args)
        return replace(sample, pareto_k=torch.ones_like(sample.pareto_k))

    monkeypatch.setattr(posteriors, "importance_sample", unreliable)
    monkeypatch.setattr(posteriors, "FALLBACK_ESS", 10.0)
    monkeypatch.setattr(posteriors, "FALLBACK_DRAWS", 20)
    for module in (posteriors, summary):  # a share of each label's range: 7850 K are beyond, 5300 K are not
        monkeypatch.setattr(module, "AT_BOUND", 0.08)
    inside, outside = fit_batch([stars[0], mock(toy_emulator, TEFF=7850.0)], toy_emulator, FAST)
    assert (inside.mode, outside.mode) == ("hmc", "fast")
    assert inside.flag & StarFlag.FELL_BACK
    assert outside.flag & StarFlag.OUTSIDE_GRID


def test_only_a_lack_of_memory_halves_a_batch():
    def raised(allocate):
        try:
            allocate()
        except (RuntimeError, MemoryError) as error:
            return error
        raise AssertionError("this machine has too much memory")

    assert driver.out_of_memory(raised(lambda: torch.empty(2**58)))
    assert driver.out_of_memory(MemoryError())
    assert driver.out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not driver.out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not driver.out_of_memory(ValueError("memory"))


def test_refining_without_direct_synthesis_is_refused(toy_emulator, stars):
    with pytest.raises(UserError, match="refine needs direct synthesis"):
        phdlspec.fit(stars[0], toy_emulator, mode="fast", refine=True)


def test_the_limit_of_steps_holds_for_both_samplers(toy_emulator, stars):
    for sampler, warm_up in (("emcee", 0), ("hmc", hmc.WARM_UP)):
        settings = FitSettings(mode="full", sampler=sampler, seed=2, max_steps=10)
        result = fit_batch(stars[:1], toy_emulator, settings)[0]
        assert result.mode == sampler
        assert result.diagnostics["steps"] == warm_up + 10
        assert result.flag & StarFlag.NOT_CONVERGED


def test_a_resolving_power_beyond_the_models_is_told(toy_emulator, stars):
    highest = highest_fitted_power(toy_emulator.native)
    first = stars[0]
    assert first.resolving_power_by_pixel.max() <= 1.001 * highest  # LAMOST is within the reach of all
    sharp = replace(first, resolving_power=np.where(first.wave > 6000.0, 2.0, 0.9) * highest)
    told = fit_batch([sharp], toy_emulator, FAST)[0].meta["WARNINGS"]
    assert f"the models allow {highest:.0f}: sharper pixels were degraded to that" in told[0]


def test_masks_in_the_frame_of_the_star_move_with_it(toy_emulator, stars):
    masks = mask_table(off=["all"], extra=[MaskInterval("mine", 5000.0, 5040.0, "star")])
    result = fit_batch(stars[:1], toy_emulator, replace(FAST, masks=masks), keep=True)[0]
    wave = result.spectrum.wave[~result.spectrum.used & (np.abs(result.spectrum.wave - 5020.0) < 100.0)]
    moved = 1.0 + result["RV"] / 299_792.458  # 55 km/s: 0.9 Å, most of a pixel
    assert 5000.0 * moved <= wave.min() < 5001.2 * moved
    assert 5038.8 * moved < wave.max() <= 5040.0 * moved + 1e-3
