"""A table of what is known of stars: one row a star, found by OBSID, FILE or position.

Columns are any of `<LABEL>` with `<LABEL>_ERR` (0: exact), PARALLAX and PARALLAX_ERR (mas), magnitudes G, BP, RP, KS
and extinction AV, with or without `_ERR`; an empty entry says nothing. What cannot be used of a star (a negative
parallax, a value outside the models) is told with its result; what is wrong with the table is refused before anything
is fitted.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.bolometric import BANDS
from phdlspec.errors import UserError
from phdlspec.fitting.known import NAMES, GivenValue, KnownStar
from phdlspec.spectrum import Spectrum, stem_of
from phdlspec.tables import find_column, number_column, read_any_table, text_column

log = logging.getLogger(__name__)

CLOSE_ARCSEC = 2.0  # of a row from a spectrum's star
_NEEDS_ERROR = (*NAMES, "PARALLAX")


@dataclass(frozen=True)
class KnownTable:
    """path; by_name : KnownStar of each OBSID or stem of a file; ra, dec (N,) deg with `stars`, where rows are found
    by position."""

    path: str
    by_name: dict[str, KnownStar]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    stars: tuple[KnownStar, ...]

    def of(self, spectrum: Spectrum) -> KnownStar:
        """What the table says of a spectrum's star; nothing where it has no row."""
        for name in (str(spectrum.meta.get("OBSID", "")), spectrum.stem):
            if name and name in self.by_name:
                return self.by_name[name]
        ra, dec = (spectrum.meta.get(name) for name in ("RA", "DEC"))
        if len(self.ra) == 0 or not isinstance(ra, (int, float)) or not isinstance(dec, (int, float)):
            return KnownStar()
        separation = np.hypot((self.ra - ra) * np.cos(np.radians(dec)), self.dec - dec) * 3600.0
        nearest = int(np.argmin(separation))
        return self.stars[nearest] if separation[nearest] < CLOSE_ARCSEC else KnownStar()


def read_known(path: str) -> KnownTable:
    """The table of a path; it is kept, so that the next call costs nothing. Raises `UserError` for what is wrong."""
    try:
        return _read(path, os.stat(path).st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}), expected a table of what is known") from error


@lru_cache(maxsize=4)
def _read(path: str, modified: int) -> KnownTable:
    table = read_any_table(path)
    columns = {name: find_column(table, name) for name in (*_NEEDS_ERROR, *BANDS, "AV")}
    found = {name: column for name, column in columns.items() if column is not None}
    if not found:
        raise UserError(
            f"{path}: no column is a label, expected some of TEFF, LOGG, FE_H, MG_FE … with _ERR, or PARALLAX"
        )
    _tell_unused(table, set(found.values()), path)
    given = {name: _values(table, name, column, path) for name, column in found.items()}
    stars = tuple(_star(given, row) for row in range(len(table)))
    names = {column: text_column(table, column) for key in ("OBSID", "FILE") if (column := find_column(table, key))}
    positions = [find_column(table, key) for key in ("RA", "DEC")]
    if not names and None in positions:
        raise UserError(f"{path}: no column OBSID, FILE, or RA and DEC, by which stars are found")
    by_name: dict[str, KnownStar] = {}
    for column, texts in names.items():
        keys = [stem_of(text) if column.upper() == "FILE" else text for text in texts]
        _refuse_repeated(keys, path)
        by_name |= {key: star for key, star in zip(keys, stars) if key}
    ra, dec = (np.zeros(0) if names or column is None else number_column(table, column, path) for column in positions)
    if len(ra):
        _refuse_close(ra, dec, path)
    return KnownTable(path, by_name, ra, dec, stars)


def _tell_unused(table: Table, used: set[str], path: str) -> None:
    """Say which columns with an error beside them are no labels: one of them may be a slip of the pen."""
    ours = used | {find_column(table, f"{name}_ERR") for name in used}
    others = [name for name in table.colnames if name not in ours and find_column(table, f"{name}_ERR")]
    if others:
        log.warning("%s: %s: no label of the models, not used", path, ", ".join(others))


def _values(table: Table, name: str, column: str, path: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values = number_column(table, column, path)
    of_error = find_column(table, f"{column}_ERR", f"{column}_ERROR", f"E_{column}")
    if of_error is None:
        if name in _NEEDS_ERROR:
            raise UserError(f"{path}: column {column} has no {name}_ERR beside it; 0 stands for a value that is exact")
        return values, np.zeros(len(values))
    errors = number_column(table, of_error, path)
    wrong = np.flatnonzero(np.isfinite(values) & ~(errors >= 0))
    if len(wrong) and name in _NEEDS_ERROR:
        raise UserError(
            f"{path}: row {wrong[0] + 1} has {column} = {values[wrong[0]]:g} without an error, expected {of_error}"
        )
    return values, np.nan_to_num(errors)


def _star(given: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]], row: int) -> KnownStar:
    star = KnownStar()
    photometry: dict[str, GivenValue] = {}
    for name, (values, errors) in given.items():
        if not np.isfinite(values[row]):
            continue
        told = (float(values[row]), float(errors[row]))
        if name not in NAMES:
            photometry[name] = told
            continue
        try:
            star = star.updated(KnownStar.of({name: told}))
        except UserError as error:
            star = star.updated(KnownStar(unused=(f"{error}: not used",)))
    if "PARALLAX" not in photometry:
        return star
    try:
        return star.updated(KnownStar.of(photometry))
    except UserError as error:
        return star.updated(KnownStar(unused=(f"{error}: not used",)))


def _refuse_repeated(keys: list[str], path: str) -> None:
    first: dict[str, int] = {}
    for row, key in enumerate(keys, start=1):
        if key and first.setdefault(key, row) != row:
            raise UserError(f"{path}: rows {first[key]} and {row} are both of {key}, expected one row a star")


def _refuse_close(ra: NDArray[np.float64], dec: NDArray[np.float64], path: str) -> None:
    order = np.argsort(dec, kind="stable")
    for step in (1, 2, 3):  # neighbours in declination
        a, b = order[:-step], order[step:]
        separation = np.hypot((ra[a] - ra[b]) * np.cos(np.radians(dec[a])), dec[a] - dec[b]) * 3600.0
        if (separation < CLOSE_ARCSEC).any():
            i = int(np.argmax(separation < CLOSE_ARCSEC))
            one, two = sorted((int(a[i]) + 1, int(b[i]) + 1))
            raise UserError(f"{path}: rows {one} and {two} are at one position, expected one row a star")
