"""Line lists: one in-memory form (`LineList`) and a reader for each format."""

from __future__ import annotations

from pathlib import Path

from kurucz_grids.linelists.columnar import read_columnar
from kurucz_grids.linelists.kurucz import is_gfall, read_gfall
from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.linelists.medium import check_strong_lines
from kurucz_grids.linelists.molecules import is_molecular, read_molecular
from kurucz_grids.linelists.moog import is_moog, read_moog
from kurucz_grids.linelists.vald import is_vald, read_vald
from phdlspec.errors import UserError

__all__ = ["LineList", "read_line_list"]


def read_line_list(path: str | Path, medium: str | None = None) -> LineList:
    """Read a line list, or all those in a folder as one; the format of each is told by the file's structure.

    Columnar npz or HDF5, Kurucz gfall and molecular `.asc`, VALD short or long, MOOG. `medium` ("air" or "vacuum") is
    checked against what the file says of itself and against strong lines in it; only MOOG files that hold none of
    these lines need it.
    Raises `UserError` where the file does not exist, is of no known format, or in the other medium.
    """
    path = Path(path)
    if medium not in (None, "air", "vacuum"):
        raise UserError(f"the medium of a line list is {medium!r}, expected 'air' or 'vacuum'")
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        if not files:
            raise UserError(f"{path}: the folder holds no line list; expected files of lines")
        return LineList.joined([read_line_list(file, medium) for file in files], str(path))
    if not path.is_file():
        raise UserError(f"{path}: there is no such line list; expected a file or a folder of them")
    with path.open("rb") as stream:
        head = stream.read(2000)
    if head[:4] == b"PK\x03\x04" or head[:8] == b"\x89HDF\r\n\x1a\n":
        if medium == "vacuum":
            raise UserError(f"{path}: the wavelengths of a columnar list are in air, but vacuum was asked for")
        return read_columnar(path)
    text = head.decode("latin-1")
    if is_vald(text):
        return check_strong_lines(read_vald(path, medium))
    if is_gfall(text.splitlines()[0] if text else ""):
        return read_gfall(path, medium)
    filled = [line for line in text.splitlines() if line.strip()]
    if filled and is_molecular(filled[0]):
        return read_molecular(path, medium)
    if len(filled) > 1 and is_moog(filled):
        return read_moog(path, medium)
    raise UserError(
        f"{path}: the format of this line list is not known; expected a columnar npz or HDF5, Kurucz's gfall or "
        "molecules, VALD's 'extract stellar', or MOOG"
    )
