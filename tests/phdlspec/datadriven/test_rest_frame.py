"""Spectra at rest: velocities, interpolation, bad pixels, and a continuum that does not know the noise."""

from __future__ import annotations

import numpy as np
import pytest

from phdlspec.datadriven.dataset import read_dataset
from phdlspec.datadriven.rest_frame import PhysicsFit, at_rest, normalised, velocity_of
from phdlspec.errors import UserError
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import LAMOST_WAVE, SPEED_OF_LIGHT_KM_S

WAVE = LAMOST_WAVE[(LAMOST_WAVE > 4800) & (LAMOST_WAVE < 5500)]


def spectrum(flux: np.ndarray, snr: float = 100.0, **meta) -> Spectrum:
    return Spectrum(WAVE, flux, np.full(len(WAVE), snr**2), ~np.isfinite(flux), np.full(len(WAVE), 1800.0), meta, "")


def line(velocity: float) -> np.ndarray:
    return 1.0 - 0.5 * np.exp(-0.5 * ((WAVE / (1 + velocity / SPEED_OF_LIGHT_KM_S) - 5175.0) / 2.5) ** 2)


@pytest.mark.parametrize("velocity", [-310.0, 0.0, 47.3])
def test_a_line_comes_to_rest(velocity):
    flux, ivar = at_rest(WAVE, line(velocity), np.full(len(WAVE), 1e4), velocity, WAVE)
    good = ivar > 0
    assert good.mean() > 0.98
    np.testing.assert_allclose(flux[good], line(0.0)[good], atol=1.5e-3)


def test_pixels_next_to_a_bad_one_are_bad_and_the_noise_is_not_averaged_away():
    ivar = np.full(len(WAVE), 1e4)
    ivar[200] = 0.0
    flux, found = at_rest(WAVE, line(0.0), ivar, 30.0, WAVE)
    assert 2 <= (found[150:250] == 0).sum() <= 3
    assert found.max() <= 1e4 * 1.001
    assert (flux[found == 0] == 0).all()


def test_a_bad_pixel_leaves_its_good_neighbours_alone():
    ivar = np.full(len(WAVE), 1e4)
    bad = np.argmin(np.abs(WAVE - 5172.0))  # on the line's flank
    ivar[bad] = 0.0
    flux, found = at_rest(WAVE, np.where(ivar > 0, line(30.0), 7.0), ivar, 30.0, WAVE)
    np.testing.assert_allclose(flux[found > 0], line(0.0)[found > 0], atol=6e-3)
    assert (at_rest(WAVE, line(0.0), np.zeros(len(WAVE)), 30.0, WAVE)[1] == 0).all()


def test_the_noise_of_a_line_is_the_reported_one():
    random = np.random.default_rng(0)
    moved = [at_rest(WAVE, 1 + 0.01 * random.normal(size=len(WAVE)), np.full(len(WAVE), 1e4), 34.5, WAVE)[0]
             for _ in range(60)]  # fmt: skip
    profile = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    sums = [np.convolve(flux[2:-2] - 1, profile, "valid") for flux in moved]
    assert np.var(sums) == pytest.approx(1e-4 * np.sum(profile**2), rel=0.1)


def test_velocities_of_header_and_none():
    star = spectrum(line(0.0), Z=1e-4, CLASS="STAR")
    assert velocity_of(star, "header") == pytest.approx(29.98, abs=0.01)
    assert velocity_of(star) == velocity_of(star, "header")
    assert velocity_of(star, "zero") == 0.0
    with pytest.raises(UserError, match="--velocity measure"):
        velocity_of(spectrum(line(0.0), Z=0.3, CLASS="GALAXY"), "header")


def test_the_continuum_does_not_depend_on_the_noise_and_a_fit_of_physics_goes_before_it():
    slope = 2.0 + (WAVE - 5000.0) / 500.0
    one, two = (normalised(spectrum(line(0.0) * slope, snr))[0] for snr in (10.0, 200.0))
    np.testing.assert_array_equal(one, two)
    flux, ivar, _ = normalised(spectrum(line(0.0) * slope), PhysicsFit(0.0, WAVE, slope))
    np.testing.assert_allclose(flux[ivar > 0], line(0.0)[ivar > 0], rtol=1e-6)


def test_spectra_of_nothing_are_rows_with_a_reason_and_alone_one_sentence(tmp_path):
    (tmp_path / "empty.csv").write_text("wave,flux\n" + "".join(f"{w:.3f},nan\n" for w in WAVE))
    paths = [str(tmp_path / name) for name in ("empty.csv", "none.fits")]
    data = read_dataset([spectrum(line(0.0)), *paths], velocity="zero", medium="vacuum")
    assert data.readable.tolist() == [True, False, False]
    assert "none.fits" in data.reasons[2]
    with pytest.raises(UserError, match="none of the 2 spectra can be used"):
        read_dataset(paths, velocity="zero", medium="vacuum")


def test_spectra_of_other_wavelengths_are_told_so():
    with pytest.raises(UserError, match="must share their wavelengths"):
        read_dataset([spectrum(line(0.0))], velocity="zero", grid=np.linspace(8000.0, 8500.0, 500))
