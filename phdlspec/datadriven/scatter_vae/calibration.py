"""Factors on noise and scatter by wavelength, from stars that training has not seen, so that their deviations have unit
variance.

In each bin of wavelength, v = n sigma^2 + c s^2 with the n, c of the highest likelihood. At the maximum the mean of
(x - model)^2 / v is one, for a common factor on both is among what is fitted. The one star in a hundred that fits worst
is left out, as one in a hundred is called strange; of the others all pixels count, however far off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

BINS = 24
ORDINARY = 0.99  # share of the stars that are calibrated on: those that fit best

Array = NDArray[np.float64]


@dataclass(frozen=True)
class HeldOutResiduals:
    """Of N stars that training has not seen: squared residuals, variance of the noise, of the scatter (N, P); good
    (N, P)."""

    squared: Array
    noise: Array
    scatter: Array
    good: NDArray[np.bool_]


def calibrate(held: HeldOutResiduals) -> tuple[Array, Array]:
    """ln n and ln c (P,), linear between the centres of the bins."""
    ordinary = _ordinary(held)
    pixels = held.good.shape[1]
    bins = np.array_split(np.arange(pixels), min(BINS, pixels))
    factors = np.array([_factors(held, ordinary, b) for b in bins])
    centres = [b.mean() for b in bins]
    ln_noise, ln_scatter = (np.interp(np.arange(pixels), centres, column) for column in factors.T)
    return ln_noise, ln_scatter


def _ordinary(held: HeldOutResiduals) -> NDArray[np.bool_]:
    misfit = np.where(held.good, held.squared / (held.noise + held.scatter), 0.0).sum(1) / held.good.sum(1).clip(1)
    return np.asarray(misfit <= np.quantile(misfit, ORDINARY))


def _factors(held: HeldOutResiduals, ordinary: NDArray[np.bool_], columns: NDArray[Any]) -> Array:
    squared, noise, scatter = (x[ordinary][:, columns] for x in (held.squared, held.noise, held.scatter))
    good = held.good[ordinary][:, columns]
    if good.sum() < 10:
        return np.zeros(2)
    r, n, s = squared[good], noise[good], scatter[good]

    def value(ln: Array) -> tuple[float, Array]:
        a, b = np.exp(ln[0]) * n, np.exp(ln[1]) * s
        v = a + b
        slope = 0.5 * (1.0 - r / v) / v
        return float(0.5 * np.mean(np.log(v) + r / v)), np.array([np.mean(slope * a), np.mean(slope * b)])

    found = minimize(value, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-1.5, 1.5), (-3.0, 3.0)])
    return np.asarray(found.x)
