"""What predictions of stars that the model had not seen say about its errors.

A held-out star's label differs from its prediction with the variance

    k^2 c + s^2 + e^2,

c what the uncertainty of its latents gives, e the error of the table. k c^1/2 is the noise of the prediction: what
another spectrum of the star would change. s is what the spectrum does not say and what the table's own errors do not
own up to: another spectrum has the same. Where stars have several spectra, k is found from the differences between
predictions from spectra of one star, whose variance is k^2 (c_1 + c_2): the only measure of it that does not believe
the noise that spectra state, nor that the table's errors are independent of them. Else k (near one) and s are found
together. Both by maximum likelihood, in which a share of the differences, found with them, is several times as wide.
What is reported is the half width of the central 68% of the narrow and the wide ones together, as an error is
understood. The correlations of s between labels are those of the held-out differences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from scipy.special import erf, logsumexp

CLIP = 4.0  # sigma, beyond which a difference says nothing about correlations
FEWEST = 12  # held-out stars, or pairs of spectra, to judge a label by
WIDER, MOST_WIDE = 4.0, 0.2  # times as wide as the others, and at most so many, are wrong or strange differences
CENTRAL = 0.6827
_LN_K_SPREAD, _LN_K_SPREAD_OF_PAIRS = 0.3, 1.0

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LabelErrorModel:
    """factor (L,) k; covariance (L, L) of what s stands for; pairs: spectra of one star that k was found from, or 0."""

    factor: Array
    covariance: Array
    pairs: int = 0

    def noise(self, spread: Array) -> Array:
        """Covariance (N, L, L) of the noise of labels from that of the latents, J C J' (N, L, L)."""
        return spread * np.outer(self.factor, self.factor)

    def full(self, spread: Array) -> Array:
        """Covariance (N, L, L) of the labels."""
        return self.noise(spread) + self.covariance


@dataclass(frozen=True)
class SpectrumPairs:
    """Predictions from two spectra of one star: their difference (M, L) and the sum of their variances (M, L)."""

    difference: Array
    variance: Array


def learn_errors(difference: Array, spread: Array, error: Array, pairs: SpectrumPairs) -> LabelErrorModel:
    """From held-out differences (N, L), NaN = missing, covariances (N, L, L), errors of the table (N, L), and pairs."""
    count = difference.shape[1]
    factor, scatter = np.ones(count), np.zeros(count)
    enough = len(pairs.difference) >= FEWEST
    for label in range(count):
        known = np.isfinite(difference[:, label])
        left, variance = difference[known, label], spread[known, label, label]
        if enough:
            factor[label] = _factor(pairs.difference[:, label], pairs.variance[:, label])
            variance = variance * factor[label] ** 2
        if known.sum() >= FEWEST:
            again, scatter[label] = _factor_and_scatter(left, variance, error[known, label] ** 2, fixed=enough)
            factor[label] *= again
    correlation = _correlation(difference, np.einsum("nll->nl", spread) * factor**2 + scatter**2 + error**2)
    return LabelErrorModel(factor, correlation * np.outer(scatter, scatter), len(pairs.difference) if enough else 0)


def _cost(difference: Array, variance: Array, ln_wide: float) -> float:
    # Negative log likelihood of a Gaussian, a share of it wider.
    square = difference**2 / variance
    parts = [np.log1p(-np.exp(ln_wide)) - 0.5 * square, ln_wide - np.log(WIDER) - 0.5 * square / WIDER**2]
    return float(0.5 * np.log(variance).sum() - logsumexp(parts, axis=0).sum())


def _least(cost: Callable[[Array], float], starts: list[list[float]], bounds: list[tuple[float, float]]) -> Array:
    # The last of the variables is the logarithm of the share that is wider.
    bounds = [*bounds, (np.log(1e-3), np.log(MOST_WIDE))]
    tries = [np.array([*x, np.log(wide)]) for x in starts for wide in (0.01, 0.1)]
    best = min((minimize(cost, x, bounds=bounds) for x in tries), key=lambda found: float(found.fun))
    return np.exp(best.x)


def _width(wide: float) -> float:
    # Half width of the central 68% in units of the narrower Gaussian.
    def beyond(x: float) -> float:
        return float((1.0 - wide) * erf(x / 2**0.5) + wide * erf(x / WIDER / 2**0.5) - CENTRAL)

    return float(brentq(beyond, 0.5, WIDER))


def _factor(difference: Array, variance: Array) -> float:
    def cost(x: Array) -> float:
        return (
            _cost(difference, np.exp(2 * x[0]) * variance, float(x[1])) + 0.5 * float(x[0] / _LN_K_SPREAD_OF_PAIRS) ** 2
        )

    start = np.log(1.4826 * np.median(np.abs(difference) / np.sqrt(variance)) + 1e-3)
    factor, wide = _least(cost, [[start]], [(-3.0, 3.0)])
    return float(factor) * _width(float(wide))


def _factor_and_scatter(difference: Array, variance: Array, own: Array, fixed: bool) -> tuple[float, float]:
    size = 1.4826 * np.median(np.abs(difference)) + 1e-12

    def cost(x: Array) -> float:
        total = np.exp(2 * x[0]) * variance + np.exp(2 * x[1]) + own
        return _cost(difference, total, x[2]) + 0.5 * float(x[0] / _LN_K_SPREAD) ** 2

    starts = [[0.0, np.log(size * part)] for part in (0.05, 0.3, 1.0)]
    bounds = [(0.0, 0.0) if fixed else (-1.0, 1.0), (np.log(1e-3 * size), np.log(3 * size))]
    factor, scatter, wide = _least(cost, starts, bounds)
    core = float(np.median(factor**2 * variance + scatter**2 + own))
    return float(factor), float(np.sqrt(scatter**2 + (_width(float(wide)) ** 2 - 1.0) * core))


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
