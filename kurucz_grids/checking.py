"""Is a grid fit to train on: does it fill the range of the labels, is any row off, does the physics hold?

Every check gives one `CheckResult`; those of level "error" say that rows are wrong, "warning" that something
should be looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from tqdm import tqdm

from kurucz_grids.check_result import CheckResult
from kurucz_grids.neighbours import BINS, Sketch, binned, compare_neighbours
from phdlspec.gridfile import Grid
from phdlspec.wavelength import vacuum_to_air

Array = NDArray[np.float64]
Contains = Callable[[float, float, float], bool]

MAX_FLUX = 1.02  # normalised flux above which a row is wrong
DEEPENING_SHARE = 0.9  # of the rows in which the strongest response to an abundance deepens a line
MOLECULAR = ("C_FE", "N_FE", "O_FE")  # one of them can weaken the molecules of another
LINE_SHARE = 0.35  # of the squared response of an element that lies within 8 Å of its well-known lines
WINDOW = 8.0  # Å
ENVELOPE = (0.8, 1.05)  # of normalised flux; a cool, carbon-rich giant at R = 3500 has 0.83, most stars 0.95-1
USUAL_ENVELOPE = 0.95  # the least that one row in ten must reach
LINE_OFFSET = 5e-5  # of ln(wave): 0.3 Å at Na D; rows of sound grids stay within 1.6e-5, air has -28e-5
LINE_DEPTH = 0.2  # of a line whose place can be told
_BINS = {"TEFF": 7, "LOGG": 9, "FE_H": 6}

# Vacuum Å of strong, well-known lines: where the differential spectrum of an element must be.
KNOWN_LINES: dict[str, tuple[float, ...]] = {
    "NA_FE": (5891.58, 5897.56, 8185.5, 8197.1),
    "MG_FE": (5168.76, 5174.13, 5185.05, 3830.4, 3833.4, 3839.4, 4352.99, 5529.9, 8809.2),
    "CA_FE": (3934.78, 3969.59, 4227.92, 8500.35, 8544.44, 8664.52, 6163.88, 6124.0),
    "SR_FE": (4078.86, 4216.71),
    "BA_FE": (4555.31, 4935.45, 5855.3, 6143.4, 6498.7),
}

# Vacuum Å of lines whose cores lie where they belong in stars of all kinds: Ca II K, H beta, Mg b, Na D, H alpha
# and the Ca II triplet. Ca II H is left out for H epsilon, the bluest of Mg b for iron.
STRONG_LINES = (3934.78, 4862.68, 5174.13, 5185.05, 5891.58, 5897.56, 6564.61, 8500.35, 8544.44, 8664.52)


def check_grid(grid: Grid, contains: Contains | None = None, progress: bool = False) -> list[CheckResult]:
    """All checks of a grid, in the order of the table that `phdlspec grid check` prints.

    `contains(teff, logg, fe_h)` tells where atmospheres exist: empty regions outside are no holes.

    >>> from phdlspec.gridfile import Grid
    >>> from phdlspec.wavelength import log_grid
    >>> wave = log_grid(3680.0, 9130.0, 1 / 40_000)
    >>> np.savez("flat.npz", wave=wave, flux=np.ones((2, wave.size)), label_names=["TEFF", "LOGG", "FE_H"],
    ...          labels=[[5777.0, 4.4, 0.0], [4500.0, 2.0, -1.0]])
    >>> made = kurucz_grids.import_grid("flat.npz", "flat.h5", medium="vacuum", resolving_power=np.inf,
    ...                                 origin="an example", progress=False)
    >>> with Grid(made) as grid:  # two stars with one spectrum: twins
    ...     "error" in [found.level for found in kurucz_grids.check_grid(grid)]
    True
    """
    results = [_completeness(grid), _bounds(grid)]
    rows = grid.rows()
    if len(rows) < 2:
        return [*results, CheckResult("rows", "error", f"{len(rows)} complete rows: nothing to check")]
    results += [_split(grid), _bins(grid, contains), *_spacing(grid)]
    scan = _Scan.of(grid, progress)
    results += scan.results(grid)
    results += compare_neighbours(scan.sketch(grid), progress)
    return results


def envelope(flux: NDArray[np.floating]) -> float:
    """Upper envelope of a spectrum (P,) where it is least blanketed: 1 if the flux is normalised.

    The 98th percentile in windows of 1/30 of ln(wave), about 200 Å, the best of them.
    """
    return max(float(np.quantile(window, 0.98)) for window in np.array_split(flux, 27))


def line_offset(wave: Array, flux: NDArray[np.floating]) -> float:
    """Median offset of the cores of `STRONG_LINES` in ln(wave), vacuum; NaN where fewer than three are deep or
    they do not agree, as where other lines have taken their places."""
    offsets = [_core(wave, flux, line) for line in STRONG_LINES]
    found = np.array([offset for offset in offsets if offset is not None])
    if len(found) < 3:
        return np.nan
    median = float(np.median(found))
    return median if np.median(np.abs(found - median)) < LINE_OFFSET else np.nan


def _core(wave: Array, flux: NDArray[np.floating], line: float) -> float | None:
    """Offset in ln(wave) of the minimum within 3.5 Å of a line, by the parabola through three pixels."""
    around = slice(*np.searchsorted(wave, (line - WINDOW, line + WINDOW)))
    first, last = np.searchsorted(wave, (line - 3.5, line + 3.5))
    if last - first < 5:
        return None
    k = first + int(flux[first:last].argmin())
    if k in (first, last - 1) or flux[around].max() - flux[k] < LINE_DEPTH:
        return None
    before, core, after = (float(value) for value in flux[k - 1 : k + 2])
    curvature = before - 2 * core + after
    pixels = 0.5 * (before - after) / curvature if curvature > 0 else 0.0
    return float(np.log(wave[k] / line) + pixels * np.log(wave[k + 1] / wave[k]))


def _completeness(grid: Grid) -> CheckResult:
    failed = [i for i in range(len(grid)) if not grid.done[i] and grid.reason[i]]
    missing = len(grid) - grid.n_done - len(failed)
    text = f"{grid.n_done} of {len(grid)} rows complete, {len(failed)} failed, {missing} to come"
    if failed:
        text += f"; row {failed[0]}: {grid.reason[failed[0]]}"
    level = "error" if len(failed) > 0.05 * len(grid) else "warning" if failed or missing else "ok"
    return CheckResult("complete", level, text)


def _bounds(grid: Grid) -> CheckResult:
    inside = grid.label_set.inside(grid.labels)
    if inside.all():
        return CheckResult("bounds", "ok", "all labels lie within the bounds of labels")
    return CheckResult("bounds", "warning", f"{(~inside).sum()} rows lie outside the bounds of labels")


def _split(grid: Grid) -> CheckResult:
    counts = {name: len(grid.rows(name)) for name in ("train", "validation", "test")}
    text = ", ".join(f"{count} {name}" for name, count in counts.items())
    return CheckResult("split", "ok" if min(counts.values()) else "warning", text)


def _bins(grid: Grid, contains: Contains | None) -> CheckResult:
    """Empty cells of a Teff-logg-[Fe/H] lattice."""
    names = tuple(_BINS)
    labels = grid.label_set
    index = [labels.index(name) for name in names]
    edges = [np.linspace(labels.lower[i], labels.upper[i], _BINS[name] + 1) for i, name in zip(index, names)]
    counts, _ = np.histogramdd(grid.labels[grid.rows()][:, index], bins=edges)
    centres = [0.5 * (e[1:] + e[:-1]) for e in edges]
    empty = [tuple(float(c[k]) for c, k in zip(centres, cell)) for cell in np.argwhere(counts == 0)]
    if contains is not None:
        empty = [cell for cell in empty if contains(*cell)]
    share = len(empty) / counts.size
    text = f"{len(empty)} of {counts.size} cells of Teff, logg, [Fe/H] are empty"
    if empty:
        text += "; the first: " + ", ".join(f"({t:.0f} K, {g:.2f}, {m:+.2f})" for t, g, m in empty[:4])
    return CheckResult("holes", "warning" if share > 0.02 else "ok", text)


def _spacing(grid: Grid) -> Iterator[CheckResult]:
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
        yield CheckResult(f"spacing, {name}", "warning" if ratio > 3 else "ok", text)


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
    rows: list[int] = field(default_factory=list)  # those whose values are finite, n; the rest is in their order
    envelopes: list[float] = field(default_factory=list)
    offsets: list[float] = field(default_factory=list)
    prints: list[bytes] = field(default_factory=list)  # equal for equal spectra
    bins: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 1, 1), np.float32))  # (n, 1 + L, K)

    @classmethod
    def of(cls, grid: Grid, progress: bool) -> _Scan:
        n_labels = len(grid.label_names)
        scan = cls([], [], [], np.zeros(n_labels), np.zeros(n_labels), {}, (np.inf, -np.inf))
        near = {
            name: (np.abs(grid.wave[:, None] - np.array(lines)) < WINDOW).any(axis=1)
            for name, lines in KNOWN_LINES.items()
            if name in grid.label_names
        }
        shape = (grid.n_done, 1 + n_labels * grid.has_jacobian, min(BINS, len(grid.wave)))
        scan.bins = np.empty(shape, np.float32)
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
            jacobian = grid.jacobian(i) if grid.has_jacobian else np.empty((0, len(flux)), np.float32)
            if not np.isfinite(jacobian).all():
                scan.not_finite.append(int(i))
                continue
            scan._add_spectrum(grid.wave, int(i), flux, jacobian)
            if grid.has_jacobian:
                scan._add_derivatives(grid, jacobian, near)
        return scan

    def _add_spectrum(self, wave: Array, i: int, flux: NDArray[Any], jacobian: NDArray[Any]) -> None:
        self.bins[len(self.rows)] = binned(np.concatenate([flux[None], jacobian]))
        self.rows.append(i)
        self.envelopes.append(envelope(flux))
        self.offsets.append(line_offset(wave, flux))
        self.prints.append(hashlib.blake2b(flux.tobytes(), digest_size=16).digest())

    def sketch(self, grid: Grid) -> Sketch:
        """What the comparison of rows needs."""
        bins = self.bins[: len(self.rows)]
        labels = grid.labels[self.rows]
        return Sketch(
            np.array(self.rows, dtype=int),
            grid.label_names,
            labels,
            grid.label_set.to_unit(labels),
            bins[:, 0].astype(float),
            bins[:, 1:] if grid.has_jacobian else None,
        )

    def _add_derivatives(self, grid: Grid, jacobian: NDArray[Any], near: dict[str, NDArray[np.bool_]]) -> None:
        low, high = jacobian.min(axis=1), jacobian.max(axis=1)
        self.deepening += -low > high
        self.responding += (low < 0) | (high > 0)
        for name, mask in near.items():
            power = jacobian[grid.label_names.index(name)].astype(float) ** 2
            if power.sum() > 0:
                self.on_lines.setdefault(name, []).append(float(power[mask].sum() / power.sum()))

    def results(self, grid: Grid) -> Iterator[CheckResult]:
        yield CheckResult.of_rows("finite", self.not_finite, "hold NaN or infinity", "all values are finite")
        low, high = self.extremes
        yield CheckResult.of_rows("flux", self.out_of_range, f"leave 0 to {MAX_FLUX}", f"from {low:.3f} to {high:.3f}")
        if self.rows:
            yield self._normalisation()
            yield from self._wavelengths()
            yield self._twins(grid)
        yield CheckResult.of_rows("continuum", self.bad_continuum, "are not positive", "positive where it is known")
        if not grid.has_jacobian:
            return
        share = self.deepening / np.maximum(self.responding, 1)
        wrong = [
            f"{name} {share[k]:.2f}"
            for k, name in enumerate(grid.label_names)
            if name.endswith("_FE") and name not in MOLECULAR and self.responding[k] and share[k] < DEEPENING_SHARE
        ]
        dead = [name for k, name in enumerate(grid.label_names) if self.responding[k] == 0]
        text = "more of an element deepens its lines"
        if wrong:
            text = f"the strongest response deepens a line in too few rows: {', '.join(wrong)}"
        yield CheckResult("sign", "warning" if wrong else "ok", text)
        text = f"no response at all: {', '.join(dead)}" if dead else "every label changes the spectrum"
        yield CheckResult("response", "error" if dead else "ok", text)
        medians = {name: float(np.median(values)) for name, values in self.on_lines.items()}
        astray = [name for name, value in medians.items() if value < LINE_SHARE]
        figures = ", ".join(f"{name} {value:.2f}" for name, value in medians.items())
        level = "error" if astray else "ok"
        yield CheckResult("lines", level, f"share of the response on known lines: {figures}")

    def _normalisation(self) -> CheckResult:
        low, high = min(self.envelopes), max(self.envelopes)
        astray = [i for i, best in zip(self.rows, self.envelopes) if not ENVELOPE[0] < best < ENVELOPE[1]]
        if astray:
            wrong = f"are not normalised: upper envelopes {low:.3g} to {high:.3g}, expected about 1"
            return CheckResult.of_rows("normalised", astray, wrong, "")
        usual = float(np.quantile(self.envelopes, 0.9))
        text = f"upper envelopes from {low:.3f} to {high:.3f}"
        if usual < USUAL_ENVELOPE:
            text += f", nine rows in ten below {usual:.3f}: the flux is scaled, expected stars that reach 1"
            return CheckResult("normalised", "error", text)
        return CheckResult("normalised", "ok", text)

    def _wavelengths(self) -> Iterator[CheckResult]:
        offsets = np.array(self.offsets)
        known = np.isfinite(offsets)
        if not known.any():
            return
        astray = known & (np.abs(offsets) > LINE_OFFSET)
        shift = float(np.median(offsets[astray if astray.any() else known]))
        figure = f"{5892.0 * shift:+.2f} Å at 5892 Å"
        if not astray.any():
            yield CheckResult("wavelengths", "ok", f"strong lines lie in their places, median offset {figure}")
            return
        wrong = f"have strong lines out of place, median offset {figure}"
        air = float(np.log(vacuum_to_air(5892.0) / 5892.0))
        for given, taken, expected in (("air", "vacuum", air), ("vacuum", "air", -air)):
            if abs(shift - expected) < LINE_OFFSET:
                wrong += f", as of wavelengths in {given} taken for {taken} (import them with --medium {given})"
        yield CheckResult.of_rows("wavelengths", [i for i, bad in zip(self.rows, astray) if bad], wrong, "")

    def _twins(self, grid: Grid) -> CheckResult:
        """Rows that hold the spectrum of another row under other labels."""
        first: dict[bytes, int] = {}
        pairs = [(first.setdefault(mark, i), i) for i, mark in zip(self.rows, self.prints)]
        twins = [(a, b) for a, b in pairs if not np.array_equal(grid.labels[a], grid.labels[b])]
        if not twins:
            return CheckResult("twins", "ok", "no two rows hold one spectrum under different labels")
        listed = ", ".join(f"{a} and {b}" for a, b in twins[:8])
        return CheckResult("twins", "error", f"rows hold one spectrum under different labels: {listed}")
