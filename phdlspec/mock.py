"""Mock LAMOST spectra from model spectra: resolution, velocity, continuum and noise as the instrument has them.

Accuracy studies put ab initio spectra through it, and the bundled example was made with it. What is real: the pixels,
the resolving power by wavelength with its scatter from fibre to fibre, the run of the noise with wavelength and
temperature (both measured, see the scripts), the two arms with continua of their own, and, where asked for, the cores
of strong lines that models in LTE lack. What is not: bad sky subtraction, tellurics, correlated noise.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from phdlspec.cores import CorePriors
from phdlspec.io.lamost import ARMS
from phdlspec.lsf import NativeGrid, project, valid_pixels
from phdlspec.resolution import default_resolving_power
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import LAMOST_WAVE, SPEED_OF_LIGHT_KM_S

SNR_WINDOW = (4700.0, 5500.0)  # Å, where the SNR of a mock is defined: close to the g band
FIBRE_SCATTER = 0.15  # of the resolving power
CORES_STREAM = 1  # of random numbers beside those of the seed: the noise does not depend on whether there are cores
_PIXEL_SCATTER = 0.08  # of the noise's size from pixel to pixel

# Signal-to-noise ratio per pixel over that in SNR_WINDOW, medians of 593 stars of DR10
# (scripts/measure_lamost_noise.py).
_SNR_TEFF = (4700.0, 5400.0, 6100.0, 6900.0)  # K
_SNR_WAVE = (
    *(3750, 3850, 3950, 4075, 4225, 4400, 4600, 4850, 5150, 5450, 5675, 5800, 5900, 6000, 6125, 6350, 6750, 7250),
    *(7750, 8200, 8550, 8800, 9000),
)  # Å
_RELATIVE_SNR = np.array([
    [.08, .10, .18, .35, .42, .57, .77, .95, 1.00, 1.09, 1.05, 1.01, .98, 1.33, 1.51, 1.66, 1.99, 2.10, 1.97, 1.81,
     1.63, 1.54, 1.31],
    [.15, .21, .28, .49, .57, .65, .83, .99, 1.00, 1.00, .93, .89, .83, 1.16, 1.31, 1.43, 1.67, 1.73, 1.54, 1.42,
     1.16, 1.10, .93],
    [.20, .31, .40, .56, .65, .72, .87, 1.00, 1.01, .98, .90, .85, .78, 1.07, 1.21, 1.31, 1.50, 1.55, 1.34, 1.23,
     1.00, .94, .78],
    [.19, .35, .48, .63, .74, .76, .89, 1.01, 1.01, .96, .86, .82, .78, 1.05, 1.14, 1.23, 1.40, 1.41, 1.22, 1.09,
     .91, .82, .69],
])  # fmt: skip


def relative_snr(teff: float, wave: ArrayLike) -> NDArray[np.float64]:
    """SNR per pixel (P,) at vacuum wavelengths (Å) relative to that in `SNR_WINDOW`, for LAMOST and this Teff (K)."""
    rows = np.array([np.interp(teff, _SNR_TEFF, column) for column in _RELATIVE_SNR.T])
    return np.asarray(np.interp(np.asarray(wave, dtype=float), _SNR_WAVE, rows))


def _continuum(teff: float, wave: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    # A black body seen through a smooth, imperfectly calibrated response, one in each arm.
    photons = wave**-5 / np.expm1(1.4388e8 / (wave * teff))
    shape = photons / np.median(photons)
    for low, high in ARMS:
        arm = (wave >= low) & (wave < high)
        x = 2.0 * (wave[arm] - low) / (high - low) - 1.0
        shape[arm] *= np.exp(np.polynomial.legendre.legval(x, random.normal(0.0, [0.05, 0.08, 0.04, 0.02])))
    return shape


def _noise(
    normalised: NDArray[np.float64], continuum: NDArray[np.float64], teff: float, snr: float
) -> NDArray[np.float64]:
    # The light of the star and that of the sky have equal parts in the variance: lines are a little less noisy.
    sigma = continuum / relative_snr(teff, LAMOST_WAVE) * np.sqrt(0.5 + 0.5 * normalised)
    window = (SNR_WINDOW[0] < LAMOST_WAVE) & (SNR_WINDOW[1] > LAMOST_WAVE)
    ratio = (normalised * continuum)[window] / sigma[window]
    return np.asarray(sigma * (np.median(ratio) / snr))


def _seen(
    flux: NDArray[np.float64],
    grid: NativeGrid,
    power: NDArray[np.float64],
    velocities: tuple[float, float],
    vbroad: float,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Normalised flux (P,) on LAMOST's pixels, each arm with its velocity (km/s), and where the grid reaches (P,)."""
    wave, native, true_power = LAMOST_WAVE, torch.as_tensor(flux)[None], torch.as_tensor(power)
    normalised, inside = np.empty(len(wave)), np.zeros(len(wave), dtype=bool)
    for (low, high), velocity in zip(ARMS, velocities):
        arm = (wave >= low) & (wave < high)
        pixels, arm_power = torch.as_tensor(wave[arm]), true_power[torch.as_tensor(arm)]
        shift = torch.tensor([velocity], dtype=torch.float64)
        normalised[arm] = project(native, grid, pixels, arm_power, vbroad, shift)[0].numpy()
        inside[arm] = valid_pixels(grid, pixels, arm_power, shift, vbroad)[0].numpy()
    return normalised, inside


