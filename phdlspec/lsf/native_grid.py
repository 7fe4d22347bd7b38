"""Log-uniform grids of model spectra, and the Gaussian of a resolving power."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phdlspec.errors import UserError

FWHM_VARIANCE = 8.0 * math.log(2.0)  # FWHM^2 of a Gaussian over its variance
MIN_SIGMA_PIXELS = 0.79  # R_obs = 2800 on the survey grid (R_nat = 3500, 8750 pixels per ln wave)
TRUNCATION_SIGMA = 4.5  # half width of the kernels; 7e-6 of a Gaussian lies outside


@dataclass(frozen=True)
class NativeGrid:
    """A log-uniform grid of vacuum wavelengths with one resolving power.

    Attributes
    ----------
    wave0 : first wavelength, Å
    dlnlam : step in ln(wave)
    size : number of pixels
    resolving_power : wave / FWHM of the spectra on the grid; `inf` for unbroadened spectra
    """

    wave0: float
    dlnlam: float
    size: int
    resolving_power: float

    def __post_init__(self) -> None:
        if not (self.wave0 > 0 and self.dlnlam > 0 and self.size > 1 and self.resolving_power > 0):
            raise UserError(
                f"not a native grid: wave0={self.wave0} Å, dlnlam={self.dlnlam}, size={self.size}, "
                f"resolving_power={self.resolving_power}; all must be positive"
            )

    @property
    def wave(self) -> NDArray[np.float64]:
        """Wavelengths (size,), vacuum Å."""
        return np.asarray(self.wave0 * np.exp(self.dlnlam * np.arange(self.size)))

    @property
    def highest_power(self) -> float:
        """The highest resolving power that an observation may have: its kernel must be wide enough for the pixels."""
        kernel = (MIN_SIGMA_PIXELS * self.dlnlam) ** 2
        return 1.0 / math.sqrt((kernel + gaussian_variance(self.resolving_power)) * FWHM_VARIANCE)

    @classmethod
    def from_wave(cls, wave: ArrayLike, resolving_power: float) -> NativeGrid:
        """The grid of a log-uniform wavelength array; refused when steps differ by more than 1e-3 of one."""
        lnw = np.log(np.asarray(wave, dtype=float))
        step = (lnw[-1] - lnw[0]) / (len(lnw) - 1)
        if not np.abs(np.diff(lnw) - step).max() < 1e-3 * abs(step):
            raise UserError("the wavelengths are not log-uniform, expected a constant step in ln(wave)")
        return cls(float(np.exp(lnw[0])), float(step), len(lnw), float(resolving_power))


def gaussian_variance(resolving_power: float) -> float:
    """Variance in ln(wave) of the Gaussian of a resolving power; 0 for an infinite one."""
    return 1.0 / (resolving_power**2 * FWHM_VARIANCE)
