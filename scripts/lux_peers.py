"""Other ways from spectra to labels, which Lux is measured against: a quadratic Cannon, principal components and ridge.

`Cannon` is of the form of Ness et al. (2015) and AnniesLasso without its regularisation: every pixel a quadratic
function of the labels with a scatter of its own, both at maximum likelihood; the labels of a star at its least chi2.
`PrincipalRidge` regresses each label on principal components and the products of the leading ones; number of
components and ridge are chosen by cross-validation within the training stars.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_TRIALS = np.concatenate([[0.0], np.logspace(-3.5, -1, 11)]) ** 2  # of the scatter's square
_STEPS = 40  # of Levenberg-Marquardt


def _quadratic(labels: Array) -> Array:
    # Constant, labels and their products, (n, F) from (n, L).
    first, second = np.triu_indices(labels.shape[1])
    return np.hstack([np.ones((len(labels), 1)), labels, labels[:, first] * labels[:, second]])


def _slopes(labels: Array) -> Array:
    # Derivatives of `_quadratic` by the labels, (n, L, F).
    n, count = labels.shape
    first, second = np.triu_indices(count)
    found = np.zeros((n, count, 1 + count + len(first)))
    for label in range(count):
        found[:, label, 1 + label] = 1.0
        found[:, label, 1 + count :] += labels[:, second] * (first == label) + labels[:, first] * (second == label)
    return found


@dataclass(frozen=True)
class Cannon:
    """coefficients (P, F), scatter squared (P,); labels are (label - shift) / scale."""

    coefficients: Array
    scatter: Array
    shift: Array
    scale: Array

    @classmethod
    def fit(cls, flux: Array, ivar: Array, labels: Array) -> Cannon:
        """From stars with all their labels: flux, ivar (n, P), labels (n, L)."""
        shift, scale = labels.mean(0), labels.std(0)
        features = _quadratic((labels - shift) / scale)
        first, second = np.triu_indices(features.shape[1])
        pairs = features[:, first] * features[:, second]
        best = np.full(flux.shape[1], np.inf)
        coefficients, scatter = np.zeros((flux.shape[1], features.shape[1])), np.zeros(flux.shape[1])
        for trial in _TRIALS:
            weight = ivar / (1.0 + ivar * trial)
            matrix = np.empty((flux.shape[1], features.shape[1], features.shape[1]))
            matrix[:, first, second] = matrix[:, second, first] = weight.T @ pairs
            matrix += 1e-8 * np.eye(features.shape[1])
            found = np.linalg.solve(matrix, ((weight * flux).T @ features)[..., None])[..., 0]
            left = flux - features @ found.T
            value = (weight * left**2 - np.log(np.where(weight > 0, weight, 1.0))).sum(0)
            better = value < best
            best[better], scatter[better], coefficients[better] = value[better], trial, found[better]
        return cls(coefficients, scatter, shift, scale)

    def labels(self, flux: Array, ivar: Array) -> Array:
        """Labels (n, L) of least chi2, from the mean of the training stars and from the best of a few others."""
        weight = ivar / (1.0 + ivar * self.scatter)
        starts = [
            np.zeros(len(self.shift)),
            *(np.array(s) for s in product((-1.0, 1.0), repeat=min(len(self.shift), 3))),
        ]
        starts = [np.pad(s, (0, len(self.shift) - len(s))) for s in starts]
        chi2 = np.stack([(weight * (flux - _quadratic(s[None]) @ self.coefficients.T) ** 2).sum(1) for s in starts])
        near = np.array(starts)[chi2[1:].argmin(0) + 1]
        one, two = (self._descend(flux, weight, start) for start in (np.zeros_like(near), near))
        return self.shift + self.scale * np.where((one[1] <= two[1])[:, None], one[0], two[0])

    def _descend(self, flux: Array, weight: Array, x: Array) -> tuple[Array, Array]:
        def chi2_of(labels: Array) -> Array:
            return np.asarray((weight * (flux - _quadratic(labels) @ self.coefficients.T) ** 2).sum(1))

        damping, chi2 = np.full(len(x), 1e-2), chi2_of(x)
        for _ in range(_STEPS):
            slope = _slopes(x) @ self.coefficients.T  # (n, L, P)
            left = flux - _quadratic(x) @ self.coefficients.T
            matrix = (slope * weight[:, None]) @ slope.transpose(0, 2, 1)
            diagonal = np.einsum("nll->nl", matrix)
            matrix = matrix + np.eye(x.shape[1]) * (damping[:, None] * diagonal + 1e-9)[:, None]
            step = np.linalg.solve(matrix, (slope @ (weight * left)[..., None]))[..., 0]
            trial = x + np.clip(step, -1.0, 1.0)
            new = chi2_of(trial)
            better = new < chi2
            if not better.any() and damping.min() > 1e6:
                break
            x, chi2 = np.where(better[:, None], trial, x), np.where(better, new, chi2)
            damping = np.where(better, damping * 0.3, damping * 5.0).clip(1e-9, 1e9)
        return x, chi2


@dataclass(frozen=True)
class PrincipalRidge:
    """mean (P,), components (P, K) of unit variance, leading ones whose products count, coefficients by label."""

    mean: Array
    components: Array
    shapes: tuple[tuple[int, int, float], ...]
    coefficients: tuple[Array, ...]

    @classmethod
    def fit(cls, flux: Array, labels: Array, seed: int = 0) -> PrincipalRidge:
        """From flux (n, P), masked pixels filled, and labels (n, L), NaN = missing."""
        mean = flux.mean(0)
        _, values, right = np.linalg.svd(flux - mean, full_matrices=False)
        most = min(48, len(flux) // 3)
        components = right[:most].T * (len(flux) ** 0.5 / values[:most])
        scores = (flux - mean) @ components
        fold = np.random.default_rng(seed).permutation(len(flux)) % 5
        shapes, coefficients = [], []
        for column in labels.T:
            shape = min(_shapes(most), key=lambda s: _held_out(scores, column, fold, *s))
            shapes.append(shape)
            coefficients.append(_ridge(_features(scores, *shape[:2]), column, shape[2]))
        return cls(mean, components, tuple(shapes), tuple(coefficients))

    def labels(self, flux: Array) -> Array:
        """Labels (n, L)."""
        scores = (flux - self.mean) @ self.components
        return np.column_stack([_features(scores, *s[:2]) @ c for s, c in zip(self.shapes, self.coefficients)])


def _shapes(most: int) -> list[tuple[int, int, float]]:
    counts = sorted({min(k, most) for k in (6, 12, 24, 48)})
    return [(k, min(q, k), ridge) for k, q, ridge in product(counts, (0, 5, 8), (0.3, 3.0, 10.0, 30.0))]


def _features(scores: Array, count: int, leading: int) -> Array:
    first, second = np.triu_indices(leading)
    return np.hstack([np.ones((len(scores), 1)), scores[:, :count], scores[:, first] * scores[:, second]])


def _ridge(features: Array, column: Array, ridge: float) -> Array:
    known = np.isfinite(column)
    x, y = features[known], column[known]
    penalty = np.full(x.shape[1], ridge)
    penalty[0] = 1e-6
    return np.asarray(np.linalg.solve(x.T @ x + np.diag(penalty), x.T @ y))


def _held_out(scores: Array, column: Array, fold: NDArray, count: int, leading: int, ridge: float) -> float:
    features, left = _features(scores, count, leading), np.full(len(column), np.nan)
    for k in range(5):
        inside = fold != k
        left[~inside] = (column - features @ _ridge(features[inside], column[inside], ridge))[~inside]
    return float(np.nanmedian(np.abs(left)))
