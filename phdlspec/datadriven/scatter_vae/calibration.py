"""Factors on noise and scatter by wavelength, from stars that training has not seen, so that their deviations have unit
variance.

In each bin of wavelength, v = n sigma^2 + c s^2 with the n, c of the highest likelihood. At the maximum the mean of
(x - model)^2 / v is one, for a common factor on both is among what is fitted. Left out are hits: pixels beyond 8 sigma,
of which normal errors have none. They are cosmic rays and lost pixels, few and with much of the sum of squares, and
what they are in one set of stars says nothing of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

BINS = 24
HIT_SIGMA = 8.0
_STEPS = 4  # between factors and hits
_FIRST_HIT = 20.0  # sigma, before there are factors

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
    pixels = held.good.shape[1]
    bins = np.array_split(np.arange(pixels), min(BINS, pixels))
    factors = np.array([_factors(held, b) for b in bins])
    centres = [b.mean() for b in bins]
    ln_noise, ln_scatter = (np.interp(np.arange(pixels), centres, column) for column in factors.T)
    return ln_noise, ln_scatter


def mean_squares(deviation: Array, good: NDArray[np.bool_]) -> tuple[float, float]:
    """Mean square of the good deviations (N, P): of all pixels, and without hits; NaN where there are none."""
    squared = deviation[good] ** 2
    plain = squared[squared < HIT_SIGMA**2]
    return (float(squared.mean()), float(plain.mean())) if len(plain) else (float("nan"), float("nan"))


def _factors(held: HeldOutResiduals, columns: NDArray[Any]) -> Array:
    squared, noise, scatter, good = (x[:, columns] for x in (held.squared, held.noise, held.scatter, held.good))
    if good.sum() < 10:
        return np.zeros(2)
    r, n, s = squared[good], noise[good], scatter[good]
    ln, limit = np.zeros(2), _FIRST_HIT
    for _ in range(_STEPS):
        plain = r < limit**2 * (np.exp(ln[0]) * n + np.exp(ln[1]) * s)
        if plain.sum() < 10:
            break
        ln, limit = _likeliest(r[plain], n[plain], s[plain], ln), HIT_SIGMA
    return ln


def _likeliest(squared: Array, noise: Array, scatter: Array, first: Array) -> Array:
    """ln n and ln c of pixels (M,)."""

    def value(ln: Array) -> tuple[float, Array]:
        a, b = np.exp(ln[0]) * noise, np.exp(ln[1]) * scatter
        v = a + b
        slope = 0.5 * (1.0 - squared / v) / v
        return float(0.5 * np.mean(np.log(v) + squared / v)), np.array([np.mean(slope * a), np.mean(slope * b)])

    found = minimize(value, first, jac=True, method="L-BFGS-B", bounds=[(-1.5, 1.5), (-3.0, 3.0)])
    return np.asarray(found.x)
