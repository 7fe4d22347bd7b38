"""What a user names, a set or a path, becomes one cube of isochrones."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from phdlspec.ages.isochrones import Isochrones, build
from phdlspec.ages.readers import lachesis, mist, parsec, yrec
from phdlspec.ages.rows import IsochronePoints, join
from phdlspec.ages.settling import with_settling
from phdlspec.errors import UserError
from phdlspec.foreign import check_file, one_sentence

NAMES: tuple[str, ...] = tuple(lachesis.FACTS)
_BY_HEAD: tuple[tuple[Callable[[str], bool], Callable[[Path], IsochronePoints]], ...] = (
    (mist.is_mist, mist.read_mist), (parsec.is_parsec, parsec.read_parsec), (yrec.is_yrec, yrec.read_yrec),
)  # fmt: skip
_HEAD = 8192
_NOT_ISOCHRONES = (".md", ".txt.gz", ".png", ".pdf", ".html")


def read_isochrones(name: str | Path) -> Isochrones:
    """A set by name (`NAMES`, of the package lachesis-grids), or a file or folder of isochrones.

    Files are known by their content: MIST `.iso` and `.iso.cmd`, tables of PARSEC's CMD web form, YREC tables, HDF5 of
    lachesis-grids, `.npz` of points. A folder stands for all files in it, which must belong to one set. What a set
    does not say of present surfaces is `phdlspec.ages.settling`'s. Raises `UserError` for anything else.
    """
    return with_settling(_cube(name))


def _cube(name: str | Path) -> Isochrones:
    if str(name) in NAMES:
        return build(lachesis.read_installed(str(name)), str(name))
    path = Path(name)
    if not path.exists():
        near = get_close_matches(str(name).lower(), NAMES, n=1)
        hint = f", did you mean {near[0]}?" if near else f"; known sets are {', '.join(NAMES)}"
        raise UserError(f"isochrones {name}: neither a set nor a file{hint}")
    if not path.is_dir():
        return build(read_file(path), str(path))
    files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith((".", "README")))
    files = [p for p in files if not p.name.lower().endswith(_NOT_ISOCHRONES)]
    if not files:
        raise UserError(f"{path}: a folder without files of isochrones")
    parts = [read_file(p) for p in files]
    kinds = {part.facts.name for part in parts}
    alphas = {part.facts.alpha_fe for part in parts}
    if len(kinds) > 1 or len(alphas) > 1:
        said = " and ".join(sorted(kinds)) if len(kinds) > 1 else f"[alpha/Fe] of {sorted(alphas)}"
        raise UserError(f"{path}: holds isochrones of {said}; put each set into a folder of its own")
    return build(_without_repetition(parts, files), str(path))


@one_sentence
def read_file(path: Path) -> IsochronePoints:
    """The rows of one file, whatever its format."""
    if path.suffix == ".npz":
        return lachesis.read_npz(path)
    if path.suffix in (".h5", ".hdf5"):
        return lachesis.read_hdf5(path)
    check_file(path)
    with path.open("rb") as file:
        head = file.read(_HEAD).decode("utf-8", errors="replace")
    for known, read in _BY_HEAD:
        if known(head):
            return read(path)
    raise UserError(
        f"{path}: not a file of isochrones that is known here; expected MIST .iso or .iso.cmd, a table of PARSEC's CMD "
        "web form with its header, YREC columns, or the HDF5 of lachesis-grids"
    )


def _without_repetition(parts: list[IsochronePoints], files: list[Path]) -> IsochronePoints:
    # Two files with the same isochrone would double its weight.
    seen: dict[tuple[float, float], Path] = {}
    for part, path in zip(parts, files):
        for mh, age in np.unique(np.round(np.column_stack([part.mh, part.log_age]), 3), axis=0).tolist():
            if (mh, age) in seen:
                raise UserError(
                    f"{path}: has the isochrone of [M/H] {mh:+.2f}, log age {age:.2f} that {seen[mh, age].name} has "
                    "too; keep one of the two files"
                )
            seen[mh, age] = path
    return join(parts)
