"""How far the reconstruction of a star is from those of the training stars most like it.

A network goes on beyond its training stars, so that a star hotter than all of them may be explained well, with a few
latents two or three sigma out: among sixteen that is little. The spectra that latents give say it plainly. The distance
of two reconstructions is the root mean square of their difference, over the usual scatter of each pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Array = NDArray[np.float64]

DIRECTIONS = 4  # in which reconstructions differ most
NEAREST = 5
MOST = 5000  # training stars that are kept


@dataclass(frozen=True)
class Neighbours:
    """mean (P,), directions (P, D): from a reconstruction to a space in which distance is that of the spectra.
    points : (M, D) the training stars there."""

    mean: NDArray[np.float32]
    directions: NDArray[np.float32]
    points: NDArray[np.float32]

    @classmethod
    def learn(cls, model: NDArray[Any], scatter: NDArray[Any], seed: int = 0) -> Neighbours:
        """From reconstructions and scatters (N, P) of training stars."""
        kept = np.random.default_rng(seed).permutation(len(model))[:MOST]
        scale = np.median(scatter[kept], axis=0) * np.sqrt(model.shape[1])
        mean = model[kept].mean(axis=0)
        across = np.linalg.svd((model[kept] - mean) / scale, full_matrices=False)[2][:DIRECTIONS]
        directions = across.T / scale[:, None]
        points = (model[kept] - mean) @ directions
        return cls(*(x.astype(np.float32) for x in (mean, directions, points)))  # as they are in a file

    def distance(self, model: NDArray[Any]) -> Array:
        """Mean distance (N,) of reconstructions (N, P) from the `NEAREST` training stars."""
        count = min(NEAREST, len(self.points))
        tree = cKDTree(self.points)
        near = np.asarray(tree.query((model - self.mean) @ self.directions, np.arange(1, count + 1))[0])
        return np.asarray(near.mean(axis=1))

    def tensors(self) -> dict[str, Array]:
        """For a file."""
        return {name: getattr(self, name) for name in ("mean", "directions", "points")}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Any]) -> Neighbours:
        """Inverse of `tensors`."""
        return cls(*(tensors[name] for name in ("mean", "directions", "points")))
