"""Wavelength scales: air and vacuum, log-uniform grids, and the grid of LAMOST."""

from __future__ import annotations

import numpy as np
from astropy import units as u
from numpy.typing import ArrayLike, NDArray

from phdlspec.errors import UserError, first_line

SPEED_OF_LIGHT_KM_S = 299792.458

# Pixels of LAMOST low-resolution spectra, vacuum Å: log10(wave) = 3.5682 + 1e-4 i.
LAMOST_WAVE: NDArray[np.float64] = np.power(10.0, 3.5682 + 1e-4 * np.arange(3909), dtype=np.float64)


def _refractive_index(wave_vacuum: NDArray[np.float64]) -> NDArray[np.float64]:
    # Standard air, Morton (2000, ApJS 130, 403), after Birch & Downs (1994); sigma in inverse micrometres.
    sigma2 = (1e4 / wave_vacuum) ** 2
    return 1.0 + 8.34254e-5 + 2.406147e-2 / (130.0 - sigma2) + 1.5998e-4 / (38.9 - sigma2)


def _in_angstrom(wave: ArrayLike | u.Quantity) -> NDArray[np.float64]:
    try:
        given = wave.to_value(u.AA, u.spectral()) if isinstance(wave, u.Quantity) else wave
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:  # no numbers; no unit of length
        raise UserError(f"wavelengths: {first_line(error)}; expected numbers in Å, or a Quantity") from error


def vacuum_to_air(wave: ArrayLike) -> NDArray[np.float64]:
    """Vacuum to standard-air wavelengths in Å (Morton 2000), meant for 2000 Å and longer.

    A Quantity may have any unit of length; the answer is in Å. Raises `UserError` for what holds no wavelengths.

    >>> round(float(phdlspec.vacuum_to_air(6564.60)), 2)
    6562.79
    """
    vacuum = _in_angstrom(wave)
    return vacuum / _refractive_index(vacuum)


def air_to_vacuum(wave: ArrayLike) -> NDArray[np.float64]:
    """Standard-air to vacuum wavelengths in Å: the inverse of `vacuum_to_air` to 1e-9 Å, arguments as there.

    >>> round(float(phdlspec.air_to_vacuum(6562.79)), 2)
    6564.6
    """
    air = _in_angstrom(wave)
    vacuum = air
    for _ in range(4):
        vacuum = air * _refractive_index(vacuum)
    return vacuum


def log_grid(wave_min: float, wave_max: float, dlnlam: float) -> NDArray[np.float64]:
    """Log-uniform grid from `wave_min` (included) to `wave_max` (Å) with step `dlnlam` in ln(wave)."""
    size = int(np.floor(np.log(wave_max / wave_min) / dlnlam + 1e-9)) + 1
    return np.asarray(wave_min * np.exp(dlnlam * np.arange(size)))
