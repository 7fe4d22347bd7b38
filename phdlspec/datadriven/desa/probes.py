"""Linear probes: what a straight line through features says of a label or of a partner; and scores of what it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import rankdata

from phdlspec.datadriven.folds import grouped_folds

STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)  # of the penalty on standardised weights, chosen by cross-validation
_FOLDS = 5
_MATCHING_RIDGE = 0.1  # of standardised features

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Probe:
    """weights (F + 1,) of standardised features and of 1; centre, spread (F,)."""

    weights: Array
    centre: Array
    spread: Array

    def __call__(self, features: Array) -> Array:
        """(N,) the label, or the log odds of class 1."""
        return np.asarray(_with_one((features - self.centre) / self.spread) @ self.weights)


def _with_one(features: Array) -> Array:
    return np.column_stack([features, np.ones(len(features))])


def is_class(labels: Array) -> bool:
    """Whether a label (N,), NaN where missing, is a class of 0 and 1."""
    known = labels[np.isfinite(labels)]
    return len(known) > 0 and set(np.unique(known)) <= {0.0, 1.0}


def fit_probe(features: Array, labels: Array, seed: int = 0) -> Probe:
    """Ridge regression, or for a class logistic regression, of labels (N,) on features (N, F); its penalty is chosen by
    cross-validation among these stars."""
    centre, spread = features.mean(0), features.std(0)
    spread = np.where(spread > 1e-9, spread, 1.0)
    x = _with_one((features - centre) / spread)
    solve = _logistic if is_class(labels) else _ridge
    fold = grouped_folds([str(i) for i in range(len(x))], _FOLDS, seed)
    errors = []
    for strength in STRENGTHS:
        error = 0.0
        for k in range(_FOLDS):
            away = x[fold == k] @ solve(x[fold != k], labels[fold != k], strength)
            error += _error(away, labels[fold == k], solve is _logistic)
        errors.append(error)
    return Probe(solve(x, labels, STRENGTHS[int(np.argmin(errors))]), centre, spread)


def _error(found: Array, labels: Array, logistic: bool) -> float:
    if logistic:
        return float(np.logaddexp(0.0, np.where(labels > 0.5, -found, found)).sum())
    return float(np.square(found - labels).sum())


def _penalty(size: int, strength: float) -> Array:
    return np.array([strength] * (size - 1) + [1e-6])


def _ridge(x: Array, y: Array, strength: float) -> Array:
    return np.asarray(np.linalg.solve(x.T @ x + np.diag(_penalty(x.shape[1], strength)), x.T @ y))


def _logistic(x: Array, y: Array, strength: float) -> Array:
    penalty = 0.1 * _penalty(x.shape[1], strength)
    sign = np.where(y > 0.5, 1.0, -1.0)

    def value(w: Array) -> tuple[float, Array]:
        margin = sign * (x @ w)
        slope = -sign / (1.0 + np.exp(np.clip(margin, -500, 500)))
        return float(np.logaddexp(0.0, -margin).sum() + 0.5 * penalty @ w**2), x.T @ slope + penalty * w

    return np.asarray(minimize(value, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x)


def area_under_curve(score: Array, labels: Array) -> float:
    """Of the receiver operating characteristic: how often a star of class 1 scores higher than one of class 0."""
    one = labels > 0.5
    ones, zeros = int(one.sum()), int((~one).sum())
    if not ones or not zeros:
        return np.nan
    return float((rankdata(score)[one].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def average_precision(score: Array, labels: Array) -> float:
    """Mean precision at each star of class 1, from the highest score down."""
    hit = (labels > 0.5)[np.argsort(-score, kind="stable")]
    return float((np.cumsum(hit) / np.arange(1, len(hit) + 1))[hit].mean()) if hit.any() else np.nan


@dataclass(frozen=True)
class Matching:
    """What two sets of features of the same stars share along straight lines. one, other : centre (F,) and directions
    (F, K) of the canonical variables. correlation : (K,) of these among stars on which they were not fitted."""

    one: tuple[Array, Array]
    other: tuple[Array, Array]
    correlation: Array

    def __call__(self, one: Array, other: Array) -> Array:
        """(N, M) log odds that a row of `one` (N, F) and one of `other` (M, G) are of the same star: those of Gaussian
        variables with these correlations."""
        u, v = ((x - centre) @ directions for x, (centre, directions) in ((one, self.one), (other, self.other)))
        r = self.correlation
        own = -0.5 * r**2 / (1.0 - r**2)
        return np.asarray((u * (r / (1.0 - r**2))) @ v.T + (u**2 @ own)[:, None] + v**2 @ own)


def fit_matching(one: Array, other: Array, seed: int = 0) -> Matching:
    """Canonical correlations of features (N, F) and (N, G) of the same stars, with a ridge; four fifths of the stars
    give the directions, the others the correlations."""
    away = grouped_folds([str(i) for i in range(len(one))], _FOLDS, seed) == 0
    sides = [_whitening(x[~away]) for x in (one, other)]
    u, v = ((x - centre) @ white for x, (centre, white) in zip((one, other), sides))
    left, _, right = np.linalg.svd(u[~away].T @ v[~away])
    count = min(left.shape[0], right.shape[0])
    left, right = left[:, :count], right[:count].T
    a, b = u[away] @ left, v[away] @ right
    scale = tuple(np.maximum(np.sqrt((x**2).mean(0)), 1e-9) for x in (a, b))  # features that never change share nothing
    correlation = np.clip((a * b).mean(0) / (scale[0] * scale[1]), 0.0, 0.99)
    (centre1, white1), (centre2, white2) = sides
    return Matching((centre1, white1 @ left / scale[0]), (centre2, white2 @ right / scale[1]), correlation)


def _whitening(x: Array) -> tuple[Array, Array]:
    """Mean (F,) and a matrix (F, F) that makes the features uncorrelated, with a ridge on weak directions."""
    centre, spread = x.mean(0), x.std(0)
    scale = np.where(spread > 1e-9, spread, 1.0)
    values, vectors = np.linalg.eigh(np.cov(((x - centre) / scale).T) + _MATCHING_RIDGE * np.eye(x.shape[1]))
    return centre, (vectors / np.sqrt(values)) @ vectors.T / scale[:, None]


def ranks_of_partners(odds: Array) -> NDArray[np.int64]:
    """(N,) place, from 0, of each row's own partner, on the diagonal of the scores (N, N); the middle one of equals."""
    own = np.diag(odds)[:, None]
    return np.asarray((odds > own).sum(axis=1) + ((odds == own).sum(axis=1) - 1) // 2)
