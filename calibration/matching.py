"""Finding the stars of the references in a catalogue, by identifier or by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from numpy.typing import NDArray

from calibration.catalog import Catalog
from calibration.references import ClusterTable, LabelTable, PairTable, Stars, refuse_duplicates
from phdlspec.errors import UserError
from phdlspec.tables import find_column, text_column

Floats = NDArray[np.float64]
Index = NDArray[np.intp]

_ID_COLUMNS = (
    "OBSID",
    "ID",
    "SOURCE_ID",
    "GAIA_SOURCE_ID",
    "GAIADR3_SOURCE_ID",
    "APOGEE_ID",
    "TMASS_ID",
    "DESIG",
    "FILE",
)


class Matcher:
    """Finds reference stars in a catalogue.

    Parameters
    ----------
    catalog : the catalogue.
    how : "auto" (identifiers where they are known to the catalogue, else positions), "id" or "sky".
    radius_arcsec : largest separation of a match by position.
    id_column : the catalogue's column of identifiers; the default is each of the usual ones in turn.
    """

    def __init__(self, catalog: Catalog, how: str = "auto", radius_arcsec: float = 3.0, id_column: str | None = None):
        if id_column is not None and find_column(catalog.table, id_column) is None:
            raise UserError(f"{catalog.path}: has no column {id_column} to match identifiers with")
        self.catalog, self.how, self.radius = catalog, how, radius_arcsec
        names = (id_column,) if id_column else _ID_COLUMNS
        self._columns = [found for name in names if (found := find_column(catalog.table, name))]
        self._ids = {name: text_column(catalog.table, name) for name in self._columns}
        self._sky: SkyCoord | None = None

    def find(self, stars: Stars) -> NDArray[np.intp]:
        """Catalogue row of each star (n,), -1 where there is none."""
        if self.how != "sky" and stars.ids is not None:
            for name, ids in self._ids.items():
                rows = _look_up(stars.ids, ids)
                if (rows >= 0).any():
                    named = stars.ids != ""
                    refuse_duplicates(str(self.catalog.path), name, ids[np.isin(ids, stars.ids[named])])
                    return self._with_nameless(stars, rows, ~named)
        if self.how != "id" and stars.ra is not None and stars.dec is not None:
            return self._by_position(stars.ra, stars.dec)
        return np.full(len(stars), -1, dtype=np.intp)

    def _with_nameless(self, stars: Stars, rows: Index, nameless: NDArray[np.bool_]) -> Index:
        """The rows with those of stars that have no identifier, but a position, where no other is that row's."""
        place = find_column(self.catalog.table, "RA"), find_column(self.catalog.table, "DEC")
        if self.how == "id" or stars.ra is None or stars.dec is None or None in place or not nameless.any():
            return rows
        found = np.full(len(rows), -1, dtype=np.intp)
        found[nameless] = self._by_position(stars.ra[nameless], stars.dec[nameless])
        return np.where(nameless & ~np.isin(found, rows[rows >= 0]), found, rows)

    def _by_position(self, ra: NDArray[Any], dec: NDArray[Any]) -> NDArray[np.intp]:
        table = self.catalog.table
        if find_column(table, "RA") is None or find_column(table, "DEC") is None:
            raise UserError(f"{self.catalog.path}: has no RA and DEC to match by position")
        if self._sky is None:
            own = [self.catalog.values(find_column(table, name) or name) for name in ("RA", "DEC")]
            self._sky = SkyCoord(np.nan_to_num(own[0]) * u.deg, np.nan_to_num(own[1], nan=-90.0) * u.deg)
        rows = np.full(len(ra), -1, dtype=np.intp)
        known = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
        if len(known):
            nearest, separation, _ = SkyCoord(ra[known] * u.deg, dec[known] * u.deg).match_to_catalog_sky(self._sky)
            close = separation.arcsec <= self.radius
            rows[known[close]] = nearest[close]
        return rows


def _look_up(wanted: NDArray[np.str_], known: NDArray[np.str_]) -> NDArray[np.intp]:
    order = np.argsort(known, kind="stable")
    place = np.clip(np.searchsorted(known, wanted, sorter=order), 0, max(len(known) - 1, 0))
    if not len(known):
        return np.full(len(wanted), -1, dtype=np.intp)
    rows = order[place]
    return np.where((known[rows] == wanted) & (wanted != ""), rows, -1)


