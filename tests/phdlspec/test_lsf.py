"""Projection and degradation against direct numerical convolution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phdlspec import lsf
from phdlspec.errors import UserError
from phdlspec.lsf import projection
from phdlspec.wavelength import LAMOST_WAVE, SPEED_OF_LIGHT_KM_S

SURVEY = lsf.NativeGrid(3690.0, 1 / 8750, 7909, 3500.0)
FINE_STEP = 1 / 150_000


def line_forest(wave: np.ndarray, seed: int = 3, per_angstrom: float = 0.5) -> np.ndarray:
    """A normalised spectrum of unresolved lines (3 km/s wide) with a realistic crowding."""
    rng = np.random.default_rng(seed)
    lnw = np.log(wave)
    tau = np.zeros_like(wave)
    count = int(per_angstrom * (wave[-1] - wave[0]))
    for centre, depth in zip(rng.uniform(lnw[0], lnw[-1], count), rng.exponential(0.7, count)):
        sigma = 3.0 / SPEED_OF_LIGHT_KM_S
        low, high = np.searchsorted(lnw, [centre - 6 * sigma, centre + 6 * sigma])
        tau[low:high] += depth * np.exp(-0.5 * ((lnw[low:high] - centre) / sigma) ** 2)
    return np.exp(-tau)


@pytest.fixture(scope="module")
def fine() -> tuple[np.ndarray, np.ndarray]:
    """A fine log grid a little wider than the survey grid, and a spectrum of lines."""
    wave = 3650.0 * np.exp(FINE_STEP * np.arange(int(math.log(9200 / 3650) / FINE_STEP)))
    return wave, line_forest(wave)


@pytest.fixture(scope="module")
def survey_flux(fine) -> torch.Tensor:
    """The same spectrum on the survey grid, (1, Pn) float32."""
    return lsf.degrade(torch.as_tensor(fine[1])[None], FINE_STEP, 3650.0, math.inf, SURVEY).float()


FULL = lsf.NativeGrid(3690.0, 1 / 30_000, 27_114, 12_000.0)


@pytest.mark.parametrize("out", [SURVEY, FULL], ids=["R3500", "R12000"])
def test_degrade_equals_direct_convolution(fine, out):
    wave, flux = fine
    got = lsf.degrade(torch.as_tensor(flux), FINE_STEP, 3650.0, math.inf, out).numpy()
    pixels = np.arange(0, out.size, 37)
    expected = lsf.broaden(wave, flux, out.resolving_power, out.wave[pixels])
    assert np.abs(got[pixels] - expected).max() < 1e-5


def test_degrade_takes_many_spectra_and_conserves_flux(fine):
    wave, flux = fine
    stack = torch.as_tensor(np.stack([flux, flux - 1.0, 0.1 * flux**2, np.ones_like(flux)]))
    got = lsf.degrade(stack.reshape(2, 2, -1), FINE_STEP, 3650.0, math.inf, SURVEY)
    assert got.shape == (2, 2, SURVEY.size)
    torch.testing.assert_close(got[0, 0] - 1.0, got[0, 1], atol=1e-12, rtol=0)
    torch.testing.assert_close(got[1, 1], torch.ones(SURVEY.size, dtype=torch.float64), atol=1e-12, rtol=0)
    one_line = np.zeros_like(flux)
    one_line[len(flux) // 2] = 1.0
    kept = lsf.degrade(torch.as_tensor(one_line), FINE_STEP, 3650.0, math.inf, SURVEY).sum() * SURVEY.dlnlam
    assert kept.item() == pytest.approx(FINE_STEP, rel=1e-4)


def test_degrade_in_two_steps_equals_one(fine):
    flux = torch.as_tensor(fine[1])
    medium = lsf.NativeGrid(3670.0, 1 / 30_000, 27_400, 12_000.0)
    two = lsf.degrade(
        lsf.degrade(flux, FINE_STEP, 3650.0, math.inf, medium), medium.dlnlam, medium.wave0, 12_000.0, SURVEY
    )
    one = lsf.degrade(flux, FINE_STEP, 3650.0, math.inf, SURVEY)
    assert (one - two).abs().max() < 2e-5


def test_degrade_refuses_what_it_cannot_do(fine):
    flux = torch.as_tensor(fine[1])
    with pytest.raises(UserError, match="leaves the input grid"):
        lsf.degrade(flux, FINE_STEP, 3700.0, math.inf, SURVEY)
    with pytest.raises(UserError, match="cannot degrade"):
        lsf.degrade(flux, FINE_STEP, 3650.0, 3400.0, SURVEY)


@pytest.mark.parametrize("power", [1300.0, 1800.0, 2200.0, 2790.0])
def test_project_equals_direct_degradation(fine, survey_flux, power):
    """From R = 3500 to the LAMOST pixels: like the fine spectrum degraded in one go."""
    wave, flux = fine
    expected = lsf.broaden(wave, flux, power, LAMOST_WAVE)
    valid = lsf.valid_pixels(SURVEY, torch.as_tensor(LAMOST_WAVE), power)[0].numpy() & np.isfinite(expected)
    assert valid.mean() > 0.99
    got = lsf.project(survey_flux, SURVEY, LAMOST_WAVE, power)[0].numpy()
    assert np.abs(got - expected)[valid].max() < (1e-4 if power <= 2200 else 2e-3)


def test_project_with_resolving_power_by_pixel_and_velocity(fine, survey_flux):
    wave, flux = fine
    power = 1500.0 + 0.1 * (LAMOST_WAVE - 3700)
    rv = 312.0
    expected = lsf.broaden(wave * (1 + rv / SPEED_OF_LIGHT_KM_S), flux, power, LAMOST_WAVE)
    got = lsf.project(survey_flux, SURVEY, LAMOST_WAVE, power, rv=rv)[0].numpy()
    valid = lsf.valid_pixels(SURVEY, torch.as_tensor(LAMOST_WAVE), power.min(), torch.tensor([rv]))[0].numpy()
    valid &= np.isfinite(expected)
    assert np.abs(got - expected)[valid].max() < 1e-4


def test_vbroad_is_close_to_a_rotation_profile(fine, survey_flux):
    """At R = 1800 a Gaussian of equal variance stands for rotation of 40 km/s to a few 1e-4."""
    wave, flux = fine
    vsini, limb = 40.0, projection.LIMB_DARKENING
    x = np.arange(-24, 25) * FINE_STEP * SPEED_OF_LIGHT_KM_S / vsini
    y2 = np.clip(1 - x**2, 0, None)
    profile = 2 * (1 - limb) * np.sqrt(y2) + 0.5 * np.pi * limb * y2
    rotated = np.convolve(flux, profile / profile.sum(), mode="same")
    expected = lsf.broaden(wave, rotated, 1800.0, LAMOST_WAVE)
    got = lsf.project(survey_flux, SURVEY, LAMOST_WAVE, 1800.0, vbroad=vsini)[0].numpy()
    plain = lsf.project(survey_flux, SURVEY, LAMOST_WAVE, 1800.0)[0].numpy()
    inside = slice(20, -20)
    error, effect = np.std((got - expected)[inside]), np.std((plain - expected)[inside])
    assert error < 1e-3
    assert error < 0.06 * effect


def test_positions_are_good_to_a_ten_thousandth_of_a_pixel():
    """A native ramp comes back as the exact pixel coordinate, in float32, up to pixel 7900."""
    ramp = torch.arange(SURVEY.size, dtype=torch.float32)[None]
    k = np.array([20.25, 4000.125, 7850.75])
    wave = SURVEY.wave0 * np.exp(SURVEY.dlnlam * k)
    deltas = ramp - torch.as_tensor(np.round(k), dtype=torch.float32)[:, None]
    got = lsf.project(deltas, SURVEY, wave, 1800.0).diagonal().numpy()
    np.testing.assert_allclose(got, k - np.round(k), atol=1e-4)


def test_projected_flux_stays_finite_outside_the_grid(survey_flux):
    wave = np.array([3000.0, 3692.0, 5000.0, 9108.0, 9900.0])
    got = lsf.project(survey_flux, SURVEY, wave, 1800.0)
    assert torch.isfinite(got).all()
    valid = lsf.valid_pixels(SURVEY, torch.as_tensor(wave), 1800.0)[0]
    assert valid.tolist() == [False, False, True, False, False]


def test_batches_columns_and_chunks_agree(survey_flux, monkeypatch):
    rng = np.random.default_rng(0)
    native = torch.as_tensor(rng.normal(size=(5, 3, SURVEY.size)), dtype=torch.float32)
    wave = torch.as_tensor(LAMOST_WAVE[::40])
    rv, vbroad = torch.linspace(-300, 300, 5), torch.linspace(0, 60, 5)
    whole = lsf.project(native, SURVEY, wave, 1800.0, vbroad, rv)
    monkeypatch.setitem(projection._CHUNK_ELEMENTS, "cpu", 1)
    one_by_one = lsf.project(native, SURVEY, wave.expand(5, -1), torch.full((5, 98), 1800.0), vbroad, rv)
    assert whole.shape == (5, 3, 98)
    torch.testing.assert_close(whole, one_by_one, atol=1e-5, rtol=0)
    single = lsf.project(native[3:4, 1], SURVEY, wave, 1800.0, vbroad[3:4], rv[3:4])
    torch.testing.assert_close(single[0], whole[3, 1], atol=1e-5, rtol=0)


def test_derivatives_are_those_of_autograd(survey_flux):
    native = survey_flux.double()
    wave = torch.as_tensor(LAMOST_WAVE[40:-40:25])
    vbroad, rv = torch.tensor([20.0], dtype=torch.float64), torch.tensor([50.0], dtype=torch.float64)
    ln_power = torch.tensor([[math.log(1700.0)]], dtype=torch.float64)

    def model(v, r, lp):
        return lsf.project(native, SURVEY, wave, torch.exp(lp).expand(1, len(wave)), v, r, half_width=14)

    flux, *analytic = lsf.project_with_derivatives(native, SURVEY, wave, 1700.0, vbroad, rv, half_width=14)
    torch.testing.assert_close(flux, model(vbroad, rv, ln_power))
    for position, expected in enumerate(analytic):
        arguments = [vbroad, rv, ln_power]
        tangents = [torch.zeros_like(a) for a in arguments]
        tangents[position] = torch.ones_like(arguments[position])
        by_jvp = torch.func.jvp(model, tuple(arguments), tuple(tangents))[1]
        torch.testing.assert_close(by_jvp, expected, atol=1e-10, rtol=1e-8)


def test_gradients_by_autograd_and_vmap(survey_flux):
    wave = torch.as_tensor(LAMOST_WAVE[40:-40:200])
    native = survey_flux.double().clone().requires_grad_()
    rv = torch.tensor([10.0], dtype=torch.float64, requires_grad=True)
    lsf.project(native, SURVEY, wave, 1800.0, rv=rv).sum().backward()
    assert native.grad is not None
    assert native.grad.sum().item() == pytest.approx(len(wave), rel=1e-9)
    assert rv.grad is not None
    assert rv.grad.abs().item() > 0

    half = lsf.kernel_half_width(SURVEY, 1800.0)
    velocities = torch.linspace(-200, 200, 4, dtype=torch.float64)
    one = native.detach()

    def at_velocity(r):
        return lsf.project(one, SURVEY, wave, 1800.0, rv=r[None], half_width=half)[0]

    by_vmap = torch.func.vmap(at_velocity)(velocities)
    batched = lsf.project(one.expand(4, -1), SURVEY, wave, 1800.0, rv=velocities, half_width=half)
    torch.testing.assert_close(by_vmap, batched)


@settings(max_examples=25, deadline=None)
@given(power=st.floats(900, 2780), vbroad=st.floats(0, 60), rv=st.floats(-1000, 1000))
def test_a_constant_stays_constant(power, vbroad, rv):
    got = lsf.project(torch.full((1, SURVEY.size), 0.7), SURVEY, LAMOST_WAVE[::97], power, vbroad, rv)
    torch.testing.assert_close(got, torch.full_like(got, 0.7), atol=1e-6, rtol=0)


def test_too_sharp_an_observation_is_refused(survey_flux):
    with pytest.raises(UserError, match="too high for a model grid"):
        lsf.project(survey_flux, SURVEY, LAMOST_WAVE, 3400.0)
    with pytest.raises(UserError, match="not a positive number"):
        lsf.project(survey_flux, SURVEY, LAMOST_WAVE, 0.0)


def test_grid_from_wavelengths():
    grid = lsf.NativeGrid.from_wave(SURVEY.wave, 3500.0)
    np.testing.assert_allclose(grid.wave, SURVEY.wave, rtol=1e-12)
    with pytest.raises(UserError, match="log-uniform"):
        lsf.NativeGrid.from_wave(np.linspace(4000, 5000, 100), 3500.0)
    with pytest.raises(UserError, match="must be positive"):
        lsf.NativeGrid(4000.0, -1e-4, 10, 3500.0)
