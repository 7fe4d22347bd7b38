r"""Models in patches as the pixels of stars see them: line spread function, rotation, velocity (see `projection`).

Two operators, both from the native patches to the slots of `Blocks`:

* `Instrument.observe` is exact, and has the derivatives by what belongs to the observation. One kernel a star serves
  the flux and all derivative spectra of a model.
* `Nearby` serves many models of each star that differ little in velocity and width of the kernel, as the draws of a
  posterior do. The kernel is exact at three variances v, quadratic between them, and follows the velocity to second
  order: a shift by d changes it by d w' + d^2 w''/2, and w''/2 is what a change of its variance by d^2 does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phdlspec.lsf.blocks import Blocks, windows
from phdlspec.lsf.native_grid import FWHM_VARIANCE, TRUNCATION_SIGMA
from phdlspec.lsf.projection import ROTATION_VARIANCE, kernel_half_width
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

NODE = 0.87  # of the half range of variances, where kernels are exact beside its middle: near Chebyshev's places
_LEAST_VARIANCE = 0.3  # native pixels squared


@dataclass(frozen=True)
class Dispersion:
    """What belongs to the observation of a model, each (S,) or (S, m): velocity rv and rotation vbroad in km/s, and the
    factor `scale` on the resolving power; float64."""

    rv: Tensor
    vbroad: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Instrument:
    """The line spread functions at the used pixels of S stars.

    Attributes
    ----------
    blocks : of the S stars
    variance : (Q, S, N) of the instrument's Gaussian, native pixels squared, at the stated resolving power
    half : taps on either side of a kernel, for the lowest resolving power and the fastest rotation
    overlap : native pixels of a neighbour that a patch's pixels may see, kernels and changes of velocity together
    """

    blocks: Blocks
    variance: Tensor
    half: int
    overlap: int

    @classmethod
    def of(
        cls, blocks: Blocks, resolving_power: Tensor, lowest_scale: float, vbroad_max: float, max_shift: float
    ) -> Instrument:
        """For resolving powers (P,) or (S, P), at least `lowest_scale` times those stated, rotation of `vbroad_max` at
        most and velocities within `max_shift` of those of the blocks, both in km/s."""
        grid = blocks.grid
        power = blocks.gather(resolving_power.reshape(-1, resolving_power.shape[-1]))
        power = torch.where(blocks.filled, power, resolving_power.max())  # no kernel may be undefined
        half = kernel_half_width(grid, power * lowest_scale, vbroad_max)
        drift = math.ceil(max_shift / SPEED_OF_LIGHT_KM_S / grid.dlnlam)
        return cls(blocks, 1.0 / (power**2 * (FWHM_VARIANCE * grid.dlnlam**2)), half, half + 1 + drift)

    def select(self, index: Tensor) -> Instrument:
        """Those of some stars."""
        return replace(self, blocks=self.blocks.select(index), variance=self.variance[:, index])

    @property
    def native_variance(self) -> float:
        """Of the Gaussian that models have been broadened with, native pixels squared."""
        grid = self.blocks.grid
        return 1.0 / (grid.resolving_power**2 * FWHM_VARIANCE * grid.dlnlam**2)

    def rotation_variance(self, vbroad: Tensor) -> Tensor:
        """Native pixels squared."""
        return ROTATION_VARIANCE * (vbroad / (SPEED_OF_LIGHT_KM_S * self.blocks.grid.dlnlam)) ** 2

    def shift(self, rv: Tensor, rv0: Tensor) -> Tensor:
        """By how many native pixels the model's place under a pixel changes from rv0 to rv."""
        change = torch.log1p(rv0 / SPEED_OF_LIGHT_KM_S) - torch.log1p(rv / SPEED_OF_LIGHT_KM_S)
        return change / self.blocks.grid.dlnlam

    def taps(self, shift: Tensor, half: int, overlap: int) -> tuple[Tensor, Tensor]:
        """The native pixels under each kernel, for shifts (S,): the first one's place (Q, S, N) in the patch's window,
        and the distances (Q, S, N, T) of the pixel from all."""
        place = self.blocks.place + shift[:, None] + overlap
        size = self.blocks.width + 2 * overlap
        first = (torch.round(place).long() - half).clamp(0, size - (2 * half + 1))
        offset = (place - first).to(self.variance.dtype)[..., None]
        return first, offset - torch.arange(2 * half + 1, dtype=offset.dtype, device=offset.device)

    def observe(self, patches: Tensor, seen: Dispersion) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Flux and derivative spectra of one model a star.

        patches : (Q, S, C, W), of which the first of the C rows is the flux; seen : of S stars.

        Returns the rows at the pixels (Q, S, C, N), and the derivatives (Q, S, N) of the flux by vbroad, rv (both a
        km/s) and the logarithm of the resolving power.
        """
        dtype = patches.dtype
        wide = windows(patches, self.overlap)
        first, distance = self.taps(self.shift(seen.rv, self.blocks.rv), self.half, self.overlap)
        instrument = self.variance * (seen.scale**-2).to(dtype)[:, None]
        variance = instrument - self.native_variance + self.rotation_variance(seen.vbroad).to(dtype)[:, None]
        weight = _normalised(torch.exp(distance**2 * (-0.5 / variance)[..., None]), self.blocks.filled)
        under = first[..., None] + torch.arange(distance.shape[-1], device=first.device)
        kernel = weight.new_zeros(*first.shape, wide.shape[-1]).scatter(-1, under, weight)
        rows = wide @ kernel.mT
        flux = torch.gather(wide[:, :, :1].expand(-1, -1, first.shape[-1], -1), -1, under)
        # With moments m_n = sum w d^n f: df/dv = (m_2 - <d^2> f) / 2 v^2, df/dx = -(m_1 - <d> f) / v.
        weighted = weight * distance
        moment, mean = (weighted * flux).sum(-1), weighted.sum(-1)
        by_place = (mean * rows[:, :, 0] - moment) / variance
        weighted = weighted * distance
        moment, mean = (weighted * flux).sum(-1), weighted.sum(-1)
        by_variance = (moment - mean * rows[:, :, 0]) / (2.0 * variance**2)
        grid = self.blocks.grid
        variance_by_vbroad = (
            2.0 * ROTATION_VARIANCE * seen.vbroad / (SPEED_OF_LIGHT_KM_S * grid.dlnlam) ** 2
        ).to(dtype)  # fmt: skip
        place_by_rv = (-1.0 / (grid.dlnlam * (SPEED_OF_LIGHT_KM_S + seen.rv))).to(dtype)
        return rows, (
            by_variance * variance_by_vbroad[:, None],
            by_place * place_by_rv[:, None],
            by_variance * (-2.0 * instrument),
        )

    def nearby(self, range_of: Dispersion) -> Nearby:
        """The operator for models whose dispersion lies within what `range_of` (S, m) spans."""
        return Nearby.of(self, range_of)


@dataclass(frozen=True)
class Nearby:
    """Many models of each of S stars at its pixels.

    Attributes
    ----------
    instrument : of the S stars
    rv, inverse, rotation : (S,) float64 middles of velocity, scale^-2 and variance of the rotation
    kernel : (Q, S, 5 N, W + 2 overlap) operators of the kernel's value, of its first and second change with t, of its
        change with place and of that with place and t, where t is -1 to 1 over the range of variances
    by_inverse, by_rotation : (Q, S, N) change of t with scale^-2 and with the variance of rotation
    overlap : native pixels of a neighbour that a patch's pixels see
    """

    instrument: Instrument
    rv: Tensor
    inverse: Tensor
    rotation: Tensor
    kernel: Tensor
    by_inverse: Tensor
    by_rotation: Tensor
    overlap: int

    @classmethod
    def of(cls, instrument: Instrument, range_of: Dispersion) -> Nearby:
        """Kernels for the middle and the ends of the range of dispersions (S, m)."""
        rv = _middle(range_of.rv)[0]
        inverse, d_inverse = _middle(range_of.scale**-2)
        rotation, d_rotation = _middle(instrument.rotation_variance(range_of.vbroad))
        # A range of no width at all would have no slope.
        spread = (instrument.variance * (d_inverse + 1e-6)[:, None] + (d_rotation + 1e-6)[:, None]).to(
            instrument.variance.dtype
        )
        centre = instrument.variance * inverse[:, None] - instrument.native_variance + rotation[:, None]
        nodes = [(centre + sign * NODE * spread).to(spread.dtype) for sign in (0.0, 1.0, -1.0)]
        shift = instrument.shift(rv, instrument.blocks.rv)
        half = math.ceil(TRUNCATION_SIGMA * math.sqrt(float((centre + spread).max())))
        overlap = half + 1 + math.ceil(float(shift.abs().max()))
        first, distance = instrument.taps(shift, half, overlap)
        kernels = _polynomial(distance, [v.clamp(min=_LEAST_VARIANCE) for v in nodes], instrument.blocks.filled)
        under = first[..., None] + torch.arange(distance.shape[-1], device=first.device)
        size = instrument.blocks.width + 2 * overlap
        dense = kernels.new_zeros(*first.shape[:2], 5, first.shape[2], size)
        dense.scatter_(-1, under[:, :, None].expand_as(kernels), kernels)
        by_inverse, by_rotation = instrument.variance / spread, 1.0 / spread
        return cls(instrument, rv, inverse, rotation, dense.flatten(2, 3), by_inverse, by_rotation, overlap)

    def select(self, index: Tensor) -> Nearby:
        """The operators of some stars."""
        return replace(
            self, instrument=self.instrument.select(index), rv=self.rv[index], inverse=self.inverse[index],
            rotation=self.rotation[index], kernel=self.kernel[:, index], by_inverse=self.by_inverse[:, index],
            by_rotation=self.by_rotation[:, index],
        )  # fmt: skip

    def observe(self, patches: Tensor, seen: Dispersion) -> Tensor:
        """Models (Q, S, m, W) at the pixels: (Q, S, m, N). Differentiable in models and dispersions (S, m)."""
        dtype = patches.dtype
        parts = windows(patches, self.overlap) @ self.kernel.mT
        value, first, second, by_place, mixed = parts.reshape(*parts.shape[:-1], 5, -1).unbind(-2)
        shift = self.instrument.shift(seen.rv, self.rv[:, None])
        inverse = (seen.scale**-2 - self.inverse[:, None]).to(dtype)[..., None]
        rotation = self.instrument.rotation_variance(seen.vbroad) - self.rotation[:, None] + shift**2
        t = self.by_inverse[:, :, None] * inverse
        t = torch.addcmul(t, self.by_rotation[:, :, None], rotation.to(dtype)[..., None])
        flux = torch.addcmul(value, t, torch.addcmul(first, second, t))
        return torch.addcmul(flux, torch.addcmul(by_place, mixed, t), shift.to(dtype)[..., None])


def _middle(x: Tensor) -> tuple[Tensor, Tensor]:
    # Middle and half of the range of (S, m).
    low, high = x.amin(1), x.amax(1)
    return 0.5 * (low + high), 0.5 * (high - low)


def _normalised(weight: Tensor, filled: Tensor) -> Tensor:
    return weight * (filled / weight.sum(-1))[..., None]


def _polynomial(distance: Tensor, variances: list[Tensor], filled: Tensor) -> Tensor:
    """Kernels (Q, S, 5, N, T) as in `Nearby`, from the middle variance and those at +NODE and -NODE, each (Q, S, N)."""
    middle, high, low = (
        _normalised(torch.exp(distance**2 * (-0.5 / v)[..., None]), filled) for v in variances
    )  # fmt: skip
    by_place = [-distance / v[..., None] * w for v, w in zip(variances, (middle, high, low))]
    return torch.stack(
        [
            middle,
            (high - low) / (2.0 * NODE),
            ((high + low) / 2.0 - middle) / NODE**2,
            by_place[0],
            (by_place[1] - by_place[2]) / (2.0 * NODE),
        ],
        dim=2,
    )
