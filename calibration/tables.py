"""Writing tables in the form of those they were made from, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from astropy.io import fits
from astropy.table import Table

from phdlspec.errors import UserError
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
        part = stack.enter_context(written_whole(out))
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


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, which takes its place when the block ends well.

    Raises `UserError` where nothing can be written; the temporary file is removed then.
    """
    part = path.with_name(f".part.{path.name}")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
