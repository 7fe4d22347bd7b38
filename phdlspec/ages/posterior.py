"""The posterior of age, mass, log g, stage, distance and extinction of many stars, summed over the fine grid.

p(age, mass, [M/H] | data) is the prior's mass of a cell times exp(-chi2/2), chi2 from Teff, log g and [M/H] with their
full covariance, and from magnitudes and parallax as in `phdlspec.ages.distance`. There is no sampling: the sum is over
every point within `REACH` errors of the labels. A star's numbers come from its own points alone, in one order, so that
they do not depend on what it is computed together with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from phdlspec.ages.distance import DistanceTables, distance_tables, usable_parallax
from phdlspec.ages.fine_grid import LOGG_EDGES, MASS_EDGES, IsochroneGrid, IsochroneGrids
from phdlspec.ages.flags import AgeFlag
from phdlspec.ages.judgement import judge
from phdlspec.ages.stages import Stage
from phdlspec.ages.stars import AgeStars
from phdlspec.ages.summary import divergence, moments

Array = NDArray[np.float64]

REACH = 4.5  # errors of the labels
_STARS_AT_ONCE = 64
_POINTS_AT_ONCE = 200_000
_FAR = 30.0  # points of a misfit so much above the best one count for nothing: exp(-15)
_WORST = 1e6  # misfit of a point that is none


@dataclass(frozen=True)
class AgePosteriors:
    """Posteriors of n stars.

    Attributes
    ----------
    age, mass, logg, modulus, extinction : (n, 5) mean, standard deviation, percentiles 16, 50, 84 (Gyr, solar masses,
        dex, mag, mag); NaN where there is none; `modulus` and `extinction` need magnitudes
    stages : (n, 4) probabilities of the stages
    chi2 : (n,) of the best point; points : (n,) that were summed over
    bits : (n,) what the data say about the age: the divergence of posterior from prior in bits
    flag : (n,) bits of `AgeFlag`
    """

    age: Array
    mass: Array
    logg: Array
    modulus: Array
    extinction: Array
    stages: Array
    chi2: Array
    points: NDArray[np.int64]
    bits: Array
    flag: NDArray[np.int64]


def posteriors(stars: AgeStars, grids: IsochroneGrids) -> AgePosteriors:
    """Posteriors of stars on the grids of a set. The photometry's bands must be those of the grids.

    Stars without usable labels get NaN and a flag. Each star is summed on the coarsest level that its errors allow.
    """
    out = _empty(len(stars))
    usable = stars.usable
    out.flag[:] = stars.flag | np.where(usable, 0, int(AgeFlag.NO_LABELS))
    sigma = np.sqrt(np.abs(np.nan_to_num(np.einsum("nii->ni", stars.covariance))))
    level = grids.level_of(sigma[:, 0], sigma[:, 2])
    for k in np.unique(level[usable]):
        rows = np.flatnonzero(usable & (level == k))
        for start in range(0, len(rows), _STARS_AT_ONCE):
            part = rows[start : start + _STARS_AT_ONCE]
            _batch(stars.take(part), grids, grids[int(k)], out, part)
    return out


def _empty(n: int) -> AgePosteriors:
    def nan(*shape: int) -> Array:
        return np.full(shape, np.nan)

    return AgePosteriors(
        nan(n, 5), nan(n, 5), nan(n, 5), nan(n, 5), nan(n, 5), nan(n, len(Stage)), nan(n), np.zeros(n, dtype=np.int64),
        nan(n), np.zeros(n, dtype=np.int64),
    )  # fmt: skip


def _batch(
    stars: AgeStars, grids: IsochroneGrids, grid: IsochroneGrid, out: AgePosteriors, rows: NDArray[np.intp]
) -> None:
    """Fill the rows of `out` for at most `_STARS_AT_ONCE` stars."""
    device = grid.device
    covariance = stars.covariance.copy()
    covariance[:, 2, 2] += grid.level.mh**2 / 12.0  # the width of a cell, which matters to the smallest errors alone
    runs = _neighbours(stars.labels, covariance, grid)
    tables = distance_tables(stars.photometry, grids.own_errors, device) if grid.bands else None
    whitening = torch.as_tensor(_whitening(covariance), dtype=torch.float32, device=device)
    labels = torch.as_tensor(stars.labels, dtype=torch.float32, device=device)
    sums = _StarSums(len(stars), len(grid.log_age), device)
    for star, index, real in runs.padded():
        misfit = _label_misfit(grid.labels, index, labels[star], whitening[star])
        place = None
        if tables is not None:
            extra, place = tables.chi2(star, grid.absolute, index)
            misfit = misfit + extra
        sums.add(grid, star, index, torch.where(real, misfit, 10.0 * _WORST), place)
    _summarise(stars, grids, grid, sums, tables, out, rows)
    out.points[rows] = runs.total.cpu().numpy()


# --- the points near a star ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _PointRuns:
    """Runs of neighbouring points: star (R,) in rising order, first point and number of points of each run; and the
    number of points of each star (n,)."""

    star: torch.Tensor
    start: torch.Tensor
    length: torch.Tensor
    total: torch.Tensor

    def padded(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Groups of stars (b,) with like numbers of points, the indices of their points (b, N), and which are real.

        A group has at most `_POINTS_AT_ONCE` entries, or one star.
        """
        counts = self.total.tolist()
        order = sorted((k for k, count in enumerate(counts) if count), key=lambda k: -counts[k])
        runs = torch.searchsorted(self.star, torch.arange(len(counts) + 1, device=self.star.device)).tolist()
        while order:
            longest = counts[order[0]]
            group = order[: max(_POINTS_AT_ONCE // longest, 1)]
            order = order[len(group) :]
            rows = []
            for star in group:
                part = slice(runs[star], runs[star + 1])
                rows.append(_expand(self.start[part], self.length[part], counts[star], longest))
            members = torch.tensor(group, device=self.star.device)
            real = torch.arange(longest, device=self.star.device)[None, :] < self.total[members][:, None]
            yield members, torch.stack(rows), real


def _expand(start: torch.Tensor, length: torch.Tensor, count: int, padded: int) -> torch.Tensor:
    """The indices of the points of runs, filled up with zeros to `padded` entries."""
    index = torch.zeros(padded, dtype=torch.int64, device=start.device)
    shift = start - torch.cumsum(length, 0) + length
    index[:count] = torch.arange(count, device=start.device) + torch.repeat_interleave(shift, length, output_size=count)
    return index


def _neighbours(labels: Array, covariance: Array, grid: IsochroneGrid) -> _PointRuns:
    """Runs of points within `REACH` errors of the labels on each axis: one run a cell of [M/H] and log g."""
    device, n = grid.device, len(labels)
    sigma = np.sqrt(np.einsum("nii->ni", covariance))
    low = torch.as_tensor(labels - REACH * sigma, device=device)
    high = torch.as_tensor(labels + REACH * sigma, device=device)
    m0, m1 = grid.cells(0, low[:, 2], high[:, 2])
    g0, g1 = grid.cells(1, low[:, 1], high[:, 1])
    t0, t1 = grid.cells(2, low[:, 0], high[:, 0])
    n_g = (g1 - g0 + 1).clamp(min=0)
    number = torch.where(t1 >= t0, (m1 - m0 + 1).clamp(min=0) * n_g, torch.zeros_like(n_g))
    star = torch.repeat_interleave(torch.arange(n, device=device), number)
    inner = torch.arange(len(star), device=device) - torch.repeat_interleave(torch.cumsum(number, 0) - number, number)
    wide = n_g[star].clamp(min=1)
    row = (m0[star] + inner // wide) * grid.counts[1] + g0[star] + inner % wide
    first = grid.starts[row * grid.counts[2] + t0[star]]
    length = grid.starts[row * grid.counts[2] + t1[star] + 1] - first
    kept = length > 0
    star, first, length = star[kept], first[kept], length[kept]
    return _PointRuns(
        star, first, length, torch.zeros(n, dtype=torch.int64, device=device).scatter_add_(0, star, length)
    )


# --- misfits ---------------------------------------------------------------------------------------------------


def _whitening(covariance: Array) -> Array:
    """Lower triangular W (n, 3, 3) with W C W^T = 1."""
    return np.linalg.inv(np.linalg.cholesky(covariance))


def _label_misfit(
    points: torch.Tensor, index: torch.Tensor, labels: torch.Tensor, whitening: torch.Tensor
) -> torch.Tensor:
    """chi2 (b, N) of points (3, N) with indices (b, N) against labels (b, 3)."""
    flat = index.reshape(-1)
    residual = [points[k].index_select(0, flat).reshape(index.shape) - labels[:, k : k + 1] for k in range(3)]
    w = whitening[:, :, :, None]
    total = (w[:, 0, 0] * residual[0]) ** 2
    total += (w[:, 1, 0] * residual[0] + w[:, 1, 1] * residual[1]) ** 2
    return total + (w[:, 2, 0] * residual[0] + w[:, 2, 1] * residual[1] + w[:, 2, 2] * residual[2]) ** 2


# --- sums ------------------------------------------------------------------------------------------------------

_Place = tuple[torch.Tensor, torch.Tensor]


class _StarSums:
    """Sums over points by star, each relative to the star's own best misfit."""

    def __init__(self, n: int, ages: int, device: torch.device):
        def zeros(columns: int) -> torch.Tensor:
            return torch.zeros((n, columns), dtype=torch.float64, device=device)

        self.ages, self.mass, self.logg = zeros(ages), zeros(len(MASS_EDGES) - 1), zeros(len(LOGG_EDGES) - 1)
        self.stages = zeros(len(Stage))
        self.best = torch.full((n,), torch.inf, device=device)
        self.kept: list[tuple[torch.Tensor, _Place, torch.Tensor]] = []

    def add(
        self, grid: IsochroneGrid, star: torch.Tensor, index: torch.Tensor, misfit: torch.Tensor, place: _Place | None
    ) -> None:  # fmt: skip
        """Add all points (b, N) of the stars (b,); a point of a misfit above `_WORST` is none."""
        best = misfit.amin(dim=1).clamp(max=_WORST)
        self.best[star] = best
        above = misfit - best[:, None]
        kept = torch.nonzero((above < _FAR).reshape(-1)).squeeze(1)
        points = index.reshape(-1).index_select(0, kept)
        owner = star[kept // index.shape[1]]
        weight = torch.exp(grid.ln_weight.index_select(0, points) - 0.5 * above.reshape(-1).index_select(0, kept))
        weight = weight.double()
        for into, column in (
            (self.ages, grid.age_index), (self.stages, grid.stage), (self.mass, grid.mass_bin),
            (self.logg, grid.logg_bin),
        ):  # fmt: skip
            place_in = owner * into.shape[1] + column.index_select(0, points)
            into.reshape(-1).scatter_add_(0, place_in, weight)
        if place is not None:
            x, y = (part.reshape(-1).index_select(0, kept) for part in place)
            self.kept.append((owner, (x, y), weight))


def _summarise(
    stars: AgeStars, grids: IsochroneGrids, grid: IsochroneGrid, sums: _StarSums, tables: DistanceTables | None,
    out: AgePosteriors, rows: NDArray[np.intp],
) -> None:  # fmt: skip
    ages = sums.ages.cpu().numpy()
    total = ages.sum(axis=1)
    found = (total > 0) & (sums.best.cpu().numpy() < _WORST)
    if tables is not None and sums.kept:
        _distances(sums, tables, found, out, rows)
    with np.errstate(invalid="ignore"):
        density = ages / total[:, None]
        out.stages[rows] = sums.stages.cpu().numpy() / total[:, None]
    out.chi2[rows] = np.where(found, sums.best.cpu().numpy(), np.nan)
    at = rows[found]
    out.age[at] = moments(density[found], grid.age_edges)
    out.mass[at] = moments(sums.mass.cpu().numpy()[found], MASS_EDGES)
    out.logg[at] = moments(sums.logg.cpu().numpy()[found], LOGG_EDGES)
    out.bits[at] = divergence(density[found], grid.age_prior)
    number = _number_of_data(stars)
    out.flag[rows] |= judge(
        density, grid.age_edges, grid.age_prior, out.stages[rows], out.chi2[rows], number, out.bits[rows]
    )
    mh = stars.labels[:, 2]
    outside = ~found | (mh < grids.mh_range[0]) | (mh > grids.mh_range[1])
    out.flag[rows] |= np.where(outside, int(AgeFlag.OUTSIDE_SET), 0)


def _distances(
    sums: _StarSums, tables: DistanceTables, found: NDArray[np.bool_], out: AgePosteriors, rows: NDArray[np.intp]
) -> None:  # fmt: skip
    used = tables.used.cpu().numpy() & found
    star = torch.cat([part[0] for part in sums.kept])
    x, y = (torch.cat([part[1][k] for part in sums.kept]) for k in (0, 1))
    weight = torch.cat([part[2] for part in sums.kept])
    densities = tables.posteriors(star, x, y, weight, len(rows))
    modulus, extinction = (density.cpu().numpy()[used] for density in densities)
    nodes = tables.modulus.cpu().numpy()[used]
    half = 0.5 * (nodes[:, 1:2] - nodes[:, :1])
    out.modulus[rows[used]] = moments(modulus, np.concatenate([nodes - half, nodes[:, -1:] + half], axis=1))
    out.extinction[rows[used]] = moments(extinction, tables.extinction.cpu().numpy()[used])


def _number_of_data(stars: AgeStars) -> NDArray[np.int64]:
    photometry = stars.photometry
    bands = (np.isfinite(photometry.magnitudes) & (photometry.errors > 0)).sum(axis=1)
    return np.asarray(3 + np.where(bands > 0, bands + usable_parallax(photometry), 0), dtype=np.int64)
