"""Blind velocities: mocks with gaps, noise, outliers and response curves, and real stars against the
survey."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from phdlspec import lsf
from phdlspec.continuum import continuum_basis
from phdlspec.io import read_spectrum
from phdlspec.masks import wavelength_mask
from phdlspec.radial_velocity import VelocityScan, air_wavelengths_suspected, radial_velocity
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import LAMOST_WAVE, SPEED_OF_LIGHT_KM_S

GRID = lsf.NativeGrid(3690.0, 1 / 8750, 7909, 3500.0)
ARMS = ((3690.0, 5900.0), (5900.0, 9110.0))


@pytest.fixture(scope="module")
def templates() -> torch.Tensor:
    """Crowded, sparse and almost line-free spectra with Balmer lines of different strength, (3, Pn)."""
    rng = np.random.default_rng(2)
    tau = np.zeros(GRID.size)
    pixel = np.arange(GRID.size)
    for centre, depth in zip(rng.uniform(0, GRID.size, 2500), rng.exponential(0.25, 2500)):
        if rng.uniform() < np.clip((7000 - GRID.wave[int(centre)]) / 3000, 0.1, 1):
            near = slice(max(0, int(centre) - 6), int(centre) + 7)
            tau[near] += depth * np.exp(-0.5 * ((pixel[near] - centre) / 1.1) ** 2)
    balmer = np.zeros(GRID.size)
    for centre in (3971.2, 4102.9, 4341.7, 4862.7, 6564.6):
        balmer += 0.8 * np.exp(-np.abs(GRID.wave - centre) / 8.0)
    return torch.as_tensor(np.exp(-np.stack([tau + 0.3 * balmer, 0.15 * tau + 0.6 * balmer, 0.02 * tau + balmer])))


def mocks(templates, template: int, rv, snr: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Spectra (B, P) with LAMOST-like response, noise and masks, and their inverse variances."""
    rng = np.random.default_rng(seed)
    rv = torch.as_tensor(rv, dtype=torch.float64)
    native = templates[template].expand(len(rv), -1)
    clean = lsf.project(native, GRID, LAMOST_WAVE, 1800.0, vbroad=8.0, rv=rv).numpy()
    x = np.log(LAMOST_WAVE / 5500)
    response = 500 * np.where(LAMOST_WAVE < 5900, np.exp(-4 * x**2), 1.4 - x)
    sigma = response / snr / np.clip((LAMOST_WAVE - 3600) / 1400, 0.1, 1)
    flux = clean * response + rng.normal(0, 1, clean.shape) * sigma
    ivar = np.broadcast_to(sigma**-2.0, clean.shape).copy()
    ivar[:, wavelength_mask(LAMOST_WAVE, survey="LAMOST")] = 0
    ivar[:, 1200:1350] = 0
    return torch.as_tensor(flux), torch.as_tensor(ivar)


def basis_for(ivar: torch.Tensor) -> np.ndarray:
    return continuum_basis(LAMOST_WAVE, ARMS, (ivar > 0).any(dim=0).numpy())


@pytest.mark.parametrize(("template", "snr", "scatter"), [(0, 10, 8.0), (1, 30, 8.0), (2, 60, 8.0)])
def test_velocities_and_errors_of_mocks(templates, template, snr, scatter):
    true = np.array([-930.0, -410.0, -120.5, -3.0, 0.0, 14.3, 77.7, 250.0, 333.0, 701.0, 948.0, 55.0])
    flux, ivar = mocks(templates, template, true, snr)
    got = VelocityScan.of(LAMOST_WAVE, basis_for(ivar), templates, GRID, 1800.0).measure(flux, ivar)
    assert (got.template == template).all()
    assert got.reliable.all()
    error = got.rv.numpy() - true
    pull = error / got.rv_err.numpy()
    assert np.abs(error).max() < 4 * scatter
    assert np.abs(pull).max() < 4
    assert 0.5 < np.sqrt(np.mean(pull**2)) < 1.7
    np.testing.assert_allclose(got.rchi2.numpy(), 1.0, atol=0.15)


