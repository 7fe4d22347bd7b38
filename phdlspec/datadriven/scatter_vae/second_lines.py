"""A second star in the spectrum: what tells pairs from single stars, learned from pairs made of the stars at hand.

Two stars of one kind some 100 km/s apart look, at the resolution of a survey, like one star with broader lines, and
the latents follow that in part. So each star is also put together with itself, displaced, and a linear discriminant
(Fisher) is learned between the stars and their pairs: of the deviations projected on the model's lines moved to either
side, by several lags, and of the latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import shift as shifted

from phdlspec.datadriven.rest_frame import at_rest
from phdlspec.datadriven.scatter_vae.residuals import SpectrumResiduals
from phdlspec.datadriven.scatter_vae.trend import Trend
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

Array = NDArray[np.float64]

LAGS = (1.0, 1.5, 2.0, 3.0, 4.0)  # pixels by which the lines are moved to either side
SEPARATION = (1.3, 2.3)  # pixels between the stars of a pair that is made
LIGHT_RATIO = (0.4, 1.0)
FAR_OUT = 4.0  # latents are held within
_MOST = (-8.0, 12.0)  # sigma, of one projection that still counts
_RIDGE = 0.05  # of the variances


def doubled(flux: NDArray[Any], ivar: NDArray[Any], wave: Array, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Flux and inverse variance (N, P) of pairs, each of one of these stars and itself, displaced, at rest in the mean.

    Noise is added to make up for what the mean of two copies of it loses.
    """
    random = np.random.default_rng(seed)
    pixel = SPEED_OF_LIGHT_KM_S * float(np.median(np.diff(np.log(wave))))
    pairs, weights = np.zeros_like(flux), np.zeros_like(ivar)
    for row in range(len(flux)):
        ratio, apart = random.uniform(*LIGHT_RATIO), pixel * random.uniform(*SEPARATION) * random.choice([-1.0, 1.0])
        share = ratio / (1.0 + ratio)
        one, one_ivar = at_rest(wave, flux[row], ivar[row], apart * share, wave)
        two, two_ivar = at_rest(wave, flux[row], ivar[row], -apart * (1.0 - share), wave)
        good = (one_ivar > 0) & (two_ivar > 0) & (ivar[row] > 0)
        lost = 1.0 - (1.0 - share) ** 2 - share**2
        noise = np.sqrt(lost / np.where(good, ivar[row], 1.0)) * random.standard_normal(len(wave))
        pairs[row] = np.where(good, (1.0 - share) * one + share * two + noise, 0.0)
        weights[row] = np.where(good, ivar[row], 0.0)
    return pairs, weights


def projections(left: SpectrumResiduals) -> Array:
    """Significance (N, 5) of the model's lines moved to both sides, less the model, one for each lag."""
    columns = []
    for lag in LAGS:
        right, other = (shifted(left.model, (0, s * lag), order=1, mode="nearest") for s in (1, -1))
        columns.append(left.significance(right + other - 2.0 * left.model))
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class SecondLines:
    """trend : of the projections of single stars with S/N. weights : (5 + K,) of the projections and the latents."""

    trend: Trend
    weights: Array

    @classmethod
    def learn(cls, single: Array, paired: Array, latents: Array, paired_latents: Array, snr: Array) -> SecondLines:
        """From projections (N, 5) and latents (N, K) of stars and of their pairs."""
        trend = Trend.learn(single, snr)
        one, two = _features(trend, single, latents, snr), _features(trend, paired, paired_latents, snr)
        within = 0.5 * (np.cov(one.T) + np.cov(two.T))
        within += _RIDGE * np.diag(np.diag(within))
        return cls(trend, np.linalg.solve(within, (two - one).mean(axis=0)))

    def amount(self, found: Array, latents: Array, snr: Array) -> Array:
        """How much (N,) stars with these projections (N, 5) and latents (N, K) are like pairs."""
        return np.asarray(_features(self.trend, found, latents, snr) @ self.weights)

    def tensors(self) -> dict[str, Array]:
        """For a file."""
        return {"weights": self.weights, **self.trend.tensors()}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Any]) -> SecondLines:
        """Inverse of `tensors`."""
        return cls(Trend.of_tensors(tensors), tensors["weights"])


def _features(trend: Trend, found: Array, latents: Array, snr: Array) -> Array:
    return np.concatenate(
        [np.clip(trend.standardised(found, snr), *_MOST), np.clip(latents, -FAR_OUT, FAR_OUT)], axis=1
    )
