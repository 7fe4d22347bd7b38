"""One set of isochrones as a cube in [M/H], age and equivalent evolutionary point (EEP).

Points of different isochrones with the same EEP are in the same state (the turn-off with the turn-off, the foot of the
giant branch with the foot), so that between isochrones every quantity is interpolated at a fixed EEP (Dotter 2016,
ApJS 222, 8). Sets that state EEPs keep them; for the others the path between the ends of their phases is divided
evenly in the plane of Teff and luminosity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from phdlspec.ages.rows import QUANTITIES, IsochronePoints, SetFacts
from phdlspec.ages.stages import stages_of
from phdlspec.errors import UserError

Array = NDArray[np.float64]

YOUNGEST = 8.0  # log10 yr: younger isochrones are left out, pre-main-sequence stars with them
_POINTS_PER_PHASE = 200  # where equivalent points are made
_TEFF_WEIGHT = 10.0  # 0.1 dex in Teff is as long a path as 1 dex in luminosity
_SAME = 1e-3  # dex: nodes of age and [M/H] that differ by less are one


@dataclass(frozen=True)
class Isochrones:
    """A set of isochrones on common nodes.

    Attributes
    ----------
    facts : of the set
    mh : (M,) nodes of the initial [M/H]; log_age : (A,) nodes of log10(age/yr); eep : (E,)
    quantities : arrays (M, A, E) of `QUANTITIES` and "stage"; NaN where the set has no point
    magnitudes : absolute magnitudes (M, A, E) by band; empty for sets without photometry
    """

    facts: SetFacts
    mh: Array
    log_age: Array
    eep: Array
    quantities: Mapping[str, Array]
    magnitudes: Mapping[str, Array] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, A, E)."""
        return len(self.mh), len(self.log_age), len(self.eep)

    @property
    def filled(self) -> NDArray[np.bool_]:
        """True (M, A, E) where there is a point."""
        return np.isfinite(self.quantities["log_teff"])

    def nodes(self, mh: NDArray[np.intp], age: NDArray[np.intp]) -> Isochrones:
        """The isochrones of these nodes alone, for tests of the interpolation between them."""
        pick = np.ix_(mh, age)
        return replace(
            self, mh=self.mh[mh], log_age=self.log_age[age],
            quantities={name: values[pick] for name, values in self.quantities.items()},
            magnitudes={band: values[pick] for band, values in self.magnitudes.items()},
        )  # fmt: skip

    def between(self, low: float, high: float) -> Isochrones:
        """The isochrones with log10(age/yr) from `low` to `high`."""
        age = np.flatnonzero((self.log_age >= low - _SAME) & (self.log_age <= high + _SAME))
        if not len(age):
            raise UserError(
                f"{self.facts.name}: no isochrone between {10 ** (low - 9):.2f} and {10 ** (high - 9):.2f} Gyr; the "
                f"set has {10 ** (self.log_age[0] - 9):.2f} to {10 ** (self.log_age[-1] - 9):.2f} Gyr"
            )
        return self.nodes(np.arange(len(self.mh)), age)


def build(rows: IsochronePoints, path: str = "") -> Isochrones:
    """The cube of the rows of a set. Raises `UserError` where the isochrones do not make a grid."""
    where = path or rows.facts.name
    rows = rows.take(_usable(rows))
    if not len(rows):
        raise UserError(f"{where}: no isochrone older than {10 ** (YOUNGEST - 6):.0f} Myr in it")
    mh, mh_index = _nodes(rows.mh)
    log_age, age_index = _nodes(rows.log_age)
    isochrone = mh_index * len(log_age) + age_index
    order = np.lexsort((np.arange(len(rows)), isochrone))
    edges = np.searchsorted(isochrone[order], np.arange(len(mh) * len(log_age) + 1))
    parts = [order[a:b] for a, b in zip(edges[:-1], edges[1:])]
    if rows.eep is None:
        eep_of = [_equivalent_points(rows, part) for part in parts]
        made = np.concatenate(eep_of)
        eep = np.arange(np.floor(made.min()), np.ceil(made.max()) + 1)
    else:
        eep_of = [rows.eep[part] for part in parts]
        eep = np.unique(np.round(np.concatenate(eep_of), 6))
    names = [*QUANTITIES, "stage"]
    cube = {name: np.full((len(mh), len(log_age), len(eep)), np.nan) for name in [*names, *rows.magnitudes]}
    for k, (part, own) in enumerate(zip(parts, eep_of)):
        if len(part) < 3:
            continue
        i, j = divmod(k, len(log_age))
        at, values = _one_isochrone(rows, part, own, eep)
        for name, column in values.items():
            cube[name][i, j, at] = column
    _check(cube["log_teff"], mh, log_age, where)
    return Isochrones(
        rows.facts, mh, log_age, eep, {name: cube[name] for name in names},
        {band: cube[band] for band in rows.magnitudes},
    )  # fmt: skip


