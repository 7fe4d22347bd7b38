"""The strength of the Balmer lines with their wings, from the spectrum with the continuum put back.

The splines that are divided out, with knots every 400 Å, take the wings of an A star's hydrogen lines with them, and
what is left looks like an F star. With the continuum put back the lines have their whole strength: a mean equivalent
width of 3 Å for the Sun, 12 Å at 7500 K, 15 Å and more for A stars.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phdlspec.datadriven.dataset import LEVEL_EVERY, Dataset

Array = NDArray[np.float64]

LINES = (4862.7, 4341.7, 4102.9)  # H beta, gamma, delta; vacuum Å
HALF_WIDTH = 35.0  # Å, of the line
BESIDE = (50.0, 95.0)  # Å from its centre, where the straight line beneath is taken
COVERED = 0.6  # of a line's pixels must be good


def balmer_strength(data: Dataset) -> Array:
    """Mean equivalent width (N,) of the three lines in Å, of those that the spectrum covers; NaN where it has none, or
    its continuum was not kept."""
    if not len(data.level):
        return np.full(len(data), np.nan)
    widths = np.stack([_width(data, line) for line in LINES])
    known = np.isfinite(widths)
    return np.where(known.any(axis=0), np.where(known, widths, 0.0).sum(axis=0) / known.sum(axis=0).clip(1), np.nan)


def _width(data: Dataset, line: float) -> Array:
    # Equivalent width (N,) of one line; NaN where pixels or continuum are wanting.
    inside = np.flatnonzero(np.abs(data.wave - line) < BESIDE[1])
    offset = data.wave[inside] - line
    known = np.isfinite(data.level)
    places = np.arange(data.level.shape[1]) * LEVEL_EVERY
    continuum = np.stack([
        np.exp(np.interp(inside, places[k], row[k])) if k.any() else np.full(len(inside), np.nan)
        for row, k in zip(data.level, known)
    ])  # fmt: skip
    flux, good = data.flux[:, inside] * continuum, (data.ivar[:, inside] > 0) & np.isfinite(continuum)
    core, blue, red = np.abs(offset) < HALF_WIDTH, offset < -BESIDE[0], offset > BESIDE[0]
    (x_blue, y_blue), (x_red, y_red) = (_means(offset[s], flux[:, s], good[:, s]) for s in (blue, red))
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (y_red - y_blue) / (x_red - x_blue)
        beneath = y_blue[:, None] + slope[:, None] * (offset[core] - x_blue[:, None])
        depth = np.where(good[:, core], 1.0 - flux[:, core] / beneath, 0.0)
        width = 2.0 * HALF_WIDTH * depth.sum(axis=1) / good[:, core].sum(axis=1)
    return np.where(good[:, core].mean(axis=1) >= COVERED if core.any() else False, width, np.nan)


def _means(offset: Array, flux: Array, good: NDArray[np.bool_]) -> tuple[Array, Array]:
    # Mean offset and flux (N,) of the good pixels.
    with np.errstate(divide="ignore", invalid="ignore"):
        count = good.sum(axis=1)
        return (good * offset).sum(axis=1) / count, np.where(good, flux, 0.0).sum(axis=1) / count
