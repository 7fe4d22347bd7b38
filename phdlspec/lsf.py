"""Resolution: Gaussian line spread functions on log-uniform grids, and the projection onto observed pixels.

Model spectra live on a log-uniform *native* grid with a known resolving power. One operator takes them to the
pixels of an observation: a Gaussian of variance

    sigma^2 = (1/R_obs^2 - 1/R_nat^2) / (8 ln 2) + (k_rot VBROAD / c)^2        in ln(wave),

shifted by ln(1 + rv/c) and sampled at the observed pixels. R is wave over the FWHM. k_rot^2 = 0.225 is the
variance of the rotation profile of unit v sin i with limb darkening 0.6 (Gray 2005, eq. 18.14), so VBROAD is
a v sin i as long as rotation is narrower than the instrument. The sum over native pixels equals the
convolution integral as long as sigma is at least about 0.8 native pixels (`MIN_SIGMA_PIXELS`); sharper
observations are refused.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from phdlspec.errors import UserError
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

FWHM_VARIANCE = 8.0 * math.log(2.0)  # FWHM^2 of a Gaussian over its variance
LIMB_DARKENING = 0.6
ROTATION_VARIANCE = ((1 - LIMB_DARKENING) / 4 + 2 * LIMB_DARKENING / 15) / (1 - LIMB_DARKENING / 3)
MIN_SIGMA_PIXELS = 0.79  # R_obs = 2800 on the survey grid (R_nat = 3500, 8750 pixels per ln wave)
TRUNCATION_SIGMA = 4.5  # half width of the kernels; 7e-6 of a Gaussian lies outside
# Largest intermediate array of `project`, in elements: what stays in a processor's cache, or fills a GPU.
_CHUNK_ELEMENTS = {"cpu": 2**20, "cuda": 2**26}


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
        return self.wave0 * np.exp(self.dlnlam * np.arange(self.size))

    @classmethod
    def from_wave(cls, wave: ArrayLike, resolving_power: float) -> NativeGrid:
        """The grid of a log-uniform wavelength array; refused when steps differ by more than 1e-3 of one."""
        lnw = np.log(np.asarray(wave, dtype=float))
        step = (lnw[-1] - lnw[0]) / (len(lnw) - 1)
        if not np.abs(np.diff(lnw) - step).max() < 1e-3 * abs(step):
            raise UserError("the wavelengths are not log-uniform, expected a constant step in ln(wave)")
        return cls(float(np.exp(lnw[0])), float(step), len(lnw), float(resolving_power))


def _inverse_variance_power(resolving_power: float) -> float:
    """1/R^2 in units of the Gaussian's variance in ln(wave); 0 for infinite R."""
    return 1.0 / (resolving_power**2 * FWHM_VARIANCE)


def kernel_half_width(
    grid: NativeGrid, resolving_power: float | Tensor | ArrayLike, vbroad_max: float = 60.0
) -> int:
    """Taps on either side of a pixel that `project` needs for the lowest of these resolving powers.

    Give the result to `project` to spare it reading values back from the device, and under `torch.func.vmap`.
    Raises `UserError` for a resolving power that the grid cannot serve.
    """
    power = torch.as_tensor(resolving_power, dtype=torch.float64).detach()
    highest, lowest = power.max().item(), power.min().item()
    if not lowest > 0 or not math.isfinite(lowest):
        raise UserError(f"resolving power {lowest} is not a positive number")
    native = _inverse_variance_power(grid.resolving_power)
    if _inverse_variance_power(highest) - native < (MIN_SIGMA_PIXELS * grid.dlnlam) ** 2:
        limit = ((MIN_SIGMA_PIXELS * grid.dlnlam) ** 2 + native) * FWHM_VARIANCE
        raise UserError(
            f"resolving power {highest:.0f} is too high for a model grid of R = {grid.resolving_power:.0f}: "
            f"at most {1.0 / math.sqrt(limit):.0f} can be modelled, degrade the spectrum first"
        )
    variance = _inverse_variance_power(lowest) - native
    variance += ROTATION_VARIANCE * (vbroad_max / SPEED_OF_LIGHT_KM_S) ** 2
    return math.ceil(TRUNCATION_SIGMA * math.sqrt(variance) / grid.dlnlam)


def _positions(grid: NativeGrid, wave: Tensor, rv: Tensor) -> Tensor:
    """Native pixel coordinates (B, P), float64, of observed wavelengths (P,) or (B, P) at velocities (B,)."""
    shift = torch.log1p(rv.to(torch.float64) / SPEED_OF_LIGHT_KM_S)
    lnw = torch.log(wave.to(torch.float64)) - math.log(grid.wave0)
    return (lnw - shift[:, None]) / grid.dlnlam


