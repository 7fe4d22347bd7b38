"""Opening FITS files so that whatever is wrong with one is said in a sentence."""

from __future__ import annotations

import gzip
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning, AstropyWarning
from numpy.typing import NDArray

from phdlspec.errors import UserError

DAMAGED = (OSError, EOFError, ValueError, TypeError, KeyError, IndexError, zlib.error, fits.VerifyError)


def check_file(path: Path) -> None:
    """Refuse what is not a readable, non-empty file."""
    if path.is_dir():
        raise UserError(f"{path}: this is a folder, expected a file with one spectrum")
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    try:
        with open(path, "rb") as stream:
            empty = not stream.read(1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if empty:
        raise UserError(f"{path}: the file is empty")


def is_fits(path: Path) -> bool:
    """Whether a file, gzipped or not, begins like FITS."""
    with open(path, "rb") as stream:
        start = stream.read(6)
    if start[:2] == b"\x1f\x8b":
        try:
            with gzip.open(path) as stream:
                start = stream.read(6)
        except DAMAGED as error:
            raise UserError(
                f"{path}: the gzip file is damaged or truncated ({error}), fetch it again"
            ) from error
    return start == b"SIMPLE"


def _unpacked(path: Path) -> Path | BytesIO:
    """The path itself, or the whole contents of a gzipped file."""
    with open(path, "rb") as stream:
        if stream.read(2) != b"\x1f\x8b":
            return path
    with gzip.open(path) as stream:
        return BytesIO(stream.read())


@contextmanager
def open_fits(path: Path) -> Iterator[fits.HDUList]:
    """The HDUs of a file; damage found while they are read raises `UserError`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        warnings.filterwarnings("error", message=".*truncated.*", category=AstropyUserWarning)
        try:
            # astropy takes a cut gzip stream for the end of the file, so unpack it here, where that raises.
            with fits.open(_unpacked(path), memmap=False) as hdus:
                yield hdus
        except (*DAMAGED, AstropyUserWarning) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{path}: the FITS file is damaged or truncated ({reason}), fetch it again"
            ) from error


def column(table: fits.BinTableHDU, name: str, dtype: type = float) -> NDArray[Any]:
    """A column by its name in any case, flattened, in native byte order."""
    return np.array(table.data[name], dtype=dtype).ravel()


def column_names(hdu: object) -> set[str]:
    """Upper-case column names of a table HDU; empty for any other."""
    return {name.upper() for name in hdu.columns.names} if isinstance(hdu, fits.BinTableHDU) else set()


def header_values(header: fits.Header, keys: tuple[str, ...]) -> dict[str, object]:
    """The keys that a header holds with a defined value."""
    found = {}
    for key in keys:
        value = header.get(key)
        if value is not None and not isinstance(value, fits.card.Undefined):
            found[key] = value.strip() if isinstance(value, str) else value
    return found


def is_true(value: object) -> bool:
    """Truth of a header flag that may be a FITS logical or the text 'T'."""
    return value is True or str(value).strip().upper() in ("T", "TRUE", "1")
