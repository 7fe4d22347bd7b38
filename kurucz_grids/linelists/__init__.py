"""Line lists: one in-memory form (`LineList`) and a reader for each format."""

from __future__ import annotations

from pathlib import Path

from kurucz_grids.linelists.columnar import read_columnar
from kurucz_grids.linelists.kurucz import is_gfall, read_gfall
from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.linelists.vald import is_vald, read_vald
from phdlspec.errors import UserError

__all__ = ["LineList", "read_line_list"]


def read_line_list(path: str | Path, medium: str | None = None) -> LineList:
    """Read a line list; the format is told by the file's structure: columnar npz, Kurucz gfall, VALD short or long.

    `medium` ("air" or "vacuum") is checked against what the file says of itself.
    Raises `UserError` where the file does not exist, is of no known format, or in the other medium.
    """
    path = Path(path)
    if medium not in (None, "air", "vacuum"):
        raise UserError(f"the medium of a line list is {medium!r}, expected 'air' or 'vacuum'")
    if not path.is_file():
        raise UserError(f"{path}: there is no such line list; expected a file")
    with path.open("rb") as stream:
        head = stream.read(2000)
    if head[:4] == b"PK\x03\x04":
        if medium == "vacuum":
            raise UserError(f"{path}: the wavelengths of a columnar list are in air, but vacuum was asked for")
        return read_columnar(path)
    text = head.decode("latin-1")
    if is_vald(text):
        return read_vald(path, medium)
    if is_gfall(text.splitlines()[0] if text else ""):
        return read_gfall(path, medium)
    raise UserError(
        f"{path}: the format of this line list is not known; expected a columnar npz, Kurucz's gfall, or VALD's "
        "'extract stellar'"
    )
