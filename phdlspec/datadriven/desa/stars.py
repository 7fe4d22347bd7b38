"""Stars with a spectrum, a light curve, or both: what a table of pairs says belongs together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.datadriven.dataset import Dataset
from phdlspec.datadriven.desa.light_curve_set import SEPARATOR, LightCurveSet
from phdlspec.datadriven.label_table import LabelInfo, match, read_label_table
from phdlspec.errors import UserError
from phdlspec.tables import find_column, read_any_table, text_column

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class DesaStars:
    """N stars. names : (N,); rows of one star, with several spectra, have the same name. spectrum, light_curve : (N,)
    rows in the data set and in the set of light curves, -1 where there is none."""

    names: tuple[str, ...]
    spectrum: Indices
    light_curve: Indices

    def __len__(self) -> int:
        return len(self.names)

    @property
    def both(self) -> NDArray[np.bool_]:
        """(N,) where there are a spectrum and a light curve."""
        return (self.spectrum >= 0) & (self.light_curve >= 0)

    def take(self, rows: NDArray[Any]) -> DesaStars:
        """Some of them, by index or mask."""
        rows = np.arange(len(self))[rows]
        return DesaStars(tuple(self.names[i] for i in rows), self.spectrum[rows], self.light_curve[rows])


def gather(spectra: Dataset | None, curves: LightCurveSet | None, pairs: str | Path | Table | None) -> DesaStars:
    """The stars of two sets, readable or not. What is in no pair is a star of its own.

    pairs : a table with columns SPECTRUM (file or OBSID) and LIGHT_CURVE (file or target), one row a pair. STAR, where
        there is one, names the star; else the target of the light curve does.

    Raises `UserError` for a pair that names what is not there.
    """
    named = [] if pairs is None else _pairs(pairs, spectra, curves)
    paired_spectra, paired_curves = {s for _, s, _ in named}, {c for _, _, c in named}
    alone = []
    if spectra is not None:
        same = {spectra.stars[row]: name for name, row, _ in named}  # other spectra of a star that is in a pair
        alone += [(same.get(star, star), i, -1) for i, star in enumerate(spectra.stars) if i not in paired_spectra]
    if curves is not None:
        alone += [(curves.stars[i], -1, i) for i in range(len(curves)) if i not in paired_curves]
    rows = [*named, *alone]
    if not rows:
        raise UserError("no spectra and no light curves were given")
    names, spectrum, curve = zip(*rows)
    return DesaStars(tuple(names), np.array(spectrum, dtype=np.int64), np.array(curve, dtype=np.int64))


def _pairs(
    source: str | Path | Table, spectra: Dataset | None, curves: LightCurveSet | None
) -> list[tuple[str, int, int]]:
    table, path = (source, "pairs") if isinstance(source, Table) else (read_any_table(source), str(source))
    columns = [find_column(table, *names) for names in (("SPECTRUM",), ("LIGHT_CURVE", "LIGHTCURVE"))]
    if columns[0] is None or columns[1] is None:
        raise UserError(f"{path}: expected columns SPECTRUM and LIGHT_CURVE, it has {', '.join(table.colnames[:8])}")
    one, other = (text_column(table, column) for column in columns if column)
    star = find_column(table, "STAR")
    names = text_column(table, star) if star else np.full(len(table), "")
    if spectra is None or curves is None:
        raise UserError(f"{path}: pairs need both --spectra and --light-curves")
    spectrum = _look_up(path, "spectrum", list(one), [(f, i) for i, f in enumerate(spectra.files)]
                        + [(o, i) for i, o in enumerate(spectra.obsids)])  # fmt: skip
    files = [(file, i) for i, text in enumerate(curves.files) for file in text.split(SEPARATOR)]
    curve = _look_up(path, "light curve", list(other), files + [(star, i) for i, star in enumerate(curves.stars)])
    if len(set(zip(spectrum, curve))) < len(table):
        raise UserError(f"{path}: a pair stands there twice; keep one row a pair")
    return [(str(n) or curves.stars[c], s, c) for n, s, c in zip(names, spectrum, curve)]


def _look_up(path: str, kind: str, wanted: list[str], known: list[tuple[str, int]]) -> list[int]:
    rows: dict[str, int] = {}
    for text, row in known:
        rows.setdefault(text, row)
        rows.setdefault(Path(text).name, row)
    missing = [text for text in wanted if text not in rows and Path(text).name not in rows]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of its {len(wanted)} pairs name a {kind} that is not among those given, the first "
            f"{missing[0]}"
        )
    return [rows.get(text, rows.get(Path(text).name, -1)) for text in wanted]


@dataclass(frozen=True)
class StarLabels:
    """Labels of N stars: infos of the L labels, values and errors (N, L), NaN where missing; sets (N,) name of the
    first table that knows the star, '' where none does."""

    infos: tuple[LabelInfo, ...]
    values: NDArray[np.float64]
    errors: NDArray[np.float64]
    sets: tuple[str, ...]


def labels_of(
    stars: DesaStars, spectra: Dataset | None, curves: LightCurveSet | None, tables: Sequence[str | Path | Table]
) -> StarLabels:
    """Labels from tables, found by FILE or OBSID of the spectrum, by file or target of the light curve (also under FILE
    or OBSID), or by position. Columns of the same name are one label, told apart by nothing: the first table with a
    value counts."""
    infos: dict[str, LabelInfo] = {}
    values: dict[str, NDArray[np.float64]] = {}
    errors: dict[str, NDArray[np.float64]] = {}
    sets = [""] * len(stars)
    for source in tables:
        table = read_label_table(source)
        found = np.full(len(stars), -1)
        for files, obsids, ra, dec in _identities(stars, spectra, curves):
            try:
                rows = match(table, files, obsids, ra, dec)
            except UserError as mistake:
                if "none of its rows" in str(mistake):
                    continue
                raise
            found = np.where(found >= 0, found, rows)
        if (found < 0).all():
            raise UserError(f"{table.path}: none of its rows is one of the stars, neither by FILE, OBSID nor position")
        sets = [known or (table.infos[0].set_name if row >= 0 else "") for known, row in zip(sets, found)]
        for column, info in enumerate(table.infos):
            new, error = (np.where(found >= 0, x[found, column], np.nan) for x in (table.values, table.errors))
            old = values.get(info.name, np.full(len(stars), np.nan))
            errors[info.name] = np.where(np.isfinite(old), errors.get(info.name, old), error)
            values[info.name] = np.where(np.isfinite(old), old, new)
            infos.setdefault(info.name, info)
    stacked, uncertain = (np.column_stack(list(x.values())) for x in (values, errors))
    return StarLabels(tuple(infos.values()), stacked, uncertain, tuple(sets))


def _identities(
    stars: DesaStars, spectra: Dataset | None, curves: LightCurveSet | None
) -> list[tuple[list[str], list[str], NDArray[np.float64], NDArray[np.float64]]]:
    """(files, names, ra, dec) of the stars, once as spectra and once as light curves."""
    found: list[Any] = []
    if spectra is not None:
        row = stars.spectrum
        files = [spectra.files[i] if i >= 0 else "-" for i in row]
        obsids = [spectra.obsids[i] if i >= 0 else "-" for i in row]
        found.append((files, obsids, *(np.where(row >= 0, x[row], np.nan) for x in (spectra.ra, spectra.dec))))
    if curves is not None:
        row = stars.light_curve
        files = [curves.files[i].split(SEPARATOR)[0] if i >= 0 else "-" for i in row]
        targets = [curves.stars[i] if i >= 0 else "-" for i in row]
        found.append((files, targets, *(np.where(row >= 0, x[row], np.nan) for x in (curves.ra, curves.dec))))
    return found
