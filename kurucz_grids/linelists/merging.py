"""Several line lists as one, in which no line and no band counts twice.

*Atoms and ions* are told line by line: one of the same species, wavelength and lower level as a line of an earlier
list is that line again, and the earlier list's counts. All components of an isotopic or hyperfine pattern that are
within the tolerances of one of an earlier list go with it.

*Molecules* are taken band by band, for lists differ in wavelengths and completeness of single lines. Files of one kind
are parts of one list; of several kinds that have a molecule the first in `PRECEDENCE` counts over the wavelengths that
it covers with this molecule, from its first line to its last, and the others outside them. The order is from lists that
are made for the molecule to compilations: Kurucz's `.asc` (levels stated), MOOG (linemake), VALD, columnar. A list is
taken to be complete between its ends: keep files out of the folder that hold one band system of a molecule where
another list has more.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kurucz_grids.linelists.elements import MOLECULE_ATOMS
from kurucz_grids.linelists.linelist import LineList

log = logging.getLogger(__name__)

PRECEDENCE = ("Kurucz molecules", "MOOG", "VALD", "columnar", "gfall")  # of the kinds of list, for molecules
SAME_WAVE = 3e-6  # relative difference of the wavelengths of one atomic line in two lists
SAME_LEVEL = 0.003  # eV
_COPY_WAVE, _COPY_LOGGF = 5e-7, 0.015  # of a molecular line that stands in two files of one kind


class LineListPart(NamedTuple):
    """A list as it was read: its kind, one of `PRECEDENCE`, and its lines."""

    kind: str
    lines: LineList


def merged(parts: Sequence[LineListPart], path: str) -> LineList:
    """The lists as one, in the order in which they were named, each line once."""
    if len(parts) == 1:
        return parts[0].lines
    kept = [np.ones(len(part.lines), dtype=bool) for part in parts]
    for species in dict.fromkeys(name for part in parts for name in part.lines.species_names):
        rows = [_rows_of(part.lines, species) for part in parts]
        if sum(len(mine) > 0 for mine in rows) < 2:
            continue
        _drop_repeated(parts, rows, kept, species)
        if species in MOLECULE_ATOMS:
            _drop_outranked(parts, rows, kept, species)
    return LineList.joined([part.lines.select(keep) for part, keep in zip(parts, kept)], path)


def _rows_of(lines: LineList, species: str) -> NDArray[np.intp]:
    if species not in lines.species_names:
        return np.zeros(0, dtype=np.intp)
    return np.flatnonzero(lines.species_index == lines.species_names.index(species))


def _drop_repeated(
    parts: Sequence[LineListPart], rows: Sequence[NDArray[np.intp]], kept: Sequence[NDArray[np.bool_]], species: str
) -> None:
    molecule = species in MOLECULE_ATOMS
    for later, mine in enumerate(rows):
        for earlier in range(later):
            if not len(mine) or not len(rows[earlier]) or (molecule and parts[later].kind != parts[earlier].kind):
                continue
            again = repeated(parts[later].lines.select(mine), parts[earlier].lines.select(rows[earlier]), molecule)
            if again.any():
                kept[later][mine[again]] = False
                log.info(
                    "%s: %d of %d lines of %s are in %s too, and count once",
                    parts[later].lines.path,
                    again.sum(),
                    len(mine),
                    species,
                    parts[earlier].lines.path,
                )


def repeated(lines: LineList, others: LineList, exactly: bool) -> NDArray[np.bool_]:
    """(N,) whether a line is one of `others`, of the same species: by wavelength and level, if `exactly` also by gf."""
    tolerance = _COPY_WAVE if exactly else SAME_WAVE
    first = np.searchsorted(others.wave_vacuum, lines.wave_vacuum * (1 - tolerance))
    last = np.searchsorted(others.wave_vacuum, lines.wave_vacuum * (1 + tolerance), side="right")
    answer = np.zeros(len(lines), dtype=bool)
    for step in range(int((last - first).max(initial=0))):
        open_ = np.flatnonzero(~answer & (first + step < last))
        other = first[open_] + step
        same = np.abs(lines.elow_ev[open_] - others.elow_ev[other]) < SAME_LEVEL
        if exactly:
            same &= np.abs(lines.loggf[open_] - others.loggf[other]) < _COPY_LOGGF
        answer[open_[same]] = True
    return answer


def _drop_outranked(
    parts: Sequence[LineListPart], rows: Sequence[NDArray[np.intp]], kept: Sequence[NDArray[np.bool_]], species: str
) -> None:
    spans: list[tuple[float, float]] = []  # covered by kinds of higher rank
    for kind in PRECEDENCE:
        mine = [k for k, part in enumerate(parts) if part.kind == kind and len(rows[k])]
        if not mine:
            continue
        waves = [parts[k].lines.wave_vacuum[rows[k]] for k in mine]
        for k, wave in zip(mine, waves):
            covered = np.zeros(len(wave), dtype=bool)
            for low, high in spans:
                covered |= (wave >= low) & (wave <= high)
            kept[k][rows[k][covered]] = False
            if covered.any():
                log.info(
                    "%s: %d of %d lines of %s give way to another list's",
                    parts[k].lines.path,
                    covered.sum(),
                    len(wave),
                    species,
                )
        spans.append((min(wave.min() for wave in waves), max(wave.max() for wave in waves)))
