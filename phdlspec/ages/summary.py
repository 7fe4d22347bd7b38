"""Means, errors and percentiles of histograms, and what they say beyond the prior."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PERCENTILES = (0.16, 0.5, 0.84)


def moments(weight: Array, edges: Array) -> Array:
    """Mean, standard deviation and percentiles 16, 50, 84 (n, 5) of histograms (n, K), even within each cell.

    edges (K + 1,) or (n, K + 1). The weights need not sum to 1.
    """
    probability = weight / weight.sum(axis=1, keepdims=True)
    edges = np.broadcast_to(edges, (len(weight), weight.shape[1] + 1))
    mids = 0.5 * (edges[:, 1:] + edges[:, :-1])
    mean = (probability * mids).sum(axis=1)
    variance = (probability * ((mids - mean[:, None]) ** 2 + np.diff(edges, axis=1) ** 2 / 12.0)).sum(axis=1)
    cumulative = np.concatenate([np.zeros((len(weight), 1)), np.cumsum(probability, axis=1)], axis=1)
    result = [mean, np.sqrt(variance)]
    everyone = np.arange(len(weight))
    for level in PERCENTILES:
        k = np.clip((cumulative < level).sum(axis=1) - 1, 0, weight.shape[1] - 1)
        low, high = cumulative[everyone, k], cumulative[everyone, k + 1]
        share = np.clip((level - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0)
        result.append(edges[everyone, k] + share * (edges[everyone, k + 1] - edges[everyone, k]))
    return np.stack(result, axis=1)


def divergence(density: Array, prior: Array) -> Array:
    """Kullback-Leibler divergence (n,) in bits of densities (n, K) from a prior (K,), each summing to 1."""
    with np.errstate(all="ignore"):
        terms = density * np.log2(density / prior)
    return np.asarray(np.where(density > 0, terms, 0.0).sum(axis=1))
