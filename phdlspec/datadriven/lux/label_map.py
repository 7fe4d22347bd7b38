"""From latents to labels beyond the straight line: what a linear map leaves, by robust ridge regression on curved
terms.

Spectra bend with the labels, so that labels are not quite linear in the latents. After the training the labels'
residuals
are regressed on the latents (from the flux alone, as at application) and on the products of the leading ones:

    y = label mean + A z + c + D z + sum_ij Q_ij (z_i z_j - [i = j]),     i <= j <= q,

with a ridge on D and Q and weights of a Student t distribution, so that a wrong label in a table pulls little. Which
q and
which ridge, or no such term at all, is chosen on stars that the model has not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

FREEDOM = 3.0  # degrees of the t distribution
_ROUNDS = 8


@dataclass(frozen=True)
class Shape:
    """How free the map is: leading latents whose products count, and the ridge in stars' worth of data; 0, 0 for
    none."""

    leading: int
    ridge: float


STRAIGHT = Shape(0, 0.0)


def candidates(latents: int) -> list[Shape]:
    """Shapes to choose from."""
    leading = sorted({min(q, latents) for q in (0, 5, 10)})
    return [STRAIGHT, *(Shape(q, ridge) for q, ridge in product(leading, (3.0, 10.0, 30.0, 100.0)))]


@dataclass(frozen=True)
class LabelMap:
    """The correction: coefficients (L, F) of the features of `shape` for K latents; labels in units of their spread."""

    shape: Shape
    coefficients: Tensor

    @classmethod
    def fit(cls, shape: Shape, z: Tensor, residual: Tensor, variance: Tensor) -> LabelMap:
        """From latents (N, K), residuals (N, L) with NaN = missing, and their variances (N, L)."""
        features = _features(z, shape.leading)
        if shape == STRAIGHT:
            return cls(shape, torch.zeros(residual.shape[1], features.shape[1], dtype=z.dtype))
        return cls(shape, torch.stack([_robust(features, r, v, shape.ridge) for r, v in zip(residual.T, variance.T)]))

    def correction(self, z: Tensor) -> Tensor:
        """What to add to A z, (N, L)."""
        return _features(z, self.shape.leading) @ self.coefficients.T

    def jacobian(self, z: Tensor) -> Tensor:
        """Its derivatives with respect to the latents, (N, L, K)."""
        n, latents = z.shape
        slope = self.coefficients[:, 1 : 1 + latents].expand(n, -1, -1).clone()
        first, second = torch.triu_indices(self.shape.leading, self.shape.leading)
        curved = self.coefficients[:, 1 + latents :]
        for column, (i, j) in enumerate(zip(first.tolist(), second.tolist())):
            slope[:, :, i] += curved[:, column] * z[:, j, None]
            slope[:, :, j] += curved[:, column] * z[:, i, None]
        return slope


def _features(z: Tensor, leading: int) -> Tensor:
    first, second = torch.triu_indices(leading, leading)
    products = z[:, first] * z[:, second] - (first == second).to(z.dtype)
    return torch.cat([torch.ones_like(z[:, :1]), z, products], dim=1)


def _robust(features: Tensor, residual: Tensor, variance: Tensor, ridge: float) -> Tensor:
    known = torch.isfinite(residual)
    x, r = features[known], residual[known]
    penalty = torch.full_like(x[0], ridge)
    penalty[0] = 1e-3
    weight = torch.ones_like(r)
    coefficients = torch.zeros_like(x[0])
    for _ in range(_ROUNDS):
        matrix = (x.T * weight) @ x + torch.diag(penalty)
        coefficients = torch.linalg.solve(matrix, x.T @ (weight * r))
        left = (r - x @ coefficients).abs()
        spread = 1.4826 * left.median().clamp(min=1e-6)
        # The errors matter between stars: those of the table add to the common spread.
        scale = (spread**2 - variance[known].median()).clamp(min=0.1 * spread**2) + variance[known]
        weight = (FREEDOM + 1.0) / (FREEDOM + left**2 / scale) * spread**2 / scale
    return coefficients