def valid_pixels(
    grid: NativeGrid,
    wave: Tensor,
    resolving_power: float | Tensor,
    rv: Tensor | None = None,
    vbroad_max: float = 60.0,
) -> Tensor:
    """True (B, P) for observed pixels whose whole kernel lies on the native grid; B = 1 without `rv`."""
    wave = torch.as_tensor(wave)
    rv = torch.zeros(1, dtype=torch.float64, device=wave.device) if rv is None else rv
    half = kernel_half_width(grid, resolving_power, vbroad_max)
    x = torch.round(_positions(grid, wave, rv))
    return (x >= half) & (x <= grid.size - 1 - half)


@dataclass(frozen=True)
class _Kernel:
    """The pieces of the banded operator for B spectra, P pixels and T taps."""

    index: Tensor  # (B, P, T) native pixels, clamped to the grid
    weight: Tensor  # (B, P, T), sums to one over T
    offset: Tensor  # (B, P, T) distance of the pixel from each tap, native pixels
    variance: Tensor  # (B, P) native pixels squared


def _kernel(
    grid: NativeGrid, wave: Tensor, power: Tensor, vbroad: Tensor, rv: Tensor, half: int, dtype: torch.dtype
) -> _Kernel:
    x = _positions(grid, wave, rv)
    nearest = torch.round(x).detach()
    fraction = (x - nearest).to(dtype)
    taps = torch.arange(-half, half + 1, device=x.device)
    instrument = (1.0 / power**2 - 1.0 / grid.resolving_power**2) / (FWHM_VARIANCE * grid.dlnlam**2)
    rotation = ROTATION_VARIANCE * (vbroad / (SPEED_OF_LIGHT_KM_S * grid.dlnlam)) ** 2
    variance = instrument + rotation[:, None]
    offset = fraction[..., None] - taps.to(dtype)
    weight = torch.exp(-0.5 * offset**2 / variance[..., None])
    weight = weight / weight.sum(-1, keepdim=True)
    index = (nearest.to(torch.int64)[..., None] + taps).clamp(0, grid.size - 1)
    return _Kernel(index, weight, offset, variance)


