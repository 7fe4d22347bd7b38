"""Learning a calibration: rows of every label from all references, one fit a label, and where the references
reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray
from tqdm import tqdm

from calibration.catalog import AXES, CALIBRATED_LABELS, Catalog, Matcher
from calibration.clusters import Diffusion, constrains
from calibration.model import BiasFit, Rows, fit_bias
from calibration.reach import CELL, Reach
from calibration.references import ClusterTable, LabelTable, PairTable
from calibration.scales import is_abundance, label_shift
from calibration.splines import Axis, Basis
from calibration.store import Calibration, LabelCalibration
from phdlspec import __version__
from phdlspec.errors import UserError
from phdlspec.solar import SOLAR_SCALE

MIN_ROWS = 8
INTERVALS = 14
AXIS_ROUNDS = 3  # Teff, logg and [Fe/H] are each other's coordinates, so they are fitted in turn
SURVEY_OFFSET_SIGMA = (
    0.5  # prior of the zero point of a survey that does not set the scale, in units of the scale
)


def label_scale(label: str) -> float:
    """Size of a typical trend: 300 K, 0.3 dex, 0.5 km/s; the unit of all priors of a label."""
    return {"TEFF": 300.0, "VMIC": 0.5}.get(label, 0.3)


@dataclass
class Settings:
    """Choices of the user; the defaults are those of the command line.

    Attributes
    ----------
    diffusion : how clusters may depart from one composition.
    exclude : pairs (name of a set, label): labels that a reference must not constrain, beside C and N in
    evolved stars. anchor : name of the set of labels that sets the scale; the default is the first that has
    the label. labels : labels to calibrate; the default is all that a reference constrains.
    """

    diffusion: Diffusion = field(default_factory=Diffusion)
    exclude: frozenset[tuple[str, str]] = frozenset()
    anchor: str | None = None
    labels: tuple[str, ...] | None = None
    seed: int = 0


@dataclass
class _Matched:
    """The references with the catalogue rows of their stars."""

    pairs: list[tuple[PairTable, NDArray, NDArray, NDArray]]
    clusters: list[tuple[ClusterTable, NDArray, NDArray]]
    labels: list[tuple[LabelTable, NDArray, NDArray]]


def learn(
    catalog: Catalog,
    pairs: Sequence[PairTable] = (),
    clusters: Sequence[ClusterTable] = (),
    labels: Sequence[LabelTable] = (),
    settings: Settings | None = None,
    matcher: Matcher | None = None,
    progress: bool = False,
) -> Calibration:
    """Fit the bias of every label that the references constrain.

    Raises `UserError` when nothing overlaps, too few stars do, a set has only flagged stars, or a label that
    was asked for is missing everywhere.
    """
    settings = settings or Settings()
    _check_settings(settings, pairs, clusters, labels)
    matched = _match(catalog, pairs, clusters, labels, matcher or Matcher(catalog))
    involved = _involved(matched)
    catalog, matched = catalog.take(involved), _renumbered(matched, involved)
    coordinates = catalog.coordinates()
    basis = Basis(tuple(_axis(name, coordinates[:, i]) for i, name in enumerate(AXES)))
    wanted = settings.labels or tuple(name for name in CALIBRATED_LABELS if name in catalog.table.colnames)
    ordered = [name for name in (*AXES, *CALIBRATED_LABELS) if name in wanted]
    fitted: dict[str, LabelCalibration] = {}
    skipped: dict[str, str] = {}
    evidence: dict[str, Table] = {}
    raw = coordinates
    agreeing: tuple[NDArray, NDArray] = (np.zeros((0, 3), dtype=np.intp), np.zeros(0))
    order = [name for name in ordered if name in AXES] * AXIS_ROUNDS + [
        name for name in ordered if name not in AXES
    ]
    for name in tqdm(order, disable=not progress, desc="labels"):
        rows, has_zero_point = _rows(catalog, name, matched, coordinates, settings)
        if name not in AXES:
            rows.prior_good = rows.prior_good * _one_composition(rows, agreeing)
        reason = _why_not(catalog, name, rows)
        if reason:
            if settings.labels:
                raise UserError(f"{name} cannot be calibrated: {reason}")
            skipped[name] = reason
            continue
        axis = AXES.index(name) if name in AXES else None
        start = coordinates if axis is None else _with_axis(coordinates, axis, raw)
        fit = fit_bias(rows, start, basis, label_scale(name), axis, has_zero_point, settings.seed)
        fitted[name] = _label_calibration(name, fit, rows, fit.coordinates, has_zero_point)
        evidence[name] = _evidence(name, fit, rows, catalog)
        if axis is not None:
            coordinates = fit.coordinates
        if name == "FE_H":
            agreeing = _key(rows), fit.good
    if not fitted:
        worst = max((len(_rows(catalog, n, matched, coordinates, settings)[0]) for n in ordered), default=0)
        raise UserError(
            f"too few reference stars to calibrate {catalog.path}: at most {worst} for any label, at "
            f"least {MIN_ROWS} needed"
        )
    return Calibration(
        emulator_hash=catalog.emulator_hash,
        solar_scale=SOLAR_SCALE,
        created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        software=f"phdlspec {__version__}",
        catalog=catalog.path.name,
        basis=basis,
        labels=fitted,
        skipped=skipped,
        references=_describe(matched),
        evidence=_stack(list(evidence.values())),
    )


def _check_settings(settings: Settings, pairs, clusters, labels) -> None:
    if not (pairs or clusters or labels):
        raise UserError("no reference given: give wide binaries, a cluster or a table of labels")
    names = [table.name for table in (*pairs, *clusters, *labels)]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"two references are called {sorted(twice)[0]}; rename one of the files")
    if settings.anchor is not None and settings.anchor not in [table.name for table in labels]:
        raise UserError(
            f"the scale is to be set by {settings.anchor}, which is none of the tables of labels given"
        )
    for name in settings.labels or ():
        if name not in CALIBRATED_LABELS:
            raise UserError(
                f"label {name} is unknown or is not calibrated, expected one of {' '.join(CALIBRATED_LABELS)}"
            )


def _match(catalog: Catalog, pairs, clusters, labels, matcher: Matcher) -> _Matched:
    flagged = _flagged(catalog)
    matched = _Matched([], [], [])
    found = 0
    for pair in pairs:
        first, second = matcher.find(pair.first), matcher.find(pair.second)
        keep = (first >= 0) & (second >= 0) & (first != second)
        found += keep.sum()
        usable = keep & ~flagged[first] & ~flagged[second]
        if keep.any() and not usable.any():
            raise UserError(
                f"{pair.name}: all {keep.sum()} pairs found in {catalog.path} have a flagged star"
            )
        matched.pairs.append((pair, np.flatnonzero(usable), first[usable], second[usable]))
    for cluster in clusters:
        matched.clusters.append(
            (cluster, *_found(cluster.name, matcher.find(cluster.stars), flagged, catalog))
        )
    for table in labels:
        matched.labels.append((table, *_found(table.name, matcher.find(table.stars), flagged, catalog)))
    found += sum(len(index) for _, index, _ in (*matched.clusters, *matched.labels))
    if not found:
        raise UserError(
            f"no reference star is in {catalog.path}: neither identifiers nor positions (within the "
            f"matching radius) overlap"
        )
    return matched


def _found(name: str, rows: NDArray, flagged: NDArray, catalog: Catalog) -> tuple[NDArray, NDArray]:
    keep = rows >= 0
    usable = keep & ~flagged[rows]
    if keep.any() and not usable.any():
        raise UserError(f"{name}: all {keep.sum()} stars found in {catalog.path} are flagged")
    return np.flatnonzero(usable), rows[usable]


def _flagged(catalog: Catalog) -> NDArray[np.bool_]:
    """Stars that cannot be used: flagged or without coordinates."""
    flagged = ~np.isfinite(catalog.coordinates().sum(axis=1))
    if "FLAG" in catalog.table.colnames:
        flagged |= catalog.values("FLAG") != 0
    return flagged


def _renumbered(matched: _Matched, involved: NDArray) -> _Matched:
    """The same references with rows counted among the involved stars only."""

    def new(rows: NDArray) -> NDArray:
        return np.searchsorted(involved, rows)

    return _Matched(
        [(table, index, new(first), new(second)) for table, index, first, second in matched.pairs],
        [(table, index, new(rows)) for table, index, rows in matched.clusters],
        [(table, index, new(rows)) for table, index, rows in matched.labels],
    )


def _involved(matched: _Matched) -> NDArray:
    """Sorted catalogue rows of all reference stars."""
    parts = [np.concatenate([first, second]) for _, _, first, second in matched.pairs]
    parts += [rows for _, _, rows in (*matched.clusters, *matched.labels)]
    return np.unique(np.concatenate(parts))


def _axis(name: str, values: NDArray) -> Axis:
    """The axis over the references, at least one step of the reach wide."""
    lower, upper = float(values.min()), float(values.max())
    missing = max(CELL[name] - (upper - lower), 0.0) / 2
    digits = 0 if name == "TEFF" else 3
    step = 10.0**-digits
    return Axis(name, round(lower - missing - step, digits), round(upper + missing + step, digits), INTERVALS)


def _rows(
    catalog: Catalog, label: str, matched: _Matched, coordinates: NDArray, settings: Settings
) -> tuple[Rows, bool]:
    """All rows of a label, and whether any reference states its value."""
    value, error = catalog.label(label)
    logg = coordinates[:, 1]
    blocks: list[dict] = []
    composition = is_abundance(label)
    for pair, index, first, second in matched.pairs:
        if not composition or (pair.name, label) in settings.exclude:
            continue
        known, known_error = pair.difference.get(
            label, (np.zeros(len(pair.first)), np.zeros(len(pair.first)))
        )
        delta, delta_error = np.nan_to_num(known[index]), np.nan_to_num(known_error[index])
        keep = np.isfinite(value[first] - value[second])
        keep &= constrains(label, logg[first]) & constrains(label, logg[second])
        datum, own = value[first] - value[second] - delta, error[first] ** 2 + error[second] ** 2
        prior = pair.probability[index]
        blocks.append(_block(pair.name, "pairs", keep, datum, own, delta_error**2, first, second, prior))
    for cluster, index, rows in matched.clusters:
        if not composition or (cluster.name, label) in settings.exclude:
            continue
        keep = (
            np.isfinite(value[rows]) & constrains(label, logg[rows]) & settings.diffusion.usable(logg[rows])
        )
        own, nobody, prior = error[rows] ** 2, np.full(len(rows), -1), cluster.probability[index]
        no_error = np.zeros(len(rows))
        blocks.append(_block(cluster.name, "cluster", keep, value[rows], own, no_error, rows, nobody, prior))
    tables = [
        item
        for item in matched.labels
        if label in item[0].values and (item[0].name, label) not in settings.exclude
    ]
    tables = [item for item in tables if _has(item, label, value)]
    names = [table.name for table, _, _ in tables]
    anchor = settings.anchor if settings.anchor in names else (names[0] if names else None)
    for table, index, rows in tables:
        reference, reference_error = (column[index] for column in table.values[label])
        shift = label_shift(label, table.solar_scale) if table.solar_scale and composition else 0.0
        datum = value[rows] - reference - shift
        keep, own, nobody, prior = (
            np.isfinite(datum),
            error[rows] ** 2,
            np.full(len(rows), -1),
            np.ones(len(rows)),
        )
        block = _block(table.name, "labels", keep, datum, own, reference_error**2, rows, nobody, prior)
        block["is_anchor"] = table.name == anchor
        blocks.append(block)
    return _assemble([b for b in blocks if len(b["d"])], label, logg, settings.diffusion), anchor is not None


def _has(item: tuple[LabelTable, NDArray, NDArray], label: str, value: NDArray) -> bool:
    table, index, rows = item
    return bool(np.isfinite(table.values[label][0][index] - value[rows]).any())


def _block(name, kind, keep, d, own, other, first, second, prior) -> dict:
    columns = {"d": d, "own": own, "other": other, "first": first, "second": second, "prior": prior}
    return {"name": name, "kind": kind, **{key: column[keep] for key, column in columns.items()}}


def _assemble(blocks: list[dict], label: str, logg: NDArray, diffusion: Diffusion) -> Rows:
    """Stack the blocks; a star that occurs in k rows gets k times its own variance, its noise being one."""
    sizes = [len(block["d"]) for block in blocks]
    n, scale = sum(sizes), label_scale(label)
    columns, means, sigmas, names = [], [], [], []
    start = 0
    for block, size in zip(blocks, sizes):
        at = slice(start, start + size)
        start += size
        if block["kind"] == "cluster":
            shape, mean, sigma = diffusion.basis(label, logg[block["first"]])
            part = np.column_stack([np.ones(size), shape])
            means += [0.0, *mean]
            sigmas += [10 * scale, *sigma]
            names += [f"{block['name']}: value"]
            names += [f"{block['name']}: depletion {i}" for i in range(shape.shape[1])]
        elif block["kind"] == "labels" and not block["is_anchor"]:
            part = np.ones((size, 1))
            means.append(0.0)
            sigmas.append(SURVEY_OFFSET_SIGMA * scale)
            names.append(f"{block['name']}: zero point")
        else:
            continue
        full = np.zeros((n, part.shape[1]))
        full[at] = part
        columns.append(full)

    def stack(key: str) -> NDArray:
        return np.concatenate([block[key] for block in blocks]) if blocks else np.zeros(0)

    first, second = stack("first").astype(np.intp), stack("second").astype(np.intp)
    times = np.bincount(np.concatenate([first, second[second >= 0]]), minlength=len(logg))
    repeats = np.maximum(times[first], np.where(second >= 0, times[second], 1)) if n else np.zeros(0)
    return Rows(
        d=stack("d"),
        own=stack("own") * repeats,
        other=stack("other"),
        first=first,
        second=second,
        set_index=np.repeat(np.arange(len(blocks)), sizes),
        set_names=[block["name"] for block in blocks],
        set_kinds=[block["kind"] for block in blocks],
        prior_good=np.clip(stack("prior"), 1e-3, 1.0),
        nuisance=np.hstack(columns) if columns else np.zeros((n, 0)),
        nuisance_mean=np.array(means, dtype=float),
        nuisance_sigma=np.array(sigmas, dtype=float),
        nuisance_names=names,
    )


def _why_not(catalog: Catalog, label: str, rows: Rows) -> str | None:
    if not np.isfinite(catalog.label(label)[0]).any():
        return f"it is missing or flagged for every reference star in {catalog.path}"
    if len(rows) == 0:
        return "no reference constrains it"
    if len(rows) < MIN_ROWS:
        return f"only {len(rows)} reference star(s) or pair(s) have it, at least {MIN_ROWS} needed"
    return None


def _key(rows: Rows) -> NDArray[np.intp]:
    """Kind and stars of each row (n, 3): -1 for rows that compare labels with a survey."""
    shares = np.array([kind != "labels" for kind in rows.set_kinds], dtype=np.intp)[rows.set_index]
    return np.column_stack([shares - 1, rows.first, rows.second])


def _one_composition(rows: Rows, agreeing: tuple[NDArray, NDArray]) -> NDArray:
    """Probability (n,) that a pair or member agrees in [Fe/H]; where it does not, no element need agree "
    "either."""
    keys, good = agreeing
    known = {tuple(key): value for key, value in zip(keys.tolist(), good) if key[0] == 0}
    return np.array([known.get(tuple(key), 1.0) for key in _key(rows).tolist()]).clip(1e-3)


