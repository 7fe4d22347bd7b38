"""What predictions of stars that the model had not seen say about its errors.

A held-out star's label differs from its prediction with the variance

    k^2 c + s^2 + e^2,

c what the uncertainty of its latents gives, e the error of the table; k (near one) and s are found for each label by
maximum likelihood. s is what the spectrum does not say and what the table's own errors do not own up to. The
correlations
of s between labels are those of the held-out differences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

CLIP = 4.0  # sigma, beyond which a difference counts as a wrong label
FEWEST = 12  # held-out stars to judge a label by
_LN_K_SPREAD = 0.3

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LabelErrorModel:
    """factor (L,) k; covariance (L, L) of what s stands for."""

    factor: Array
    covariance: Array

    def full(self, spread: Array) -> Array:
        """Covariance (N, L, L) of the labels from that of the latents, J C J' (N, L, L)."""
        return spread * np.outer(self.factor, self.factor) + self.covariance


def learn_errors(difference: Array, spread: Array, error: Array) -> LabelErrorModel:
    """From held-out differences (N, L), NaN = missing, covariances (N, L, L) and errors of the table (N, L)."""
    count = difference.shape[1]
    factor, scatter = np.ones(count), np.zeros(count)
    for label in range(count):
        known = np.isfinite(difference[:, label])
        if known.sum() >= FEWEST:
            factor[label], scatter[label] = _factor_and_scatter(
                difference[known, label], spread[known, label, label], error[known, label] ** 2
            )
    correlation = _correlation(difference, np.einsum("nll->nl", spread) * factor**2 + scatter**2 + error**2)
    return LabelErrorModel(factor, correlation * np.outer(scatter, scatter))


def _factor_and_scatter(difference: Array, variance: Array, own: Array) -> tuple[float, float]:
    size = 1.4826 * np.median(np.abs(difference)) + 1e-12
    used = np.abs(difference) < CLIP * np.sqrt(np.maximum(size**2, variance + own))

    def cost(x: Array) -> float:
        total = np.exp(2 * x[0]) * variance[used] + np.exp(2 * x[1]) + own[used]
        return float(0.5 * np.sum(difference[used] ** 2 / total + np.log(total)) + 0.5 * (x[0] / _LN_K_SPREAD) ** 2)

    starts = [np.array([0.0, np.log(size * part)]) for part in (0.05, 0.3, 1.0)]
    bounds = [(-1.0, 1.0), (np.log(1e-3 * size), np.log(3 * size))]
    best = min((minimize(cost, x, bounds=bounds) for x in starts), key=lambda found: float(found.fun))
    return float(np.exp(best.x[0])), float(np.exp(best.x[1]))


def _correlation(difference: Array, variance: Array) -> Array:
    pull = np.clip(difference / np.sqrt(variance), -CLIP, CLIP)
    known = np.isfinite(pull)
    pull = np.where(known, pull, 0.0)
    both = known.T.astype(float) @ known
    norm = np.sqrt((pull**2).T @ known * (known.T @ pull**2))
    raw = np.divide(pull.T @ pull, norm, out=np.zeros_like(norm), where=norm > 0)
    raw *= both / (both + 30.0)  # few common stars say little
    np.fill_diagonal(raw, 1.0)
    values, vectors = np.linalg.eigh(raw)
    whole = (vectors * values.clip(min=1e-6)) @ vectors.T
    size = np.sqrt(np.diag(whole))
    return np.asarray(whole / np.outer(size, size))
