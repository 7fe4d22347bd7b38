"""Line lists: one in-memory form (`LineList`) and a reader for each format."""

from __future__ import annotations

from pathlib import Path

from kurucz_grids.linelists.columnar import read_columnar
from kurucz_grids.linelists.linelist import LineList
from phdlspec.errors import UserError

__all__ = ["LineList", "read_line_list"]


def read_line_list(path: str | Path) -> LineList:
    """Read a line list; the format is told by the file's structure.

    Raises `UserError` where the file does not exist or is of no known format.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such line list; expected a file")
    with path.open("rb") as stream:
        head = stream.read(4)
    if head == b"PK\x03\x04":
        return read_columnar(path)
    raise UserError(f"{path}: the format of this line list is not known; expected a columnar npz")
