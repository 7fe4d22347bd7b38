"""Files that are whole or not there, troubles of the disk in one sentence, one writer at a time.

A file is written under a temporary name in its own folder, flushed to the disk, and only then takes the place of what
was there. What a kill leaves behind has a name of its own (`.part-PID-NAME`) that nobody reads.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from phdlspec.errors import UserError, first_line

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_WORDS = ("No space left", "Not enough space", "File too large", "Disk quota exceeded")
_PART = ".part-"


class DiskFullError(UserError):
    """No space left. What was finished before is whole."""


def tells_of_full_disk(error: BaseException) -> bool:
    """Whether an error comes from a full disk. HDF5, astropy and compilers tell it in their message only."""
    return getattr(error, "errno", None) in _FULL or any(words in str(error) for words in _FULL_WORDS)


@contextmanager
def disk_errors(path: str | Path, kept: str = "") -> Iterator[None]:
    """Turn an `OSError` in writing `path` into a sentence; `kept` says what is not lost."""
    try:
        yield
    except OSError as error:
        if tells_of_full_disk(error):
            advice = f"{kept}; make room and give the same command again" if kept else "make room and try again"
            raise DiskFullError(f"{path}: the disk is full; {advice}") from error
        raise UserError(f"{path}: cannot be written ({error.strerror or first_line(error)})") from error


@contextmanager
def replacing(path: str | Path, kept: str = "") -> Iterator[Path]:
    """A temporary name beside `path` with the same ending; what is written there takes its place when the block ends.

    Missing folders are made. Raises `DiskFullError` or `UserError` where `path` cannot be written; it is then what it
    was before.
    """
    path = Path(path)
    temporary = path.with_name(f"{_PART}{os.getpid()}-{path.name}")
    with disk_errors(path, kept):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: str | Path, kept: str = "") -> Iterator[IO[bytes]]:
    """A binary file open for writing that appears as `path` when the block ends: see `replacing`."""
    with replacing(path, kept) as temporary, temporary.open("wb") as file:
        yield file


def write_text(path: str | Path, text: str, kept: str = "") -> None:
    """Write a file of UTF-8 text as a whole: see `replacing`."""
    with writing(path, kept) as file:
        file.write(text.encode())


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits. Raises `OSError` where it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def only_writer(path: str | Path) -> Iterator[None]:
    """Be the only process that makes `path`; another that tries is refused with a `UserError`.

    The lock lies beside it as `.NAME.lock` and goes with the process, however that ends.
    """
    path = Path(path)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise UserError(
                f"{path}: another run is making it; wait for that one, stop it, or choose another output"
            ) from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: who waits for it looks whether it is there
        lock.release()


def parts_folder(out: str | Path) -> Path:
    """Where the finished pieces of `out` lie while it is being made: `OUT.parts` beside it."""
    out = Path(out)
    return out.with_name(out.name + ".parts")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed runs left half-written in a folder of which the caller is the only writer."""
    for path in folder.glob(f"{_PART}*"):
        path.unlink(missing_ok=True)
