"""One spectrum as the models from data see it: divided by its continuum, at rest, on a given grid.

Velocity and continuum are those of a physics fit of the star where there is one. Else the velocity is the header's
(LAMOST) or measured against templates, and the continuum is the house's spline basis fitted to the flux itself. That is
no true continuum: it takes out of every star, whatever its noise, all that is wider than a knot interval (400 Å). The
fit is linear and does not weigh pixels by their noise, so that two spectra of a star get the same one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from phdlspec.continuum import continuum_basis
from phdlspec.default_emulator import load_emulator
from phdlspec.errors import UserError, first_line
from phdlspec.fitting.lookup import velocity_templates
from phdlspec.fitting.preparation import highest_fitted_power
from phdlspec.hdf5_check import check_hdf5
from phdlspec.lsf import NativeGrid
from phdlspec.masks import DEFAULT_INTERVALS, wavelength_mask
from phdlspec.radial_velocity import radial_velocity
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

VELOCITIES = ("auto", "header", "measure", "zero")
MAX_HEADER_SPEED = 1000.0  # km/s; beyond it a header's redshift is no star's
LEAST_CONTINUUM = 0.05  # of its median, below which the quotient is noise
CLIP_SIGMA = 6.0

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PhysicsFit:
    """What a fit of `phdlspec fit` says: velocity (km/s), and its continuum (P,) at wave (P,)."""

    velocity: float
    wave: Array
    continuum: Array


def read_physics_fit(path: str | Path) -> PhysicsFit | None:
    """The velocity and continuum of the HDF5 of `phdlspec fit`; None where the star has no result.

    Raises `UserError` for a file that is something else.
    """
    check_hdf5(path)
    try:
        with h5py.File(path) as file:
            if "spectrum" not in file:
                return None
            names = [name.decode() for name in file["names"][()]]
            velocity = float(file["value"][names.index("RV")])
            return PhysicsFit(velocity, file["spectrum/wave"][()], file["spectrum/continuum"][()].astype(float))
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a result of phdlspec fit ({first_line(error)}); fit the star again") from error


def velocity_of(spectrum: Spectrum, how: str = "auto") -> float:
    """The star's velocity in the frame of the wavelengths, km/s.

    how : "header" (the redshift Z), "measure" (against templates), "zero" (the spectrum is at rest), or "auto": the
        header's where it is one of a star, else measured.

    Raises `UserError` where there is none.
    """
    if how == "zero":
        return 0.0
    header = _header_velocity(spectrum)
    if how == "header" and header is None:
        raise UserError(f"{spectrum.path or 'spectrum'}: no redshift Z of a star in its header; use --velocity measure")
    if header is not None and how != "measure":
        return header
    templates, native = _templates()
    velocity = float(radial_velocity(spectrum.degraded_to(highest_fitted_power(native)), templates, native).rv[0])
    if not np.isfinite(velocity):
        raise UserError(f"{spectrum.path or 'spectrum'}: no velocity can be measured, too few pixels are usable")
    return velocity


def _header_velocity(spectrum: Spectrum) -> float | None:
    z = spectrum.meta.get("Z")
    if not isinstance(z, (int, float)) or not np.isfinite(z) or str(spectrum.meta.get("CLASS", "STAR")) != "STAR":
        return None
    velocity = SPEED_OF_LIGHT_KM_S * float(z)
    return velocity if abs(velocity) < MAX_HEADER_SPEED else None


@lru_cache(maxsize=1)
def _templates() -> tuple[torch.Tensor, NativeGrid]:
    emulator = load_emulator(device="cpu")
    return velocity_templates(emulator), emulator.native


def spline_continuum(spectrum: Spectrum, good: NDArray[np.bool_]) -> Array:
    """The splines (P,) that fit the flux of the good pixels best, pixels far off left out; NaN outside them."""
    basis = continuum_basis(spectrum.wave, spectrum.arms, good)
    if len(basis) == 0:
        raise UserError(f"{spectrum.path or 'spectrum'}: the masks leave no pixels to fit a continuum to")
    covered = (basis != 0).any(axis=0)
    used = good & covered
    for _ in range(2):
        continuum = np.linalg.lstsq(basis[:, used].T, spectrum.flux[used], rcond=None)[0] @ basis
        deviation = np.abs(spectrum.flux - continuum)
        used = good & covered & (deviation < CLIP_SIGMA * 1.4826 * np.median(deviation[used]) + 1e-30)
    return np.where(covered, continuum, np.nan)


def normalised(spectrum: Spectrum, fit: PhysicsFit | None = None) -> tuple[Array, Array, Array]:
    """Flux over continuum, its inverse variance, and the continuum, each (P,) on the spectrum's own pixels.

    Flux and inverse variance are 0 where masked, the continuum is NaN where there is none.
    """
    survey = str(spectrum.meta.get("SURVEY", ""))
    good = spectrum.good & ~wavelength_mask(spectrum.wave, DEFAULT_INTERVALS, survey)
    if fit is None:
        continuum = spline_continuum(spectrum, good)
    else:
        continuum = np.interp(spectrum.wave, fit.wave, fit.continuum, np.nan, np.nan)
    level = np.nanmedian(continuum[good]) if good.any() else np.nan
    if not level > 0:
        raise UserError(f"{spectrum.path or 'spectrum'}: its median continuum is {level:.3g}, expected a positive one")
    good &= np.nan_to_num(continuum) > LEAST_CONTINUUM * level
    safe = np.where(good, continuum, 1.0)
    known = np.where(np.nan_to_num(continuum) > LEAST_CONTINUUM * level, continuum, np.nan)
    return np.where(good, spectrum.flux / safe, 0.0), np.where(good, spectrum.ivar * safe**2, 0.0), known


def at_rest(
    wave: Array, flux: Array, ivar: Array, velocity_km_s: float, grid: Array
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Normalised flux and inverse variance (P,) moved to rest and interpolated to the grid (G,), vacuum Å.

    A cubic spline through the pixels, bad ones bridged by a straight line. A pixel of the grid between two bad pixels,
    or one, is bad (0). The variance is interpolated linearly between the two neighbours, without the gain of averaging:
    neighbouring pixels are correlated afterwards, and their sum must not count for more than it does
    (`scripts/rest_frame_noise.py` measures both).
    """
    place = np.interp(grid * (1.0 + velocity_km_s / SPEED_OF_LIGHT_KM_S), wave, np.arange(len(wave)), -1.0, -1.0)
    nearest = np.rint(place)
    place = np.where(np.abs(place - nearest) < 1e-6, nearest, place)
    left = np.clip(np.floor(place).astype(np.int64), 0, len(wave) - 1)
    x = place - left
    right = np.where(x > 0, np.minimum(left + 1, len(wave) - 1), left)
    known = ivar > 0
    good = (place >= 0) & known[left] & known[right]
    if not good.any():
        return np.zeros(len(grid), dtype=np.float32), np.zeros(len(grid), dtype=np.float32)
    pixels = np.arange(len(wave))
    value = CubicSpline(pixels, np.interp(pixels, pixels[known], flux[known]))(np.clip(place, 0, len(wave) - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (1 - x) / ivar[left] + x / ivar[right]
    inverse = np.where(good, 1.0 / np.where(good, variance, 1.0), 0.0)
    return np.where(good, value, 0.0).astype(np.float32), inverse.astype(np.float32)


def level_at_rest(wave: Array, continuum: Array, velocity_km_s: float, grid: Array) -> NDArray[np.float32]:
    """ln of a continuum (P,) at rest wavelengths (C,), vacuum Å, less its median; NaN where there is none."""
    with np.errstate(invalid="ignore"):
        level = np.interp(grid * (1.0 + velocity_km_s / SPEED_OF_LIGHT_KM_S), wave, np.log(continuum), np.nan, np.nan)
    known = np.isfinite(level)
    return np.asarray(level - np.median(level[known]) if known.any() else level, dtype=np.float32)
