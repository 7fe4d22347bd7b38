"""Evolutionary stages of the points of an isochrone, read off its shape, alike for every set.

Sets name their phases in different ways (a PARSEC subgiant is a MIST giant), so the borders are geometric:

- the main sequence ends at the last maximum of Teff before the giant branch: the turn-off, or for stars with a
  convective core the blue tip after the hook;
- the subgiant branch ends at the knee at the foot of the giant branch: the point farthest from the chord between that
  maximum and the giant branch 0.7 dex above the foot, on axes of 0.1 dex in Teff and 1 dex in luminosity;
- the giant branch ends where the set says that helium burns or, where it does not, at its brightest point.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Stage(IntEnum):
    """Evolutionary stage of a point."""

    MAIN_SEQUENCE = 0
    SUBGIANT = 1
    GIANT = 2
    HELIUM = 3


STAGE_WORDS: dict[Stage, str] = {
    Stage.MAIN_SEQUENCE: "main sequence and turn-off",
    Stage.SUBGIANT: "subgiant branch",
    Stage.GIANT: "first ascent of the giant branch",
    Stage.HELIUM: "core helium burning and later",
}

_GIANT_LOGG = 2.9  # below it an isochrone is on the giant branch, and not yet in the bump of the luminosity function
_PEAK_DEPTH = 0.004  # dex in Teff: a shallower dip on the way back from the giant branch is no hook
_TIP_DROP = 0.25  # dex in luminosity below the brightest point: the giant branch has ended
_FOOT_RISE = 0.7  # dex in luminosity between the foot and the point of the giant branch that the chord ends at
_GAP = 10.0  # a gap of so many usual steps in the equivalent points ends the giant branch too


def stages_of(log_teff: Array, logg: Array, log_l: Array, eep: Array, helium: NDArray[np.bool_] | None) -> Array:
    """Stage (n,) of the points of one isochrone, in order of evolution (mass), as floats."""
    size = len(log_teff)
    stage = np.full(size, float(Stage.MAIN_SEQUENCE))
    end = _end_of_giants(logg, log_l, eep, helium)
    stage[end:] = float(Stage.HELIUM)
    if end < 3:
        return stage
    tip = _last_maximum(log_teff[:end], logg[:end])
    foot = _foot(log_teff[:end], log_l[:end], tip)
    stage[tip + 1 : end] = float(Stage.SUBGIANT)
    stage[foot + 1 : end] = float(Stage.GIANT)
    return stage


def _end_of_giants(logg: Array, log_l: Array, eep: Array, helium: NDArray[np.bool_] | None) -> int:
    if helium is not None:
        return int(np.argmax(helium)) if helium.any() else len(logg)
    cool = np.flatnonzero(logg < _GIANT_LOGG)
    if not len(cool):
        return len(logg)
    start = int(cool[0])
    brightest = np.maximum.accumulate(log_l[start:])
    steps = np.diff(eep)
    gap = np.concatenate([[False], steps > _GAP * max(float(np.median(steps)), 1e-12)])[start:]
    ended = (brightest - log_l[start:] > _TIP_DROP) | gap
    return start + int(np.argmax(ended)) if ended.any() else len(logg)


def _last_maximum(log_teff: Array, logg: Array) -> int:
    giants = np.flatnonzero(logg < _GIANT_LOGG)
    start = int(giants[0]) if len(giants) else len(log_teff) - 1
    best = start
    for i in range(start, -1, -1):
        if log_teff[i] > log_teff[best]:
            best = i
        elif log_teff[best] - log_teff[i] > _PEAK_DEPTH:
            break
    return best


def _foot(log_teff: Array, log_l: Array, tip: int) -> int:
    x, y = log_teff[tip:] * 10.0, log_l[tip:]
    if len(x) < 3:
        return len(log_teff) - 1
    low = int(np.argmin(y)) if y[0] - y.min() > 0.01 else 0
    above = np.flatnonzero(y[low:] >= y[low] + _FOOT_RISE)
    last = low + int(above[0]) if len(above) else len(x) - 1
    if above.size == 0 and y[last] - y[low] < 0.3:  # the set ends before the giant branch
        return len(log_teff) - 1
    distance = (x[: last + 1] - x[0]) * (y[last] - y[0]) - (y[: last + 1] - y[0]) * (x[last] - x[0])
    return tip + int(np.argmin(distance))  # negative on the faint side of the chord
