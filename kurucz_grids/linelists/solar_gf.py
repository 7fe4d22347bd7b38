"""Oscillator strengths that the Sun does not allow.

Computed log gf can be wrong by a factor of ten, and a line that the Sun does not show cannot be as strong as the list
says. `scripts/solar_oscillator_strengths.py` compares the list's Sun with the observed one and lowers log gf of single
lines until they fit; never does it raise one, for what is missing may belong to a line that nobody listed. The table
that it makes is shipped and holds, line by line, the list's own log gf: a correction is for that value and leaves any
other alone.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
from astropy.table import Table

from kurucz_grids.linelists.linelist import LineList
from phdlspec.errors import UserError, first_line

log = logging.getLogger(__name__)

COLUMNS = ("wave_vacuum", "species", "elow_ev", "loggf", "change")
WAVE_TOLERANCE = 0.005  # Å
ENERGY_TOLERANCE = 0.01  # eV
GF_TOLERANCE = 0.02  # dex


def solar_gf_table(path: str | Path | None = None) -> Table:
    """The table of corrections, by default the shipped one.

    Columns: wave_vacuum (Å), species (SMElib's name), elow_ev (eV), loggf as listed, change (dex, negative). Raises
    `UserError` where the file is none or lacks a column.
    """
    path = Path(str(resources.files("kurucz_grids") / "data" / "solar_gf.csv")) if path is None else Path(path)
    try:
        table = Table.read(path, format="ascii.csv", comment="#")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a table of oscillator strengths ({first_line(error)})") from error
    missing = [name for name in COLUMNS if name not in table.colnames]
    if missing:
        raise UserError(f"{path}: the column {missing[0]} is missing; expected {', '.join(COLUMNS)}")
    return table


def with_solar_gf(lines: LineList, table: Table | None = None) -> LineList:
    """The list with the oscillator strengths that the Sun allows; those not in the table as they were."""
    table = solar_gf_table() if table is None else table
    wave, elow, loggf = (np.asarray(table[name], dtype=float) for name in ("wave_vacuum", "elow_ev", "loggf"))
    first = np.searchsorted(lines.wave_vacuum, wave - WAVE_TOLERANCE)
    last = np.searchsorted(lines.wave_vacuum, wave + WAVE_TOLERANCE)
    index = {name: i for i, name in enumerate(lines.species_names)}
    changed = lines.loggf.astype(float)
    count = 0
    for row, (a, b) in enumerate(zip(first, last)):
        same = np.arange(a, b)
        same = same[lines.species_index[same] == index.get(str(table["species"][row]), -1)]
        same = same[np.abs(lines.elow_ev[same] - elow[row]) < ENERGY_TOLERANCE]
        same = same[np.abs(lines.loggf[same] - loggf[row]) < GF_TOLERANCE]
        changed[same] = lines.loggf[same] + float(table["change"][row])
        count += len(same) > 0
    log.info("%s: log gf of %d lines lowered to what the Sun allows (%d in the table)", lines.path, count, len(table))
    return replace(lines, loggf=changed)
