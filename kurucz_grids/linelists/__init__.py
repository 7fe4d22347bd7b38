"""Line lists: one in-memory form (`LineList`), a reader for each format, several lists as one (`merging`)."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kurucz_grids.linelists.columnar import read_columnar
from kurucz_grids.linelists.forest import forests_thinned
from kurucz_grids.linelists.kurucz import is_gfall, read_gfall
from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.linelists.merging import LineListPart, merged
from kurucz_grids.linelists.molecules import is_molecular, read_molecular
from kurucz_grids.linelists.moog import is_moog, read_moog
from kurucz_grids.linelists.rows import GZIP
from kurucz_grids.linelists.vald import is_vald, read_vald
from phdlspec.errors import UserError, first_line
from phdlspec.foreign import reading

__all__ = ["LineList", "read_line_list"]


def read_line_list(
    paths: str | Path | Sequence[str | Path], medium: str | None = None, *, thin_forests: bool = True
) -> LineList:
    """Read a line list, or several files, and folders of them, as one; each format is told by the file's structure.

    Columnar npz or HDF5, Kurucz gfall and molecular `.asc`, VALD short or long, MOOG; texts may be gzipped. What
    several lists have in common counts once (`merging`), and a molecule of a million lines becomes fewer that absorb
    the same (`forest`) unless `thin_forests` is false. `medium` ("air" or "vacuum") is checked against what each file
    says of itself and against its levels or strong lines in it; only MOOG files that hold none of these lines, and
    whose title names no medium, need it.
    Raises `UserError` where a file does not exist, cannot be read, is of no known format, in the other medium, or named
    twice.

    >>> kurucz_grids.read_line_list("lines.txt").medium
    'air'
    """
    if medium not in (None, "air", "vacuum"):
        raise UserError(f"the medium of a line list is {medium!r}, expected 'air' or 'vacuum'")
    named = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    if not named:
        raise UserError("no line list was named; expected files or folders of them")
    files, parts = [], []
    for path in named:
        with _told_if_unreadable(path):
            files += _files(path)
    _refuse_twice(files)
    for file in files:
        with _told_if_unreadable(file):
            parts.append(_read_file(file, medium))
    lines = merged(parts, " + ".join(str(path) for path in named))
    return forests_thinned(lines) if thin_forests else lines


@contextmanager
def _told_if_unreadable(path: Path) -> Iterator[None]:
    with reading(path):
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{path}: the line list cannot be read ({error.strerror or error}); see to the file and its permissions"
            ) from error


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.is_file():
            raise UserError(f"{path}: there is no such line list; expected a file or a folder of them")
        return [path]
    files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    if not files:
        raise UserError(f"{path}: the folder holds no line list; expected files of lines")
    return files


def _refuse_twice(files: Sequence[Path]) -> None:
    first_of: dict[str, Path] = {}
    if len(files) < 2:
        return
    for file in files:
        with _told_if_unreadable(file):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
        same = first_of.setdefault(digest, file)
        if same != file or files.count(file) > 1:
            raise UserError(
                f"{same} and {file} are the same line list, whose lines would count twice; leave one of them out"
            )


def _read_file(path: Path, medium: str | None) -> LineListPart:
    with path.open("rb") as stream:
        head = stream.read(2000)
    if head.startswith(GZIP):
        head = _unzipped_head(path)
    if head[:4] == b"PK\x03\x04" or head[:8] == b"\x89HDF\r\n\x1a\n":
        if medium == "vacuum":
            raise UserError(f"{path}: the wavelengths of a columnar list are in air, but vacuum was asked for")
        return LineListPart("columnar", read_columnar(path))
    text = head.decode("latin-1")
    if is_vald(text):
        return LineListPart("VALD", read_vald(path, medium))
    filled = [line for line in text.splitlines() if line.strip()]
    if filled and is_gfall(filled[0]):
        return LineListPart("gfall", read_gfall(path, medium))
    if filled and is_molecular(filled[0]):
        return LineListPart("Kurucz molecules", read_molecular(path, medium))
    if is_moog(filled):
        return LineListPart("MOOG", read_moog(path, medium))
    raise UserError(
        f"{path}: the format of this line list is not known; expected a columnar npz or HDF5, Kurucz's gfall or "
        "molecules, VALD's 'extract stellar', or MOOG"
    )


def _unzipped_head(path: Path) -> bytes:
    try:
        with gzip.open(path) as stream:
            return stream.read(2000)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: not a whole gzip file ({first_line(error)}); fetch it again") from error
