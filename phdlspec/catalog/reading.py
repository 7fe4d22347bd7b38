"""Reading a catalogue of any of its formats."""

from __future__ import annotations

from pathlib import Path

from astropy.table import Table

from phdlspec.catalog.formats import ENDINGS, read_also
from phdlspec.errors import UserError
from phdlspec.fits_files import check_fits, is_fits
from phdlspec.foreign import reading
from phdlspec.tables import described


def read_catalog(path: str | Path) -> Table:
    """The table of a catalogue (FITS, or what `phdlspec catalog --also` writes beside it).

    The numbers of a FITS catalogue are left on disk until they are used. Raises `UserError` for any other file.

    >>> from phdlspec.catalog import CatalogJob, make_catalog
    >>> job = CatalogJob((str(path),), "catalogue.fits", phdlspec.FitSettings(mode="fast"))
    >>> made = make_catalog(job, progress=False)
    >>> phdlspec.read_catalog("catalogue.fits")["TEFF"].unit
    Unit("K")
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file, expected a catalogue of phdlspec")
    try:
        with reading(path, "no catalogue of phdlspec, or a damaged one"):
            if path.suffix in ENDINGS.values():
                return read_also(path)
            if not is_fits(path):
                raise UserError(f"{path}: no catalogue of phdlspec, which is FITS, HDF5 or Parquet")
            check_fits(path)
            return described(Table.read(path, format="fits", hdu="CATALOG", memmap=True, mask_invalid=False))
    except ImportError as error:
        raise UserError(f"{path}: Parquet needs pyarrow: pip install 'phdlspec[parquet]'") from error
