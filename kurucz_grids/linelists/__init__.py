"""Line lists: one in-memory form (`LineList`) and a reader for each format."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kurucz_grids.linelists.columnar import read_columnar
from kurucz_grids.linelists.kurucz import is_gfall, read_gfall
from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.linelists.molecules import is_molecular, read_molecular
from kurucz_grids.linelists.moog import is_moog, read_moog
from kurucz_grids.linelists.vald import is_vald, read_vald
from phdlspec.errors import UserError

__all__ = ["LineList", "read_line_list"]


def read_line_list(path: str | Path, medium: str | None = None) -> LineList:
    """Read a line list, or all those in a folder as one; the format of each is told by the file's structure.

    Columnar npz or HDF5, Kurucz gfall and molecular `.asc`, VALD short or long, MOOG. `medium` ("air" or "vacuum") is
    checked against what the file says of itself and against its levels or strong lines in it; only MOOG files that
    hold none of these lines need it.
    Raises `UserError` where the file does not exist, cannot be read, is of no known format, in the other medium, or
    twice in a folder.
    """
    path = Path(path)
    if medium not in (None, "air", "vacuum"):
        raise UserError(f"the medium of a line list is {medium!r}, expected 'air' or 'vacuum'")
    try:
        if path.is_dir():
            return _read_folder(path, medium)
        if not path.is_file():
            raise UserError(f"{path}: there is no such line list; expected a file or a folder of them")
        return _read_file(path, medium)
    except OSError as error:
        raise UserError(f"{path}: the line list cannot be read ({error.strerror or error}); see to the file and its "
                        "permissions") from error


def _read_folder(folder: Path, medium: str | None) -> LineList:
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    if not files:
        raise UserError(f"{folder}: the folder holds no line list; expected files of lines")
    first_of: dict[str, Path] = {}
    for file in files:
        same = first_of.setdefault(hashlib.sha256(file.read_bytes()).hexdigest(), file)
        if same != file:
            raise UserError(f"{folder}: {same.name} and {file.name} are the same line list, whose lines would count "
                            "twice; take one of them out of the folder")
    return LineList.joined([read_line_list(file, medium) for file in files], str(folder))


def _read_file(path: Path, medium: str | None) -> LineList:
    with path.open("rb") as stream:
        head = stream.read(2000)
    if head[:4] == b"PK\x03\x04" or head[:8] == b"\x89HDF\r\n\x1a\n":
        if medium == "vacuum":
            raise UserError(f"{path}: the wavelengths of a columnar list are in air, but vacuum was asked for")
        return read_columnar(path)
    text = head.decode("latin-1")
    if is_vald(text):
        return read_vald(path, medium)
    filled = [line for line in text.splitlines() if line.strip()]
    if filled and is_gfall(filled[0]):
        return read_gfall(path, medium)
    if filled and is_molecular(filled[0]):
        return read_molecular(path, medium)
    if is_moog(filled):
        return read_moog(path, medium)
    raise UserError(
        f"{path}: the format of this line list is not known; expected a columnar npz or HDF5, Kurucz's gfall or "
        "molecules, VALD's 'extract stellar', or MOOG"
    )
