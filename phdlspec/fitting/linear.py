r"""The posterior of the linearised model, exactly: a Gaussian in the labels, cut off at their bounds.

Near its optimum the spectrum is linear in the labels, so that the likelihood is a Gaussian in label space, and flat
priors make the posterior a Gaussian within a box. Its draws need no spectrum: a Gibbs sampler runs through the labels,
each a truncated normal given the others, in many short chains at once. What remains for importance weights is the true
curvature of the model. The spectrum answers to the *square* of VBROAD (broadening adds in quadrature), so that VBROAD's
conditional is a Gaussian in its square, drawn by inverting its distribution function on a grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from phdlspec.fitting.coordinates import RESOLUTION_BOUND, Coordinates
from phdlspec.fitting.problem import Expansion
from phdlspec.fitting.random import StarRandom
from phdlspec.labels import Role

SWEEPS = 60
WIDEN = 0.9  # of the precision: proposals a little wider than the posterior keep the weights bounded
DRAWN_EDGE = 1e-9  # of the range: draws come as close to a bound
FAR = 20.0  # standard deviations beyond a bound, from which a tail is drawn as an exponential
LEAST_VBROAD = 6.0  # km/s at which d/d(VBROAD^2) is taken for slower stars
_GRID = 96


@dataclass(frozen=True)
class LinearPosterior:
    """ln q = g.d - d.F.d / 2 within the box, d the distance from the optimum in `features` (labels, VBROAD squared).

    centre (S, D) features of the optimum; gradient (S, D); precision (S, D, D); lower, upper (S, D) of the parameters;
    squared : index of VBROAD
    """

    centre: Tensor
    gradient: Tensor
    precision: Tensor
    lower: Tensor
    upper: Tensor
    squared: int

    @classmethod
    def of(cls, z: Tensor, expansion: Expansion, coordinates: Coordinates) -> LinearPosterior:
        """From the optimum z (S, D) and the expansion there."""
        scale = coordinates.scales(z)
        parameters = coordinates.parameters(z)
        identity = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        # Without the standard normal prior of the coordinates, which is the flat one of the labels.
        precision = (expansion.hessian - identity) / scale[:, None] / scale[:, :, None]
        gradient = (expansion.gradient + z) / scale
        n = coordinates.lower.shape[1]
        lower, upper = coordinates.lower, coordinates.upper
        if z.shape[1] > n:
            edge = torch.full_like(z[:, n:], RESOLUTION_BOUND)
            lower, upper = torch.cat([lower, -edge], 1), torch.cat([upper, edge], 1)
            # Its prior, to second order as a density of the parameter: far from Gaussian where its bound is near.
            bend = coordinates.bend(z)[:, n]
            precision[:, n, n] += (1.0 + z[:, n] * bend).clamp(min=1.0) / scale[:, n] ** 2
            gradient[:, n] += (bend - z[:, n]) / scale[:, n]
        squared = coordinates.labels.place(Role.BROADENING).start
        slope = 1.0 / (2.0 * parameters[:, squared].clamp(min=LEAST_VBROAD))  # d VBROAD / d VBROAD^2
        chain = torch.ones_like(z)
        chain[:, squared] = slope
        precision = precision * chain[:, None] * chain[:, :, None]
        gradient = gradient * chain
        centre = parameters.clone()
        centre[:, squared] = parameters[:, squared] ** 2
        least = 1e-4 / (upper - lower) ** 2
        least[:, squared] = 1e-4 / upper[:, squared] ** 4
        precision = WIDEN * precision + torch.diag_embed(least)
        return cls(centre, gradient * WIDEN, precision, lower, upper, squared)

    def select(self, index: Tensor) -> LinearPosterior:
        """Those of some stars."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "squared"})

    def features(self, parameters: Tensor) -> Tensor:
        """Parameters (S, N, D) with VBROAD squared."""
        result = parameters.clone()
        result[..., self.squared] = parameters[..., self.squared] ** 2
        return result

    def log_density(self, parameters: Tensor) -> Tensor:
        """ln q (S, N), without its constant, of parameters (S, N, D) within the box."""
        d = self.features(parameters) - self.centre[:, None]
        return (d @ self.gradient[..., None])[..., 0] - 0.5 * ((d @ self.precision) * d).sum(-1)

    def draw(self, random: StarRandom, n: int) -> Tensor:
        """n draws (S, n, D) of parameters."""
        stars, n_dim = self.centre.shape
        # Start from the Gaussian without its bounds, moved inside.
        cholesky = torch.linalg.cholesky(self.precision)
        mean = self.centre + torch.cholesky_solve(self.gradient[..., None], cholesky)[..., 0]
        noise = torch.linalg.solve_triangular(cholesky.mT, random.normal(n, n_dim).mT, upper=True).mT
        features = mean[:, None] + noise
        low, high = self.features(self.lower[:, None])[:, 0], self.features(self.upper[:, None])[:, 0]
        width = high - low
        features = torch.maximum(torch.minimum(features, (high - 0.01 * width)[:, None]), (low + 0.01 * width)[:, None])
        for _ in range(SWEEPS):
            uniform = random.uniform(n, n_dim)
            for i in range(n_dim):
                d = features - self.centre[:, None]
                own = self.precision[:, i, i][:, None]
                pull = self.gradient[:, i][:, None] - (d @ self.precision[:, :, i, None])[..., 0] + own * d[..., i]
                centre = self.centre[:, i][:, None] + pull / own  # mean of the conditional
                if i == self.squared:
                    features[..., i] = self._draw_squared(centre, own, uniform[..., i])
                else:
                    features[..., i] = _truncated_normal(
                        centre, own.rsqrt(), low[:, i][:, None], high[:, i][:, None], uniform[..., i]
                    )
        result = features.clone()
        result[..., self.squared] = features[..., self.squared].clamp(min=0.0).sqrt()
        return result

    def _draw_squared(self, centre: Tensor, precision: Tensor, uniform: Tensor) -> Tensor:
        # VBROAD, whose prior is flat, has the density exp(-precision (v^2 - centre)^2 / 2); returned squared.
        high = self.upper[:, self.squared][:, None, None]
        grid = torch.linspace(0.0, 1.0, _GRID, dtype=centre.dtype, device=centre.device) * high
        log_density = -0.5 * precision[..., None] * (grid**2 - centre[..., None]) ** 2
        density = torch.exp(log_density - log_density.amax(-1, keepdim=True))
        cumulative = torch.cumsum(0.5 * (density[..., 1:] + density[..., :-1]), dim=-1)
        cumulative = torch.nn.functional.pad(cumulative / cumulative[..., -1:], (1, 0))
        place = torch.searchsorted(cumulative.contiguous(), uniform[..., None].contiguous()).clamp(1, _GRID - 1)
        c0, c1 = torch.gather(cumulative, -1, place - 1), torch.gather(cumulative, -1, place)
        fraction = ((uniform[..., None] - c0) / (c1 - c0).clamp(min=1e-300)).clamp(0.0, 1.0)
        return (((place - 1 + fraction) / (_GRID - 1) * high)[..., 0]) ** 2