def _with_noise(
    normalised: NDArray[np.float64], teff: float, snr: float, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Flux with its continuum and noise, and the size of the noise (P,).
    continuum = _continuum(teff, LAMOST_WAVE, random)
    scatter = np.exp(_PIXEL_SCATTER * random.normal(size=len(normalised)))
    sigma = _noise(normalised, continuum, teff, snr) * scatter
    return normalised * continuum + sigma * random.normal(size=len(normalised)), sigma


def mock_lamost(
    flux: ArrayLike, grid: NativeGrid, teff: float, snr: float, seed: int, *, rv: float = 0.0, vbroad: float = 0.0,
    resolution_scale: float | None = None, red_velocity: float = 0.0, logg: float | None = None,
    cores: CorePriors | None = None, identifier: str = "mock",
) -> Spectrum:  # fmt: skip
    """A LAMOST spectrum of a star with a known normalised flux.

    Parameters
    ----------
    flux : (Pn,) normalised flux on the native grid, unshifted, not rotating.
    teff : K; sets the colour of continuum and noise.
    snr : median signal-to-noise ratio per pixel between 4700 and 5500 Å.
    seed : of noise, continuum and resolving power.
    rv, vbroad : km/s. red_velocity : km/s by which the red arm is displaced besides.
    resolution_scale : factor on LAMOST's resolving power; drawn with `FIBRE_SCATTER` if not given. The spectrum
        claims the survey's default in either case, as real files do.
    logg, cores : surface gravity (dex), and the priors of what models lack in the cores of strong lines, from which
        the star's are drawn (`CorePriors.shipped`: the fit expects them of stars); without, cores are the model's.
    identifier : becomes OBSID.

    Returns
    -------
    Spectrum on LAMOST's pixels; pixels beyond the native grid are masked.

    >>> sun = torch.as_tensor(emulator.labels.complete({"TEFF": 5777, "LOGG": 4.44}), dtype=torch.float32)
    >>> native = emulator.native_flux(sun[None])
    >>> mock = phdlspec.mock_lamost(native[0], emulator.native, teff=5777, snr=50, seed=1, rv=30.0)
    >>> mock.wave.size
    3909
    """
    if cores is not None:
        if logg is None:
            raise ValueError("cores depend on log g: give logg")
        flux = cores.planted(flux, grid, teff, logg, np.random.default_rng((seed, CORES_STREAM)))
    random = np.random.default_rng(seed)
    power = default_resolving_power("LAMOST", LAMOST_WAVE)
    drawn = float(np.exp(FIBRE_SCATTER * np.clip(random.normal(), -1.5, 1.5)))
    scale = drawn if resolution_scale is None else resolution_scale
    shifts = (rv, rv + red_velocity)
    normalised, inside = _seen(np.asarray(flux, dtype=np.float64), grid, power * scale, shifts, vbroad)
    counts, sigma = _with_noise(normalised, teff, snr, random)
    z = rv / SPEED_OF_LIGHT_KM_S
    meta = {"SURVEY": "LAMOST", "OBSID": identifier, "SNRG": float(snr), "CLASS": "STAR", "Z": z}
    ivar = np.where(inside, sigma**-2, 0.0)
    return Spectrum(LAMOST_WAVE, np.where(inside, counts, 0.0), ivar, ~inside, power, meta=meta, arms=ARMS)
