"""Writing tables in the form of those they were made from, whole or not at all."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from astropy.io import fits
from astropy.table import Table

from phdlspec.errors import UserError
from phdlspec.files import replacing
from phdlspec.tables import FITS_ENDINGS, table_hdu


def write_like(source: Path, table: Table, out: Path) -> list[str]:
    """Write a table that was made from that of `source`, with the other units of a FITS file copied as they are.

    Returns the names of the units that are left out, because `out` is an ECSV.
    """
    with ExitStack() as stack:
        units = fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU()])
        if source.name.lower().endswith(FITS_ENDINGS):
            units = stack.enter_context(fits.open(source))
        place = next(i for i, unit in enumerate(units) if isinstance(unit, (fits.BinTableHDU, fits.TableHDU)))
        part = stack.enter_context(replacing(out))
        if out.suffix.lower() == ".ecsv":
            table.write(part, format="ascii.ecsv", overwrite=True)
            return [unit.name for i, unit in enumerate(units) if i not in (0, place)]
        units[place] = table_hdu(table, out)
        units.writeto(part, overwrite=True)
    return []


def check_output(path: Path, *endings: str) -> None:
    """Raise `UserError` unless a file of one of these endings can be made there; asked before long work."""
    if not path.name.lower().endswith(endings):
        raise UserError(f"{path}: the form of the output is not known by its ending, expected {' or '.join(endings)}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it first")
