"""From spectra to what the likelihood needs: masks, continuum basis, one array layout for stars of equal pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phdlspec.continuum import continuum_basis
from phdlspec.errors import UserError
from phdlspec.fitting.coordinates import RESOLUTION_BOUND
from phdlspec.fitting.known import KnownStar
from phdlspec.likelihood import Observations
from phdlspec.lsf import NativeGrid
from phdlspec.masks import DEFAULT_INTERVALS, MaskInterval, wavelength_mask
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

MIN_RESOLVING_POWER = 300.0  # below it the kernels outgrow `EDGE_MARGIN`, and no element is told from another
MAX_SPEED = 1000.0  # km/s; pixels must see the native grid at every velocity up to this
EDGE_MARGIN = 1.006  # the line spread function's and the rotation's reach
MIN_PIXELS = 300


@dataclass(frozen=True)
class Prepared:
    """One spectrum ready to be fitted: `spectrum` with its masks, `ivar` (P,) zero where unused, `basis` (K, P).

    known : what is known of its star besides what the settings say
    """

    spectrum: Spectrum
    ivar: NDArray[np.float64]
    basis: NDArray[np.float64]
    scale: float
    known: KnownStar = KnownStar()

    @property
    def name(self) -> str:
        """What its random numbers are drawn with: the file's name, else the OBSID."""
        return self.spectrum.stem


def prepare(
    spectrum: Spectrum, native: NativeGrid, intervals: tuple[MaskInterval, ...] = DEFAULT_INTERVALS
) -> Prepared:
    """Mask, degrade if needed, and choose the continuum basis. Raises `UserError` when that is impossible."""
    name = spectrum.path or "spectrum"
    power = spectrum.resolving_power_by_pixel
    if power.min() < MIN_RESOLVING_POWER:
        raise UserError(
            f"{name}: its resolving power is {power.min():.4g} at {spectrum.wave[power.argmin()]:.0f} Å, expected at "
            f"least {MIN_RESOLVING_POWER:.0f} (wavelength over FWHM); give the true one"
        )
    spectrum = _within_reach(spectrum, native)
    shift = 1.0 + MAX_SPEED / SPEED_OF_LIGHT_KM_S
    inside = (spectrum.wave > native.wave0 * EDGE_MARGIN) & (spectrum.wave < native.wave[-1] / EDGE_MARGIN / shift)
    bad = spectrum.mask | ~inside | wavelength_mask(spectrum.wave, intervals, str(spectrum.meta.get("SURVEY", "")))
    if (~bad).sum() < MIN_PIXELS:
        raise UserError(
            f"{name}: the masks leave {(~bad).sum()} pixels between {native.wave0:.0f} and {native.wave[-1]:.0f} Å, "
            f"expected at least {MIN_PIXELS}"
        )
    scale = float(np.median(spectrum.flux[~bad]))
    if not scale > 0:
        raise UserError(f"{name}: the median flux is {scale:.3g}, expected a positive one; there is no star in it")
    basis = continuum_basis(spectrum.wave, spectrum.arms, ~bad)
    covered = (basis != 0).any(axis=0)
    return Prepared(spectrum, np.where(bad | ~covered, 0.0, spectrum.ivar), basis, scale)


def highest_fitted_power(native: NativeGrid) -> float:
    """The highest resolving power that is fitted: its factor must stay within what the grid of models can serve."""
    return native.highest_power / float(np.exp(RESOLUTION_BOUND))


def _within_reach(spectrum: Spectrum, native: NativeGrid) -> Spectrum:
    """The spectrum with pixels that are sharper than the models allow degraded, which a warning tells."""
    highest = highest_fitted_power(native)
    blunter = spectrum.degraded_to(highest)
    if blunter is spectrum:
        return spectrum
    power = np.where(spectrum.good, spectrum.resolving_power_by_pixel, 0.0)
    told = (
        f"its resolving power is up to {power.max():.0f} (at {spectrum.wave[power.argmax()]:.0f} Å), the models allow "
        f"{highest:.0f}: sharper pixels were degraded to that"
    )
    return replace(blunter, meta={**blunter.meta, "WARNINGS": (*blunter.warnings, told)})


def observations(prepared: Sequence[Prepared], device: torch.device) -> Observations:
    """The array layout of stars that share their pixels, each divided by its median flux."""
    wave = prepared[0].spectrum.wave
    columns = max(len(p.basis) for p in prepared)
    basis = np.zeros((len(prepared), len(wave), columns), dtype=np.float32)
    for row, p in zip(basis, prepared):
        row[:, : len(p.basis)] = p.basis.T

    def put(rows: list[NDArray[Any]], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.as_tensor(np.stack(rows), dtype=dtype, device=device)

    return Observations(
        wave=torch.as_tensor(wave.copy(), dtype=torch.float64, device=device),
        flux=put([np.where(p.ivar > 0, p.spectrum.flux, 0.0) / p.scale for p in prepared]),
        ivar=put([p.ivar * p.scale**2 for p in prepared]),
        resolving_power=put([p.spectrum.resolving_power_by_pixel for p in prepared]),
        basis=torch.as_tensor(basis, device=device),
        scale=torch.as_tensor([p.scale for p in prepared], dtype=torch.float64, device=device),
    )


def masked_with_the_star(spectrum: Spectrum, intervals: Sequence[MaskInterval], rv_km_s: torch.Tensor) -> torch.Tensor:
    """Pixels (S, P) in intervals that move with the stars, whose velocities (S,) are known by now; all stars have the
    pixels of `spectrum`."""
    moving = [interval for interval in intervals if interval.frame == "star"]
    survey = str(spectrum.meta.get("SURVEY", ""))
    rows = [wavelength_mask(spectrum.wave, moving, survey, float(rv)) for rv in rv_km_s]
    return torch.as_tensor(np.stack(rows), device=rv_km_s.device)


def groups(prepared: Sequence[Prepared | None]) -> list[list[int]]:
    """Indices of the spectra that share pixels, arms and resolving power, in order of first appearance."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for i, p in enumerate(prepared):
        if p is not None:
            power = p.spectrum.resolving_power_by_pixel.tobytes()
            survey = p.spectrum.meta.get("SURVEY", "")
            found.setdefault((p.spectrum.wave.tobytes(), power, p.spectrum.arms, survey), []).append(i)
    return list(found.values())
