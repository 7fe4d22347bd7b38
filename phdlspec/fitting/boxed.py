r"""A Gaussian in a box, drawn one coordinate after another with a density that is known.

Geweke, Hajivassiliou and Keane's sampler: with the covariance L L^T and y standard normal,
x_i = m_i + sum_j<i L_ij y_j + L_ii y_i, and y_i is drawn from a standard normal between the bounds that x_i leaves it,
given those before. What is drawn is the truncated Gaussian but for the product of the masses Z_i between these bounds,
which vary with the y before:

    ln q = sum_i (- y_i^2 / 2 - ln Z_i)    (+ constant).

Importance weights know q exactly. Its variance is small where what is cut off most comes first, so that coordinates are
ordered by how little of them, given those before, lies within their bounds (Gibson, Glasbey & Elston 1994). One
coordinate, which stands first, is the square of a parameter whose prior is flat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

FAR = -30.0  # standard deviations of a bound from the mean, beyond which a tail is drawn as an exponential
_GRID = 400  # points of the squared coordinate's distribution function


@dataclass(frozen=True)
class BoxedGaussian:
    """Of S stars in D coordinates, in the order in which they are drawn.

    order : (S, D) the coordinates; unit : (S, D) in which they are measured; mean, low, high : (S, D) in these units;
    root : (S, D, D) Cholesky factor of the covariance; range : (S, 2) of the parameter whose square comes first
    """

    order: Tensor
    unit: Tensor
    mean: Tensor
    low: Tensor
    high: Tensor
    root: Tensor
    range: Tensor

    @classmethod
    def of(cls, mean: Tensor, precision: Tensor, low: Tensor, high: Tensor, squared: int) -> BoxedGaussian:
        """mean, low, high (S, D), precision (S, D, D) of the coordinates, of which `squared` is a square; float64."""
        unit = torch.diagonal(precision, dim1=1, dim2=2).rsqrt()
        correlation = torch.cholesky_inverse(torch.linalg.cholesky(precision * unit[:, None] * unit[:, :, None]))
        mean, low, high = mean / unit, low / unit, high / unit
        order = _order(mean, correlation, low, high, squared)
        square = order[:, :, None].expand(-1, -1, order.shape[1])
        ordered = torch.gather(torch.gather(correlation, 1, square), 2, square.mT)
        mean, low, high, unit = (torch.gather(x, 1, order) for x in (mean, low, high, unit))
        ends = torch.stack([low[:, 0], high[:, 0]], dim=1) * unit[:, :1]
        return cls(order, unit, mean, low, high, torch.linalg.cholesky(ordered), ends.clamp(min=0.0).sqrt())

    def select(self, index: Tensor) -> BoxedGaussian:
        """Those of some stars."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def draw(self, uniform: Tensor) -> Tensor:
        """Coordinates (S, N, D) from uniform numbers (S, N, D)."""
        y = torch.zeros_like(uniform)
        x = torch.empty_like(uniform)
        diagonal = torch.diagonal(self.root, dim1=1, dim2=2)
        x[..., 0] = self._square(uniform[..., 0])
        y[..., 0] = (x[..., 0] - self.mean[:, :1]) / diagonal[:, :1]
        for i in range(1, x.shape[-1]):
            centre = self.mean[:, i, None] + (y[..., :i] @ self.root[:, i, :i, None])[..., 0]
            a, b = ((bound[:, i, None] - centre) / diagonal[:, i, None] for bound in (self.low, self.high))
            y[..., i] = _between(a, b, uniform[..., i])
            x[..., i] = centre + diagonal[:, i, None] * y[..., i]
        x = torch.maximum(torch.minimum(x, self.high[:, None]), self.low[:, None]) * self.unit[:, None]
        return torch.empty_like(x).scatter_(2, self.order[:, None].expand_as(x), x)

    def log_density(self, x: Tensor) -> Tensor:
        """ln q (S, N) of coordinates (S, N, D) within the box, the first one's as a density of its root."""
        x = torch.gather(x, 2, self.order[:, None].expand_as(x)) / self.unit[:, None]
        y = torch.linalg.solve_triangular(self.root, (x - self.mean[:, None]).mT, upper=False).mT
        diagonal = torch.diagonal(self.root, dim1=1, dim2=2)[:, None]
        a, b = (y + (bound[:, None] - x) / diagonal for bound in (self.low, self.high))
        answer: Tensor = -0.5 * (y**2).sum(-1) - _log_mass(a[..., 1:], b[..., 1:]).sum(-1)
        return answer

    def _square(self, uniform: Tensor) -> Tensor:
        # The parameter v has the density exp(-(v^2 - mean)^2 / 2 C); returned squared, in units. Its distribution
        # function is inverted on a grid.
        low, high = self.range[:, :1], self.range[:, 1:]
        grid = torch.linspace(0.0, 1.0, _GRID, dtype=uniform.dtype, device=uniform.device)
        v = low + (high - low) * grid  # (S, G)
        log_density = -0.5 * ((v**2 / self.unit[:, :1] - self.mean[:, :1]) / self.root[:, 0, :1]) ** 2
        density = torch.exp(log_density - log_density.amax(-1, keepdim=True))
        cumulative = torch.cumsum(0.5 * (density[:, 1:] + density[:, :-1]), dim=-1)
        cumulative = torch.nn.functional.pad(cumulative / cumulative[:, -1:], (1, 0))
        place = torch.searchsorted(cumulative, uniform.contiguous()).clamp(1, _GRID - 1)
        c0, c1 = torch.gather(cumulative, 1, place - 1), torch.gather(cumulative, 1, place)
        fraction = ((uniform - c0) / (c1 - c0).clamp(min=1e-300)).clamp(0.0, 1.0)
        return (low + (high - low) * (place - 1 + fraction) / (_GRID - 1)) ** 2 / self.unit[:, :1]