@dataclass
class MatchedReferences:
    """The references with the catalogue rows of their stars: rows of the reference that are used, and of the catalogue
    (two of them for pairs)."""

    pairs: list[tuple[PairTable, Index, Index, Index]]
    clusters: list[tuple[ClusterTable, Index, Index]]
    labels: list[tuple[LabelTable, Index, Index]]


def match(
    catalog: Catalog,
    pairs: Sequence[PairTable],
    clusters: Sequence[ClusterTable],
    labels: Sequence[LabelTable],
    matcher: Matcher,
) -> MatchedReferences:
    """Find all stars; raises `UserError` where nothing overlaps or a set has only flagged stars."""
    flagged = _flagged(catalog)
    matched = MatchedReferences([], [], [])
    found = 0
    for pair in pairs:
        first, second = matcher.find(pair.first), matcher.find(pair.second)
        keep = (first >= 0) & (second >= 0) & (first != second)
        found += keep.sum()
        usable = keep & ~flagged[first] & ~flagged[second]
        if keep.any() and not usable.any():
            raise UserError(f"{pair.name}: all {keep.sum()} pairs found in {catalog.path} have a flagged star")
        matched.pairs.append((pair, np.flatnonzero(usable), first[usable], second[usable]))
    for cluster in clusters:
        matched.clusters.append((cluster, *_found(cluster.name, matcher.find(cluster.stars), flagged, catalog)))
    for table in labels:
        matched.labels.append((table, *_found(table.name, matcher.find(table.stars), flagged, catalog)))
    found += sum(len(index) for _, index, _ in (*matched.clusters, *matched.labels))
    if not found:
        raise UserError(
            f"no reference star is in {catalog.path}: neither identifiers nor positions (within the "
            f"matching radius) overlap"
        )
    return matched


def _found(name: str, rows: NDArray[Any], flagged: NDArray[Any], catalog: Catalog) -> tuple[NDArray[Any], NDArray[Any]]:
    keep = rows >= 0
    usable = keep & ~flagged[rows]
    if keep.any() and not usable.any():
        raise UserError(f"{name}: all {keep.sum()} stars found in {catalog.path} are flagged")
    return np.flatnonzero(usable), rows[usable]


def _flagged(catalog: Catalog) -> NDArray[np.bool_]:
    """Stars that cannot be used: flagged or without coordinates."""
    return np.asarray(~np.isfinite(catalog.coordinates().sum(axis=1)) | ~catalog.usable())


def renumbered(matched: MatchedReferences, involved: NDArray[Any]) -> MatchedReferences:
    """The same references with rows counted among the involved stars only."""

    def new(rows: NDArray[Any]) -> NDArray[Any]:
        return np.searchsorted(involved, rows)

    return MatchedReferences(
        [(table, index, new(first), new(second)) for table, index, first, second in matched.pairs],
        [(table, index, new(rows)) for table, index, rows in matched.clusters],
        [(table, index, new(rows)) for table, index, rows in matched.labels],
    )


def involved_rows(matched: MatchedReferences) -> NDArray[Any]:
    """Sorted catalogue rows of all reference stars."""
    parts = [np.concatenate([first, second]) for _, _, first, second in matched.pairs]
    parts += [rows for _, _, rows in (*matched.clusters, *matched.labels)]
    return np.unique(np.concatenate(parts))


def describe(matched: MatchedReferences) -> list[dict[str, Any]]:
    """What was given and what of it is used, for the calibration file."""
    described = [
        {"name": t.name, "kind": "pairs", "given": len(t.first), "used": len(first)} for t, _, first, _ in matched.pairs
    ]
    for kind, group in (("cluster", matched.clusters), ("labels", matched.labels)):
        for table, index, _ in group:
            entry = {"name": table.name, "kind": kind, "given": len(table.stars), "used": len(index)}
            if isinstance(table, LabelTable):
                entry["solar_scale"] = table.solar_scale
                entry["notes"] = list(table.notes)
            described.append(entry)
    return described
