"""MOOG and linemake lists: wavelength, species, lower level and log gf, then a van der Waals width in columns 41-50.

The first four stand apart by blanks; what follows the width, and a text in its place, is a comment. The species is
`Z.c` for atoms (`26.1` is Fe II), `z1z2.0` for molecules, with an isotope code behind it: `22.00048`, `606.01213`. gf
are those of the pure isotope (MOOG weighs them by ratios given elsewhere, shares of all molecules for a molecule):
solar fractions are applied here. Nothing in the format says air or vacuum: a word in the title is believed. Of the van
der Waals field only logarithms of a width are taken: what a positive number means depends on an option of MOOG.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kurucz_grids.linelists import titanium
from kurucz_grids.linelists.elements import isotope_fraction, species_name
from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.linelists.rows import (
    EV_PER_INVERSE_CM,
    UNKNOWN,
    LineRows,
    assemble,
    filled_lines,
    is_number,
    molecule_fraction,
)
from phdlspec.errors import UserError

_VDW = slice(40, 50)
_TIO = {mass: f"822.016{mass}" for mass in (47, 48, 49)}


def is_moog(lines: list[str]) -> bool:
    """Whether the first line below titles holds four numbers, of which the second is a species."""
    try:
        first = next(line for line in lines if not _is_title(line))
        wave, species, _, _ = (float(word) for word in first.split()[:4])
    except (ValueError, StopIteration):
        return False
    return wave > 100 and 1 <= species < 10000


def read_moog(source: str | Path, medium: str | None = None) -> LineList:
    """Read the list.

    Raises `UserError` for a line that cannot be read, an unknown element or isotope, and where no gf is negative.
    """
    path = str(source)
    lines = filled_lines(source)
    titles = next(k for k, (_, line) in enumerate(lines) if not _is_title(line))
    stated = _stated_medium(" ".join(line for _, line in lines[:titles]))
    lines = lines[titles:]
    first, which, numbers = _parse(path, lines)
    rows = LineRows.empty(len(lines))
    rows.wave, rows.elow_ev, rows.loggf, vdw = numbers.T
    rows.vdw = np.where(vdw < -5, vdw, np.nan)
    known = [_identify(path, lines[k][0], code) for code, k in first.items()]
    rows.species = np.array([name for name, _ in known], dtype=rows.species.dtype)[which]
    rows.fraction = np.array([fraction for _, fraction in known])[which]
    if not (rows.loggf < 0).any():
        raise UserError(
            f"{path}: no gf of this list is negative, and MOOG takes such a list for gf instead of log gf; "
            "write log gf, and add a line with a negative one if there is none"
        )
    if rows.elow_ev.max() > 50:  # MOOG's own rule: then all are in 1/cm
        rows.elow_ev *= EV_PER_INVERSE_CM
    isotopes = {mass: which == list(first).index(code) for mass, code in _TIO.items() if code in first}
    if set(isotopes) == {47, 49}:
        rows = _with_titanium_48(rows, isotopes[47], isotopes[49])
    return assemble(path, rows, "MOOG", medium, stated)


def _with_titanium_48(rows: LineRows, light: NDArray[np.bool_], heavy: NDArray[np.bool_]) -> LineRows:
    # linemake's TiO lacks 48Ti, three quarters of titanium: its lines are made from those of 47TiO and 49TiO that
    # belong together. What is left over of these two has half of its share each, for its lines lie between.
    share = isotope_fraction(22, 48) * isotope_fraction(8, 16)
    ends = [np.flatnonzero(light), np.flatnonzero(heavy)]
    columns = np.stack([rows.wave, rows.elow_ev, rows.loggf], axis=1)
    pairs = [end[pair] for end, pair in zip(ends, titanium.paired(*(columns[end] for end in ends)))]
    made = LineRows(**{name: values[pairs[0]] for name, values in vars(rows).items()})
    made.wave, made.elow_ev, made.loggf = titanium.between(*(columns[pair] for pair in pairs)).T
    made.fraction = np.full(len(pairs[0]), share)
    rows.fraction[np.setdiff1d(np.concatenate(ends), np.concatenate(pairs))] += share / 2.0
    return LineRows(**{name: np.concatenate([values, getattr(made, name)]) for name, values in vars(rows).items()})


def _is_title(line: str) -> bool:
    return not all(is_number(word) for word in line.split()[:2])


def _stated_medium(title: str) -> str | None:
    words = set(re.findall(r"[a-z]+", title.lower())) & {"air", "vacuum"}
    return words.pop() if len(words) == 1 else None


def _parse(path: str, lines: list[tuple[int, str]]) -> tuple[dict[str, int], NDArray[np.int_], NDArray[np.float64]]:
    # Species as they are written, with the row that has each first; which of them a row is of (N,); and wavelength,
    # lower level, log gf and van der Waals field, 0 for none (N, 4).
    first: dict[str, int] = {}
    place: dict[str, int] = {}
    which, numbers = [], []
    for k, (number, line) in enumerate(lines):
        try:
            wave, code, lower, loggf = line.split(None, 4)[:4]
            numbers.append((float(wave), float(lower), float(loggf), _vdw(line)))
        except ValueError as error:
            raise UserError(f"{path}: line {number} is not a MOOG line ({error}); correct or drop it") from error
        first.setdefault(code, k)
        which.append(place.setdefault(code, len(place)))
    return first, np.array(which), np.array(numbers)


def _vdw(line: str) -> float:
    word = line[_VDW].strip()
    return float(word) if word and word[0] in "+-.0123456789" else 0.0


def _identify(path: str, number: int, written: str) -> tuple[str, float]:
    # Name of a species and solar fraction of its isotope.
    try:
        whole, _, decimals = written.partition(".")
        code, charge, isotope = int(whole), int(decimals[:1] or 0), int(decimals[1:] or 0)
    except ValueError as error:
        raise UserError(f"{path}: line {number} is not a MOOG line ({error}); correct or drop it") from error
    if code < 100:
        name = species_name(code, 0, charge)
        if name is None and charge <= 2:
            raise UserError(f"{path}: line {number} is of the unknown species {code}.{charge}; expected Z of 1 to 92")
        if name is None or not isotope:
            return name or UNKNOWN, 1.0
        fraction = isotope_fraction(code, isotope)
        if fraction <= 0:
            raise UserError(f"{path}: line {number} is of the unknown isotope {isotope} of {name}; drop or correct it")
        return name, fraction
    z1, z2 = divmod(code, 100)
    name = species_name(z1, z2, charge)
    if name is None or not isotope:
        return name or UNKNOWN, 1.0
    masses = tuple(mass for mass in divmod(isotope, 100) if mass)
    return name, molecule_fraction(path, (z1, z2), masses, either_order=True)
