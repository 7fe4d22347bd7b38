"""Tables of any form that astropy knows, with the few habits of real files (comments, en dashes, sentinels)."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.errors import UserError, first_line
from phdlspec.files import replacing
from phdlspec.fits_files import open_fits
from phdlspec.foreign import content_of, is_there, reading

FITS_ENDINGS = (".fits", ".fit", ".fits.gz", ".fit.gz", ".fz")
MOST_BYTES = 4 << 30  # of what a table may unpack to
_SENTINEL = -999.0  # surveys write -999, -9999 or -9999.99 for missing; no label reaches down there
_DEX = " [dex]"  # after a description in FITS, which knows no such unit


def read_any_table(path: str | Path) -> Table:
    """A table from FITS (first binary table), ECSV, CSV, VOTable or plain text, told apart by its ending.

    Text may start with `#` comments, use the typographic minus and be gzipped. Raises `UserError` where nothing can be
    read.
    """
    path = Path(path)
    if not is_there(path):
        raise UserError(f"{path}: there is no such file, expected a table (FITS, ECSV, CSV, VOTable)")
    name = path.name.lower()
    with reading(path, "cannot be read as a table"):
        if name.endswith(FITS_ENDINGS):
            with open_fits(path, MOST_BYTES) as hdus:
                return _plain(Table.read(hdus))
        content = content_of(path, MOST_BYTES)
        if name.endswith((".vot", ".xml")):
            return _plain(Table.read(BytesIO(content), format="votable"))
        text = content.decode("utf-8-sig")
        if name.endswith(".ecsv"):
            return _plain(Table.read(text, format="ascii.ecsv"))
        text = text.replace("\u2013", "-").replace("\u2212", "-")
        lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if not lines:
            raise UserError(f"{path}: is empty, expected a table with names of columns in its first line")
        kind = "csv" if "," in lines[0] else "basic"
        return _plain(Table.read(lines, format=f"ascii.{kind}"))


def _plain(table: Table) -> Table:
    """Byte strings as text, columns described; what astropy says of foreign names of units is of no interest here."""
    table.convert_bytestring_to_unicode()
    return described(table)


def described(table: Table) -> Table:
    """FITS comments of columns (TCOMMn) made their descriptions, with the unit that only they could tell."""
    for number, name in enumerate(table.colnames, start=1):
        comment = table.meta.pop(f"TCOMM{number}", None)
        if comment:
            table[name].info.description = comment.removesuffix(_DEX)
            if comment.endswith(_DEX) and table[name].unit is None:
                table[name].unit = "dex"
    return table


def number_column(table: Table, name: str, path: str | Path) -> NDArray[np.float64]:
    """A column as float64 with NaN for masked, empty and sentinel (<= -999) values."""
    column = table[name]
    try:
        values = np.ma.filled(np.ma.asarray(column).astype(float), np.nan)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: column {name} holds text, expected numbers") from error
    values = np.array(values, dtype=float)
    values[~(values > _SENTINEL)] = np.nan
    return values


def text_column(table: Table, name: str) -> NDArray[np.str_]:
    """A column of identifiers as stripped text; whole numbers keep all their digits, masked entries become
    ''."""
    column = table[name]
    masked = np.ma.getmaskarray(np.ma.asarray(column))
    texts = np.array([str(value).strip() for value in np.ma.getdata(np.ma.asarray(column))], dtype=str)
    if masked.any():
        texts[masked] = ""
    return texts


def find_column(table: Table, *names: str) -> str | None:
    """The first of the given names that the table has, whatever its capitals; None if it has none."""
    lower = {name.lower(): name for name in table.colnames}
    for name in names:
        if name.lower() in lower:
            answer: str | None = lower[name.lower()]
            return answer
    return None


def check_table_name(out: Path) -> None:
    """Refuse a table to be written whose name ends neither in .fits nor in .ecsv, before any work is done."""
    if not out.name.lower().endswith((".fits", ".ecsv")):
        raise UserError(f"{out}: expected an --out that ends in .fits or .ecsv")


def write_table(table: Table, out: Path) -> None:
    """Write a table as its name says, .fits or .ecsv; it appears when it is whole. `UserError` where it cannot be."""
    with replacing(out) as temporary:
        if out.suffix.lower() == ".fits":
            table_hdu(table, out).writeto(temporary, overwrite=True)
        else:
            table.write(temporary, format="ascii.ecsv", overwrite=True)


def table_hdu(table: Table, out: str | Path) -> fits.BinTableHDU:
    """The FITS table, descriptions of columns as comments. Raises `UserError` where FITS cannot hold it.

    FITS knows no dex: such a unit would be lost, and stands at the end of the description.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The unit 'dex' could not be saved")
            unit = fits.table_to_hdu(table, character_as_bytes=True)
    except ValueError as error:
        raise UserError(f"{out}: cannot be written as FITS ({first_line(error)}); choose an --out in .ecsv") from error
    for number, name in enumerate(table.colnames, start=1):
        text = " ".join(str(table[name].info.description or "").split()).encode("ascii", "backslashreplace").decode()
        text += _DEX if str(table[name].unit) == "dex" else ""
        if text:
            unit.header.comments[f"TTYPE{number}"] = text[:47]
            unit.header[f"TCOMM{number}"] = text
    return unit
