"""Files of others: regular ones alone, no more of them than fits, one sentence for whatever they do to a reader."""

from __future__ import annotations

import gzip
import logging
import stat
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np

from phdlspec.errors import UserError, first_line

log = logging.getLogger(__name__)

MOST_BYTES = 1 << 30  # of what a file may unpack to
MOST_SHORT = 1 << 26  # of a list of paths or a small table

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")
_GZIP = b"\x1f\x8b"


def check_file(path: Path) -> None:
    """Refuse what is not a readable, regular, non-empty file; a pipe or a device would be waited for."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"{path}: this is a folder, expected a file")
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: this is a pipe, a socket or a device, expected a regular file")
        with open(path, "rb") as stream:
            empty = not stream.read(1)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:  # a name that no file can have
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if empty:
        raise UserError(f"{path}: the file is empty")


def is_there(path: Path) -> bool:
    """Whether there is such a file. Raises `UserError` where that may not be known."""
    try:
        return path.is_file()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def content_of(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a file, unpacked where it is gzipped. Raises `UserError` where it is damaged or holds too many."""
    path = Path(path)
    check_file(path)
    with open(path, "rb") as stream:
        content = stream.read(most + 1)
    if content.startswith(_GZIP):
        try:
            with gzip.open(path) as packed:
                content = packed.read(most + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: not a whole gzip file ({first_line(error)}); fetch it again") from error
    if len(content) > most:
        raise UserError(f"{path}: holds more than {most / 1e6:.0f} MB, too much for what is expected here")
    return content


def lines_of(path: str | Path) -> list[str]:
    """The lines of a list of paths, without blank ones; names of files may be in any encoding."""
    text = content_of(path, MOST_SHORT).decode("utf-8-sig", "surrogateescape")
    return [line.strip() for line in text.splitlines() if line.strip()]


@contextmanager
def reading(path: str | Path, what: str = "cannot be read") -> Iterator[None]:
    """One sentence for whatever a broken file does to its reader, so that the other files of a run go on."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # what is wrong with a file is an error or told by our own words
            yield
    except (UserError, ImportError):
        raise
    except Exception as error:
        log.debug("reading %s failed", path, exc_info=True)
        raise UserError(f"{path}: {what} ({type(error).__name__}: {first_line(error)})") from error


def one_sentence(reader: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """The reader (of a path, which comes first) that raises `UserError` alone: see `reading`."""

    @wraps(reader)
    def read(*args: Arguments.args, **options: Arguments.kwargs) -> Returned:
        path = args[0] if args else next(iter(options.values()), "")
        with reading(str(path)):
            return reader(*args, **options)

    return read
