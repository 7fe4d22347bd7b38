"""Kurucz's diatomic molecules (`.asc`): fixed columns, wavelengths in nm.

The medium is told by the energies of the levels. gf are those of the pure isotopologue and get its solar fraction
here, as in Kurucz's own reading program. Format: http://kurucz.harvard.edu/linelists.html
"""

from __future__ import annotations

from pathlib import Path

from kurucz_grids.linelists.elements import species_name
from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.linelists.rows import EV_PER_INVERSE_CM, UNKNOWN, Rows, assemble, molecule_fraction
from phdlspec.errors import UserError


def is_molecular(line: str) -> bool:
    """Whether a line has the columns of a molecular `.asc`."""
    return len(line.rstrip()) >= 66 and all(_is_number(line[a:b]) for a, b in ((0, 10), (10, 17), (22, 32), (37, 48))) \
        and line[48:52].strip().isdigit()


def read_molecular(source: str | Path, medium: str | None = None) -> LineList:
    """Read a molecular `.asc`; raises `UserError` naming the line that cannot be read."""
    path = str(source)
    text = Path(source).read_text(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    rows = Rows.empty(len(lines))
    fractions: dict[tuple[int, int], float] = {}
    for i, line in enumerate(lines):
        try:
            lower, upper = sorted((abs(float(line[22:32])), abs(float(line[37:48]))))
            rows.wave[i], rows.loggf[i] = 10.0 * float(line[0:10]), float(line[10:17])
            code, isotope = int(line[48:52]), int(line[68:70])
        except ValueError as error:
            raise UserError(f"{path}: line {i + 1} is not a molecular line ({error}); correct or drop it") from error
        atoms = divmod(code, 100)
        rows.species[i] = species_name(*atoms) or UNKNOWN if all(atoms) else UNKNOWN
        rows.elow_ev[i] = lower * EV_PER_INVERSE_CM
        rows.energy_cm[i] = upper - lower
        if rows.species[i] != UNKNOWN:
            key = (code, isotope)
            if key not in fractions:
                masses = {12: (12, 12), 13: (12, 13), 33: (13, 13)}.get(isotope) if code == 606 else (isotope,)
                fractions[key] = molecule_fraction(path, atoms, masses or (isotope,))
            rows.fraction[i] = fractions[key]
    return assemble(path, rows, "Kurucz molecules", medium)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