def _order(mean: Tensor, covariance: Tensor, low: Tensor, high: Tensor, first: int) -> Tensor:
    """(S, D): `first`, then always the coordinate least of which lies within its bounds, given the means of those
    before."""
    stars, size = mean.shape
    every = torch.arange(stars, device=mean.device)
    chosen = torch.full((stars,), first, device=mean.device)
    left = torch.ones_like(mean, dtype=torch.bool)
    order = []
    for _ in range(size):
        order.append(chosen)
        left[every, chosen] = False
        sigma = covariance[every, chosen, chosen].clamp(min=1e-30).sqrt()
        middle = mean[every, chosen]
        a, b = ((bound[every, chosen] - middle) / sigma for bound in (low, high))
        log_mass = _log_mass(a, b)
        change = (torch.exp(-0.5 * a**2 - log_mass) - torch.exp(-0.5 * b**2 - log_mass)) / math.sqrt(2.0 * math.pi)
        column = covariance[every, :, chosen]
        mean = mean + column * (change / sigma)[:, None]
        covariance = covariance - column[:, :, None] * column[:, None] / (sigma**2)[:, None, None]
        spread = torch.diagonal(covariance, dim1=1, dim2=2).clamp(min=1e-30).sqrt()
        mass = _log_mass((low - mean) / spread, (high - mean) / spread)
        chosen = torch.where(left, mass, torch.inf).argmin(dim=1)
    return torch.stack(order, dim=1)


def _into_lower_tail(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # Bounds mirrored where they lie above, for it is in the lower tail that numbers are small.
    flip = a + b > 0
    return torch.where(flip, -b, a), torch.where(flip, -a, b), flip


def _log_mass(a: Tensor, b: Tensor) -> Tensor:
    """ln of a standard normal's mass between a < b."""
    a, b, _ = _into_lower_tail(a, b)
    upper: Tensor = torch.special.log_ndtr(b)
    answer: Tensor = upper + torch.log(-torch.expm1((torch.special.log_ndtr(a) - upper).clamp(max=-1e-15)))
    return answer


def _between(a: Tensor, b: Tensor, uniform: Tensor) -> Tensor:
    """A standard normal between a < b, by inversion; far out, where that has no digits left, an exponential."""
    a, b, flip = _into_lower_tail(a, b)
    uniform = torch.where(flip, 1.0 - uniform, uniform)
    below, above = (torch.exp(torch.special.log_ndtr(x)) for x in (a, b))  # torch's ndtr has no lower tail
    y = torch.special.ndtri((below + uniform * (above - below)).clamp(min=1e-300, max=1.0 - 1e-16))
    y = torch.where(b < FAR, b + torch.log(uniform.clamp(min=1e-300)) / (-b).clamp(min=1.0), y)
    y = torch.maximum(torch.minimum(y, b), a)
    return torch.where(flip, -y, y)