@dataclass(frozen=True)
class _Inputs:
    """Arguments of `project` brought to common shapes."""

    native: Tensor  # (B, K, Pn)
    wave: Tensor  # (P,) or (B, P)
    power: Tensor  # (1, 1), (1, P) or (B, P)
    vbroad: Tensor  # (B,)
    rv: Tensor  # (B,), float64
    half: int
    columns: bool  # whether the caller gave K

    def chunks(self) -> list[slice]:
        """Slices of the batch that keep the gathered windows (b, K, P, T) small."""
        b, k, _ = self.native.shape
        each = k * self.wave.shape[-1] * (2 * self.half + 1)
        size = max(1, _CHUNK_ELEMENTS.get(self.native.device.type, 2**24) // each)
        return [slice(i, min(i + size, b)) for i in range(0, b, size)]

    def kernel(self, grid: NativeGrid, part: slice) -> _Kernel:
        wave = self.wave[part] if self.wave.ndim == 2 else self.wave
        power = self.power[part] if self.power.shape[0] > 1 else self.power
        return _kernel(grid, wave, power, self.vbroad[part], self.rv[part], self.half, self.native.dtype)


def _inputs(native, grid, wave, resolving_power, vbroad, rv, half_width) -> _Inputs:
    if native.shape[-1] != grid.size or native.ndim not in (2, 3):
        expected = f"(B, {grid.size}) or (B, K, {grid.size})"
        raise ValueError(f"native flux has shape {tuple(native.shape)}, expected {expected}")
    device, dtype = native.device, native.dtype
    batch = native.shape[0]

    def per_spectrum(value, kind):
        value = torch.as_tensor(0.0 if value is None else value, dtype=kind, device=device)
        return value.expand(batch) if value.ndim == 0 else value

    wave = torch.as_tensor(wave, dtype=torch.float64, device=device)
    power = torch.as_tensor(resolving_power, dtype=dtype, device=device)
    vbroad_b, rv_b = per_spectrum(vbroad, dtype), per_spectrum(rv, torch.float64)
    if half_width is None:
        half_width = kernel_half_width(grid, power, float(vbroad_b.detach().abs().max()))
    columns = native.ndim == 3
    return _Inputs(
        native if columns else native[:, None],
        wave,
        power.reshape(1, -1) if power.ndim < 2 else power,
        vbroad_b,
        rv_b,
        half_width,
        columns,
    )


def _windows(native: Tensor, index: Tensor) -> Tensor:
    """Native flux (b, K, Pn) gathered at (b, P, T): (b, K, P, T)."""
    b, p, t = index.shape
    flat = index.reshape(b, 1, p * t).expand(b, native.shape[1], p * t)
    return torch.gather(native, 2, flat).reshape(b, native.shape[1], p, t)


def project(
    native: Tensor,
    grid: NativeGrid,
    wave: Tensor | ArrayLike,
    resolving_power: float | Tensor | ArrayLike,
    vbroad: Tensor | float | None = None,
    rv: Tensor | float | None = None,
    half_width: int | None = None,
) -> Tensor:
    """Native spectra as seen at observed pixels: broadened, shifted and sampled.

    Parameters
    ----------
    native : (B, Pn) or (B, K, Pn); flux, or K derivative spectra of each star; its dtype is the result's.
    grid : the native grid, Pn = grid.size.
    wave : (P,) or (B, P) observed vacuum wavelengths, Å.
    resolving_power : number, (P,) or (B, P); wave / FWHM of the observation.
    vbroad : number or (B,), km/s; rv : number or (B,), km/s, positive for a receding star.
    half_width : taps on either side, from `kernel_half_width`. By default it is read off the arguments, which
        needs their values; give it under `torch.func.vmap` and to spare a synchronisation on a GPU.

    Returns
    -------
    (B, P) or (B, K, P). Differentiable in native, vbroad, rv and resolving_power. Pixels whose kernel leaves
    the native grid see its last value repeated (finite, but not to be used): see `valid_pixels`.

    Raises `UserError` for a resolving power above what the grid can serve.
    """
    inputs = _inputs(native, grid, wave, resolving_power, vbroad, rv, half_width)
    parts = []
    for part in inputs.chunks():
        kernel = inputs.kernel(grid, part)
        windows = _windows(inputs.native[part], kernel.index)
        parts.append(torch.einsum("bkpt,bpt->bkp", windows, kernel.weight))
    flux = parts[0] if len(parts) == 1 else torch.cat(parts)
    return flux if inputs.columns else flux[:, 0]


def project_with_derivatives(
    native: Tensor,
    grid: NativeGrid,
    wave: Tensor | ArrayLike,
    resolving_power: float | Tensor | ArrayLike,
    vbroad: Tensor | float | None = None,
    rv: Tensor | float | None = None,
    half_width: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`project`, with the exact derivatives of the result with respect to the observation's own parameters.

    Arguments as for `project`. Returns flux, d flux/d vbroad (per km/s), d flux/d rv (per km/s) and
    d flux/d ln R, each (B, P) or (B, K, P). With weights w_t = exp(-d_t^2 / 2 s) / Z and moments
    m_n = sum w d^n f, d flux/d s = (m_2 - <d^2> flux) / 2 s^2 and d flux/d x = -(m_1 - <d> flux) / s.
    """
    inputs = _inputs(native, grid, wave, resolving_power, vbroad, rv, half_width)
    parts = []
    for part in inputs.chunks():
        kernel = inputs.kernel(grid, part)
        weighted_offset = kernel.weight * kernel.offset
        moments = torch.stack([kernel.weight, weighted_offset, weighted_offset * kernel.offset], dim=-1)
        windows = _windows(inputs.native[part], kernel.index)
        m = torch.einsum("bkpt,bptn->nbkp", windows, moments)
        mean = moments.sum(dim=2)[:, None]  # (b, 1, P, 3)
        variance = kernel.variance[:, None]
        d_variance = (m[2] - mean[..., 2] * m[0]) / (2.0 * variance**2)
        d_position = -(m[1] - mean[..., 1] * m[0]) / variance

        power = inputs.power[part] if inputs.power.shape[0] > 1 else inputs.power
        vbroad_b, rv_b = inputs.vbroad[part], inputs.rv[part]
        variance_by_vbroad = 2.0 * ROTATION_VARIANCE * vbroad_b / (SPEED_OF_LIGHT_KM_S * grid.dlnlam) ** 2
        position_by_rv = (-1.0 / (grid.dlnlam * (SPEED_OF_LIGHT_KM_S + rv_b))).to(m.dtype)
        variance_by_ln_power = -2.0 / (power**2 * FWHM_VARIANCE * grid.dlnlam**2)
        parts.append(
            (
                m[0],
                d_variance * variance_by_vbroad[:, None, None],
                d_position * position_by_rv[:, None, None],
                d_variance * variance_by_ln_power[:, None],
            )
        )
    flux, by_vbroad, by_rv, by_ln_power = (torch.cat(p) if len(p) > 1 else p[0] for p in zip(*parts))
    if inputs.columns:
        return flux, by_vbroad, by_rv, by_ln_power
    return flux[:, 0], by_vbroad[:, 0], by_rv[:, 0], by_ln_power[:, 0]


@lru_cache(maxsize=8)
def _degrading_operator(
    size: int, d0: float, wave0: float, r_in: float, out: NativeGrid, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Sparse matrix (M, N) of the convolution from a fine log grid to a coarse one."""
    variance = _inverse_variance_power(out.resolving_power) - _inverse_variance_power(r_in)
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
            f"the output grid {out.wave0:.2f}-{out.wave[-1]:.2f} Å "
            f"leaves the input grid {wave0:.2f}-{last:.2f} Å"
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
        return torch.sparse_csr_tensor(
            row_starts, columns, values, (out.size, size), check_invariants=True
        ).to(device)


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
