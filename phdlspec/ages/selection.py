"""A choice of subgiants that can be stated in a paper: between two lines in Teff and log g, or Teff and M_Ks.

A star is taken when it is brighter than the hot line (ends of the main sequence) and hotter than the cool line (feet of
the giant branch), at its [M/H], by a margin that keeps most of the main sequence and of the giants out:

    log g < h0 + h1 t + h2 t^2 + h3 [M/H] - margin,    t = (Teff - 6000 K) / 1000 K
    Teff > c0 + c1 b + c2 [M/H] + c3 [M/H]^2 + margin,    b = log g - 3.7

and the same with M_Ks for log g and b = M_Ks - 2.0; and log g < 4.1 (M_Ks < 2.7), so that the hot line, carried on
beyond the oldest turn-off, does not take cool dwarfs in. The coefficients were fitted by `scripts/subgiant_lines.py`
to the MIST 2.5 isochrones of 1-14 Gyr.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phdlspec.ages.stars import Photometry
from phdlspec.bolometric import BANDS

Array = NDArray[np.float64]

HOTTEST = 7500.0
LEAST_PARALLAX = 10.0  # errors, for M_Ks to be used


@dataclass(frozen=True)
class Lines:
    """The two lines with their margins: `hot` in dex (mag), `cool` in K; `centre` and `faintest` of log g (M_Ks)."""

    hot: tuple[float, ...]
    cool: tuple[float, ...]
    centre: float
    hot_margin: float
    cool_margin: float
    faintest: float

    def inside(self, teff: ArrayLike, brightness: ArrayLike, mh: ArrayLike) -> NDArray[np.bool_]:
        """True where a star of this Teff, log g (M_Ks) and [M/H] lies between the lines."""
        teff, brightness, mh = (np.asarray(x, dtype=float) for x in (teff, brightness, mh))
        upper = np.minimum(hot_terms(teff, mh) @ np.array(self.hot) - self.hot_margin, self.faintest)
        lower = cool_terms(brightness - self.centre, mh) @ np.array(self.cool) + self.cool_margin
        with np.errstate(invalid="ignore"):
            return np.asarray((brightness < upper) & (teff > lower) & (teff < HOTTEST))


GRAVITY_LINES = Lines((4.097, -0.419, 0.154, -0.195), (5149.8, -298.6, -284.5, -70.1), 3.7, 0.12, 50.0, 4.1)
MAGNITUDE_LINES = Lines((2.286, -1.780, 0.524, -0.924), (5105.8, -73.4, -315.2, -70.2), 2.0, 0.45, 50.0, 2.7)


def hot_terms(teff: Array, mh: Array) -> Array:
    """Terms (..., 4) of the hot line."""
    t = (teff - 6000.0) / 1000.0
    return np.stack([np.ones_like(t), t, t**2, mh * np.ones_like(t)], axis=-1)


def cool_terms(brightness: Array, mh: Array) -> Array:
    """Terms (..., 4) of the cool line."""
    one = np.ones_like(brightness)
    return np.stack([one, brightness, mh * one, mh**2 * one], axis=-1)


def subgiants(labels: Array, photometry: Photometry) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which stars are chosen (n,), and for which of them M_Ks decided.

    labels (n, 3) Teff, log g, [M/H]. M_Ks is used where Ks and a parallax of ten errors are there, with the star's own
    extinction where it is known and none otherwise; log g everywhere else.
    """
    by_gravity = GRAVITY_LINES.inside(labels[:, 0], labels[:, 1], labels[:, 2])
    if "KS" not in photometry.bands:
        return by_gravity, np.zeros(len(labels), dtype=bool)
    with np.errstate(all="ignore"):
        good = photometry.parallax > LEAST_PARALLAX * photometry.parallax_err
        absolute = photometry.magnitudes[:, photometry.bands.index("KS")] + 5.0 * np.log10(photometry.parallax / 100.0)
    absolute = absolute - BANDS["KS"].extinction * np.nan_to_num(photometry.av)
    good &= np.isfinite(absolute)
    by_magnitude = MAGNITUDE_LINES.inside(labels[:, 0], absolute, labels[:, 2])
    return np.where(good, by_magnitude, by_gravity), good
