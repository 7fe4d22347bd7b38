"""VALD "extract stellar", short and long: the header names the medium, gf values are scaled by isotope already."""

from __future__ import annotations

import csv
import logging
import re
from pathlib import Path

import numpy as np
from scipy.special import gamma

from kurucz_grids.linelists.elements import ATOMIC_WEIGHT, MOLECULE_ATOMS
from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.linelists.rows import EV_PER_INVERSE_CM, UNKNOWN, LineRows, assemble, read_text
from phdlspec.errors import UserError
from phdlspec.solar import ATOMIC_NUMBER, SYMBOLS

log = logging.getLogger(__name__)

_ROW = re.compile(r"^'([A-Za-z0-9]+) +(\d+)'(.*)$")
_ISOTOPE = re.compile(r"\(\d+\)[A-Z]")  # "(48)TiO" in a reference
_HEADER = re.compile(r"WL_(vac|air)\((A|nm)\)")
_SELECTED = re.compile(r"^\s*[\d.]+\s*,\s*[\d.]+\s*,\s*(\d+)\s*,.*lines selected")
_END = "'END'"  # of the abundances, which follow the lines
_MOLECULE = re.compile(f"(?:(?:{'|'.join(sorted(SYMBOLS, key=len, reverse=True))})\\d*)+")
# Where a row has wavelength (Å), log gf, the level or levels (eV), radiative, Stark and van der Waals widths.
_LONG = {"wave": 0, "loggf": 1, "lower": 2, "upper": 4, "rad": 9, "stark": 10, "vdw": 11}
_SHORT = {"wave": 0, "lower": 1, "loggf": 3, "rad": 4, "stark": 5, "vdw": 6}


def is_vald(head: str) -> bool:
    """Whether the first lines of a file are those of VALD."""
    return bool(_HEADER.search(head)) and "Spec Ion" in head


def read_vald(path: str | Path, medium: str | None = None) -> LineList:
    """Read an "extract stellar" file, short or long form by its header.

    Raises `UserError` for a damaged line, fewer lines than the header states, an unknown species, other units than Å
    and eV, or a medium that the header, the levels or strong lines deny.
    """
    text = read_text(path).splitlines()
    header = next((line for line in text[:10] if "Spec Ion" in line), "")
    stated = _stated_medium(header, text, str(path))
    places = _LONG if "E_low(eV)" in header else _SHORT
    species, table = [], []
    for number, line in enumerate(text, start=1):
        found = _ROW.match(line)
        if found is None:
            continue
        try:
            before_comma, *words = next(csv.reader([found[3]], quotechar="'", skipinitialspace=True))
            if before_comma.strip():
                raise ValueError(before_comma)
            table.append([float(words[i]) for i in places.values()])
        except (ValueError, IndexError, csv.Error) as error:
            raise UserError(f"{path}: line {number} is damaged: {line.strip()[:60]!r}; extract it again") from error
        species.append(_name(found[1], int(found[2]), f"{path}: line {number}"))
    if not table:
        raise UserError(f"{path}: VALD's header without a line of spectrum; extract it again")
    _check_count(len(table), text, str(path))
    columns = dict(zip(places, np.array(table).T))

    rows = LineRows.empty(len(table))
    rows.species = np.array(species, dtype=rows.species.dtype)
    rows.wave, rows.loggf, rows.elow_ev = columns["wave"], columns["loggf"], columns["lower"]
    if "upper" in columns:
        rows.energy_cm = (columns["upper"] - columns["lower"]) / EV_PER_INVERSE_CM
    rows.rad = np.where(columns["rad"] > 0, columns["rad"], np.nan)
    rows.stark = np.where(columns["stark"] < 0, columns["stark"], np.nan)
    packed = columns["vdw"] > 20.0  # sigma.alpha of Anstee, Barklem & O'Mara
    rows.vdw = np.where(columns["vdw"] < 0, columns["vdw"], np.nan)
    rows.vdw[packed] = np.log10(_abo_width(columns["vdw"][packed], rows.species[packed]))
    rows.alpha[packed] = columns["vdw"][packed] % 1.0
    return assemble(str(path), rows, "VALD", medium, stated)


def _stated_medium(header: str, text: list[str], path: str) -> str:
    match = _HEADER.search(header)
    if match is None or match[2] != "A":
        raise UserError(f"{path}: its header does not say 'WL_vac(A)' or 'WL_air(A)'; extract it again in Å")
    if "(cm-1)" in header:
        raise UserError(f"{path}: its levels are in 1/cm; extract it again with energies in eV")
    if "gf*" not in header and any(_ISOTOPE.search(line) for line in text):
        raise UserError(f"{path}: its gf are not scaled by isotope; extract it again with isotopic scaling on")
    return "vacuum" if match[1] == "vac" else "air"


def _check_count(count: int, text: list[str], path: str) -> None:
    promised = next((int(found[1]) for line in text[:10] if (found := _SELECTED.match(line))), count)
    if count == promised:
        return
    if count < promised and not any(_END in line for line in text):
        raise UserError(
            f"{path}: the list is cut off: {count} lines where its header promises {promised}, and nothing "
            "below them; extract it again"
        )
    log.warning("%s: %d lines where the header promises %d; they are taken as they are", path, count, promised)


def _name(symbol: str, stage: int, where: str) -> str:
    # "Fe", 2 to "Fe+"; highly charged ions have no place in the spectra of late-type stars.
    if symbol in SYMBOLS:
        return symbol + "+" * (stage - 1) if stage <= 2 else UNKNOWN
    if symbol in MOLECULE_ATOMS:
        return symbol if stage == 1 else UNKNOWN
    if _MOLECULE.fullmatch(symbol):
        return UNKNOWN
    raise UserError(f"{where} is of the unknown species {symbol} {stage}; correct or drop it")


def _abo_width(packed: np.ndarray, species: np.ndarray) -> np.ndarray:
    # Full width per hydrogen atom at 10^4 K of cross-section sigma (a0^2 at 10 km/s) and exponent alpha
    # (Anstee & O'Mara 1995, MNRAS 276, 859, eq. 1).
    z = np.array([ATOMIC_NUMBER.get(name.rstrip("+"), 1) for name in species], dtype=int)
    sigma, alpha = np.floor(packed) * 2.80028e-17, packed % 1.0
    speed = 1.4527e6 * np.sqrt(1.0 / 1.008 + 1.0 / ATOMIC_WEIGHT[z])
    shape = 2.0 * (4.0 / np.pi) ** (alpha / 2.0) * gamma(2.0 - alpha / 2.0)
    return np.asarray(shape * 1e6 * sigma * (speed / 1e6) ** (1.0 - alpha))
