"""Lines of 48TiO, which linemake's list of titanium oxide lacks, from those of 47TiO and 49TiO.

The isotopologues of a diatomic molecule have the same lines, with energies that scale with the reduced mass mu: those
of vibration with mu^(-1/2), those of rotation with 1/mu. A line of 49TiO belongs to one of 47TiO if gf is the same, the
lower level lies as much lower as such a scaling allows, and the wavelength is near. Of several candidates in one list
for a line of the other, the one nearest in gf and level is taken, and only if both choose each other. Line and levels
of 48TiO lie between theirs, in the ratio of mu^(-1/2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

_OXYGEN, _TITANIUM = 15.9949, {47: 46.9518, 48: 47.9479, 49: 48.9479}
_SCALE = {mass: ((m + _OXYGEN) / (m * _OXYGEN)) ** 0.5 for mass, m in _TITANIUM.items()}
BETWEEN = (_SCALE[47] - _SCALE[48]) / (_SCALE[47] - _SCALE[49])  # of 48 on the way from 47 to 49
_SHRINK = 1.0 - _SCALE[49] / _SCALE[47]  # of a vibrational energy; a rotational one shrinks by twice as much
_ROUNDED = 0.0012  # eV; levels are given to 0.001
_SAME_GF = 6  # thousandths of a dex
_FARTHEST = 20.0  # 1/cm between the lines of a pair


def paired(light: Array, heavy: Array) -> tuple[Indices, Indices]:
    """Which rows of 47TiO and 49TiO (N, 3: wavelength in Å, lower level in eV, log gf) belong together: two (P,)."""
    forth, back = _nearest(light, heavy, 1.0), _nearest(heavy, light, -1.0)
    rows = np.flatnonzero(forth >= 0)
    rows = rows[back[forth[rows]] == rows]
    return rows, forth[rows]


def between(light: Array, heavy: Array) -> Array:
    """Rows of 48TiO from paired rows (P, 3) of 47TiO and 49TiO."""
    return np.asarray((1.0 - BETWEEN) * light + BETWEEN * heavy)


def _nearest(rows: Array, others: Array, sign: float) -> Indices:
    # For every row the row of `others` that is most likely the same line, or -1; sign +1 where these are heavier.
    grid = np.rint(1000.0 * others[:, 2]).astype(np.int64)
    place = grid * 100_000.0 + others[:, 0]
    order = np.argsort(place)
    place = place[order]
    own = np.rint(1000.0 * rows[:, 2]).astype(np.int64)
    window = _FARTHEST * 1e-8 * rows[:, 0] ** 2
    best, chosen = np.full(len(rows), np.inf), np.full(len(rows), -1)
    for off in range(-_SAME_GF, _SAME_GF + 1):
        centre = (own + off) * 100_000.0 + rows[:, 0]
        first, last = np.searchsorted(place, centre - window), np.searchsorted(place, centre + window)
        for step in range(int((last - first).max(initial=0))):
            open_ = np.flatnonzero(first + step < last)
            other = order[first[open_] + step]
            drop = sign * (rows[open_, 1] - others[other, 1])
            level = np.maximum(rows[open_, 1], others[other, 1])
            expected = 1.5 * _SHRINK * level
            off_level = np.abs(drop - expected) / (0.5 * _SHRINK * level + _ROUNDED)
            cost = np.where(off_level <= 1.0, abs(off) / _SAME_GF + 0.3 * off_level, np.inf)
            better = cost < best[open_]
            best[open_[better]], chosen[open_[better]] = cost[better], other[better]
    return chosen
