"""How quantities of ordinary stars run with signal-to-noise ratio: their centre, and how far they scatter about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_STEPS = 8  # of reweighting
_HUBER = 1.5


@dataclass(frozen=True)
class Trend:
    """Of F quantities: centre and ln(size) over 1, x, x^2 with x = ln(S/N) limited to `range`, each (F, 3)."""

    centre: Array
    ln_size: Array
    range: tuple[float, float]

    def standardised(self, values: Array, snr: Array) -> Array:
        """Values (N, F) less their centre, over their size, at signal-to-noise ratios (N,)."""
        x = _powers(snr, self.range)
        return np.asarray((values - x @ self.centre.T) / np.exp(x @ self.ln_size.T))

    @classmethod
    def learn(cls, values: Array, snr: Array, constant: NDArray[np.bool_] | None = None) -> Trend:
        """From ordinary stars, robustly; `constant` (F,) quantities have one centre and size at all S/N."""
        limits = float(np.quantile(snr, 0.02)), float(np.quantile(snr, 0.98))
        x = _powers(snr, limits)
        constant = np.zeros(values.shape[1], dtype=bool) if constant is None else constant
        centre, ln_size = np.zeros((2, values.shape[1], 3))
        for i, column in enumerate(values.T):
            terms = slice(0, 1 if constant[i] else 3)
            centre[i, terms] = _robust_fit(x[:, terms], column)
            off = np.abs(column - x @ centre[i])
            ln_size[i, terms] = _robust_fit(x[:, terms], np.log(off + 1e-3 * off.mean() + 1e-12))
        return cls(centre, ln_size, limits)

    def tensors(self) -> dict[str, Array]:
        """For a file."""
        return {"centre": self.centre, "ln_size": self.ln_size, "snr_range": np.array(self.range)}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Any]) -> Trend:
        """Inverse of `tensors`."""
        low, high = (float(x) for x in tensors["snr_range"])
        return cls(tensors["centre"], tensors["ln_size"], (low, high))


def _powers(snr: Array, limits: tuple[float, float]) -> Array:
    x = np.log(np.clip(snr, *limits))
    return np.stack([np.ones(len(x)), x, x**2], axis=1)


def _robust_fit(x: Array, y: Array) -> Array:
    # Least squares in which what is far off counts less (Huber).
    weight = np.ones(len(y))
    for _ in range(_STEPS):
        root = np.sqrt(weight)
        found = np.linalg.lstsq(x * root[:, None], y * root, rcond=None)[0]
        off = np.abs(y - x @ found)
        weight = np.minimum(1.0, _HUBER * 1.4826 * np.median(off) / np.maximum(off, 1e-12))
    return np.asarray(found)
