"""Where the latents of ordinary stars lie, and how far from there a star is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_STEPS = 8
_FAR = 2.0  # times the mean squared distance, beyond which a star counts less


def robust_covariance(x: Array, floor: float) -> tuple[Array, Array]:
    """Mean (K,) and covariance (K, K) of x (N, K), in which those far out count less; `floor` on the variances."""
    weight = np.ones(len(x))
    for _ in range(_STEPS):
        mean = weight @ x / weight.sum()
        offset = x - mean
        covariance = (offset.T * weight) @ offset / weight.sum() + floor * np.eye(x.shape[1])
        squared = np.einsum("nk,nk->n", offset, np.linalg.solve(covariance, offset.T).T)
        weight = np.minimum(1.0, _FAR * x.shape[1] / np.maximum(squared, 1e-9))
    return mean, covariance


@dataclass(frozen=True)
class LatentSpace:
    """Mean (K,) and covariance (K, K) of the latents of the training stars."""

    mean: Array
    covariance: Array

    @classmethod
    def of(cls, latents: Array) -> LatentSpace:
        """Of latents (N, K)."""
        return cls(*robust_covariance(np.asarray(latents, dtype=float), 1e-6))

    def distance(self, latents: Array) -> Array:
        """Distance (N,) of latents (N, K) in sigma, over the root of K."""
        offset = np.asarray(latents, dtype=float) - self.mean
        squared = np.einsum("nk,nk->n", offset, np.linalg.solve(self.covariance, offset.T).T)
        return np.asarray(np.sqrt(squared / offset.shape[1]))
