"""What held-out stars say: which label maps predict them, how large the errors are, how the latents scatter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phdlspec.datadriven.lux.held_out import LabelErrorModel, SpectrumPairs, learn_errors
from phdlspec.datadriven.lux.label_map import MapCandidates, log_likelihood, stacked_shares

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Fold:
    """A finished fold: rows of the held-out stars; of the training part latents (n, K), their signal (K,), label
    residuals (n, L) with variances; of the held-out latents (m, K), covariances, residuals, distance and reduced chi2;
    label loadings (L, K). Residuals are label minus A z; `variance` is that of the label's error and of A z together,
    `held_variance` that of the label's error alone."""

    held: NDArray[np.int64]
    z: Array
    signal: Array
    residual: Array
    variance: Array
    held_z: Array
    held_covariance: NDArray[np.float32]
    held_residual: Array
    held_variance: Array
    distance: Array
    rchi2: Array
    label_loadings: Array

    def candidates(self) -> MapCandidates:
        """Label maps of every shape from the training part."""
        known = (self.z, self.signal, self.residual, self.variance, self.label_loadings)
        return MapCandidates.fit(*(torch.as_tensor(x) for x in known))

    def spread(self, slope: Array) -> Array:
        """Covariance (m, L, L) of held-out labels from that of the latents, with slopes (m, L, K) or (L, K)."""
        return np.asarray(slope @ self.held_covariance.astype(float) @ np.swapaxes(slope, -1, -2))


@dataclass(frozen=True)
class Judgement:
    """shares (S, L) of the candidates in the label map; score: mean over labels of minus the log likelihood per star.

    Of all held-out stars: rows (N,), difference (N, L) predicted minus given, variance (N, L) of the given labels, and
    covariance (N, L, L) of the predicted ones by the error model.
    """

    shares: Tensor
    score: float
    held: NDArray[np.int64]
    difference: Array
    given_variance: Array
    covariance: Array
    errors: LabelErrorModel


def judge(folds: Sequence[Fold], stars: Sequence[str]) -> Judgement:
    """What the held-out stars of folds say; `stars` names the star of every spectrum of the data set."""
    candidates = [fold.candidates() for fold in folds]
    given = np.concatenate([fold.held_variance for fold in folds])
    straight = np.concatenate([np.einsum("nll->nl", fold.spread(fold.label_loadings)) for fold in folds])
    tries = torch.cat([maps.corrections(_z(fold)) - _residual(fold) for fold, maps in zip(folds, candidates)], dim=1)
    variance = torch.as_tensor(given + straight)
    shares = stacked_shares(tries, variance)
    difference = (shares[:, None] * tries).sum(0)
    count = torch.isfinite(difference).sum(0)
    score = -(log_likelihood(difference, variance) / count.clamp(min=1))[count > 0].mean()
    spread, pairs = [], []
    for fold, label_map in zip(folds, (maps.mean(shares) for maps in candidates)):
        spread.append(fold.spread(fold.label_loadings + label_map.jacobian(_z(fold)).numpy()))
        predicted = fold.held_z @ fold.label_loadings.T + label_map.correction(_z(fold)).numpy()
        one, two = neighbours([stars[i] for i in fold.held])
        own = np.einsum("nll->nl", spread[-1])
        pairs.append((predicted[one] - predicted[two], own[one] + own[two]))
    both = SpectrumPairs(*(np.concatenate(part) for part in zip(*pairs)))
    errors = learn_errors(difference.numpy(), np.concatenate(spread), np.sqrt(given), both)
    held = np.concatenate([fold.held for fold in folds])
    return Judgement(shares, float(score), held, difference.numpy(), given, errors.full(np.concatenate(spread)), errors)


def _z(fold: Fold) -> Tensor:
    return torch.as_tensor(fold.held_z)


def _residual(fold: Fold) -> Tensor:
    return torch.as_tensor(fold.held_residual)


def neighbours(stars: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of pairs of spectra of one star, every spectrum with the next one."""
    order = np.argsort(np.asarray(stars, dtype=str), kind="stable")
    one, two = order[:-1], order[1:]
    same = np.array([stars[i] == stars[j] for i, j in zip(one, two)], dtype=bool)
    return one[same], two[same]


def robust(difference: Array) -> Array:
    """Robust scatter about zero of each column, NaN left out."""
    return np.asarray(1.4826 * np.nanmedian(np.abs(difference), axis=0) + 1e-12)
