"""Spectra brought to a lower resolving power: from a fine log grid to a coarse one, or on any wavelengths."""

from __future__ import annotations

import math
import warnings
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from phdlspec.errors import UserError
from phdlspec.lsf.native_grid import (
    FWHM_VARIANCE,
    MIN_SIGMA_PIXELS,
    TRUNCATION_SIGMA,
    NativeGrid,
    gaussian_variance,
)


@lru_cache(maxsize=8)
def _degrading_operator(
    size: int, d0: float, wave0: float, r_in: float, out: NativeGrid, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Sparse matrix (M, N) of the convolution from a fine log grid to a coarse one."""
    variance = gaussian_variance(out.resolving_power) - gaussian_variance(r_in)
    sigma = math.sqrt(max(variance, 0.0)) / d0
    if sigma < MIN_SIGMA_PIXELS:
        raise UserError(
            f"cannot degrade from R = {r_in:.0f} on {1 / d0:.0f} pixels per ln(wave) to "
            f"R = {out.resolving_power:.0f}: the kernel is {sigma:.2f} pixels wide, "
            f"expected at least {MIN_SIGMA_PIXELS}"
        )
    x = (np.log(out.wave0 / wave0) + out.dlnlam * np.arange(out.size)) / d0
    if x[0] < -0.5 or x[-1] > size - 0.5:
        last = wave0 * np.exp(d0 * (size - 1))
        raise UserError(
            f"the output grid {out.wave0:.2f}-{out.wave[-1]:.2f} Å leaves the input grid {wave0:.2f}-{last:.2f} Å"
        )
    half = math.ceil(TRUNCATION_SIGMA * sigma)
    taps = min(2 * half + 1, size)
    first = np.clip(np.rint(x).astype(np.int64) - half, 0, size - taps)
    offset = x[:, None] - (first[:, None] + np.arange(taps))
    weight = np.exp(-0.5 * (offset / sigma) ** 2)
    weight /= weight.sum(axis=1, keepdims=True)
    row_starts = torch.arange(out.size + 1, dtype=torch.int32) * taps
    columns = torch.as_tensor(first[:, None] + np.arange(taps), dtype=torch.int32).reshape(-1)
    values = torch.as_tensor(weight, dtype=dtype).reshape(-1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(row_starts, columns, values, (out.size, size), check_invariants=True).to(device)


def degrade(spectra: Tensor, d0: float, wave0: float, r_in: float, out: NativeGrid) -> Tensor:
    """Convolve spectra on a fine log grid to a lower constant resolving power, sampled on a coarser grid.

    Parameters
    ----------
    spectra : (..., N) on wave0 exp(d0 i): a flux and its derivative spectra at once.
    d0 : step in ln(wave); wave0 : first wavelength, Å (same medium as `out`).
    r_in : resolving power that the spectra already have; `inf` for unbroadened ones.
    out : grid and resolving power of the result, M = out.size.

    Returns
    -------
    (..., M) in the dtype of `spectra`. The kernel is a Gaussian cut at 4.5 sigma and sums to one; within
    4.5 sigma of the input's ends only its available part is used: give the input that much margin. The
    operator is kept, so that calls with the same grids cost the multiplication only.
    """
    lead = spectra.shape[:-1]
    flat = spectra.reshape(-1, spectra.shape[-1])
    operator = _degrading_operator(
        flat.shape[1], float(d0), float(wave0), float(r_in), out, spectra.dtype, spectra.device
    )
    return (operator @ flat.T).T.reshape(*lead, out.size)


def broaden(
    wave: ArrayLike,
    flux: ArrayLike,
    resolving_power: float | ArrayLike,
    out_wave: ArrayLike,
    r_in: float = math.inf,
) -> NDArray[np.float64]:
    """Direct numerical convolution of one spectrum on any wavelength grid, sampled at `out_wave`.

    Parameters
    ----------
    wave, flux : (N,) increasing wavelengths (Å) and flux; sampled more finely than the kernel.
    resolving_power : number or (M,), wave / FWHM of the result at each output wavelength.
    out_wave : (M,) Å.
    r_in : resolving power that the flux already has.

    Returns
    -------
    (M,) flux; NaN where the kernel leaves `wave`. The integral over ln(wave) uses the trapezoidal rule.
    """
    lnw = np.log(np.asarray(wave, dtype=float))
    flux = np.asarray(flux, dtype=float)
    cell = np.gradient(lnw)
    centre = np.log(np.asarray(out_wave, dtype=float))
    power = np.broadcast_to(np.asarray(resolving_power, dtype=float), centre.shape)
    variance = (1.0 / power**2 - 1.0 / r_in**2) / FWHM_VARIANCE
    if (variance <= 0).any():
        raise UserError(
            f"cannot broaden from R = {r_in:.0f} to R = {power.max():.0f}, expected a lower resolving power"
        )
    sigma = np.sqrt(variance)
    low = np.searchsorted(lnw, centre - TRUNCATION_SIGMA * sigma)
    high = np.searchsorted(lnw, centre + TRUNCATION_SIGMA * sigma)
    result = np.full(centre.shape, np.nan)
    inside = (low > 0) & (high < len(lnw)) & (high - low > 2)
    for i in np.flatnonzero(inside):
        window = slice(low[i], high[i])
        weight = np.exp(-0.5 * ((lnw[window] - centre[i]) / sigma[i]) ** 2) * cell[window]
        result[i] = weight @ flux[window] / weight.sum()
    return result
