"""Where the latents of ordinary stars lie, and how far from there a star is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LatentSpace:
    """Mean (K,) and covariance (K, K) of the latents of the training stars."""

    mean: Array
    covariance: Array

    @classmethod
    def of(cls, latents: Array) -> LatentSpace:
        """Of latents (N, K)."""
        latents = np.asarray(latents, dtype=float)
        spread = np.atleast_2d(np.cov(latents.T)) + 1e-6 * np.eye(latents.shape[1])
        return cls(latents.mean(axis=0), spread)

    def distance(self, latents: Array) -> Array:
        """Distance (N,) of latents (N, K) in sigma, over the root of K."""
        offset = np.asarray(latents, dtype=float) - self.mean
        squared = np.einsum("nk,nk->n", offset, np.linalg.solve(self.covariance, offset.T).T)
        return np.asarray(np.sqrt(squared / offset.shape[1]))
