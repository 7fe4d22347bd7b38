"""The basis of the bias: a constant, a straight line and penalised cubic splines along Teff, logg and [Fe/H].

On each axis the cubic B-splines on equal knots are turned into the eigenvectors of their second-difference
penalty (Eilers & Marx 1996): straight lines carry no penalty and become the linear column, every other column
has the same prior variance, so that one number a axis, its smoothness, sets how far the trend may bend.
Beyond the references the last value is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

DEGREE = 3


@dataclass(frozen=True)
class Axis:
    """One axis: its name, range and the number of equal knot intervals."""

    name: str
    lower: float
    upper: float
    intervals: int = 8

    @property
    def knots(self) -> NDArray[np.float64]:
        """The knots (intervals + 2 DEGREE + 1,), equally spaced and continued beyond the range."""
        step = (self.upper - self.lower) / self.intervals
        knots = self.lower + step * np.arange(-DEGREE, self.intervals + DEGREE + 1)
        knots[[DEGREE, -DEGREE - 1]] = self.lower, self.upper  # exactly, so that the ends are inside
        return np.asarray(knots, dtype=float)

    @cached_property
    def bending(self) -> NDArray[np.float64]:
        """Matrix (intervals + 3, intervals + 1) from B-splines to columns of equal prior variance, without
        lines."""
        size = self.intervals + DEGREE
        difference = np.diff(np.eye(size), n=2, axis=0)
        value, vector = np.linalg.eigh(difference.T @ difference)
        columns = vector[:, 2:] / np.sqrt(value[2:])
        grid = BSpline.design_matrix(np.linspace(self.lower, self.upper, 200), self.knots, DEGREE).toarray()
        bend = grid @ columns
        return np.asarray(columns / np.sqrt((bend**2).sum(axis=1).mean()), dtype=float)

    def columns(self, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The linear column (n,), -1 to 1 over the range, and the bending columns (n, intervals + 1)."""
        inside = np.clip(x, self.lower, self.upper)
        linear = 2 * (inside - self.lower) / (self.upper - self.lower) - 1
        splines = BSpline.design_matrix(inside, self.knots, DEGREE)
        return linear, np.asarray(splines @ self.bending)


@dataclass(frozen=True)
class Basis:
    """Columns: constant, one line an axis, then the bending columns of each axis."""

    axes: tuple[Axis, ...]

    @property
    def size(self) -> int:
        return 1 + len(self.axes) + sum(axis.intervals + 1 for axis in self.axes)

    @property
    def axis_of_column(self) -> NDArray[np.int64]:
        """For each column: -2 constant, -1 line, else the number of the axis whose smoothness it obeys;
        (size,)."""
        bends = [np.full(axis.intervals + 1, i) for i, axis in enumerate(self.axes)]
        return np.concatenate([[-2], np.full(len(self.axes), -1), *bends]).astype(np.int64)

    def design(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Columns (n, size) at the points x (n, axes); all x must be finite."""
        parts = [axis.columns(x[:, i]) for i, axis in enumerate(self.axes)]
        return np.column_stack([np.ones(len(x)), *(line for line, _ in parts), *(bend for _, bend in parts)])
