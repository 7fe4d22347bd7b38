"""Is the continuum that of such a star? What the splines take out of a spectrum, beside what its lines say it is.

The continuum of a star with latents z is a second-order function of them, and ordinary stars scatter about it with a
covariance: interstellar reddening and a survey's own calibration of flux are large in a few directions (level, slope)
and small in all others. A wave in the response of one arm lies in the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phdlspec.datadriven.scatter_vae.latent_space import robust_covariance

Array = NDArray[np.float64]

COVERED = 0.8  # of the stars must have a continuum at a wavelength
FEWEST = 10  # wavelengths; with fewer nothing is said
FAR_OUT = 4.0  # latents are held within
_RIDGE = 10.0  # stars' worth of evidence against a dependence on a latent
_FLOOR = 3e-3  # of the continuum, what its interpolation leaves


@dataclass(frozen=True)
class FluxShape:
    """used : (C,) the Cu wavelengths of `Dataset.level` that it knows. coefficients : (1 + 2 K, Cu) of 1, z, z^2.
    mean (Cu,), covariance (Cu, Cu) of what ordinary stars leave."""

    used: NDArray[np.bool_]
    coefficients: Array
    mean: Array
    covariance: Array

    @classmethod
    def learn(cls, level: NDArray[Any], latents: Array) -> FluxShape:
        """From the continua (N, C) and latents (N, K) of ordinary stars; (0, 0) where no continuum was kept."""
        terms = 1 + 2 * latents.shape[1]
        known = np.isfinite(level)
        used = known.mean(axis=0) >= COVERED if len(level) else np.zeros(0, dtype=bool)
        whole = known[:, used].all(axis=1) if len(level) else np.zeros(0, dtype=bool)
        if used.sum() < FEWEST or whole.sum() < 2 * terms:
            return cls(np.zeros_like(used), np.zeros((terms, 0)), np.zeros(0), np.zeros((0, 0)))
        x, y = _terms(latents[whole]), np.asarray(level[whole][:, used], dtype=float)
        ridge = _RIDGE * np.eye(terms)
        ridge[0, 0] = 0.0
        coefficients = np.linalg.solve(x.T @ x + ridge, x.T @ y)
        return cls(used, coefficients, *robust_covariance(y - x @ coefficients, _FLOOR**2))

    def distance(self, level: NDArray[Any], latents: Array) -> Array:
        """Distance (N,) of continua (N, C) from those of such stars, in sigma over the root of their number; 1 where
        there are too few wavelengths to tell."""
        answer = np.ones(len(latents))
        if not self.used.any() or not len(level):
            return answer
        left = level[:, self.used] - _terms(latents) @ self.coefficients - self.mean
        for row, values in enumerate(left):
            known = np.isfinite(values)
            if known.sum() >= FEWEST:
                offset, covariance = values[known], self.covariance[np.ix_(known, known)]
                answer[row] = np.sqrt(offset @ np.linalg.solve(covariance, offset) / known.sum())
        return answer

    def tensors(self) -> dict[str, Array]:
        """For a file."""
        return {name: getattr(self, name) for name in ("used", "coefficients", "mean", "covariance")}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Any]) -> FluxShape:
        """Inverse of `tensors`."""
        return cls(*(tensors[name] for name in ("used", "coefficients", "mean", "covariance")))


def _terms(latents: Array) -> Array:
    z = np.clip(latents, -FAR_OUT, FAR_OUT)
    return np.concatenate([np.ones((len(z), 1)), z, z**2], axis=1)
