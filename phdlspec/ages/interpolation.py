"""Interpolation between the nodes of a set at a fixed equivalent evolutionary point, and how well it does.

Cubic (Lagrange, through two nodes on either side) where all four have the point, linear where only the nearest two do,
nothing elsewhere: the grid is never extrapolated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from phdlspec.ages.isochrones import Isochrones

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
    return np.take(values, near, axis=axis)


@dataclass(frozen=True)
class InterpolationError:
    """Interpolated minus true points of isochrones that were left out, on the subgiant branch.

    median and 95th percentile of the absolute differences in Teff (K), log g and log L at fixed EEP, and of the
    relative age error that the difference in luminosity at fixed Teff stands for.
    """

    axis: str
    spacing: float
    points: int
    teff: tuple[float, float]
    logg: tuple[float, float]
    log_l: tuple[float, float]


def interpolation_error(isochrones: Isochrones, axis: str, stage: int = 1) -> InterpolationError:
    """Leave out every other node of an axis ("mh" or "age") and interpolate it from the rest.

    The error is that of twice the set's own spacing; a cubic interpolation at the spacing itself is up to sixteen
    times as good.
    """
    nodes = isochrones.mh if axis == "mh" else isochrones.log_age
    number = 0 if axis == "mh" else 1
    kept, dropped = np.arange(0, len(nodes), 2), np.arange(1, len(nodes) - 1, 2)
    everything = [np.arange(len(isochrones.mh)), np.arange(len(isochrones.log_age))]
    rest = isochrones.nodes(*[kept if k == number else everything[k] for k in (0, 1)])
    truth = isochrones.nodes(*[dropped if k == number else everything[k] for k in (0, 1)])
    made = interpolate(rest, truth.mh, truth.log_age, truth.eep)
    use = (truth.quantities["stage"] == stage) & made.filled
    return InterpolationError(
        axis, float(np.median(np.diff(nodes[kept]))), int(use.sum()),
        _summary(_teff(made.quantities)[use] - _teff(truth.quantities)[use]),
        _summary((made.quantities["logg"] - truth.quantities["logg"])[use]),
        _summary((made.quantities["log_l"] - truth.quantities["log_l"])[use]),
    )  # fmt: skip


def _teff(quantities: Mapping[str, Array]) -> Array:
    return np.asarray(10.0 ** quantities["log_teff"])


def _summary(difference: Array) -> tuple[float, float]:
    if not len(difference):
        return float("nan"), float("nan")
    size = np.abs(difference)
    return float(np.median(size)), float(np.quantile(size, 0.95))
