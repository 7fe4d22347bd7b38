"""MOOG and linemake lists: wavelength, species, lower level, log gf [, van der Waals], in fields of ten columns.

The species is `Z.c` for atoms (`26.1` is Fe II), `z1z2.0` for molecules, with an isotope code behind it: `22.00048`,
`606.01213`. gf are those of the pure isotope (MOOG weighs them by ratios given elsewhere): solar fractions are applied
here. Nothing in the format says air or vacuum. Of the van der Waals field only logarithms of a width are taken: what a
positive number means depends on an option of MOOG.
"""

from __future__ import annotations

from pathlib import Path

from kurucz_grids.linelists.elements import isotope_fraction, species_name
from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.linelists.rows import EV_PER_INVERSE_CM, UNKNOWN, Rows, assemble, molecule_fraction
from phdlspec.errors import UserError


def is_moog(lines: list[str]) -> bool:
    """Whether the second line holds four numbers of which the second is a species (the first may be a title)."""
    try:
        wave, species, _, _ = (float(word) for word in lines[min(1, len(lines) - 1)].split()[:4])
    except (ValueError, IndexError):
        return False
    return wave > 100 and 1 <= species < 10000


def read_moog(source: str | Path, medium: str | None = None) -> LineList:
    """Read the list; raises `UserError` for a line that cannot be read, an unknown element or isotope."""
    path = str(source)
    lines = Path(source).read_text(errors="replace").splitlines()
    numbered = [(i, line) for i, line in enumerate(lines, start=1) if line.strip()]
    try:
        float(numbered[0][1].split()[0])
    except ValueError:
        numbered = numbered[1:]
    rows = Rows.empty(len(numbered))
    for k, (i, line) in enumerate(numbered):
        words = line.split()
        try:
            rows.wave[k], rows.elow_ev[k], rows.loggf[k] = float(words[0]), float(words[2]), float(words[3])
            whole, _, decimals = words[1].partition(".")
            code, charge, isotope = int(whole), int(decimals[:1] or 0), int(decimals[1:] or 0)
            vdw = float(line[40:50].strip() or 0.0)
        except (ValueError, IndexError) as error:
            raise UserError(f"{path}: line {i} is not a MOOG line ({error}); correct or drop it") from error
        rows.species[k], rows.fraction[k] = _identify(path, i, code, charge, isotope)
        if vdw < -5:
            rows.vdw[k] = vdw
    if len(rows.elow_ev) and rows.elow_ev.max() > 50:  # MOOG's own rule: then all are in 1/cm
        rows.elow_ev *= EV_PER_INVERSE_CM
    return assemble(path, rows, "MOOG", medium)


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
    return name, molecule_fraction(path, (z1, z2), masses)