def _with_axis(coordinates: NDArray, axis: int, raw: NDArray) -> NDArray:
    """The coordinates with one axis set back to its raw values: its label is about to be fitted again."""
    changed = coordinates.copy()
    changed[:, axis] = raw[:, axis]
    return changed


def _label_calibration(
    name: str, fit: BiasFit, rows: Rows, coordinates: NDArray, has_zero_point: bool
) -> LabelCalibration:
    good = fit.good > 0.5
    stars = np.unique(np.concatenate([rows.first[good], rows.second[good & (rows.second >= 0)]]))
    return LabelCalibration(
        label=name,
        coefficients=fit.coefficients,
        covariance=fit.covariance,
        centre=fit.centre,
        scatter=fit.scatter,
        has_zero_point=has_zero_point,
        reach=Reach.of(coordinates[stars]),
        smoothness=fit.smoothness,
        sets=fit.sets,
        nuisance=fit.nuisance,
        held_out=fit.held_out,
    )


def _evidence(name: str, fit: BiasFit, rows: Rows, catalog: Catalog) -> Table:
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


def _stack(tables: list[Table]) -> Table:
    return vstack(tables, metadata_conflicts="silent")


def _describe(matched: _Matched) -> list[dict]:
    described = [
        {"name": t.name, "kind": "pairs", "given": len(t.first), "used": len(first)}
        for t, _, first, _ in matched.pairs
    ]
    for kind, group in (("cluster", matched.clusters), ("labels", matched.labels)):
        for table, index, _ in group:
            entry = {"name": table.name, "kind": kind, "given": len(table.stars), "used": len(index)}
            if isinstance(table, LabelTable):
                entry["solar_scale"] = table.solar_scale
                entry["notes"] = list(table.notes)
            described.append(entry)
    return described
