r"""The posterior of the linearised model, exactly: a Gaussian in the labels, cut off at their bounds.

Near its optimum the spectrum is linear in the labels, so that the likelihood is a Gaussian in label space, and flat
priors make the posterior a Gaussian within a box. Its draws need no spectrum (`boxed`). What remains for importance
weights is the true curvature of the model, and what the box does to the draws' density, which is known. The spectrum
answers to the *square* of VBROAD (broadening adds in quadrature), so that VBROAD is a Gaussian in its square.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from phdlspec.fitting.boxed import BoxedGaussian
from phdlspec.fitting.coordinates import RESOLUTION_BOUND, Coordinates
from phdlspec.fitting.problem import Expansion
from phdlspec.labels import Role

WIDEN = 0.9  # of the precision: proposals a little wider than the posterior keep the weights bounded
DRAWN_EDGE = 1e-9  # of the range: draws come as close to a bound
LEAST_VBROAD = 6.0  # km/s at which d/d(VBROAD^2) is taken for slower stars


@dataclass(frozen=True)
class LinearPosterior:
    """The linearised posterior of S stars in the parameters with VBROAD squared.

    boxed : of the stars; lower, upper (S, D) of the parameters; squared : index of VBROAD
    """

    boxed: BoxedGaussian
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
        mean = centre + torch.linalg.solve(precision, WIDEN * gradient[..., None])[..., 0]
        low, high = (_squared(bound, squared) for bound in (lower, upper))
        return cls(BoxedGaussian.of(mean, precision, low, high, squared), lower, upper, squared)

    def select(self, index: Tensor) -> LinearPosterior:
        """Those of some stars."""
        return LinearPosterior(self.boxed.select(index), self.lower[index], self.upper[index], self.squared)

    def log_density(self, parameters: Tensor) -> Tensor:
        """ln q (S, N), without its constant, of parameters (S, N, D) within the box."""
        return self.boxed.log_density(_squared(parameters, self.squared))

    def draw(self, uniform: Tensor) -> Tensor:
        """Parameters (S, N, D) from uniform numbers (S, N, D)."""
        drawn = self.boxed.draw(uniform)
        drawn[..., self.squared] = drawn[..., self.squared].clamp(min=0.0).sqrt()
        margin = (DRAWN_EDGE * (self.upper - self.lower))[:, None]
        return torch.maximum(torch.minimum(drawn, self.upper[:, None] - margin), self.lower[:, None] + margin)


def _squared(parameters: Tensor, which: int) -> Tensor:
    result = parameters.clone()
    result[..., which] = parameters[..., which] ** 2
    return result