def _truncated_normal(mean: Tensor, sigma: Tensor, low: Tensor, high: Tensor, uniform: Tensor) -> Tensor:
    # Inverse of the distribution function; far beyond a bound, where it has no digits left, the tail is exponential.
    a, b = torch.special.ndtr((low - mean) / sigma), torch.special.ndtr((high - mean) / sigma)
    # Use the tail in which numbers are small.
    upper_tail = (low - mean) > 0
    a2, b2 = torch.special.ndtr((mean - high) / sigma), torch.special.ndtr((mean - low) / sigma)
    x = torch.where(
        upper_tail,
        mean - sigma * torch.special.ndtri((a2 + uniform * (b2 - a2)).clamp(min=1e-300)),
        mean + sigma * torch.special.ndtri((a + uniform * (b - a)).clamp(min=1e-300, max=1.0 - 1e-16)),
    )
    decay = -torch.log1p(-uniform) * sigma
    for bound, beyond, side in ((low, (low - mean) / sigma, 1.0), (high, (mean - high) / sigma, -1.0)):
        x = torch.where(beyond > FAR, bound + side * decay / beyond.clamp(min=FAR), x)
    margin = DRAWN_EDGE * (high - low)
    return torch.maximum(torch.minimum(x, high - margin), low + margin).nan_to_num(nan=math.nan)
