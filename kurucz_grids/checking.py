"""Is a grid fit to train on: does it fill the range of the labels, is any row off, does the physics hold?

Every check gives one `Finding`; those of level "error" say that rows are wrong, "warning" that something
should be looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from tqdm import tqdm

from kurucz_grids.grid import Grid

Array = NDArray[np.float64]
Contains = Callable[[float, float, float], bool]

MAX_FLUX = 1.02  # normalised flux above which a row is wrong
DEEPENING_SHARE = 0.9  # of the rows in which the strongest response to an abundance deepens a line
MOLECULAR = ("C_FE", "N_FE", "O_FE")  # one of them can weaken the molecules of another
LINE_SHARE = 0.35  # of the squared response of an element that lies within 8 Å of its well-known lines
WINDOW = 8.0  # Å
OUTLIER = 8.0  # robust sigma
_BINS = {"TEFF": 7, "LOGG": 9, "FE_H": 6}

# Vacuum Å of strong, well-known lines: where the differential spectrum of an element must be.
KNOWN_LINES: dict[str, tuple[float, ...]] = {
    "NA_FE": (5891.58, 5897.56, 8185.5, 8197.1),
    "MG_FE": (5168.76, 5174.13, 5185.05, 3830.4, 3833.4, 3839.4, 4352.99, 5529.9, 8809.2),
    "CA_FE": (3934.78, 3969.59, 4227.92, 8500.35, 8544.44, 8664.52, 6163.88, 6124.0),
    "SR_FE": (4078.86, 4216.71),
    "BA_FE": (4555.31, 4935.45, 5855.3, 6143.4, 6498.7),
}


@dataclass(frozen=True)
class Finding:
    """One check: its name, level ("ok", "warning" or "error") and a sentence with figures."""

    check: str
    level: str
    text: str


def check_grid(grid: Grid, contains: Contains | None = None, progress: bool = False) -> list[Finding]:
    """All checks of a grid, in the order of the table that `phdlspec grid check` prints.

    `contains(teff, logg, fe_h)` tells where atmospheres exist: empty regions outside are no holes.
    """
    findings = [_completeness(grid), _bounds(grid)]
    rows = grid.rows()
    if len(rows) < 2:
        return [*findings, Finding("rows", "error", f"{len(rows)} complete rows: nothing to check")]
    findings += [_split(grid), _bins(grid, contains), *_spacing(grid)]
    scan = _Scan.of(grid, progress)
    findings += scan.findings(grid)
    if grid.has_jacobian:
        findings += _neighbours(grid, progress)
    else:
        findings.append(Finding("derivatives", "warning", "the grid has no differential spectra"))
    return findings


def _completeness(grid: Grid) -> Finding:
    failed = [i for i in range(len(grid)) if not grid.done[i] and grid.reason[i]]
    missing = len(grid) - grid.n_done - len(failed)
    text = f"{grid.n_done} of {len(grid)} rows complete, {len(failed)} failed, {missing} to come"
    if failed:
        text += f"; row {failed[0]}: {grid.reason[failed[0]]}"
    level = "error" if len(failed) > 0.05 * len(grid) else "warning" if failed or missing else "ok"
    return Finding("complete", level, text)


def _bounds(grid: Grid) -> Finding:
    inside = grid.label_set.inside(grid.labels)
    if inside.all():
        return Finding("bounds", "ok", "all labels lie within the bounds of the label table")
    return Finding("bounds", "warning", f"{(~inside).sum()} rows lie outside the bounds of the label table")


def _split(grid: Grid) -> Finding:
    counts = {name: len(grid.rows(name)) for name in ("train", "validation", "test")}
    text = ", ".join(f"{count} {name}" for name, count in counts.items())
    return Finding("split", "ok" if min(counts.values()) else "warning", text)


def _bins(grid: Grid, contains: Contains | None) -> Finding:
    """Empty cells of a Teff-logg-[Fe/H] lattice."""
    names = tuple(_BINS)
    index = [grid.label_set.index(name) for name in names]
    edges = [
        np.linspace(grid.label_set.lower[i], grid.label_set.upper[i], _BINS[name] + 1)
        for i, name in zip(index, names)
    ]
    counts, _ = np.histogramdd(grid.labels[grid.rows()][:, index], bins=edges)
    centres = [0.5 * (e[1:] + e[:-1]) for e in edges]
    empty = [tuple(float(c[k]) for c, k in zip(centres, cell)) for cell in np.argwhere(counts == 0)]
    if contains is not None:
        empty = [cell for cell in empty if contains(*cell)]
    share = len(empty) / counts.size
    text = f"{len(empty)} of {counts.size} cells of Teff, logg, [Fe/H] are empty"
    if empty:
        text += "; the first: " + ", ".join(f"({t:.0f} K, {g:.2f}, {m:+.2f})" for t, g, m in empty[:4])
    return Finding("holes", "warning" if share > 0.02 else "ok", text)


def _spacing(grid: Grid) -> Iterator[Finding]:
    """Distance from random points to the nearest row, in units of the range, by region."""
    index = [grid.label_set.index(name) for name in ("TEFF", "LOGG", "FE_H")]
    points = grid.label_set.to_unit(grid.labels)[grid.rows()][:, index]
    random = np.random.default_rng(1).uniform(size=(4000, 3))
    distance = np.asarray(cKDTree(points).query(random)[0])
    expected = 0.554 * len(points) ** (-1 / 3)  # mean for as many uniform points
    regions = {
        "dwarfs": random[:, 1] > 0.75,
        "subgiants": (random[:, 1] > 0.6) & (random[:, 1] <= 0.75),
        "giants": random[:, 1] <= 0.6,
        "metal-poor": random[:, 2] < 0.5,
    }
    for name, chosen in regions.items():
        ratio = float(np.mean(distance[chosen]) / expected)
        text = f"mean distance to the nearest row {ratio:.2f} times that of uniform points"
        yield Finding(f"spacing, {name}", "warning" if ratio > 3 else "ok", text)


@dataclass
class _Scan:
    """Sums over one pass through all rows."""

    not_finite: list[int]
    out_of_range: list[int]
    bad_continuum: list[int]
    deepening: Array  # (L,) rows whose strongest response is negative
    responding: Array  # (L,) rows with any response
    on_lines: dict[str, list[float]]
    extremes: tuple[float, float]

    @classmethod
    def of(cls, grid: Grid, progress: bool) -> _Scan:
        n_labels = len(grid.label_names)
        scan = cls([], [], [], np.zeros(n_labels), np.zeros(n_labels), {}, (np.inf, -np.inf))
        near = {
            name: (np.abs(grid.wave[:, None] - np.array(lines)) < WINDOW).any(axis=1)
            for name, lines in KNOWN_LINES.items()
            if name in grid.label_names
        }
        for i in tqdm(grid.rows(), desc="check", unit="row", disable=not progress):
            flux, continuum = grid.flux(i), grid.continuum(i)
            if not np.isfinite(flux).all():
                scan.not_finite.append(int(i))
                continue
            low, high = float(flux.min()), float(flux.max())
            scan.extremes = (min(scan.extremes[0], low), max(scan.extremes[1], high))
            if low < 0 or high > MAX_FLUX:
                scan.out_of_range.append(int(i))
            known = np.isfinite(continuum)
            if not (continuum[known] > 0).all():
                scan.bad_continuum.append(int(i))
            if grid.has_jacobian:
                scan._add_derivatives(grid, int(i), near)
        return scan

    def _add_derivatives(self, grid: Grid, i: int, near: dict[str, NDArray[np.bool_]]) -> None:
        jacobian = grid.jacobian(i)
        if not np.isfinite(jacobian).all():
            self.not_finite.append(i)
            return
        low, high = jacobian.min(axis=1), jacobian.max(axis=1)
        self.deepening += -low > high
        self.responding += (low < 0) | (high > 0)
        for name, mask in near.items():
            power = jacobian[grid.label_names.index(name)].astype(float) ** 2
            if power.sum() > 0:
                self.on_lines.setdefault(name, []).append(float(power[mask].sum() / power.sum()))

    def findings(self, grid: Grid) -> Iterator[Finding]:
        yield _rows_finding("finite", self.not_finite, "hold NaN or infinity", "all values are finite")
        low, high = self.extremes
        yield _rows_finding(
            "flux", self.out_of_range, f"leave 0 to {MAX_FLUX}", f"normalised, {low:.3f} to {high:.3f}"
        )
        yield _rows_finding("continuum", self.bad_continuum, "are not positive", "positive where it is known")
        if not grid.has_jacobian:
            return
        share = self.deepening / np.maximum(self.responding, 1)
        wrong = [
            f"{name} {share[k]:.2f}"
            for k, name in enumerate(grid.label_names)
            if name.endswith("_FE")
            and name not in MOLECULAR
            and self.responding[k]
            and share[k] < DEEPENING_SHARE
        ]
        dead = [name for k, name in enumerate(grid.label_names) if self.responding[k] == 0]
        text = "more of an element deepens its lines"
        if wrong:
            text = f"the strongest response deepens a line in too few rows: {', '.join(wrong)}"
        yield Finding("sign", "warning" if wrong else "ok", text)
        text = f"no response at all: {', '.join(dead)}" if dead else "every label changes the spectrum"
        yield Finding("response", "error" if dead else "ok", text)
        medians = {name: float(np.median(values)) for name, values in self.on_lines.items()}
        astray = [name for name, value in medians.items() if value < LINE_SHARE]
        figures = ", ".join(f"{name} {value:.2f}" for name, value in medians.items())
        level = "error" if astray else "ok"
        yield Finding("lines", level, f"share of the response on known lines: {figures}")


def _rows_finding(check: str, rows: list[int], wrong: str, right: str) -> Finding:
    if not rows:
        return Finding(check, "ok", right)
    return Finding(check, "error", f"{len(rows)} rows {wrong}: {', '.join(map(str, rows[:8]))}")


def _neighbours(grid: Grid, progress: bool) -> Iterator[Finding]:
    """Compare each row with the Taylor prediction of its nearest neighbour.

    For a smooth function the mean of the slopes at both ends predicts the difference to third order: rows (or
    derivatives) that are wrong stand out. The neighbour is the row of least predicted difference of flux,
    among the twelve that are nearest in Teff, logg and [Fe/H].
    """
    rows = grid.rows()
    unit = grid.label_set.to_unit(grid.labels)[rows]
    kiel = unit[:, [grid.label_set.index(name) for name in _BINS]]
    near = np.asarray(cKDTree(kiel).query(kiel, k=min(13, len(rows)))[1])
    ratio, slope = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    for a in tqdm(range(len(rows)), desc="neighbours", unit="row", disable=not progress):
        jacobian = grid.jacobian(rows[a])
        others = [b for b in near[a] if b != a]
        steps = grid.labels[rows[others]] - grid.labels[rows[a]]
        sizes = np.sqrt(((steps @ jacobian) ** 2).mean(axis=1))
        b = others[int(np.argmin(sizes))]
        step = grid.labels[rows[b]] - grid.labels[rows[a]]
        predicted = 0.5 * (step @ (jacobian + grid.jacobian(rows[b])))
        actual = grid.flux(rows[b]).astype(float) - grid.flux(rows[a])
        norm = np.sqrt((predicted**2).sum() * (actual**2).sum())
        if norm > 0:
            ratio[a] = np.sqrt(((actual - predicted) ** 2).sum() / (predicted**2).sum())
            slope[a] = (actual @ predicted) / (predicted**2).sum()
    known = np.isfinite(ratio)
    if not known.any():
        yield Finding("neighbours", "warning", "no two rows to compare")
        return
    median = float(np.median(ratio[known]))
    text = (
        f"differences of near rows against their derivatives: median relative residual {median:.3f}, "
        f"median slope {np.median(slope[known]):.3f} ({known.sum()} pairs)"
    )
    yield Finding("derivatives", "error" if median > 0.7 else "warning" if median > 0.4 else "ok", text)
    logs = np.log(np.maximum(ratio[known], 1e-6))
    spread = 1.4826 * np.median(np.abs(logs - np.median(logs)))
    outliers = rows[known][(logs - np.median(logs) > OUTLIER * spread) & (ratio[known] > 1.0)]
    yield _outlier_finding(outliers)


def _outlier_finding(outliers: NDArray[np.int64]) -> Finding:
    if not len(outliers):
        return Finding("outliers", "ok", "no row departs from its neighbours")
    listed = ", ".join(map(str, outliers[:8]))
    return Finding("outliers", "warning", f"{len(outliers)} rows depart from their neighbours: {listed}")
