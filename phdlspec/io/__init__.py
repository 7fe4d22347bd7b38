"""Reading and writing spectra. `read_spectrum` tells formats apart by their structure."""

from __future__ import annotations

import re
from pathlib import Path

from phdlspec.errors import UserError
from phdlspec.fits_files import is_fits, open_fits
from phdlspec.foreign import check_file, reading
from phdlspec.io import desi, lamost, sdss, table
from phdlspec.io.specutils_objects import from_specutils, to_specutils
from phdlspec.io.writers import write_lamost
from phdlspec.resolution import ResolvingPower, default_resolving_power
from phdlspec.spectrum import Spectrum

FORMATS = ("lamost", "sdss", "desi", "table")

__all__ = [
    "FORMATS",
    "default_resolving_power",
    "from_specutils",
    "read_spectrum",
    "reading",
    "to_specutils",
    "write_lamost",
]


def read_spectrum(
    path: str | Path,
    format: str | None = None,
    *,
    row: int | None = None,
    medium: str | None = None,
    resolving_power: ResolvingPower | None = None,
) -> Spectrum:
    """Read one spectrum from a file.

    Parameters
    ----------
    path : LAMOST low-resolution (both layouts), SDSS `spec-*.fits`, DESI coadd or frame, or a table in ECSV,
        CSV, plain text or FITS; gzipped FITS too. A row of a file with several spectra may be written `coadd.fits[12]`.
    format : one of 'lamost', 'sdss', 'desi', 'table'; by default the file's structure tells.
    row : spectrum of a DESI file or of a FITS table with one spectrum a row, from 0.
    medium : 'air' or 'vacuum', for tables that do not state it.
    resolving_power : number, pair (wave in vacuum Å, resolving power), path of such a table, or a survey's name;
        by default the file's own, else the survey's typical one (`default_resolving_power`).

    Raises
    ------
    UserError : one sentence, for anything that is not a spectrum that can be fitted.

    >>> phdlspec.read_spectrum(path).wave.size
    3909
    """
    if format is not None and format not in FORMATS:
        raise UserError(f"unknown format {format!r}, expected one of {' '.join(FORMATS)}")
    with reading(str(path)):
        return _read(str(path), format, row, medium, resolving_power)


def _read(
    path: str, format: str | None, row: int | None, medium: str | None, resolving_power: ResolvingPower | None
) -> Spectrum:
    name = path
    with_row = re.fullmatch(r"(.+)\[(\d{1,18})\]", name)
    if with_row and not Path(name).exists():
        name, row = with_row[1], int(with_row[2])
    file = Path(name)
    check_file(file)
    if not is_fits(file):
        if format not in (None, "table"):
            raise UserError(f"{file}: not a FITS file, but the format {format!r} is one")
        return table.read(file, medium, resolving_power)
    with open_fits(file) as hdus:
        if format == "lamost" or (format is None and lamost.matches(hdus)):
            return lamost.read(hdus, path, resolving_power)
        if format == "sdss" or (format is None and sdss.matches(hdus)):
            return sdss.read(hdus, path, resolving_power)
        if format == "desi" or (format is None and desi.matches(hdus)):
            return desi.read(hdus, path, resolving_power, row)
        return table.read_fits(hdus, path, medium, resolving_power, row)
