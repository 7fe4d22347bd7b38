"""Kurucz's gfall: 160 columns a line, atoms and ions, wavelengths in nm.

The two levels of each line tell its vacuum wavelength, hence whether the list is in air or in vacuum. Hyperfine and
isotopic components carry the logarithms of their shares in columns of their own, which are applied here, once.

Two kinds of lines, marked in columns 142-144, have other numbers in some columns and are left out. Autoionising ones
(`AUT`) have Fano's profile, with its two parameters instead of the collisional widths and a statistical weight instead
of gf: there is no oscillator strength to read. Those in the coronal approximation (`COR`) have a Gaunt factor instead
of the radiative width; Kurucz's own reader leaves them out too. Format: http://kurucz.harvard.edu/linelists.html
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kurucz_grids.linelists.elements import species_name
from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.linelists.rows import EV_PER_INVERSE_CM, LineRows, assemble, filled_lines
from phdlspec.errors import UserError

log = logging.getLogger(__name__)

_NEEDED = {"wave": (0, 11), "loggf": (11, 18), "code": (18, 24), "e_first": (24, 36), "e_second": (52, 64)}
_OPTIONAL = {"rad": (80, 86), "stark": (86, 92), "vdw": (92, 98), "hyperfine": (109, 115), "isotope": (118, 124)}
_FIELDS = _NEEDED | _OPTIONAL
_KIND = slice(134, 144)  # with the hyperfine notation before it, for some lists are a column off
_OTHER_KINDS = ("AUT", "COR")
# gfall08oct17 has "-1 72" for the log gf of Fe I 4488.9 Å: -1.72 in its source (Den Hartog et al. 2014, ApJS 215, 23).
_POINTLESS = re.compile(r"^(-?\d+) (\d+)$")
_LEVEL_TOLERANCE = 0.01  # of the wavelength; air is off by 3e-4 and rounded levels by up to 5e-4
_MAX_CONTRADICTED = 0.01  # fraction of the lines: published lists have one in thousands


def is_gfall(line: str) -> bool:
    """Whether a line looks like one of gfall."""
    try:
        numbers = float(line[0:11]) > 0 and 1.0 <= float(line[18:24]) < 100.0
        return len(line) >= 98 and numbers and bool(line[24:36].strip())
    except ValueError:
        return False


def read_gfall(path: str | Path, medium: str | None = None) -> LineList:
    """Read a gfall file; `medium`, if given, must be what the levels say.

    Lines whose levels contradict the wavelength are left out with a warning: their lower level is not known.
    Raises `UserError` for a damaged line, an unknown species, levels that fit no wavelength, or the wrong medium.
    """
    lines = filled_lines(path)
    plain = [(number, line) for number, line in lines if line[_KIND].strip()[-3:] not in _OTHER_KINDS]
    if len(plain) < len(lines):
        log.info("%s: %d autoionising and coronal lines are left out", path, len(lines) - len(plain))
    table = np.empty((len(plain), len(_FIELDS)))
    for row, (number, line) in zip(table, plain):
        row[:] = _numbers(line, f"{path}: line {number}")
    keep = _of_late_type_stars(table, str(path))
    number_of = np.array([number for number, _ in plain])[keep]
    columns = dict(zip(_FIELDS, table[keep].T))
    agree = _levels_agree(columns, number_of, str(path))
    columns = {name: column[agree] for name, column in columns.items()}

    rows = LineRows.empty(int(agree.sum()))
    codes, which = np.unique(columns["code"], return_inverse=True)
    rows.species = np.array([_species(code, path) for code in codes], dtype=rows.species.dtype)[which]
    rows.wave = 10.0 * columns["wave"]
    first, second = np.abs(columns["e_first"]), np.abs(columns["e_second"])
    rows.elow_ev = np.minimum(first, second) * EV_PER_INVERSE_CM
    rows.energy_cm = np.where(_measured(columns), np.abs(first - second), np.nan)
    rows.loggf = columns["loggf"] + columns["hyperfine"]
    rows.fraction = 10.0 ** columns["isotope"]
    for name in ("rad", "stark", "vdw"):
        setattr(rows, name, np.where(columns[name] != 0.0, columns[name], np.nan))
    return assemble(str(path), rows, "gfall", medium)


def _numbers(line: str, where: str) -> list[float]:
    """The numbers of `_FIELDS`, 0 for an optional one that is blank."""
    end = len(line.rstrip())
    numbers = []
    for name, (start, stop) in _FIELDS.items():
        word, place = line[start:stop].strip(), f"{where}, columns {start + 1}-{stop}"
        if start < end < stop or (name in _NEEDED and not word):
            raise UserError(f"{place}: blank or cut off, expected a number; correct or drop the line")
        try:
            numbers.append(_number(word) if word else 0.0)
        except ValueError as error:
            raise UserError(f"{place}: {word!r} is no number; correct or drop the line") from error
    return numbers


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return float(_POINTLESS.sub(r"\1.\2", word))


def _split_code(code: float | NDArray[np.float64]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    # 26.01 is Fe II: atomic number and charge.
    z = np.floor(code + 1e-6).astype(int)
    return z, np.rint(100.0 * (code - z)).astype(int)


def _species(code: float, path: str | Path) -> str:
    z, charge = _split_code(code)
    name = species_name(int(z), 0, int(charge))
    if name is None:
        raise UserError(f"{path}: species code {code:.2f} is unknown; drop its lines")
    return name


def _of_late_type_stars(table: NDArray[np.float64], path: str) -> NDArray[np.bool_]:
    z, charge = _split_code(table[:, list(_FIELDS).index("code")])
    keep = (charge <= 1) & ~((z == 1) & (charge == 0))
    if not keep.all():
        log.info("%s: %d lines of higher ions and of hydrogen are left out", path, (~keep).sum())
    return np.asarray(keep)


def _measured(columns: dict[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
    # Levels of predicted energies carry a minus sign and are not to be trusted to a part in 10^4.
    return (columns["e_first"] >= 0) & (columns["e_second"] >= 0)


def _levels_agree(
    columns: dict[str, NDArray[np.float64]],
    number_of: NDArray[np.int_],
    path: str,
) -> NDArray[np.bool_]:
    energy = np.abs(np.abs(columns["e_first"]) - np.abs(columns["e_second"]))
    off = _measured(columns) & (np.abs(columns["wave"] * energy / 1e7 - 1.0) > _LEVEL_TOLERANCE)
    if off.sum() > _MAX_CONTRADICTED * len(off):
        raise UserError(
            f"{path}: wavelengths and energy levels disagree in {off.sum()} of {len(off)} lines, the "
            f"first is line {number_of[off][0]}; correct or drop them, and see that wavelengths are in nm"
        )
    if off.any():
        log.warning(
            "%s: %d lines whose energy levels contradict the wavelength are left out, the first is line %d",
            path,
            off.sum(),
            number_of[off][0],
        )
    return np.asarray(~off)
