"""Does each row of a grid fit its neighbours? They predict it through their derivatives, or by a linear fit without.

Single wrong rows and wrong derivatives show here, which are sound spectra by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from tqdm import tqdm

from kurucz_grids.check_result import CheckResult
from phdlspec.labels import STRUCTURE

Array = NDArray[np.float64]

# Departure from the neighbours, in units of the usual one: warning and error. In a grid of 1,976 models in 32 labels
# the greatest is 14.2 with derivatives, and below 8 without; a Teff wrong by 600 K gives 40 (median) with derivatives.
DEPARTURE = {True: (16.0, 20.0), False: (8.0, 12.0)}
BINS = 330  # of ln(wave), 13 Å at 5000 Å, in which rows are compared: 180 MB for 4,096 models
SLOPE_ERROR = 0.3  # of the differences between rows along the derivatives of a label; sound grids: within 0.07
SLOPE_SIGMA = 5.0
SLOPE_ROWS = 100  # fewer do not tell the labels apart


def binned(spectra: NDArray[Any]) -> NDArray[np.float32]:
    """Means (..., K) of spectra (..., P) in equal bins: what a comparison of all rows can hold."""
    edges = np.linspace(0, spectra.shape[-1], min(BINS, spectra.shape[-1]) + 1).astype(int)
    return (np.add.reduceat(spectra, edges[:-1], axis=-1) / np.diff(edges)).astype(np.float32)


@dataclass(frozen=True)
class Sketch:
    """All finite rows in K broad bins: rows (n,) in the grid, labels and unit (n, L), flux (n, K), jacobian
    (n, L, K) or None."""

    rows: NDArray[np.int64]
    label_names: tuple[str, ...]
    labels: Array
    unit: Array
    flux: Array
    jacobian: NDArray[np.float32] | None

    def columns(self, names: Iterable[str]) -> list[int]:
        """Places of labels."""
        return [self.label_names.index(name) for name in names]


@dataclass(frozen=True)
class NeighbourPairs:
    """Each row and the neighbour that its derivatives predict best, (n,) each: rms of predicted and actual
    differences of flux, of what the prediction leaves, and the slope of actual on predicted."""

    partner: NDArray[np.int64]
    predicted: Array
    residual: Array
    slope: Array

    @property
    def misfit(self) -> Array:
        """Residuals over what such differences leave: they grow as the power 1.5 of the difference."""
        return self.residual / np.hypot(self.predicted, 1e-3) ** 1.5


def compare_neighbours(sketch: Sketch, progress: bool) -> Iterator[CheckResult]:
    """Compare each row with what its neighbours predict for it; fewer findings where there are few rows."""
    if sketch.jacobian is None:
        yield CheckResult("derivatives", "warning", "the grid has no differential spectra")
        yield _outliers(sketch, _linear_departures(sketch), DEPARTURE[False])
        return
    if len(sketch.rows) < 2:
        yield CheckResult("neighbours", "warning", "no two rows to compare")
        return
    near = _nearest(sketch.unit[:, sketch.columns(STRUCTURE)], 12)
    pairs = _best_pairs(sketch, sketch.jacobian, near, progress)
    # What is usual differs between regions: hot and metal-poor giants are predicted worse than dwarfs.
    usual = np.median(pairs.misfit[near], axis=1)
    departure = pairs.misfit / np.maximum(usual, 1e-12)
    yield _prediction(pairs)
    yield _outliers(sketch, departure, DEPARTURE[True])
    sound = departure < DEPARTURE[True][0]
    chosen = np.flatnonzero(sound & sound[pairs.partner] & (pairs.predicted > 0))
    if len(chosen) >= SLOPE_ROWS:
        yield _slopes(sketch, sketch.jacobian, pairs, chosen)


def _nearest(points: Array, count: int) -> NDArray[np.int64]:
    """The nearest other points, (n, at most count)."""
    count = min(count, len(points) - 1)
    found = np.asarray(cKDTree(points).query(points, k=count + 1)[1])
    return np.array([row[row != a][:count] for a, row in enumerate(found)])


def _rms(values: Array) -> Array:
    answer: Array = np.sqrt((values.astype(float) ** 2).mean(axis=-1))
    return answer


def _best_pairs(
    sketch: Sketch, jacobian: NDArray[np.float32], near: NDArray[np.int64], progress: bool
) -> NeighbourPairs:
    """Predict the differences to the five most similar of the neighbours, and keep the one that fits best.

    For a smooth function the mean of the slopes at both ends predicts the difference to third order. A row that
    is wrong fits none of its neighbours; a sound one fits all but those that are wrong.
    """
    found = []
    for a in tqdm(range(len(near)), desc="neighbours", unit="row", disable=not progress):
        sizes = _rms((sketch.labels[near[a]] - sketch.labels[a]) @ jacobian[a])
        others = near[a][np.argsort(sizes)[:5]]
        steps = sketch.labels[others] - sketch.labels[a]
        predicted = 0.5 * (steps @ jacobian[a] + np.einsum("bl,blk->bk", steps, jacobian[others]))
        actual = sketch.flux[others] - sketch.flux[a]
        size, residual = _rms(predicted), _rms(actual - predicted)
        slope = (actual * predicted).mean(axis=1) / np.maximum(size, 1e-12) ** 2
        k = int(np.argmin(residual / np.hypot(size, 1e-3) ** 1.5))
        found.append((others[k], size[k], residual[k], slope[k]))
    partner, predicted, residual, slope = map(np.array, zip(*found))
    return NeighbourPairs(partner, predicted, residual, slope)


def _prediction(pairs: NeighbourPairs) -> CheckResult:
    known = pairs.predicted > 0
    if not known.any():
        return CheckResult("derivatives", "error", "no derivative tells rows apart")
    median = float(np.median(pairs.residual[known] / pairs.predicted[known]))
    text = (
        f"differences of near rows against their derivatives: median relative residual {median:.3f}, "
        f"median slope {np.median(pairs.slope[known]):.3f} ({known.sum()} pairs)"
    )
    return CheckResult("derivatives", "error" if median > 0.7 else "warning" if median > 0.4 else "ok", text)


def _outliers(sketch: Sketch, departure: Array, limits: tuple[float, float]) -> CheckResult:
    if not len(departure):
        return CheckResult("outliers", "warning", f"{len(sketch.rows)} rows are too few to compare with each other")
    worst = [k for k in np.argsort(-departure) if departure[k] > limits[0]]
    if not worst:
        return CheckResult("outliers", "ok", "no row departs from its neighbours")
    listed = ", ".join(f"{sketch.rows[k]} ({departure[k]:.0f} times the usual)" for k in worst[:8])
    level = "error" if departure[worst[0]] > limits[1] else "warning"
    return CheckResult("outliers", level, f"{len(worst)} rows depart from their neighbours: {listed}")


def _slopes(
    sketch: Sketch, jacobian: NDArray[np.float32], pairs: NeighbourPairs, chosen: NDArray[np.int64]
) -> CheckResult:
    """By what factor the differences between rows follow the derivatives of each label: 1, if they are right.

    Least squares over all pairs and bins, weighted with what such differences leave; the errors are those of a
    jackknife over twenty parts of the rows.
    """
    n_labels = len(sketch.label_names)
    normal, right = np.zeros((20, n_labels, n_labels)), np.zeros((20, n_labels))
    for a in chosen:
        b = pairs.partner[a]
        step = sketch.labels[b] - sketch.labels[a]
        parts = 0.5 * step[:, None] * (jacobian[a].astype(float) + jacobian[b])
        weight = np.hypot(pairs.predicted[a], 1e-3) ** -3
        normal[a % 20] += weight * parts @ parts.T
        right[a % 20] += weight * parts @ (sketch.flux[b] - sketch.flux[a])
    live = np.flatnonzero(np.diagonal(normal.sum(axis=0)) > 0)
    normal, right = normal[:, live][:, :, live], right[:, live]

    def solve(matrix: Array, vector: Array) -> Array:
        return np.asarray(np.linalg.lstsq(matrix, vector, rcond=1e-10)[0])

    slope = solve(normal.sum(axis=0), right.sum(axis=0))
    without = [solve(normal.sum(axis=0) - m, right.sum(axis=0) - v) for m, v in zip(normal, right)]
    error = np.sqrt(19 / 20 * ((without - np.mean(without, axis=0)) ** 2).sum(axis=0))
    off = np.abs(slope - 1)
    wrong = [k for k in np.argsort(-off) if off[k] > max(SLOPE_ERROR, SLOPE_SIGMA * error[k])]
    if not wrong:
        span = f"factors {slope.min():.2f} to {slope.max():.2f}"
        return CheckResult("slopes", "ok", f"differences follow the derivatives of all {len(live)} labels, {span}")
    listed = ", ".join(f"{sketch.label_names[live[k]]} {slope[k]:.2f} ± {error[k]:.2f}" for k in wrong[:8])
    return CheckResult("slopes", "error", f"differences over derivatives are not 1 for {len(wrong)} labels: {listed}")


def _linear_departures(sketch: Sketch) -> Array:
    """How far each row lies from a linear fit to its neighbours in the labels that vary, in units of what the
    fit leaves of them; (0,) if there are too few rows. Beyond six labels the main ones are taken: abundances
    are part of what the fit leaves."""
    varied = [k for k in range(sketch.unit.shape[1]) if np.ptp(sketch.unit[:, k]) > 0]
    columns = varied if len(varied) <= 6 else sketch.columns(STRUCTURE)
    count = max(20, 4 * (len(columns) + 1))
    if len(sketch.rows) <= count:
        return np.empty(0)
    points = sketch.unit[:, columns]
    near = _nearest(points, count)
    departures = []
    for a, others in enumerate(near):
        design = np.column_stack([np.ones(count), points[others] - points[a]])
        inverse = np.linalg.pinv(design)  # its first line gives the value at the row itself
        fit = inverse @ sketch.flux[others]
        left = _rms((sketch.flux[others] - design @ fit).ravel())
        lever = np.sqrt(1 + (inverse[0] ** 2).sum())  # rows at the edge are extrapolated to
        departures.append(_rms(sketch.flux[a] - fit[0]) / (lever * max(float(left), 1e-4)))
    return np.array(departures)
