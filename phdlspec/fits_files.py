"""Opening FITS files so that whatever is wrong with one is said in a sentence."""

from __future__ import annotations

import gzip
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning, AstropyWarning
from numpy.typing import NDArray

from phdlspec.errors import UserError, first_line
from phdlspec.fits_walk import fits_size
from phdlspec.foreign import MOST_BYTES, check_file

_SLACK = 1 << 20
DAMAGED = (OSError, EOFError, ValueError, TypeError, KeyError, IndexError, zlib.error, fits.VerifyError)


def is_fits(path: Path) -> bool:
    """Whether a file, gzipped or not, begins like FITS."""
    try:
        with _opened(path) as stream:
            return stream.read(6) == b"SIMPLE"
    except FileNotFoundError as error:
        raise UserError(f"{path}: has vanished while it was read") from error
    except DAMAGED as error:
        raise UserError(f"{path}: the gzip file is damaged or truncated ({error}), fetch it again") from error


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if _is_gzip(path) else open(path, "rb")


def _content(path: Path, most: int) -> Path | BytesIO:
    """The path itself, or the contents of a gzipped file; `OSError` where the headers cannot be."""
    if not _is_gzip(path):
        with open(path, "rb") as stream:
            fits_size(stream, path.stat().st_size)
        return path
    with gzip.open(path) as stream:
        size = fits_size(cast(BinaryIO, stream), most)
        # astropy takes a cut gzip stream for the end of the file, so unpack it here, where that raises; no more of it
        # than the headers tell, for a megabyte of zeros may unpack to a terabyte.
        stream.seek(0)
        content = stream.read(size)
        stream.read(_SLACK)  # to the checksum at the end
    if len(content) < size:
        raise OSError(f"its headers tell of {size} bytes, it has {len(content)}")
    return BytesIO(content)


@contextmanager
def open_fits(path: Path, most: int = MOST_BYTES) -> Iterator[fits.HDUList]:
    """The HDUs of a file; damage found while they are read raises `UserError`. most : bytes that it may unpack to."""
    check_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        warnings.filterwarnings("error", message=".*truncated.*", category=AstropyUserWarning)
        try:
            with fits.open(_content(path, most), memmap=False) as hdus:
                yield hdus
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise UserError(
                f"{path}: cannot be read ({type(error).__name__}: {first_line(error)}); it is damaged, or of a layout "
                "that is not known"
            ) from error
        except (*DAMAGED, AstropyUserWarning) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{path}: the FITS file is damaged or truncated ({reason}), fetch it again") from error


def check_fits(path: Path) -> None:
    """Refuse a FITS file whose headers tell of what it does not hold; for those that stay on disk while they are used.

    Raises `UserError`, also for what is no regular file.
    """
    check_file(path)
    try:
        if _is_gzip(path):
            _content(path, MOST_BYTES)
            return
        with open(path, "rb") as stream:
            fits_size(stream, path.stat().st_size)
    except DAMAGED as error:
        raise UserError(
            f"{path}: the FITS file is damaged or truncated ({first_line(error)}), fetch it again"
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
