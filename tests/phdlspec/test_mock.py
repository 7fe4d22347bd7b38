"""Mock LAMOST spectra: what they claim about noise, velocity and resolution is so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid

from phdlspec import read_spectrum
from phdlspec.cores import CorePriors
from phdlspec.io import write_lamost
from phdlspec.lsf import NativeGrid
from phdlspec.mock import SNR_WINDOW, mock_lamost, relative_snr
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

GRID = NativeGrid(3690.0, 1.0 / 8750.0, 7909, 3500.0)


def one_line(centre: float = 5100.0, depth: float = 0.6) -> np.ndarray:
    return 1.0 - depth * np.exp(-0.5 * ((GRID.wave - centre) / 3.0) ** 2)


def centroid(spectrum, near: float) -> float:
    use = np.abs(spectrum.wave - near) < 40.0
    depth = 1.0 - spectrum.flux[use] / np.polyval(
        np.polyfit(spectrum.wave[use][[0, -1]], spectrum.flux[use][[0, -1]], 1), spectrum.wave[use]
    )
    return float((depth * spectrum.wave[use]).sum() / depth.sum())


def test_noise_is_what_the_inverse_variance_says():
    mocks = [mock_lamost(np.ones(GRID.size), GRID, 5777.0, 40.0, seed, resolution_scale=1.0) for seed in (1, 2)]
    first, second = mocks
    assert first.meta["SNR"] != pytest.approx(40.0)  # the median over all pixels is not that of the g band
    window = (first.wave > SNR_WINDOW[0]) & (first.wave < SNR_WINDOW[1])
    assert np.median((first.flux * np.sqrt(first.ivar))[window]) == pytest.approx(40.0, rel=0.05)
    good = first.good & second.good
    # The continua are smooth: neighbouring pixels differ by noise alone.
    for mock in mocks:
        pulls = np.diff(mock.flux[good]) / np.sqrt(1 / mock.ivar[good][1:] + 1 / mock.ivar[good][:-1])
        assert np.std(pulls) == pytest.approx(1.0, abs=0.05)


def test_velocities_of_the_arms():
    still = mock_lamost(one_line(), GRID, 5777.0, 1e5, 3, resolution_scale=1.0)
    moved = mock_lamost(one_line(), GRID, 5777.0, 1e5, 3, resolution_scale=1.0, rv=100.0)
    shift = centroid(moved, 5101.7) / centroid(still, 5100.0) - 1.0
    assert shift * SPEED_OF_LIGHT_KM_S == pytest.approx(100.0, abs=3.0)
    red = mock_lamost(one_line(7000.0), GRID, 5777.0, 1e5, 3, resolution_scale=1.0, red_velocity=8.0)
    plain = mock_lamost(one_line(7000.0), GRID, 5777.0, 1e5, 3, resolution_scale=1.0)
    assert (centroid(red, 7000.0) / centroid(plain, 7000.0) - 1) * SPEED_OF_LIGHT_KM_S == pytest.approx(8.0, abs=1.0)


def test_cool_stars_have_little_light_in_the_blue():
    blue, red = relative_snr(4700.0, [3900.0, 7000.0])
    assert blue < 0.2
    assert red > 1.9
    assert relative_snr(6500.0, 3900.0) > 2 * blue


def test_the_same_seed_gives_the_same_file(tmp_path):
    mock = mock_lamost(one_line(), GRID, 5777.0, 50.0, 7, identifier="42")
    assert np.array_equal(mock.flux, mock_lamost(one_line(), GRID, 5777.0, 50.0, 7, identifier="42").flux)
    write_lamost(mock, tmp_path / "mock.fits.gz")
    back = read_spectrum(tmp_path / "mock.fits.gz")
    assert np.allclose(back.flux, mock.flux, rtol=1e-5)
    assert back.meta["OBSID"] == "42"
    assert np.array_equal(back.mask, mock.mask)


def test_cores_are_planted_as_the_fit_expects_them():
    """In the mean over draws, and with their scatter; noise and continuum stay what they were."""
    priors = CorePriors(torch.tensor([6564.6]), torch.tensor([[0.4, 1.1, 0.0]]), torch.tensor([0.06]))
    plain = mock_lamost(np.ones(GRID.size), GRID, 5040.0, 1e6, 1, resolution_scale=1.0)
    use = np.abs(plain.wave - 6564.6) < 15.0

    def missing(teff: float, seed: int) -> float:
        level = mock_lamost(np.ones(GRID.size), GRID, teff, 1e6, seed, resolution_scale=1.0)
        deeper = mock_lamost(
            np.ones(GRID.size), GRID, teff, 1e6, seed, resolution_scale=1.0, logg=4.0, cores=priors
        )  # fmt: skip
        return float(trapezoid(1.0 - deeper.flux[use] / level.flux[use], plain.wave[use]))

    sun = [missing(5040.0, seed) for seed in range(20)]
    assert np.mean(sun) == pytest.approx(0.4, abs=0.04)
    assert np.std(sun) == pytest.approx(0.06, abs=0.03)
    assert missing(4200.0, 3) - missing(5040.0, 3) == pytest.approx(1.1 * 0.2, abs=0.01)
    assert missing(5040.0, 3) == missing(5040.0, 3)


def test_cores_need_a_gravity():
    priors = CorePriors(torch.tensor([6564.6]), torch.tensor([[0.4, 1.1, 0.0]]), torch.tensor([0.06]))
    with pytest.raises(ValueError, match="logg"):
        mock_lamost(np.ones(GRID.size), GRID, 5040.0, 50.0, 1, cores=priors)
