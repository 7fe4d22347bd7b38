"""What one does with calibrations: learn one, apply it, report it. From files or from objects in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from astropy.table import Table

from calibration.binaries import read_pairs
from calibration.catalog import Catalog
from calibration.clusters import read_clusters
from calibration.correction import correct
from calibration.learning import LearnSettings, learn_corrections
from calibration.matching import Matcher
from calibration.references import ClusterTable, LabelTable, PairTable
from calibration.report_page import write_report
from calibration.store import Calibration
from calibration.surveys import read_labels

CatalogLike: TypeAlias = "Catalog | Table | str | Path"
CalibrationLike: TypeAlias = "Calibration | str | Path"


def learn(
    catalog: CatalogLike,
    *,
    wide_binaries: Iterable[PairTable | str | Path] = (),
    clusters: Iterable[ClusterTable | str | Path] = (),
    references: Iterable[LabelTable | str | Path] = (),
    settings: LearnSettings | None = None,
    solar_scale: str | None = None,
    rename: Mapping[str, str] | None = None,
    only_clusters: Iterable[str] = (),
    match: str = "auto",
    radius_arcsec: float = 3.0,
    id_column: str | None = None,
    progress: bool = False,
) -> Calibration:
    """Learn the biases of a catalogue's labels from stars whose labels, or their differences, are known.

    Parameters
    ----------
    catalog : a raw catalogue of phdlspec, or its file.
    wide_binaries, clusters, references : tables (`calibration.references`) or their files; the first of the
        references that has a label sets its scale, unless `settings` names another.
    settings : see `LearnSettings`. solar_scale : of reference files that do not state theirs.
    rename : columns of the files under other names, `{"M_H": "FE_H"}`; "-" leaves one out.
    only_clusters : names of the clusters to use; all by default.
    match, radius_arcsec, id_column : how the stars are found, see `Matcher`.

    Raises `UserError` for what cannot be read, and where too few stars constrain anything.

    >>> pairs, clusters = survey.pairs, survey.clusters
    >>> settings = calibration.LearnSettings(labels=("FE_H",))
    >>> learned = calibration.learn(
    ...     catalogue, references=[reference], wide_binaries=pairs, clusters=clusters, settings=settings
    ... )
    >>> sorted(learned.labels)
    ['FE_H']
    """
    known = _catalog(catalog)
    pairs = [item if isinstance(item, PairTable) else read_pairs(item, rename=rename) for item in wide_binaries]
    labels = [
        item if isinstance(item, LabelTable) else read_labels(item, solar_scale, rename=rename) for item in references
    ]
    members, matcher = _clusters(clusters, rename, only_clusters), Matcher(known, match, radius_arcsec, id_column)
    return learn_corrections(known, pairs, members, labels, settings, matcher, progress)


def _clusters(
    clusters: Iterable[ClusterTable | str | Path], rename: Mapping[str, str] | None, only: Iterable[str]
) -> list[ClusterTable]:
    members = [
        cluster
        for item in clusters
        for cluster in ([item] if isinstance(item, ClusterTable) else read_clusters(item, rename))
    ]
    chosen = set(only)
    return [cluster for cluster in members if not chosen or cluster.name in chosen]


def apply(catalog: CatalogLike, calibration: CalibrationLike) -> Table:
    """The calibrated catalogue, a new table: raw values and errors stay in `_RAW` columns, see `correction`.

    Raises `UserError` where the calibration was learned for another emulator checkpoint or solar scale.

    >>> calibrated = calibration.apply(catalogue, learned)
    >>> "MG_FE_RAW" in calibrated.colnames, len(calibrated) == len(catalogue)
    (True, True)
    """
    raw = Catalog.from_table(catalog.copy()) if isinstance(catalog, Table) else _catalog(catalog)
    return correct(raw, _calibration(calibration)).table


def report(
    calibration: CalibrationLike,
    folder: str | Path,
    diagnostics: str | Path | None = None,
    opinion: Table | None = None,
) -> Path:
    """Write one HTML page of what was learned; its path.

    diagnostics : HDF5 of `pixel_influence.Diagnostics`. opinion : table of `second_opinion.second_opinion`.

    >>> calibration.report(learned, "report").name
    'calibration.html'
    """
    return write_report(_calibration(calibration), folder, diagnostics, opinion)


def _catalog(catalog: CatalogLike) -> Catalog:
    if isinstance(catalog, Catalog):
        return catalog
    return Catalog.from_table(catalog) if isinstance(catalog, Table) else Catalog.read(catalog)


def _calibration(calibration: CalibrationLike) -> Calibration:
    return calibration if isinstance(calibration, Calibration) else Calibration.read(calibration)
