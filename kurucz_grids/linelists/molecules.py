"""Kurucz's diatomic molecules (`.asc`): fixed columns, wavelengths in nm.

The medium is told by the energies of the levels. gf are those of the pure isotopologue and get its solar fraction here:
the product of its atoms' fractions, level by level, as in Kurucz's own reading program (rmolecasc), which also has the
widths by electrons, guesses for all lines alike. Lines of levels that fall apart before they vibrate (predissociation;
the CH list of Masseron et al. 2014 has widths up to 1e16 1/s) are no lines, and are left out.
Format: http://kurucz.harvard.edu/linelists.html
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from kurucz_grids.linelists.damping import MOLECULE_VDW
from kurucz_grids.linelists.elements import species_name
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

log = logging.getLogger(__name__)

_WAVE, _LOGGF, _LOWER, _UPPER = slice(0, 10), slice(10, 17), slice(22, 32), slice(37, 48)
_CODE, _UPPER_LABEL, _ISOTOPE, _LOG_GAMMA_RAD = slice(48, 52), slice(60, 68), slice(68, 70), slice(70, 74)
_CARBON_MASSES = {12: (12, 12), 13: (12, 13), 33: (13, 13)}  # of C2, by its isotope code
# log10 of the widths (cm3/s) per electron and per hydrogen atom: electronic transitions, those within the state X.
_ELECTRONIC = np.log10([3e-5, MOLECULE_VDW])
_VIBRATIONAL = np.log10([3e-8, MOLECULE_VDW])
_WIDEST = 13.0  # log10 of a radiative width (1/s) that is ten ångströms


def is_molecular(line: str) -> bool:
    """Whether a line has the columns of a molecular `.asc`."""
    columns = (_WAVE, _LOGGF, _LOWER, _UPPER)
    return len(line.rstrip()) >= 66 and all(is_number(line[c]) for c in columns) and line[_CODE].strip().isdigit()


def read_molecular(source: str | Path, medium: str | None = None) -> LineList:
    """Read a molecular `.asc`; raises `UserError` naming the line that cannot be read."""
    path = str(source)
    lines = filled_lines(source)
    rows = LineRows.empty(len(lines))
    fractions: dict[tuple[int, int], float] = {}
    for i, (number, line) in enumerate(lines):
        try:
            if (end := len(line.rstrip())) < _LOG_GAMMA_RAD.stop and end != _ISOTOPE.stop:
                raise ValueError(f"it ends in column {end}")
            lower, upper = sorted((abs(float(line[_LOWER])), abs(float(line[_UPPER]))))
            rows.wave[i], rows.loggf[i] = 10.0 * float(line[_WAVE]), float(line[_LOGGF])
            code, isotope = int(line[_CODE]), int(line[_ISOTOPE])
            log_gamma_rad = int(line[_LOG_GAMMA_RAD].strip() or 0) / 100.0
        except ValueError as error:
            raise UserError(f"{path}: line {number} is not a molecular line ({error}); correct or drop it") from error
        atoms = divmod(code, 100)
        rows.species[i] = species_name(*atoms) or UNKNOWN if all(atoms) else UNKNOWN
        rows.elow_ev[i] = lower * EV_PER_INVERSE_CM
        rows.energy_cm[i] = upper - lower
        if log_gamma_rad > 0:
            rows.rad[i] = log_gamma_rad
        rows.stark[i], rows.vdw[i] = _VIBRATIONAL if line[_UPPER_LABEL].startswith("X") else _ELECTRONIC
        if rows.species[i] != UNKNOWN:
            if (code, isotope) not in fractions:
                masses = _CARBON_MASSES.get(isotope, (isotope,)) if code == 606 else (isotope,)
                fractions[code, isotope] = molecule_fraction(path, atoms, masses, either_order=False)
            rows.fraction[i] = fractions[code, isotope]
    wide = rows.rad > _WIDEST
    if wide.any():
        log.info("%s: %d lines wider than 10^%g 1/s are left out", path, wide.sum(), _WIDEST)
        rows = LineRows(**{name: values[~wide] for name, values in vars(rows).items()})
    return assemble(path, rows, "Kurucz molecules", medium)
