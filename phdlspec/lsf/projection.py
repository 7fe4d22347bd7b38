"""The projection of model spectra onto observed pixels: line spread function, rotation, velocity.

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
from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from phdlspec.errors import UserError
from phdlspec.lsf.native_grid import (
    FWHM_VARIANCE,
    TRUNCATION_SIGMA,
    NativeGrid,
    gaussian_variance,
)
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

LIMB_DARKENING = 0.6
ROTATION_VARIANCE = ((1 - LIMB_DARKENING) / 4 + 2 * LIMB_DARKENING / 15) / (1 - LIMB_DARKENING / 3)
# Largest intermediate array of `project`, in elements: what stays in a processor's cache, or fills a GPU.
_CHUNK_ELEMENTS = {"cpu": 2**20, "cuda": 2**26}


def kernel_half_width(grid: NativeGrid, resolving_power: float | Tensor | ArrayLike, vbroad_max: float = 60.0) -> int:
    """Taps on either side of a pixel that `project` needs for the lowest of these resolving powers.

    Give the result to `project` to spare it reading values back from the device, and under `torch.func.vmap`.
    Raises `UserError` for a resolving power that the grid cannot serve.
    """
    power = torch.as_tensor(resolving_power, dtype=torch.float64).detach()
    highest, lowest = power.max().item(), power.min().item()
    if not lowest > 0 or not math.isfinite(lowest):
        raise UserError(f"resolving power {lowest} is not a positive number")
    if highest > grid.highest_power:
        raise UserError(
            f"resolving power {highest:.0f} is too high for a model grid of R = {grid.resolving_power:.0f}: "
            f"at most {grid.highest_power:.0f} can be modelled, degrade the spectrum first"
        )
    variance = gaussian_variance(lowest) - gaussian_variance(grid.resolving_power)
    variance += ROTATION_VARIANCE * (vbroad_max / SPEED_OF_LIGHT_KM_S) ** 2
    return math.ceil(TRUNCATION_SIGMA * math.sqrt(variance) / grid.dlnlam)


def native_positions(grid: NativeGrid, wave: Tensor, rv: Tensor) -> Tensor:
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
    x = torch.round(native_positions(grid, wave, rv))
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
    x = native_positions(grid, wave, rv)
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


def _inputs(
    native: Tensor,
    grid: NativeGrid,
    wave: Tensor | ArrayLike,
    resolving_power: float | Tensor | ArrayLike,
    vbroad: Tensor | float | None,
    rv: Tensor | float | None,
    half_width: int | None,
) -> _Inputs:
    if native.shape[-1] != grid.size or native.ndim not in (2, 3):
        expected = f"(B, {grid.size}) or (B, K, {grid.size})"
        raise ValueError(f"native flux has shape {tuple(native.shape)}, expected {expected}")
    device, dtype = native.device, native.dtype
    batch = native.shape[0]

    def per_spectrum(value: Tensor | float | None, kind: torch.dtype) -> Tensor:
        tensor = torch.as_tensor(0.0 if value is None else value, dtype=kind, device=device)
        return tensor.expand(batch) if tensor.ndim == 0 else tensor

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


def pixel_weights(
    grid: NativeGrid, wave: Tensor, resolving_power: Tensor, vbroad: float, rv: float
) -> tuple[Tensor, Tensor]:
    """The operator of `project` for one spectrum: native pixels (P, T) that each pixel sees, and their weights.

    wave (P,) vacuum Å; resolving_power (P,); vbroad, rv km/s. Float64; rows of weights sum to one.
    """
    power = resolving_power.double()
    half = kernel_half_width(grid, power, vbroad)
    rotation, velocity = torch.tensor([[vbroad], [rv]], dtype=torch.float64)
    kernel = _kernel(grid, wave, power[None], rotation, velocity, half, torch.float64)
    return kernel.index[0], kernel.weight[0]


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


def at_resolving_power(native: Tensor, grid: NativeGrid, resolving_power: float) -> Tensor:
    """Native spectra (..., Pn) at a lower resolving power on their own pixels, as `project` would make them there."""
    half = kernel_half_width(grid, resolving_power, 0.0)
    variance = (gaussian_variance(resolving_power) - gaussian_variance(grid.resolving_power)) / grid.dlnlam**2
    weight = torch.exp(-0.5 * torch.arange(-half, half + 1, dtype=torch.float64) ** 2 / variance)
    first, last = native[..., :1], native[..., -1:]
    padded = torch.cat([*[first] * half, native, *[last] * half], dim=-1)
    result = torch.zeros_like(native)
    for tap, share in enumerate((weight / weight.sum()).tolist()):
        result.add_(padded[..., tap : tap + grid.size], alpha=share)
    return result


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
    parts = [_with_derivatives(inputs, grid, part) for part in inputs.chunks()]
    flux, by_vbroad, by_rv, by_ln_power = (torch.cat(p) if len(p) > 1 else p[0] for p in zip(*parts))
    if inputs.columns:
        return flux, by_vbroad, by_rv, by_ln_power
    return flux[:, 0], by_vbroad[:, 0], by_rv[:, 0], by_ln_power[:, 0]


def _with_derivatives(inputs: _Inputs, grid: NativeGrid, part: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `project_with_derivatives` returns, (b, K, P) each, for some of the spectra."""
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
    vbroad, rv = inputs.vbroad[part], inputs.rv[part]
    variance_by_vbroad = 2.0 * ROTATION_VARIANCE * vbroad / (SPEED_OF_LIGHT_KM_S * grid.dlnlam) ** 2
    position_by_rv = (-1.0 / (grid.dlnlam * (SPEED_OF_LIGHT_KM_S + rv))).to(m.dtype)
    variance_by_ln_power = -2.0 / (power**2 * FWHM_VARIANCE * grid.dlnlam**2)
    return (
        m[0],
        d_variance * variance_by_vbroad[:, None, None],
        d_position * position_by_rv[:, None, None],
        d_variance * variance_by_ln_power[:, None],
    )
