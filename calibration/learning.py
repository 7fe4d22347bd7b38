"""Learning a calibration: one fit a label to its comparisons with all references, and where the references reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray
from tqdm import tqdm

from calibration.catalog import AXES, CALIBRATED_LABELS, Catalog
from calibration.clusters import Diffusion
from calibration.comparisons import Comparisons, compare, label_scale
from calibration.coverage import CELL, Coverage
from calibration.matching import MatchedReferences, Matcher, describe, involved_rows, match, renumbered
from calibration.model import BiasFit, fit_bias
from calibration.references import ClusterTable, LabelTable, PairTable
from calibration.splines import Axis, Basis
from calibration.store import Calibration, LabelCalibration
from phdlspec import __version__
from phdlspec.errors import UserError
from phdlspec.solar import SOLAR_SCALE

Floats = NDArray[np.float64]

MIN_ROWS = 8
INTERVALS = 14
AXIS_ROUNDS = 6  # Teff, logg and [Fe/H] are each other's coordinates, so they are fitted in turn


@dataclass(frozen=True)
class LearnSettings:
    """Choices of the user; the defaults are those of the command line.

    Attributes
    ----------
    diffusion : how clusters may depart from one composition.
    exclude : pairs (name of a set, label): labels that a reference must not constrain, beside C and N in
        evolved stars.
    anchor : name of the set of labels that sets the scale; the default is the first that has the label.
    labels : labels to calibrate; the default is all that a reference constrains.
    seed : of the cross-validation.

    >>> calibration.LearnSettings(labels=("TEFF", "MG_FE"), exclude=frozenset({("M67", "NA_FE")})).seed
    0
    """

    diffusion: Diffusion = field(default_factory=Diffusion)
    exclude: frozenset[tuple[str, str]] = frozenset()
    anchor: str | None = None
    labels: tuple[str, ...] | None = None
    seed: int = 0


def learn_corrections(
    catalog: Catalog,
    pairs: Sequence[PairTable] = (),
    clusters: Sequence[ClusterTable] = (),
    labels: Sequence[LabelTable] = (),
    settings: LearnSettings | None = None,
    matcher: Matcher | None = None,
    progress: bool = False,
) -> Calibration:
    """Fit the bias of every label that the references constrain.

    Raises `UserError` when nothing overlaps, too few stars do, a set has only flagged stars, or a label that
    was asked for is missing everywhere.
    """
    settings = settings or LearnSettings()
    _check_settings(settings, pairs, clusters, labels)
    matched = match(catalog, pairs, clusters, labels, matcher or Matcher(catalog))
    involved = involved_rows(matched)
    learner = _Learner(catalog.take(involved), renumbered(matched, involved), settings)
    learner.run(progress)
    return learner.calibration()


class _Learner:
    """The labels fitted so far. Those that are coordinates come first, in turn: each fit moves the coordinates."""

    def __init__(self, catalog: Catalog, matched: MatchedReferences, settings: LearnSettings):
        self.catalog, self.matched, self.settings = catalog, matched, settings
        self.raw = self.coordinates = catalog.coordinates()
        self.basis = Basis(tuple(_axis(name, self.raw[:, i]) for i, name in enumerate(AXES)))
        wanted = settings.labels or tuple(name for name in CALIBRATED_LABELS if name in catalog.table.colnames)
        self.ordered = [name for name in dict.fromkeys((*AXES, *CALIBRATED_LABELS)) if name in wanted]
        self.agreement: dict[tuple[int, int], float] = {}  # of pairs and members: probability of one [Fe/H]
        self.fitted: dict[str, LabelCalibration] = {}
        self.skipped: dict[str, str] = {}
        self.evidence: dict[str, Table] = {}

    def run(self, progress: bool) -> None:
        """Fit all labels; `UserError` where none, or not one that was asked for, can be."""
        of_axes = [name for name in self.ordered if name in AXES]
        others = [name for name in self.ordered if name not in AXES]
        for name in tqdm(of_axes * AXIS_ROUNDS + others, disable=not progress, desc="labels"):
            self._fit(name)
        if not self.fitted:
            worst = max((len(self._compare(name)[0]) for name in self.ordered), default=0)
            raise UserError(
                f"too few reference stars to calibrate {self.catalog.path}: at most {worst} for any label, at "
                f"least {MIN_ROWS} needed"
            )

    def _compare(self, name: str) -> tuple[Comparisons, bool]:
        diffusion, exclude, anchor = self.settings.diffusion, self.settings.exclude, self.settings.anchor
        return compare(self.catalog, name, self.matched, self.coordinates[:, 1], diffusion, exclude, anchor)

    def _fit(self, name: str) -> None:
        rows, has_zero_point = self._compare(name)
        axis = AXES.index(name) if name in AXES else None
        if axis is None:
            rows.prior_good = rows.prior_good * _one_composition(rows, self.agreement)
        reason = _why_not(self.catalog, name, rows)
        if reason:
            if self.settings.labels:
                raise UserError(f"{name} cannot be calibrated: {reason}")
            self.skipped[name] = reason
            return
        start = self.coordinates if axis is None else _with_axis(self.coordinates, axis, self.raw)
        fit = fit_bias(rows, start, self.basis, label_scale(name), axis, has_zero_point, self.settings.seed)
        self.fitted[name] = _label_calibration(name, fit, rows, has_zero_point)
        self.evidence[name] = _evidence(name, fit, rows, self.catalog)
        if axis is not None:
            self.coordinates = fit.coordinates
        if name == "FE_H":
            self.agreement = dict(zip(_stars_of(rows), fit.good.tolist()))

    def calibration(self) -> Calibration:
        """What has been learned."""
        return Calibration(
            emulator_hash=self.catalog.emulator_hash,
            solar_scale=SOLAR_SCALE,
            created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            software=f"phdlspec {__version__}",
            catalog=self.catalog.path.name,
            basis=self.basis,
            labels=self.fitted,
            skipped=self.skipped,
            references=describe(self.matched),
            evidence=vstack(list(self.evidence.values()), metadata_conflicts="silent"),
        )


def _check_settings(
    settings: LearnSettings,
    pairs: Sequence[PairTable],
    clusters: Sequence[ClusterTable],
    labels: Sequence[LabelTable],
) -> None:
    if not (pairs or clusters or labels):
        raise UserError("no reference given: give wide binaries, a cluster or a table of labels")
    names = [table.name for tables in (pairs, clusters, labels) for table in tables]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"two references are called {sorted(twice)[0]}; rename one of the files")
    if settings.anchor is not None and settings.anchor not in [table.name for table in labels]:
        raise UserError(f"the scale is to be set by {settings.anchor}, which is none of the tables of labels given")
    for name in settings.labels or ():
        if name not in CALIBRATED_LABELS:
            raise UserError(
                f"label {name} is unknown or is not calibrated, expected one of {' '.join(CALIBRATED_LABELS)}"
            )


def _axis(name: str, values: Floats) -> Axis:
    """The axis over the references, at least one step of the reach wide."""
    lower, upper = float(values.min()), float(values.max())
    missing = max(CELL[name] - (upper - lower), 0.0) / 2
    digits = 0 if name == "TEFF" else 3
    step = 10.0**-digits
    return Axis(name, round(lower - missing - step, digits), round(upper + missing + step, digits), INTERVALS)


def _why_not(catalog: Catalog, label: str, rows: Comparisons) -> str | None:
    if not np.isfinite(catalog.label(label)[0]).any():
        return f"it is missing or flagged for every reference star in {catalog.path}"
    if len(rows) == 0:
        return "no reference constrains it"
    if len(rows) < MIN_ROWS:
        return f"only {len(rows)} reference star(s) or pair(s) have it, at least {MIN_ROWS} needed"
    return None


def _stars_of(rows: Comparisons) -> list[tuple[int, int]]:
    """The stars of each row that compares stars of one origin, (-1, -1) for those with labels from elsewhere."""
    shares = np.array([kind != "labels" for kind in rows.set_kinds], dtype=bool)[rows.set_index]
    return [(int(a), int(b)) if same else (-1, -1) for a, b, same in zip(rows.first, rows.second, shares)]


def _one_composition(rows: Comparisons, agreement: dict[tuple[int, int], float]) -> Floats:
    """Probability (n,) that a pair or member agrees in [Fe/H]; where it does not, no element need agree either."""
    known = {stars: value for stars, value in agreement.items() if stars != (-1, -1)}
    return np.array([known.get(stars, 1.0) for stars in _stars_of(rows)], dtype=float).clip(1e-3)


def _with_axis(coordinates: Floats, axis: int, raw: Floats) -> Floats:
    """The coordinates with one axis set back to its raw values: its label is about to be fitted again."""
    changed = coordinates.copy()
    changed[:, axis] = raw[:, axis]
    return changed


def _label_calibration(name: str, fit: BiasFit, rows: Comparisons, has_zero_point: bool) -> LabelCalibration:
    good = fit.good > 0.5
    stars = np.unique(np.concatenate([rows.first[good], rows.second[good & (rows.second >= 0)]]))
    return LabelCalibration(
        label=name,
        coefficients=fit.coefficients,
        covariance=fit.covariance,
        centre=fit.centre,
        scatter=fit.scatter,
        has_zero_point=has_zero_point,
        coverage=Coverage.of(fit.coordinates[stars]),
        smoothness=fit.smoothness,
        sets=fit.sets,
        nuisance=fit.nuisance,
        held_out=fit.held_out,
    )


def _evidence(name: str, fit: BiasFit, rows: Comparisons, catalog: Catalog) -> Table:
    """The rows of the fit for the report: datum, prediction, errors, responsibility, coordinates.

    ERR_OURS is what the catalogue states for the star (for both of a pair, in quadrature).
    """
    snr = catalog.snr()
    at, other = rows.first, rows.second
    x = catalog.coordinates()
    value, error = catalog.label(name)
    return Table(
        {
            "LABEL": np.full(len(rows), name),
            "SET": np.array(rows.set_names)[rows.set_index],
            "KIND": np.array(rows.set_kinds)[rows.set_index],
            "ROW_1": at,
            "ROW_2": other,
            "TEFF": x[at, 0],
            "LOGG": x[at, 1],
            "FE_H": x[at, 2],
            "SNR": np.where(other >= 0, np.fmin(snr[at], snr[other]), snr[at]),
            "DATUM": rows.d,
            "FITTED": fit.predicted,
            "ERR_OURS": np.where(other >= 0, np.hypot(error[at], error[other]), error[at]),
            "ERR_REFERENCE": np.sqrt(rows.other),
            "ERR_TOTAL": np.sqrt(fit.variance),
            "GOOD": fit.good,
            "HELD_OUT": fit.held_out_residual,
            "RAW": value[at],
        }
    )
