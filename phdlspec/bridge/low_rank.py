"""A few spectra whose sums are close to what the fits of many stars leave: weighted, with pixels that are missing.

Residual s is A_s V z_s and noise: V (Q, K) are the coefficients of K corrections, z_s (K,) the star's amplitudes. V and
z follow from each other by linear least squares, in turn (alternating least squares; Tipping & Bishop 1999 without
missing data). V has a weak prior, which is all there is where no spectrum says anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solveh_banded

from phdlspec.bridge.residuals import BAND, SplineEquations

Array = NDArray[np.float64]

ROUNDS = 6
TYPICAL = 0.03  # of a correction, in units of the continuum: the width of the prior


@dataclass(frozen=True)
class LowRank:
    """vectors : (Q, K) with amplitudes of unit variance; amplitudes (N, K); covariances (N, K, K) of their errors."""

    vectors: Array
    amplitudes: Array
    covariances: Array

    @classmethod
    def of(cls, told: Sequence[SplineEquations], rank: int) -> LowRank:
        """From what the stars' pixels say."""
        vectors = _first(told, rank)
        for _ in range(ROUNDS):
            amplitudes, _ = _amplitudes(told, vectors)
            vectors = _vectors(told, _scaled(amplitudes))
            vectors = _turned(vectors, amplitudes)
        amplitudes, covariances = _amplitudes(told, vectors)
        return cls(vectors, amplitudes, covariances)


def _first(told: Sequence[SplineEquations], rank: int) -> Array:
    # Principal components of corrections that each star would ask for alone.
    alone = []
    for one in told:
        band = one.gram[::-1].astype(float)
        for d in range(1, BAND):
            band[BAND - 1 - d, d:], band[BAND - 1 - d, :d] = one.gram[d, :-d], 0.0
        band[-1] += TYPICAL**-2
        alone.append(solveh_banded(band, one.score))
    _, size, directions = np.linalg.svd(np.array(alone), full_matrices=False)
    return np.asarray((size[:rank, None] / np.sqrt(len(told)) * directions[:rank]).T)


def _amplitudes(told: Sequence[SplineEquations], vectors: Array) -> tuple[Array, Array]:
    """(N, K) and the covariances of their errors (N, K, K); a weak prior of unit variance."""
    amplitudes, covariances = [], []
    for one in told:
        covariance = np.linalg.inv(vectors.T @ one.times(vectors) + np.eye(vectors.shape[1]))
        covariances.append(covariance)
        amplitudes.append(covariance @ (vectors.T @ one.score))
    return np.array(amplitudes), np.array(covariances)


def _scaled(amplitudes: Array) -> Array:
    # Of unit variance.
    return np.asarray(amplitudes / np.maximum(np.sqrt((amplitudes**2).mean(0)), 1e-12))


def _vectors(told: Sequence[SplineEquations], amplitudes: Array) -> Array:
    """The coefficients (Q, K) that fit best with amplitudes (N, K)."""
    size, rank = len(told[0].score), amplitudes.shape[1]
    products = (amplitudes[:, :, None] * amplitudes[:, None]).reshape(len(told), -1)
    band = np.zeros((BAND * rank, size * rank))
    for d in range(BAND):
        of_splines = np.stack([one.gram[d] for one in told])  # (N, Q)
        blocks = (of_splines.T @ products).reshape(size, rank, rank)
        for a in range(rank):
            for b in range(rank):
                above = d * rank + b - a
                if 0 <= above < BAND * rank:
                    band[-1 - above, d * rank + b :: rank] = blocks[: size - d, a, b]
    band[-1] += TYPICAL**-2
    right = np.stack([one.score for one in told]).T @ amplitudes  # (Q, K)
    return np.asarray(solveh_banded(band, right.ravel(), overwrite_ab=True).reshape(size, rank))


def _turned(vectors: Array, amplitudes: Array) -> Array:
    # The same space, by the variance of the stars in it.
    scaled = _scaled(amplitudes)
    basis, triangle = np.linalg.qr(vectors)
    _, size, turn = np.linalg.svd(scaled @ triangle.T, full_matrices=False)
    return np.asarray(basis @ (turn.T * size / np.sqrt(len(amplitudes))))