def test_outliers_and_garbage(templates):
    true = np.array([120.0, 120.0, 120.0, 120.0])
    flux, ivar = mocks(templates, 0, true, 40)
    flux[0, 1700:1703] += 1e5  # cosmic ray
    flux[1] *= 1e-17  # another unit
    ivar[1] *= 1e34
    ivar[2] = 0  # nothing usable
    flux[3] = torch.as_tensor(np.random.default_rng(1).normal(0, 1, len(LAMOST_WAVE))) / ivar[3].clamp_min(1e-9).sqrt()
    got = VelocityScan.of(LAMOST_WAVE, basis_for(ivar), templates, GRID, 1800.0).measure(flux, ivar)
    np.testing.assert_allclose(got.rv[:2].numpy(), 120.0, atol=6)
    assert torch.isnan(got.rv[2])
    assert got.reliable.tolist() == [True, True, False, False]


def test_a_batch_gives_what_single_spectra_give(templates):
    flux, ivar = mocks(templates, 1, np.array([35.0, -200.0]), 40)
    basis = basis_for(ivar)
    both = VelocityScan.of(LAMOST_WAVE, basis, templates, GRID, 1800.0).measure(flux, ivar)
    one = VelocityScan.of(LAMOST_WAVE, basis, templates, GRID, 1800.0).measure(flux[1:], ivar[1:])
    assert both.rv[1].item() == pytest.approx(one.rv[0].item(), abs=1e-6)


def test_air_wavelengths_are_suspected(templates):
    flux, ivar = mocks(templates, 0, np.array([20.0]), 50)
    bad = (ivar[0] == 0).numpy()
    meta = {"Z": 20 / SPEED_OF_LIGHT_KM_S, "SURVEY": "LAMOST"}
    spectrum = Spectrum(LAMOST_WAVE, flux[0].numpy(), ivar[0].numpy(), bad, 1800.0, meta, arms=ARMS)
    got = radial_velocity(spectrum, templates, GRID)
    assert air_wavelengths_suspected(got.rv.item(), got.rv_err.item(), spectrum) is None
    assert "in air" in str(air_wavelengths_suspected(got.rv.item() - 83.0, got.rv_err.item(), spectrum))
    no_header = Spectrum(LAMOST_WAVE, flux[0].numpy(), ivar[0].numpy(), bad, 1800.0, arms=ARMS)
    assert air_wavelengths_suspected(-63.0, 1.0, no_header) is None


def test_real_g_stars_agree_with_the_survey(shared_data):
    """Templates made from the reference Sun alone; LAMOST G stars against c Z of their headers."""
    reference = np.load(shared_data / "reference_spectra" / "sun_two_codes_R1800.npz")
    wave, sun = reference["wl_vac"], reference["base_pk300k"]
    grid = lsf.NativeGrid.from_wave(wave, 1800.0)
    templates = torch.as_tensor(np.stack([sun**power for power in (0.4, 0.7, 1.0, 1.5)]))
    paths = sorted((shared_data / "lamost" / "dr10").glob("*.fits.gz"))
    difference, error = [], []
    for path in paths[::6]:
        spectrum = read_spectrum(path, resolving_power=1300.0)
        if spectrum.meta.get("SUBCLASS", "")[:1] != "G" or spectrum.meta.get("SNRG", 0) < 15:
            continue
        got = radial_velocity(spectrum, templates, grid)
        assert got.reliable.all()
        difference.append(got.rv.item() - SPEED_OF_LIGHT_KM_S * spectrum.meta["Z"])
        error.append(got.rv_err.item())
    assert len(difference) > 20
    centre = np.median(difference)
    assert abs(centre) < 10
    assert 1.4826 * np.median(np.abs(np.array(difference) - centre)) < 8
    assert np.abs(difference).max() < 60
