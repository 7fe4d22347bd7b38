"""MOOG and linemake lists: wavelength, species, lower level and log gf, then a van der Waals width in columns 41-50.

The first four stand apart by blanks; what follows the width, and a text in its place, is a comment. The species is
`Z.c` for atoms (`26.1` is Fe II), `z1z2.0` for molecules, with an isotope code behind it: `22.00048`, `606.01213`. gf
are those of the pure isotope (MOOG weighs them by ratios given elsewhere, shares of all molecules for a molecule):
solar fractions are applied here. Nothing in the format says air or vacuum. Of the van der Waals field only logarithms
of a width are taken: what a positive number means depends on an option of MOOG.
"""

from __future__ import annotations

from pathlib import Path

from kurucz_grids.linelists.elements import isotope_fraction, species_name
from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.linelists.rows import (
    EV_PER_INVERSE_CM,
    UNKNOWN,
    Rows,
    assemble,
    filled_lines,
    is_number,
    molecule_fraction,
)
from phdlspec.errors import UserError

_VDW = slice(40, 50)


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
    lines = lines[next(k for k, (_, line) in enumerate(lines) if not _is_title(line)) :]
    rows = Rows.empty(len(lines))
    for k, (number, line) in enumerate(lines):
        words = line.split()
        try:
            rows.wave[k], rows.elow_ev[k], rows.loggf[k] = float(words[0]), float(words[2]), float(words[3])
            whole, _, decimals = words[1].partition(".")
            code, charge, isotope = int(whole), int(decimals[:1] or 0), int(decimals[1:] or 0)
            vdw = _vdw(line)
        except (ValueError, IndexError) as error:
            raise UserError(f"{path}: line {number} is not a MOOG line ({error}); correct or drop it") from error
        rows.species[k], rows.fraction[k] = _identify(path, number, code, charge, isotope)
        if vdw < -5:
            rows.vdw[k] = vdw
    if not (rows.loggf < 0).any():
        raise UserError(f"{path}: no gf of this list is negative, and MOOG takes such a list for gf instead of log gf; "
                        "write log gf, and add a line with a negative one if there is none")
    if rows.elow_ev.max() > 50:  # MOOG's own rule: then all are in 1/cm
        rows.elow_ev *= EV_PER_INVERSE_CM
    return assemble(path, rows, "MOOG", medium)


def _is_title(line: str) -> bool:
    return not all(is_number(word) for word in line.split()[:2])


def _vdw(line: str) -> float:
    word = line[_VDW].strip()
    return float(word) if word and word[0] in "+-.0123456789" else 0.0


def _identify(path: str, number: int, code: int, charge: int, isotope: int) -> tuple[str, float]:
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
