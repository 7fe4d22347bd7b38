"""Light curves as the model sees them: the views of many stars, in memory and in one HDF5.

```
/       attrs: format, version
├── star, files, reason (N,) str; ra, dec, period_acf, height_acf, period_ls, height_ls (N,)
├── owner (S,)  row of the star of each stretch
└── flux, good, acf, power, scalars (S, ...): `Views`
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from phdlspec.datadriven.desa.light_curve import LightCurve, Segment, read_segment, stitch
from phdlspec.datadriven.desa.rotation import acf_period, lomb_scargle_period
from phdlspec.datadriven.desa.views import Views, join, no_views, views_of
from phdlspec.errors import UserError, first_line
from phdlspec.files import replacing
from phdlspec.foreign import lines_of
from phdlspec.hdf5_check import check_hdf5

FORMAT, VERSION = "phdlspec-light-curves", 1
ENDINGS = (".fits", ".fits.gz", ".fit", ".ecsv", ".csv", ".txt", ".dat", ".dat.gz", ".csv.gz")
SEPARATOR = ";"  # of the files of one star in a text
_TEXTS = ("stars", "files", "reasons")
_NUMBERS = ("ra", "dec", "period_acf", "height_acf", "period_ls", "height_ls")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LightCurveSet:
    """N stars with S stretches.

    stars, files, reasons : (N,) name of the target, its files in one text, why it has no light curve ('' where it has).
    ra, dec : (N,) degrees. period_*, height_* : (N,) classical rotation periods (d) and the heights of their peaks.
    owner : (S,) row of each stretch's star, increasing.
    """

    stars: tuple[str, ...]
    files: tuple[str, ...]
    reasons: tuple[str, ...]
    ra: Array
    dec: Array
    period_acf: Array
    height_acf: Array
    period_ls: Array
    height_ls: Array
    owner: NDArray[np.int64]
    views: Views

    def __len__(self) -> int:
        return len(self.stars)

    @property
    def readable(self) -> NDArray[np.bool_]:
        """(N,) True where there is a light curve."""
        return np.array([not reason for reason in self.reasons], dtype=bool)

    def take(self, rows: NDArray[Any]) -> LightCurveSet:
        """Some of the stars, each at most once, with their stretches; by index or mask."""
        rows = np.arange(len(self))[rows]
        place = np.full(len(self), -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        kept = np.flatnonzero(place[self.owner] >= 0)
        kept = kept[np.argsort(place[self.owner[kept]], kind="stable")]
        changes: dict[str, Any] = {name: tuple(getattr(self, name)[i] for i in rows) for name in _TEXTS}
        changes |= {name: getattr(self, name)[rows] for name in _NUMBERS}
        return replace(self, **changes, owner=place[self.owner[kept]], views=self.views.take(kept))

    def write(self, path: str | Path) -> None:
        """Write it as one HDF5."""
        with replacing(path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs.update(format=FORMAT, version=VERSION)
            for name in _TEXTS:
                file[name] = [text.encode() for text in getattr(self, name)]
            for name in (*_NUMBERS, "owner"):
                file[name] = getattr(self, name)
            for field in fields(Views):
                file.create_dataset(field.name, data=getattr(self.views, field.name), compression="lzf")

    @classmethod
    def read(cls, path: str | Path) -> LightCurveSet:
        """Read what `write` wrote. Raises `UserError` for anything else."""
        check_hdf5(path)
        try:
            with h5py.File(path) as file:
                texts: dict[str, Any] = {n: tuple(text.decode() for text in file[n][()]) for n in _TEXTS}
                numbers: dict[str, Any] = {name: file[name][()] for name in (*_NUMBERS, "owner")}
                return cls(**texts, **numbers, views=Views(*(file[field.name][()] for field in fields(Views))))
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise UserError(f"{path}: no set of light curves, or a damaged one ({first_line(error)})") from error

    @classmethod
    def from_light_curves(cls, curves: Sequence[LightCurve], progress: bool = False) -> LightCurveSet:
        """Views and classical periods of light curves in memory."""
        rows = []
        for curve in tqdm(curves, desc="views", unit="star", disable=not progress):
            row = _CurveRow(curve.target, SEPARATOR.join(curve.files))
            row.fill(curve)
            rows.append(row)
        return _assembled(rows)


def read_light_curves(inputs: Sequence[str | Path], *, progress: bool = False) -> LightCurveSet:
    """Read light curves.

    inputs : files, folders, text files of paths (.lst), or HDF5 of `LightCurveSet.write`. Files of one target are
        stitched.

    A star whose light curve cannot be used has a reason; so has, as a row of its own, a file that cannot be read.
    Raises `UserError` where none can.
    """
    packed = [LightCurveSet.read(path) for path in inputs if h5py.is_hdf5(path)]
    rows: dict[str, _CurveRow] = {}
    files = _expand([path for path in inputs if not h5py.is_hdf5(path)])
    segments: dict[str, list[Segment]] = {}
    for path in tqdm(files, desc="reading", unit="light curve", disable=not progress or not files):
        try:
            segment = read_segment(path)
        except UserError as error:
            rows[str(path)] = _CurveRow(str(path), str(path), str(error))
            continue
        segments.setdefault(segment.target, []).append(segment)
    for target, parts in segments.items():
        row = rows[target] = _CurveRow(target, SEPARATOR.join(part.path for part in parts))
        try:
            row.fill(stitch(parts))
        except UserError as error:
            row.reason = str(error)
    if not any(part.readable.any() for part in packed) and all(row.reason for row in rows.values()):
        first = next(iter(rows.values())).reason if rows else f"{', '.join(map(str, inputs))}: no light curves in it"
        raise UserError(f"none of the {len(rows)} light curves can be used; the first: {first}")
    return _joined([*packed, *([_assembled(list(rows.values()))] if rows else [])])


def _expand(inputs: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for item in map(Path, inputs):
        if item.is_dir():
            found += sorted(p for p in item.rglob("*") if p.name.lower().endswith(ENDINGS))
        elif item.suffix == ".lst":
            found += [Path(line) for line in lines_of(item)]
        else:
            found.append(item)
    return found


class _CurveRow:
    # One star on its way into a set.

    def __init__(self, star: str, files: str, reason: str = ""):
        self.star, self.files, self.reason = star, files, reason
        self.ra = self.dec = np.nan
        self.acf = self.ls = (np.nan, np.nan)
        self.views: Views | None = None

    def fill(self, curve: LightCurve) -> None:
        self.ra, self.dec = curve.ra, curve.dec
        self.views = views_of(curve.flux)
        self.acf, self.ls = acf_period(curve.flux), lomb_scargle_period(curve.flux)


def _assembled(rows: Sequence[_CurveRow]) -> LightCurveSet:
    counts = [0 if row.views is None else len(row.views) for row in rows]
    numbers = np.array([(row.ra, row.dec, *row.acf, *row.ls) for row in rows], dtype=float).reshape(-1, 6).T
    return LightCurveSet(
        tuple(row.star for row in rows), tuple(row.files for row in rows), tuple(row.reason for row in rows),
        numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5],
        np.repeat(np.arange(len(rows)), counts),
        join([no_views(0), *(row.views for row in rows if row.views is not None)]),
    )  # fmt: skip


def _joined(parts: Sequence[LightCurveSet]) -> LightCurveSet:
    starts = np.cumsum([0, *(len(part) for part in parts)])
    texts: dict[str, Any] = {name: sum((getattr(part, name) for part in parts), ()) for name in _TEXTS}
    numbers: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _NUMBERS}
    owner = np.concatenate([part.owner + start for part, start in zip(parts, starts)])
    joined = LightCurveSet(**texts, **numbers, owner=owner, views=join([part.views for part in parts]))
    twice = next((star for star in joined.stars if joined.stars.count(star) > 1), None) if len(parts) > 1 else None
    if twice is not None:
        raise UserError(f"{twice} has light curves in two of the inputs; give it once")
    return joined
