"""Interpolation between the nodes of a set at a fixed equivalent evolutionary point, and how well it does.

Cubic (Lagrange, through two nodes on either side) where all four have the point, linear where only the nearest two do,
nothing elsewhere: the grid is never extrapolated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from phdlspec.ages.isochrones import Isochrones
from phdlspec.ages.stages import Stage

Array = NDArray[np.float64]

_EXACT = 1e-9


def along(values: Array, nodes: Array, targets: Array, axis: int) -> Array:
    """Values on an axis of `nodes` (n,) at `targets` (t,) within their range; the axis becomes t long."""
    near = np.clip(np.searchsorted(nodes, targets - _EXACT), 0, len(nodes) - 1)
    if (np.abs(nodes[near] - targets) < _EXACT).all():
        return np.take(values, near, axis=axis)
    values = np.moveaxis(values, axis, 0)
    shape = (len(targets), *values.shape[1:])
    flat = values.reshape(len(nodes), -1)
    known = np.isfinite(flat)
    flat = np.where(known, flat, 0.0)
    missing = (~known).astype(np.float32)
    result = np.full((len(targets), flat.shape[1]), np.nan)
    for weights in (_linear_weights(nodes, targets), _cubic_weights(nodes, targets)):
        at = np.flatnonzero(weights.any(axis=1))
        lacking = (weights[at] != 0).astype(np.float32) @ missing
        result[at] = np.where(lacking == 0, weights[at] @ flat, result[at])
    return np.moveaxis(result.reshape(shape), 0, axis)


def _linear_weights(nodes: Array, targets: Array) -> Array:
    """(t, n); a node that is hit exactly stands alone, also where its neighbour has no point."""
    weights = np.zeros((len(targets), len(nodes)))
    rows = np.arange(len(targets))
    if len(nodes) == 1:
        weights[:, 0] = 1.0
        return weights
    left = _left(nodes, targets)
    share = (targets - nodes[left]) / (nodes[left + 1] - nodes[left])
    share = np.where(share < _EXACT, 0.0, np.where(share > 1.0 - _EXACT, 1.0, share))
    weights[rows, left] = 1.0 - share
    weights[rows, left + 1] = share
    return weights


def _cubic_weights(nodes: Array, targets: Array) -> Array:
    """(t, n) of Lagrange's polynomial through two nodes on either side; zero where there are not two."""
    weights = np.zeros((len(targets), len(nodes)))
    if len(nodes) < 4:
        return weights
    left = _left(nodes, targets)
    inner = np.flatnonzero((left > 0) & (left + 2 < len(nodes)) & (_linear_weights(nodes, targets).max(axis=1) < 1.0))
    x, left = targets[inner], left[inner]
    for k in range(-1, 3):
        weight = np.ones(len(x))
        for other in range(-1, 3):
            if other != k:
                weight *= (x - nodes[left + other]) / (nodes[left + k] - nodes[left + other])
        weights[inner, left + k] = weight
    return weights


def _left(nodes: Array, targets: Array) -> NDArray[np.intp]:
    return np.clip(np.searchsorted(nodes, targets, side="right") - 1, 0, len(nodes) - 2)


def interpolate(isochrones: Isochrones, mh: Array, log_age: Array, eep: Array) -> Isochrones:
    """The set on other nodes of [M/H], log10(age/yr) and EEP, all within its range."""

    def moved(values: Array, nearest: bool = False) -> Array:
        step = _nearest if nearest else along  # stages are whole numbers
        return step(step(step(values, own.eep, eep, 2), own.mh, mh, 0), own.log_age, log_age, 1)

    own = isochrones
    quantities = {name: moved(values, name == "stage") for name, values in own.quantities.items()}
    return replace(
        own, mh=mh, log_age=log_age, eep=eep, quantities=quantities,
        magnitudes={band: moved(values) for band, values in own.magnitudes.items()},
    )  # fmt: skip


def _nearest(values: Array, nodes: Array, targets: Array, axis: int) -> Array:
    near = np.abs(nodes[:, None] - targets[None, :]).argmin(axis=0)
    return np.asarray(np.take(values, near, axis=axis))


@dataclass(frozen=True)
class InterpolationError:
    """Interpolated minus true isochrones that were left out, on the subgiant branch.

    axis, spacing : what was interpolated over, and the step (dex) in the test; points : compared
    log_l : median and 95th percentile of the absolute difference in log L at fixed Teff
    age : the same as a relative error of the age that it stands for
    """

    axis: str
    spacing: float
    points: int
    log_l: tuple[float, float]
    age: tuple[float, float]


def interpolation_error(isochrones: Isochrones, axis: str) -> InterpolationError:
    """Leave out every other node of an axis ("mh" or "age") and interpolate it from the rest.

    The error is that of twice the set's own step; between its own nodes a cubic is up to sixteen times as good.
    """
    nodes = isochrones.mh if axis == "mh" else isochrones.log_age
    kept, dropped = np.arange(0, len(nodes), 2), np.arange(1, len(nodes) - 1, 2)
    mh, age = np.arange(len(isochrones.mh)), np.arange(len(isochrones.log_age))
    rest = isochrones.nodes(kept, age) if axis == "mh" else isochrones.nodes(mh, kept)
    truth = isochrones.nodes(dropped, age) if axis == "mh" else isochrones.nodes(mh, dropped)
    made = interpolate(rest, truth.mh, truth.log_age, truth.eep)
    branch = _branch(truth)
    difference = _branch(made) - branch
    slope = np.gradient(branch, truth.log_age, axis=1) if len(truth.log_age) > 1 else np.full(branch.shape, np.nan)
    with np.errstate(all="ignore"):
        age_error = np.abs(difference / slope) * np.log(10.0)
    return InterpolationError(
        axis, float(np.median(np.diff(nodes[kept]))), int(np.isfinite(difference).sum()),
        _summary(difference), _summary(age_error),
    )  # fmt: skip


_BRANCH_NODES = 12


def _branch(isochrones: Isochrones) -> Array:
    """log L (M, A, `_BRANCH_NODES`) of the subgiant branches at Teff evenly spaced from 5200 to 6300 K."""
    q = isochrones.quantities
    teff = np.linspace(5200.0, 6300.0, _BRANCH_NODES)
    result = np.full((*isochrones.shape[:2], _BRANCH_NODES), np.nan)
    for i, j in np.ndindex(*isochrones.shape[:2]):
        on = np.flatnonzero(q["stage"][i, j] == Stage.SUBGIANT)
        own, log_l = 10.0 ** q["log_teff"][i, j, on], q["log_l"][i, j, on]
        good = np.isfinite(own) & np.isfinite(log_l)
        if good.sum() < 5:
            continue
        order = np.argsort(own[good])
        result[i, j] = np.interp(teff, own[good][order], log_l[good][order], left=np.nan, right=np.nan)
    return result


def _summary(values: Array) -> tuple[float, float]:
    size = np.abs(values[np.isfinite(values)])
    if not len(size):
        return float("nan"), float("nan")
    return float(np.median(size)), float(np.quantile(size, 0.95))
