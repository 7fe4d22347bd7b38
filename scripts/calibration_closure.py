"""Closure and ablation study of the calibration on simulated surveys; prints the tables of
docs/calibration.md.

    python scripts/calibration_closure.py --seeds 3 --out closure.md

Surveys come from `calibration.simulate`, which shares nothing with the model. Measured on stars that are no
reference, at their noise-free coordinates: error of the fitted bias (raw minus truth, on the scale of the
survey that sets it).

* residual trend: largest absolute mean error in 20 bins of equal population along Teff, logg and [Fe/H], over
the stars
  that the calibration does not flag as outside the references; the constant is taken out where no survey sets
  a scale
* turn-off: mean error at 3.95 < logg < 4.35, |[Fe/H]| < 0.15, where M67 is depleted
* coverage: share of (star, label) with |error| below the quoted error of the correction
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from calibration.catalog import Catalog
from calibration.clusters import Diffusion
from calibration.learning import LearnSettings, learn_corrections
from calibration.simulate import SimulationSettings, Survey, simulate

LIMIT_ERROR = 0.1
UNITS = {"TEFF": 500.0}

LabelBias = tuple[np.ndarray, np.ndarray | None, np.ndarray]  # value, error, reached


@dataclass
class Score:
    """Of one label: typical error, residual trend, turn-off error, coverage, share of test stars reached."""

    label: str
    error: float
    trend: float
    turn_off: float
    coverage: float
    reached: float


def scores(survey: Survey, bias: Callable[[str, np.ndarray], LabelBias | None], anchor: str | None) -> list[Score]:
    """Compare the bias of a label at raw labels (n, 3) with the truth, label by label."""
    raw = survey.noise_free[survey.test]
    found = []
    for name in survey.label_names:
        if name in ("TEFF", "LOGG"):
            continue
        result = bias(name, raw)
        if result is None:
            continue
        value, error, reached = result
        true = survey.bias[name][survey.test] - (survey.offsets[anchor][name] if anchor else 0.0)
        residual = value - true
        place = np.column_stack([survey.truth[axis][survey.test] for axis in ("TEFF", "LOGG", "FE_H")])
        if anchor is None:
            residual = residual - residual[reached].mean()
        if reached.sum() < 200:
            found.append(Score(name, survey.errors[name], np.nan, np.nan, np.nan, reached.mean()))
            continue
        r, x = residual[reached], place[reached]
        worst = 0.0
        for i in range(3):
            edges = np.quantile(x[:, i], np.linspace(0, 1, 21)[1:-1])
            bins = np.searchsorted(edges, x[:, i])
            worst = max(worst, np.abs(np.bincount(bins, weights=r) / np.bincount(bins)).max())
        turn_off = (x[:, 1] > 3.95) & (x[:, 1] < 4.35) & (np.abs(x[:, 2]) < 0.15)
        covered = np.nan if error is None else float((np.abs(r) < error[reached]).mean())
        to = float(r[turn_off].mean()) if turn_off.any() else np.nan
        found.append(Score(name, survey.errors[name], float(worst), to, covered, float(reached.mean())))
    return found


def joint(
    survey: Survey, use: str = "BCS", settings: LearnSettings | None = None, flagged: bool = False
) -> list[Score]:
    """The project's model with binaries (B), cluster (C) and surveys (S).

    Scored are the stars that the references reach, or with `flagged` those that they do not.
    """
    calibration = learn_corrections(
        Catalog.from_table(survey.catalog),
        survey.pairs if "B" in use else [],
        survey.clusters if "C" in use else [],
        survey.labels if "S" in use else [],
        settings,
    )

    def bias(name: str, raw: np.ndarray) -> LabelBias | None:
        if name not in calibration.labels:
            return None
        label = calibration.labels[name]
        place = calibration.calibrated_coordinates(raw)
        value, error = label.bias(calibration.basis.design(place))
        reached = label.coverage.covers_axes(place) & label.coverage.near(place)
        return value, error, ~reached if flagged else reached

    return scores(survey, bias, "survey1" if "S" in use else None)


def least_squares_chain(survey: Survey) -> list[Score]:
    """What is often done: quadratics by least squares, one reference after the other, no mixture, M67
    flat."""
    catalog = Catalog.from_table(survey.catalog)
    x = catalog.coordinates()
    centre, size = np.array([5500.0, 3.5, -0.2]), np.array([1300.0, 1.8, 0.7])

    def quadratic(points: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        u = (points - centre) / size
        return np.column_stack([u[:, i] ** k for i in axes for k in (1, 2)])

    pair, cluster = survey.pairs[0], survey.clusters[0]
    first, second = (np.asarray(side.ids).astype(int) for side in (pair.first, pair.second))
    members = np.asarray(cluster.stars.ids).astype(int)

    def bias(name: str, raw: np.ndarray) -> LabelBias:
        y = catalog.label(name)[0]
        step1 = np.linalg.lstsq(
            quadratic(x[first], (0, 1)) - quadratic(x[second], (0, 1)), y[first] - y[second], rcond=None
        )[0]
        y = y - quadratic(x, (0, 1)) @ step1
        flat = np.column_stack([np.ones(len(members)), quadratic(x[members], (0, 1))])
        step2 = np.linalg.lstsq(flat, y[members], rcond=None)[0][1:]
        y = y - quadratic(x, (0, 1)) @ step2
        rows = np.asarray(survey.labels[0].stars.ids).astype(int)
        design = np.column_stack([np.ones(len(rows)), quadratic(x[rows], (2,))])
        step3 = np.linalg.lstsq(design, y[rows] - survey.labels[0].values[name][0], rcond=None)[0]
        value = (
            quadratic(raw, (0, 1)) @ (step1 + step2)
            + np.column_stack([np.ones(len(raw)), quadratic(raw, (2,))]) @ step3
        )
        return value, None, np.ones(len(raw), dtype=bool)

    return scores(survey, bias, "survey1")


def no_correction(survey: Survey) -> list[Score]:
    """The raw catalogue."""
    return scores(survey, lambda name, raw: (np.zeros(len(raw)), None, np.ones(len(raw), dtype=bool)), "survey1")


def row(title: str, found: list[Score]) -> str:
    """One line of the table, over the labels with error below 0.1 dex."""
    if not found:
        return f"| {title} | none | | | | | |"
    strict = [s for s in found if s.error < LIMIT_ERROR]
    trend = np.array([s.trend for s in strict])
    turn = np.abs([s.turn_off for s in strict])
    coverage = np.array([s.coverage for s in found])
    shown = "" if np.isnan(coverage).all() else f"{100 * np.nanmean(coverage):.0f} %"
    good = np.isfinite(trend)
    if not good.any():
        return f"| {title} | {len(strict)} | nothing is reached | | | | | |"
    return (
        f"| {title} | {good.sum()} | {np.median(trend[good]):.3f} | {trend[good].max():.3f} "
        f"| {(trend[good] <= 0.02).sum()}/{good.sum()} | {np.nanmax(turn):.3f} | {shown} "
        f"| {100 * np.mean([s.reached for s in strict]):.0f} % |"
    )


HEADER = (
    "| case | labels < 0.1 dex | residual trend, median | largest | <= 0.02 | turn-off, largest | "
    "coverage | reached |\n"
    "|---|---|---|---|---|---|---|---|"
)


def others(add: Callable[[str, list[Score]], None]) -> None:
    """What other methods and fewer references give."""
    survey = simulate(seed=1)
    add("raw catalogue", no_correction(survey))
    add("least-squares chain", least_squares_chain(survey))
    add("binaries alone", joint(survey, "B"))
    add("M67 alone", joint(survey, "C"))
    add("surveys alone", joint(survey, "S"))
    add("without binaries", joint(survey, "CS"))
    add("without M67", joint(survey, "BS"))
    add("without surveys", joint(survey, "BC"))
    add(
        "binaries and M67 forced flat, no survey",
        joint(survey, "BC", LearnSettings(diffusion=Diffusion("none"))),
    )
    add("all, M67 forced flat", joint(survey, "BCS", LearnSettings(diffusion=Diffusion("none"))))
    add("all, M67 only logg < 3.7", joint(survey, "BCS", LearnSettings(diffusion=Diffusion("range"))))
    few = simulate(replace(SimulationSettings(), pairs=10), seed=1)
    add("10 pairs only (with M67 and surveys)", joint(few))
    add("10 pairs and nothing else", joint(few, "B"))
    gap = simulate(replace(SimulationSettings(), empty_teff=(5000.0, 6000.0)), seed=1)
    add("no reference within 500 K of 5500 K: stars not flagged", joint(gap))
    add("... the flagged stars", joint(gap, flagged=True))
    add("trends not additive (0.05 dex)", joint(simulate(replace(SimulationSettings(), interaction=0.05), seed=1)))
    giants = simulate(replace(SimulationSettings(), survey_sizes=(500, 250), survey_logg_max=3.5), seed=1)
    flat, cut = LearnSettings(diffusion=Diffusion("none")), LearnSettings(diffusion=Diffusion("range"))
    add("few surveyed giants, no surveyed dwarf: all sets", joint(giants))
    add("... M67 forced flat", joint(giants, "BCS", flat))
    add("... M67 only logg < 3.7", joint(giants, "BCS", cut))
    add("... without binaries", joint(giants, "CS"))
    add("... without binaries, M67 forced flat", joint(giants, "CS", flat))
    add("... without M67", joint(giants, "BS"))
    add("... surveys alone", joint(giants, "S"))
    add("... least-squares chain", least_squares_chain(giants))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="simulated surveys of the main case")
    parser.add_argument("--first-seed", type=int, default=1, help="of the simulated surveys of the main case")
    parser.add_argument("--only-main", action="store_true", help="leave out the other methods and the ablations")
    parser.add_argument("--out", type=Path, default=None, help="write the tables there (Markdown)")
    args = parser.parse_args(argv)
    lines = [HEADER]

    def add(title: str, found: list[Score]) -> None:
        lines.append(row(title, found))
        print(lines[-1], flush=True)

    print(HEADER, flush=True)
    start = time.time()
    pooled: list[Score] = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        found = joint(simulate(seed=seed))
        pooled += found
        add(f"joint model, survey {seed}", found)
    add("joint model, all surveys", pooled)
    if not args.only_main:
        others(add)
    lines.append("")
    machine = f"{platform.processor() or platform.machine()}, Python {platform.python_version()}"
    stamp = f"{datetime.now(timezone.utc):%Y-%m-%d}"
    lines.append(
        f"`python scripts/calibration_closure.py {' '.join(argv or sys.argv[1:])}`, {machine}, {stamp}, "
        f"{time.time() - start:.0f} s."
    )
    print(lines[-1])
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
