"""Where the references reach: cells of (Teff, logg, [Fe/H]) that hold a reference star, and their
neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from calibration.catalog import AXES

CELL = {"TEFF": 200.0, "LOGG": 0.4, "FE_H": 0.2}
_SIZE = np.array([CELL[name] for name in AXES])
LEAST = 3  # stars in a cell and its two neighbours on an axis
_ORIGIN = np.array([3000.0, -1.0, -4.0])
_SHAPE = (40, 20, 30)


@dataclass(frozen=True)
class Coverage:
    """Occupied cells as numbers into a fixed lattice (`CELL`, from 3000 K, logg -1, [Fe/H] -4), sorted;
    (k,)."""

    cells: NDArray[np.int64]

    @classmethod
    def of(cls, x: NDArray[Any]) -> Coverage:
        """From the coordinates (n, 3) of the reference stars.

        A star that is alone on an axis covers nothing: it may be a fit gone wrong, and a trend needs `LEAST` stars.
        """
        index, supported = _cell_index(x), np.ones(len(x), dtype=bool)
        for i, size in enumerate(_SHAPE):
            stars = np.bincount(index[:, i], minlength=size)
            supported &= np.convolve(stars, np.ones(3, dtype=int), "same")[index[:, i]] >= LEAST
        return cls(np.unique(_cell_number(x[supported])))

    def covers_axes(self, x: NDArray[Any]) -> NDArray[np.bool_]:
        """True where on every axis by itself a reference star lies in this cell or the next; (n,)."""
        index = _cell_index(x)
        reached = np.ones(len(x), dtype=bool)
        for i, cells in enumerate(np.unravel_index(self.cells, _SHAPE)):
            occupied = np.zeros(_SHAPE[i], dtype=bool)
            occupied[cells] = True
            reached &= _grown(occupied)[index[:, i]]
        return reached

    def near(self, x: NDArray[Any]) -> NDArray[np.bool_]:
        """True where a reference star lies in this cell or one that touches it, in all three dimensions;
        (n,)."""
        occupied = np.zeros(_SHAPE, dtype=bool)
        occupied.flat[self.cells] = True
        return _grown(occupied).flat[_cell_number(x)]


def _cell_index(x: NDArray[Any]) -> NDArray[np.int64]:
    return np.asarray(np.clip(np.floor((x - _ORIGIN) / _SIZE), 0, np.array(_SHAPE) - 1).astype(np.int64))


def _cell_number(x: NDArray[Any]) -> NDArray[np.int64]:
    return np.asarray(np.ravel_multi_index(tuple(_cell_index(x).T), _SHAPE))


def _grown(occupied: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return binary_dilation(occupied, np.ones((3,) * occupied.ndim, dtype=bool))
