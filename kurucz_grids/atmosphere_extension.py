"""One grid of atmospheres over the whole range of labels, from published sets that each cover a part of it.

* *One microturbulence*: a set of one metallicity that was computed with another microturbulence than the rest is a step
  across metallicities (0 against 2 km/s: 10-25 K where lines form). What it differs by from its neighbours in [M/H], as
  a smooth function of Teff and log g in each layer, is taken out.
* *Fewer metals*: another set of models, with opacities of its own, goes on to lower [M/H]. Its structures are not those
  of the first set, but their differences along [M/H] are where both exist, so these are set on top of the first set's
  most metal-poor models. Kurucz's set of 1993 has overshooting, which comes and goes with [M/H] around optical depth
  one: where it shows, the differences of its temperatures are bridged from above and below.
* *Higher gravity*: a parabola through the three highest gravities reaches a little beyond them.

All of it in the logarithm of every positive quantity, layer by layer, as atmospheres are interpolated
(`atmosphere_grid`); the radiative acceleration is that of the model next to it.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from kurucz_grids.atmosphere_grid import AtmosphereGrid, from_logs, to_logs
from phdlspec.errors import UserError

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

HIGHEST_LOGG = 5.2
LOWEST_METALS = -4.5  # one step beyond the range of labels, so that -4 is no edge
OVERSHOOT = -1.0, 1.25  # log10 of the Rosseland depth between which overshooting rules differences along [M/H]
# Without overshooting, what [M/H] does to T fades towards optical depth one, below which convection sets in: the bridge
# leads there through this part of its upper end. It counts fully where the sets differ by a range of the second value
# in ln T or more, not at all below the first (cool dwarfs). Chosen where the sets overlap, [M/H] -2 to -2.5.
_FADES_TO = 0.3
_OVERSHOOTS = 0.03, 0.06
_POSITIVE = 5  # columns of a structure that are: all before the radiative acceleration
_T, _VTURB = 1, 6  # columns
_DEGREE = 4  # of the polynomial in 5040 K/Teff and log g that tells what a microturbulence does
_OUTLIER = 4.0  # robust standard deviations: where convection sets in elsewhere, two models tell nothing of it
_ROUNDS = 5


def extended(grid: AtmosphereGrid, metal_poor: AtmosphereGrid | None = None) -> AtmosphereGrid:
    """A grid of one microturbulence that reaches up to log g 5.2 and, with `metal_poor`, down to [M/H] -4.5.

    Raises `UserError` if the two sets have other layers or no metallicity in common to hold them together.
    """
    grid = with_one_microturbulence(grid)
    if metal_poor is not None:
        grid = with_fewer_metals(grid, metal_poor)
    return with_higher_gravity(grid)


def with_one_microturbulence(grid: AtmosphereGrid) -> AtmosphereGrid:
    """The grid with the sets of another microturbulence brought to that of most models.

    A set without two others on either side of it in [M/H] stays as it is, with a log line.
    """
    usual = float(np.median(grid.params[:, 3]))
    other = np.unique(grid.params[~np.isclose(grid.params[:, 3], usual), 2])
    alike = np.setdiff1d(grid.axes[2], other)
    params, structure = grid.params.copy(), grid.structure.copy()
    for mh in other:
        neighbours = np.concatenate([alike[alike < mh][-2:], alike[alike > mh][:2]])
        if len(alike[alike < mh]) < 2 or len(alike[alike > mh]) < 2:
            log.warning("%s: the models of [M/H] %g have a microturbulence of their own", grid.source, mh)
            continue
        rows = np.flatnonzero(params[:, 2] == mh)
        sources = [[_row(grid, params[row, 0], params[row, 1], m) for m in neighbours] for row in rows]
        known = np.array([None not in source for source in sources])
        logs = to_logs(structure[:, :, :_POSITIVE])
        there = logs[np.array([source for source in sources if None not in source], dtype=int)]
        step = logs[rows[known]] - np.tensordot(there, _lagrange(neighbours, mh), axes=(1, 0))
        basis = _polynomials(params[rows])
        change = np.einsum("np,pdq->ndq", basis, _robust_fit(basis[known], step))
        structure[rows, :, :_POSITIVE] = from_logs(logs[rows] - change)
        structure[rows, :, _VTURB] = usual * 1e5
        params[rows, 3] = usual
    return AtmosphereGrid(params, structure, grid.titles, grid.source)


def with_fewer_metals(grid: AtmosphereGrid, metal_poor: AtmosphereGrid) -> AtmosphereGrid:
    """The grid with further metallicities, down to -4.5: its lowest one and the differences of the other set to that.

    Models of the other set that are missing there or at the lowest metallicity in common are missing here.
    """
    start = float(grid.axes[2][0])
    if start not in metal_poor.axes[2]:
        raise UserError(
            f"{metal_poor.source}: it has no models of [M/H] {start:g}, the lowest of {grid.source}, from which its "
            "differences could be taken; take sets that overlap"
        )
    depth = _depth(grid)
    if depth.shape != _depth(metal_poor).shape or not np.allclose(depth, _depth(metal_poor), atol=0.05):
        raise UserError(f"{metal_poor.source}: its layers are not those of {grid.source}; take sets of one depth scale")
    params, structure, titles = [grid.params], [grid.structure], [grid.titles]
    for index, (teff, logg, mh) in enumerate(metal_poor.params[:, :3]):
        here, there = _row(grid, teff, logg, start), _row(metal_poor, teff, logg, start)
        if mh >= start or mh < LOWEST_METALS or here is None or there is None:
            continue
        poorer, richer = (to_logs(metal_poor.structure[row, :, :_POSITIVE]) for row in (index, there))
        change = poorer - richer
        offset = np.log(metal_poor.structure[there, :, _T] / grid.structure[here, :, _T])
        change[:, _T] = _without_overshoot(depth, change[:, _T], offset)
        model = grid.structure[here].copy()
        model[:, :_POSITIVE] = from_logs(to_logs(model[:, :_POSITIVE]) + change)
        params.append(np.array([[teff, logg, mh, grid.params[here, 3]]]))
        structure.append(model[None])
        titles.append(np.array([f"[{mh:+.1f}] differences"]))
    source = f"{grid.source} with {metal_poor.source}"
    return AtmosphereGrid(np.concatenate(params), np.concatenate(structure), np.concatenate(titles), source)


def with_higher_gravity(grid: AtmosphereGrid, logg: float = HIGHEST_LOGG) -> AtmosphereGrid:
    """The grid with models of a log g beyond its end, from the three highest gravities of each Teff and [M/H]."""
    highest = grid.axes[1][-3:]
    if len(highest) < 3 or highest[-1] >= logg:
        return grid
    weights = _lagrange(highest, logg)
    params, structure, titles = [grid.params], [grid.structure], [grid.titles]
    for teff, g, mh, vturb in grid.params:
        rows = [row for node in highest if (row := _row(grid, teff, node, mh)) is not None]
        if g != highest[-1] or len(rows) < len(highest):
            continue
        model = grid.structure[rows[-1]].copy()
        model[:, :_POSITIVE] = from_logs(np.tensordot(weights, to_logs(grid.structure[rows, :, :_POSITIVE]), axes=1))
        params.append(np.array([[teff, logg, mh, vturb]]))
        structure.append(model[None])
        titles.append(np.array(["extrapolated in gravity"]))
    return AtmosphereGrid(np.concatenate(params), np.concatenate(structure), np.concatenate(titles), grid.source)


def _without_overshoot(depth: Array, change: Array, offset: Array) -> Array:
    # Change of ln T (D,) by [M/H], without overshooting where `offset` (D,), ln T less that of the other set, shows it.
    inside = (depth > OVERSHOOT[0]) & (depth < OVERSHOOT[1])
    above, below = (depth <= OVERSHOOT[0]), (depth >= OVERSHOOT[1])
    x = np.concatenate([depth[above], [0.0], depth[below]])
    y = np.concatenate([change[above], _FADES_TO * change[above][-1:], change[below]])
    low, high = _OVERSHOOTS
    weight = np.clip((np.ptp(offset[inside]) - low) / (high - low), 0.0, 1.0)
    bridged = change.copy()
    bridged[inside] += weight * (PchipInterpolator(x, y)(depth[inside]) - change[inside])
    return bridged


def _row(grid: AtmosphereGrid, teff: float, logg: float, mh: float) -> int | None:
    found = np.flatnonzero((grid.params[:, :3] == (teff, logg, mh)).all(axis=1))
    return int(found[0]) if len(found) else None


def _depth(grid: AtmosphereGrid) -> Array:
    # log10 of the Rosseland depth of the layers, those of the median model.
    models = [grid.model(i) for i in range(0, len(grid), max(1, len(grid) // 50))]
    return np.median([np.log10(model.tau_rosseland) for model in models], axis=0)


def _lagrange(nodes: Array, x: float) -> Array:
    # Weights of the values at the nodes in the polynomial through them, at x.
    return np.array([np.prod((x - np.delete(nodes, i)) / (node - np.delete(nodes, i))) for i, node in enumerate(nodes)])


def _polynomials(params: Array) -> Array:
    # (N, terms) in 5040 K/Teff and log g.
    theta, logg = 5040.0 / params[:, 0] - 0.9, params[:, 1] - 2.5
    return np.stack([theta**i * logg**j for i in range(_DEGREE + 1) for j in range(_DEGREE + 1 - i)], axis=1)


def _robust_fit(basis: Array, values: Array) -> Array:
    """Coefficients (terms, …) of values (N, …), by least squares without the outliers of each column."""
    flat = values.reshape(len(values), -1)
    coefficients = np.empty((basis.shape[1], flat.shape[1]))
    for column in range(flat.shape[1]):
        good = np.ones(len(flat), dtype=bool)
        for _ in range(_ROUNDS):
            coefficients[:, column] = np.linalg.lstsq(basis[good], flat[good, column], rcond=None)[0]
            residual = np.abs(flat[:, column] - basis @ coefficients[:, column])
            good = residual <= _OUTLIER * 1.4826 * np.median(residual) + 1e-12
    return coefficients.reshape(-1, *values.shape[1:])
