"""The set as weighted points, fine enough to sum over and ordered so that a star's neighbours are found fast.

A point stands for a cell of the grid in [M/H], age and EEP; its weight is the prior's mass of the cell,
xi(M_ini) dM_ini p(age) d age d[M/H]. Points are sorted by cells of surface [M/H], log g and Teff. A sum of a Gaussian
over evenly spaced points is exact to exp(-2 (pi sigma / step)^2), so that steps need only be as fine as the errors of a
star's labels: there are three levels, each made when the first star asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phdlspec.ages.distance import NO_MAGNITUDE
from phdlspec.ages.interpolation import interpolate
from phdlspec.ages.isochrones import Isochrones
from phdlspec.ages.priors import AgePrior
from phdlspec.ages.stages import Stage
from phdlspec.errors import UserError

Array = NDArray[np.float64]

YOUNGEST_GYR = 0.1
TEFF_RANGE, LOGG_RANGE = (3000.0, 10000.0), (-0.5, 5.7)
MASS_EDGES = np.geomspace(0.08, 12.0, 1101)
LOGG_EDGES = np.linspace(-0.6, 5.8, 1281)
_CELL_TEFF, _CELL_LOGG, _CELL_MH = 25.0, 0.05, 0.025
_SLAB = 8  # nodes of [M/H] interpolated at once: the whole would take gigabytes


@dataclass(frozen=True)
class Level:
    """Steps of a fine grid: dex in age, dex in [M/H], points on a subgiant branch; and the least errors in Teff (K) and
    [M/H] that it serves."""

    age: float
    mh: float
    subgiant_points: int
    least_teff: float
    least_mh: float


LEVELS: tuple[Level, ...] = (
    Level(0.0125, 0.025, 80, 0.0, 0.0), Level(0.025, 0.05, 40, 30.0, 0.035), Level(0.05, 0.1, 20, 90.0, 0.09),
)  # fmt: skip


@dataclass(frozen=True)
class IsochroneGrid:
    """Points of a set at one level, on one device; all columns are (N,).

    Attributes
    ----------
    labels : Teff, log g, surface [M/H] (3, N) float32
    ln_weight : ln of the prior's mass
    absolute : (B, N) absolute magnitudes of `bands`, `NO_MAGNITUDE` where there is none
    age_index, stage, mass_bin, logg_bin : int16, the last two into `MASS_EDGES` and `LOGG_EDGES`
    starts : (cells + 1,) first point of each cell; cells by [M/H], log g and Teff
    counts : number of cells on the three axes; origin : their lower corner
    """

    level: Level
    bands: tuple[str, ...]
    labels: torch.Tensor
    ln_weight: torch.Tensor
    absolute: torch.Tensor
    age_index: torch.Tensor
    stage: torch.Tensor
    mass_bin: torch.Tensor
    logg_bin: torch.Tensor
    starts: torch.Tensor
    counts: tuple[int, int, int]
    origin: tuple[float, float, float]
    log_age: Array
    age_edges: Array
    age_prior: Array

    @property
    def device(self) -> torch.device:
        """Where the points are."""
        return self.ln_weight.device

    def cells(self, axis: int, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """First and last cell (n,) of intervals on an axis (0 [M/H], 1 log g, 2 Teff); empty ones have last < first."""
        size = (_CELL_MH, _CELL_LOGG, _CELL_TEFF)[axis]
        first = torch.floor((low - self.origin[axis]) / size).clamp(min=0).long()
        last = torch.floor((high - self.origin[axis]) / size).clamp(max=self.counts[axis] - 1).long()
        return first, last


class IsochroneGrids:
    """The levels of a set under a prior, each made at its first use.

    Attributes
    ----------
    log_age (A,), age_edges (A + 1,) in Gyr and age_prior (A,) (prior mass of each age, summing to 1) : nodes of the age
        on which posteriors of all levels are stored, those of the finest level
    mh_range : of the set
    own_errors : (mag) of the isochrones' magnitudes by band
    """

    def __init__(
        self,
        isochrones: Isochrones,
        prior: AgePrior,
        bands: Sequence[str] = (),
        own_errors: dict[str, float] | None = None,
        device: str | torch.device = "cpu",
        levels: tuple[Level, ...] = LEVELS,
    ):
        self.isochrones, self.prior, self.bands = isochrones, prior, tuple(bands)
        self.own_errors, self.device, self.levels = own_errors or {}, torch.device(device), levels
        self.mh_range = (float(isochrones.mh[0]), float(isochrones.mh[-1]))
        self._made: dict[int, IsochroneGrid] = {}
        self._low = max(float(isochrones.log_age[0]), float(np.log10(YOUNGEST_GYR) + 9.0))
        self._top = min(float(isochrones.log_age[-1]), float(np.log10(prior.oldest_gyr) + 9.0))
        if self._top < self._low:
            raise UserError(f"{isochrones.facts.name}: no isochrone younger than {prior.oldest_gyr:g} Gyr")

    def level_of(self, sigma_teff: Array, sigma_mh: Array) -> NDArray[np.int64]:
        """The coarsest level (n,) that is fine enough for stars with these errors."""
        level = np.zeros(len(sigma_teff), dtype=np.int64)
        for k, steps in enumerate(self.levels):
            level[(sigma_teff >= steps.least_teff) & (sigma_mh >= steps.least_mh)] = k
        return level

    def __getitem__(self, level: int) -> IsochroneGrid:
        if level not in self._made:
            self._made[level] = self._make(self.levels[level])
        return self._made[level]

    def _make(self, level: Level) -> IsochroneGrid:
        isochrones = self.isochrones
        single = len(isochrones.log_age) == 1
        log_age = isochrones.log_age if single else _axis(self._low, self._top, level.age)
        mh = _axis(*self.mh_range, level.mh)
        edges = _edges(10.0 ** (log_age - 9.0))
        age_mass = np.diff(edges) * self.prior.age(10.0 ** (log_age - 9.0))
        own = replace(isochrones, magnitudes={band: isochrones.magnitudes[band] for band in self.bands})
        own = interpolate(own, own.mh, own.log_age, _eep_axis(isochrones, level.subgiant_points))
        parts = []
        for start in range(0, len(mh), _SLAB):
            slab = interpolate(own, mh[start : start + _SLAB], log_age, own.eep)
            parts.append(_columns(slab, self.prior, age_mass, self.bands))
        columns = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}
        if not len(columns["ln_weight"]):
            raise UserError(f"{isochrones.facts.name}: no point of it lies in the range of Teff and log g")
        columns, starts, counts, origin = _sorted(columns)
        return IsochroneGrid(
            level, self.bands, starts=torch.from_numpy(starts).to(self.device), counts=counts, origin=origin,
            log_age=log_age, age_edges=edges, age_prior=age_mass / age_mass.sum(),
            **{name: torch.from_numpy(values).to(self.device) for name, values in columns.items()},
        )  # fmt: skip


def _axis(low: float, high: float, step: float) -> Array:
    return np.linspace(low, high, max(int(round((high - low) / step)), 1) + 1) if high > low else np.array([low])


def _edges(age: Array) -> Array:
    """Borders (A + 1,) of the cells of ages (A,); the outer ones are the outer ages themselves."""
    if len(age) == 1:
        return np.array([age[0] * 0.999, age[0] * 1.001])
    return np.concatenate([age[:1], 0.5 * (age[1:] + age[:-1]), age[-1:]])


def _eep_axis(isochrones: Isochrones, wanted: int) -> Array:
    """The EEP axis thinned or filled so that the subgiant branch has about `wanted` points."""
    counts = (isochrones.quantities["stage"] == Stage.SUBGIANT).sum(axis=2)
    typical = float(np.median(counts[counts > 0])) if (counts > 0).any() else float(wanted)
    eep = isochrones.eep
    factor = wanted / max(typical, 1.0)
    if factor < 0.7:
        return eep[:: int(round(1.0 / factor))]
    if factor > 1.4:
        parts = int(np.ceil(factor))
        steps = np.diff(eep)
        whole = steps <= 3.0 * np.median(steps)  # not across gaps of the axis itself
        inner = eep[:-1, None] + steps[:, None] * np.arange(parts) / parts
        return np.sort(np.concatenate([inner[whole].ravel(), eep[:-1][~whole], eep[-1:]]))
    return eep


def _columns(slab: Isochrones, prior: AgePrior, age_mass: Array, bands: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The columns of `IsochroneGrid` of the points of a slab, unsorted."""
    q = slab.quantities
    teff = 10.0 ** q["log_teff"]
    with np.errstate(all="ignore"):
        weight = prior.mass(q["initial_mass"]) * _mass_steps(q["initial_mass"]) * age_mass[None, :, None]
        use = (
            np.isfinite(weight) & (weight > 0) & (teff > TEFF_RANGE[0]) & (teff < TEFF_RANGE[1])
            & (q["logg"] > LOGG_RANGE[0]) & (q["logg"] < LOGG_RANGE[1])
        )  # fmt: skip
    age_index = np.broadcast_to(np.arange(weight.shape[1], dtype=np.int16)[None, :, None], weight.shape)
    logg, mass = q["logg"][use], q["mass"][use]
    magnitudes = [slab.magnitudes[band][use] for band in bands]
    return {
        "labels": np.stack([teff[use], logg, q["surface_mh"][use]]).astype(np.float32),
        "ln_weight": np.log(weight[use]).astype(np.float32),
        "absolute": np.nan_to_num(
            np.array(magnitudes, dtype=np.float32).reshape(len(bands), len(logg)), nan=NO_MAGNITUDE
        ),
        "age_index": age_index[use],
        "stage": q["stage"][use].astype(np.int16),
        "mass_bin": _bins(mass, MASS_EDGES),
        "logg_bin": _bins(logg, LOGG_EDGES),
    }