def _usable(rows: IsochronePoints) -> NDArray[np.bool_]:
    use = rows.log_age >= YOUNGEST - _SAME
    for name in ("initial_mass", "mass", "log_teff", "logg", "log_l"):
        use &= np.isfinite(rows.quantities[name])
    return np.asarray(use)


def _nodes(values: Array) -> tuple[Array, NDArray[np.intp]]:
    """The nodes of an axis, values nearer than `_SAME` being one, and the node of each value."""
    unique, inverse = np.unique(values, return_inverse=True)
    group = np.concatenate([[0], np.cumsum(np.diff(unique) > _SAME)]).astype(np.intp)
    nodes = np.bincount(group, weights=unique) / np.bincount(group)
    return nodes, group[inverse]


def _check(log_teff: Array, mh: Array, log_age: Array, where: str) -> None:
    missing = ~np.isfinite(log_teff).any(axis=2)
    if missing.mean() > 0.5:
        i, j = np.argwhere(missing)[0]
        raise UserError(
            f"{where}: its isochrones do not make a grid, {int(missing.sum())} of {missing.size} pairs of [M/H] and "
            f"age are missing, the first at [M/H] = {mh[i]:+.2f} and log age {log_age[j]:.2f}; download all [M/H] with "
            "the same ages"
        )


def _one_isochrone(
    rows: IsochronePoints, part: NDArray[np.intp], own: Array, eep: Array
) -> tuple[NDArray[np.intp], dict[str, Array]]:
    """Positions on the common axis of EEP and the values there, of one isochrone."""
    sort = np.argsort(own, kind="stable")
    own, part = own[sort], part[sort]
    keep = np.concatenate([[True], np.diff(own) > 0])
    own, part = own[keep], part[keep]
    values = {name: column[part] for name, column in rows.quantities.items()}
    values |= {band: column[part] for band, column in rows.magnitudes.items()}
    helium = None if rows.helium is None else rows.helium[part]
    values["stage"] = stages_of(values["log_teff"], values["logg"], values["log_l"], own, helium)
    if rows.eep is not None:
        return np.searchsorted(eep, np.round(own, 6)), values
    inside = np.flatnonzero((eep >= own[0]) & (eep <= own[-1]))
    return inside, {name: np.interp(eep[inside], own, column) for name, column in values.items()}


def _equivalent_points(rows: IsochronePoints, part: NDArray[np.intp]) -> Array:
    """Points of equal progress: whole multiples of `_POINTS_PER_PHASE` where a phase of the set ends."""
    segment = rows.segment[part]
    path = np.zeros(len(part))
    teff, log_l = rows.quantities["log_teff"][part], rows.quantities["log_l"][part]
    path[1:] = np.cumsum(np.hypot(_TEFF_WEIGHT * np.diff(teff), np.diff(log_l)))
    eep = np.empty(len(part))
    for number in np.unique(segment):
        inside = np.flatnonzero(segment == number)
        start = max(int(inside[0]) - 1, 0)
        stop = int(inside[-1])
        length = max(path[stop] - path[start], 1e-12)
        eep[inside] = _POINTS_PER_PHASE * (number + (path[inside] - path[start]) / length)
    return eep
