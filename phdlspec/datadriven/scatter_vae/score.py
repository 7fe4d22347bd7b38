"""How strange a spectrum is: each sign's probability among ordinary stars, and the least of them.

A sign is compared with that of ordinary stars of the same signal-to-noise ratio, which training has not seen (`Trend`),
but those of `AT_ALL_SNR` with that of all of them; the upper tail beyond 5% is taken as exponential. The score is the
largest -log10 of these probabilities, each less the handicap of its sign (`phdlspec.datadriven.scatter_vae.signs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phdlspec.datadriven.scatter_vae.signs import AT_ALL_SNR
from phdlspec.datadriven.scatter_vae.trend import Trend

Array = NDArray[np.float64]

TAIL = 0.05
FALSE_ALARMS = 0.01  # share of ordinary stars above the threshold
NOISIEST = 0.03  # of the stars, by S/N, that are not ordinary
_QUANTILES = np.linspace(0.0, 1.0 - TAIL, 96)


@dataclass(frozen=True)
class OrdinaryStars:
    """Signs of ordinary stars.

    signs : name of each of the F signs and its handicap. trend : of the signs with S/N. quantiles : (F, 96) of what is
    left. tail : (F,) mean excess beyond the last. scores : sorted scores of the ordinary stars.
    """

    signs: Mapping[str, float]
    trend: Trend
    quantiles: Array
    tail: Array
    scores: Array

    @property
    def names(self) -> tuple[str, ...]:
        """Of the signs."""
        return tuple(self.signs)

    @property
    def threshold(self) -> float:
        """The score that `FALSE_ALARMS` of the ordinary stars exceed."""
        return float(np.quantile(self.scores, 1.0 - FALSE_ALARMS))

    def improbability(self, signs: Array, snr: Array) -> Array:
        """-log10 of the probability (N, F) of a sign as large as this."""
        left = self.trend.standardised(signs, snr)
        answer = np.empty(left.shape)
        for i, (grid, tail) in enumerate(zip(self.quantiles, self.tail)):
            above = np.where(left[:, i] > grid[0], 1.0 - np.interp(left[:, i], grid, _QUANTILES), 1.0)
            beyond = np.maximum(left[:, i] - grid[-1], 0.0) / tail
            answer[:, i] = -np.log10(np.maximum(above, TAIL)) + beyond / np.log(10.0)
        return answer

    def score(self, signs: Array, snr: Array) -> tuple[Array, NDArray[np.int64]]:
        """The score (N,) and the number (N,) of the sign that makes it."""
        handicapped = self.improbability(signs, snr) - np.array(list(self.signs.values()))
        return handicapped.max(axis=1), handicapped.argmax(axis=1)

    def percentile(self, scores: Array) -> Array:
        """Percentage (N,) of ordinary stars that are less strange; never 100, for their number is finite."""
        return np.asarray(100.0 * np.searchsorted(self.scores, scores) / (len(self.scores) + 1))

    def tensors(self) -> dict[str, Array]:
        """For a file."""
        return {"quantiles": self.quantiles, "tail": self.tail, "scores": self.scores, **self.trend.tensors()}

    @classmethod
    def of_tensors(cls, signs: Mapping[str, float], tensors: Mapping[str, Any]) -> OrdinaryStars:
        """Inverse of `tensors`."""
        return cls(signs, Trend.of_tensors(tensors), tensors["quantiles"], tensors["tail"], tensors["scores"])


def learn_reference(values: Array, snr: Array, signs: Mapping[str, float]) -> OrdinaryStars:
    """The reference of stars with these signs (N, F) and signal-to-noise ratios (N,)."""
    ordinary = snr >= np.quantile(snr, NOISIEST)
    values, snr = values[ordinary], snr[ordinary]
    trend = Trend.learn(values, snr, np.array([name in AT_ALL_SNR for name in signs]))
    left = trend.standardised(values, snr)
    quantiles = np.quantile(left, _QUANTILES, axis=0).T
    excess = [column[column > grid[-1]] - grid[-1] for column, grid in zip(left.T, quantiles)]
    # The median, not the mean, sets the tail: odd stars among the ordinary ones must not lengthen it.
    tail = np.array([max(float(np.median(e)) / np.log(2.0), 1e-3) if len(e) else 1.0 for e in excess])
    reference = OrdinaryStars(signs, trend, quantiles, tail, np.zeros(1))
    return replace(reference, scores=np.sort(reference.score(values, snr)[0]))