def _bins(values: Array, edges: Array) -> NDArray[np.int16]:
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2).astype(np.int16)


def _mass_steps(mass: Array) -> Array:
    """Half the difference in initial mass between the neighbours of each point along the isochrone; 0 where none."""
    step = np.diff(mass, axis=2)
    step = np.where(np.isfinite(step) & (step > 0), step, 0.0)
    zero = np.zeros((*mass.shape[:2], 1))
    return np.asarray(0.5 * (np.concatenate([zero, step], axis=2) + np.concatenate([step, zero], axis=2)))


def _sorted(
    columns: dict[str, NDArray[Any]],
) -> tuple[dict[str, NDArray[Any]], NDArray[Any], tuple[int, int, int], tuple[float, float, float]]:
    """Columns in the order of the cells, the first point of each cell, the number of cells, their lower corner."""
    teff, logg, mh = columns["labels"]
    origin = (float(np.floor(mh.min() / _CELL_MH) * _CELL_MH), LOGG_RANGE[0], TEFF_RANGE[0])
    counts = (
        int((mh.max() - origin[0]) / _CELL_MH) + 1,
        int((LOGG_RANGE[1] - LOGG_RANGE[0]) / _CELL_LOGG) + 1,
        int((TEFF_RANGE[1] - TEFF_RANGE[0]) / _CELL_TEFF) + 1,
    )
    place = [
        np.clip(np.floor((values - low) / size).astype(np.int64), 0, count - 1)
        for values, low, size, count in zip((mh, logg, teff), origin, (_CELL_MH, _CELL_LOGG, _CELL_TEFF), counts)
    ]
    cell = (place[0] * counts[1] + place[1]) * counts[2] + place[2]
    order = np.argsort(cell, kind="stable")
    starts = np.searchsorted(cell[order], np.arange(counts[0] * counts[1] * counts[2] + 1))
    return {name: np.ascontiguousarray(v[..., order]) for name, v in columns.items()}, starts, counts, origin
