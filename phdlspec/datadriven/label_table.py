"""Tables of labels to learn from: any column X with errors X_ERR beside it, found by FILE, OBSID or position.

Labels of the label table are known by their usual names (`phdlspec.aliases`), any other quantity by its own. A missing
value is NaN and stays one. Units and the solar scale are kept as the table states them (column units, SOLSCALE in the
header); a column STAR says which spectra are of one star.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.aliases import DECLINATIONS, RIGHT_ASCENSIONS, LabelColumns, error_of, flag_of, positions
from phdlspec.errors import UserError
from phdlspec.labels import ELEMENTS, LABELS, abundance_name, label_of
from phdlspec.tables import find_column, number_column, read_any_table, text_column

MATCH_ARCSEC = 3.0
NOT_STATED = "not stated"
_UNITS = {label.name: label.unit for label in LABELS}
_ABUNDANCES = {"FE_H", *map(abundance_name, ELEMENTS)}
_OTHER_SUFFIXES = ("_ERR", "_FLAG", "_RAW", "_CRLB", "_CALFLAG", "_NOISE")
_PLACES = {name.upper() for name in (*RIGHT_ASCENSIONS, *DECLINATIONS)}

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LabelInfo:
    """One label of one set: its name there, the set, its unit, and the solar scale of the set."""

    name: str
    set_name: str
    unit: str
    solar_scale: str

    @property
    def is_abundance(self) -> bool:
        """True where the value depends on the solar scale."""
        return self.name in _ABUNDANCES


@dataclass(frozen=True)
class GivenLabels:
    """Labels of stars as a table gives them.

    path : for messages. infos : of the L labels. values, errors : (n, L), NaN where missing.
    files, obsids, stars : (n,) text or None. ra, dec : (n,) degrees or None.
    """

    path: str
    infos: tuple[LabelInfo, ...]
    values: Array
    errors: Array
    files: NDArray[np.str_] | None
    obsids: NDArray[np.str_] | None
    stars: NDArray[np.str_] | None
    ra: Array | None
    dec: Array | None


def read_label_table(
    source: str | Path | Table, solar_scale: str | None = None, name: str | None = None
) -> GivenLabels:
    """Read a table of labels.

    Parameters
    ----------
    source : FITS, ECSV, CSV or VOTable file, `SET=PATH`, or an astropy Table.
    solar_scale : of tables that do not state theirs.
    name : of the set; by default what stands before `=`, else the file's stem.
    """
    if isinstance(source, Table):
        table, path, name = source, name or "labels", name or "labels"
    else:
        given, separator, rest = str(source).partition("=")
        if separator and not Path(str(source)).exists():
            name, source = name or given, rest
        path = str(source)
        table = read_any_table(path)
        name = name or Path(path).name.split(".")[0]
    file, obsid, star = (find_column(table, *names) for names in (("FILE",), ("OBSID", "ID"), ("STAR",)))
    ra, dec = positions(table, path) or (None, None)
    if file is None and obsid is None and ra is None:
        raise UserError(f"{path}: no column FILE, OBSID, or RA and DEC says which star a row is")
    header = {str(key).upper(): value for key, value in table.meta.items()}
    scale = str(header.get("SOLSCALE") or solar_scale or NOT_STATED)
    columns = _label_columns(table, path)
    values = [_values(table, column, path) for column in columns.values()]
    infos = tuple(
        LabelInfo(label, name, str(table[c.value].unit or _UNITS.get(label, "")), scale) for label, c in columns.items()
    )

    def text(column: str | None) -> NDArray[np.str_] | None:
        return None if column is None else text_column(table, column)

    return GivenLabels(
        path, infos, np.column_stack([v for v, _ in values]), np.column_stack([e for _, e in values]),
        text(file), text(obsid), text(star),
        ra, dec,
    )  # fmt: skip


def _label_columns(table: Table, path: str) -> dict[str, LabelColumns]:
    """Columns of every label: those of the label table by their usual names, others by theirs, with errors beside."""
    found: dict[str, LabelColumns] = {}
    for column in table.colnames:
        label = label_of(column)
        error = error_of(table, column, label or "")
        if label is None and (error is None or column.upper().endswith(_OTHER_SUFFIXES) or column.upper() in _PLACES):
            continue
        name = label or column.upper()
        if error is None:
            raise UserError(f"{path}: column {column} has no column of errors {name}_ERR beside it")
        if name in found:
            raise UserError(f"{path}: {found[name].value} and {column} are both {name}; leave one of them out")
        found[name] = LabelColumns(column, error, flag_of(table, column, name))
    if not found:
        raise UserError(f"{path}: no labels in it, expected columns such as TEFF with TEFF_ERR beside them")
    return found


def _values(table: Table, columns: LabelColumns, path: str) -> tuple[Array, Array]:
    value = number_column(table, columns.value, path)
    error = number_column(table, columns.error or "", path)
    bad = ~(np.isfinite(value) & (error > 0) & np.isfinite(error))
    if columns.flag:
        bad |= np.nan_to_num(number_column(table, columns.flag, path), nan=1.0) != 0
    return np.where(bad, np.nan, value), np.where(bad, np.nan, error)


def match(table: GivenLabels, files: list[str], obsids: list[str], ra: Array, dec: Array) -> NDArray[np.intp]:
    """Row of the table for each of N spectra, -1 where there is none: by FILE (path, else name), OBSID, position.

    Raises `UserError` where two rows claim one spectrum, or none claims any.
    """
    rows = np.full(len(files), -1, dtype=np.intp)
    for known, wanted in (
        (table.files, files),
        (None if table.files is None else np.array([Path(f).name for f in table.files]), [Path(f).name for f in files]),
        (table.obsids, obsids),
    ):
        if known is not None:
            rows = np.where(rows >= 0, rows, _look_up(table.path, known, wanted))
    if table.ra is not None and table.dec is not None:
        rows = np.where(rows >= 0, rows, _by_position(table.ra, table.dec, ra, dec))
    if (rows < 0).all():
        raise UserError(f"{table.path}: none of its rows is one of the spectra, neither by FILE, OBSID nor position")
    return rows


def _look_up(path: str, known: NDArray[np.str_], wanted: list[str]) -> NDArray[np.intp]:
    places: dict[str, list[int]] = {}
    for i, one in enumerate(known):
        if one:
            places.setdefault(str(one), []).append(i)
    twice = next((w for w in wanted if len(places.get(w, ())) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: {twice} stands in {len(places[twice])} rows; keep one row a spectrum")
    return np.array([places.get(w, [-1])[0] for w in wanted], dtype=np.intp)


def _by_position(known_ra: Array, known_dec: Array, ra: Array, dec: Array) -> NDArray[np.intp]:
    rows = np.full(len(ra), -1, dtype=np.intp)
    known = np.flatnonzero(np.isfinite(known_ra) & np.isfinite(known_dec))
    wanted = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    if len(known) and len(wanted):
        sky = SkyCoord(known_ra[known] * u.deg, known_dec[known] * u.deg)
        nearest, separation, _ = SkyCoord(ra[wanted] * u.deg, dec[wanted] * u.deg).match_to_catalog_sky(sky)
        close = separation.arcsec <= MATCH_ARCSEC
        rows[wanted[close]] = known[nearest[close]]
    return rows
