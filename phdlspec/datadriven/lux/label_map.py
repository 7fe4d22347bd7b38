"""From latents to labels beyond the straight line: robust ridge regression on the latents and their products.

Spectra bend with the labels, so that labels are not quite linear in the latents. After the training the labels are
regressed on the latents (from the flux alone, as at application) and on the products of the leading ones:

    y = label mean + c + D z + sum_ij Q_ij (z_i z_j - [i = j]),     i <= j <= q,

with a ridge on D and Q and weights of a Student t distribution, so that a wrong label in a table pulls little. The
ridge on D is inversely proportional to the signal of a latent in the spectra, which makes it the ridge of a regression
on the whitened spectrum itself: faint latents must earn their place. Which q and which ridge, or A z of the training as
it is, is chosen on stars that the model has not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

FREEDOM = 3.0  # degrees of the t distribution
REFERENCE = 5  # the latent, in order of their signal, that the ridges of the others are relative to
STRONGEST = 4.0  # times the signal of that latent, beyond which more signal lowers the ridge no further
LINEAR = 0.3  # ridge of the reference latent over that of the products
_ROUNDS = 8


@dataclass(frozen=True)
class MapFreedom:
    """How free the map is: leading latents whose products count, and the ridge in stars' worth of data; 0, 0 for A z
    as it is."""

    leading: int
    ridge: float


STRAIGHT = MapFreedom(0, 0.0)


def candidates(latents: int) -> list[MapFreedom]:
    """Shapes to choose from."""
    leading = sorted({min(q, latents) for q in (0, 5, 10)})
    return [STRAIGHT, *(MapFreedom(q, ridge) for q, ridge in product(leading, (1.0, 3.0, 10.0, 30.0)))]


@dataclass(frozen=True)
class LabelMap:
    """The correction to A z: coefficients (L, F) of the features of `shape` for K latents; labels in units of their
    spread."""

    shape: MapFreedom
    coefficients: Tensor

    @classmethod
    def fit(
        cls, shape: MapFreedom, z: Tensor, signal: Tensor, residual: Tensor, variance: Tensor, loadings: Tensor
    ) -> LabelMap:
        """Learn it.

        Parameters
        ----------
        z : (N, K) from flux alone; signal : (K,) of the latents in the spectra, squared signal-to-noise ratios.
        residual, variance : (N, L) label minus A z, NaN = missing, and variances of the labels. loadings : A (L, K).
        """
        features = _features(z, shape.leading)
        if shape == STRAIGHT:
            return cls(shape, torch.zeros(residual.shape[1], features.shape[1], dtype=z.dtype))
        penalty = torch.full_like(features[0], shape.ridge)
        penalty[0] = 1e-3
        relative = signal / signal[min(REFERENCE, len(signal)) - 1]
        penalty[1 : 1 + z.shape[1]] *= LINEAR / relative.clamp(max=STRONGEST)
        label = residual + z @ loadings.T
        whole = torch.stack([_robust(features, y, v, penalty) for y, v in zip(label.T, variance.T)])
        whole[:, 1 : 1 + z.shape[1]] -= loadings
        return cls(shape, whole)

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


def _robust(features: Tensor, label: Tensor, variance: Tensor, penalty: Tensor) -> Tensor:
    known = torch.isfinite(label)
    x, r = features[known], label[known]
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
