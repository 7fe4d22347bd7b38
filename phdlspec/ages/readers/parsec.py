"""PARSEC isochrones as the CMD web form of Padova sends them (Bressan et al. 2012; versions 2.8 to 3.8).

One table of many ages and [M/H]: lines of `#`, the last of them before the rows naming the columns (`# Zini MH logAge
Mini int_IMF Mass logL logTe logg label ...`). Stages are in `label`: 0 pre-main sequence, 1 main sequence, 2 subgiant,
3 giant branch, 4-6 core helium burning, 7 early and 8 thermally pulsing asymptotic giant branch, 9 later.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phdlspec.ages.rows import IsochronePoints, SetFacts
from phdlspec.bolometric import BANDS
from phdlspec.errors import UserError

Array = NDArray[np.float64]

_SUN_Z_OVER_X = 0.0207  # Caffau et al. (2011), as PARSEC defines [M/H] = log10(Z/X) - log10(0.0207)
_NEEDED = ("Mini", "Mass", "logL", "logTe", "logg")
_LAST_LABEL = 7
_MAGNITUDE_PAD = 90.0  # magnitudes of points without any are 99.999
_DUST = re.compile(r"(?:extinction|A_?V|Av)\s*=?\s*([0-9.]+)\s*mag", re.IGNORECASE)


def is_parsec(head: str) -> bool:
    """True for the first lines of a table of the CMD web form."""
    return bool(re.search(r"^#\s*(Zini\s+)?.*\blogAge\b.*\bMini\b", head, re.MULTILINE)) or "PARSEC" in head


def read_parsec(path: str | Path) -> IsochronePoints:
    """The rows of one table. Raises `UserError` where it is damaged or not of isochrones."""
    path = Path(path)
    lines = path.read_text(errors="replace").splitlines()
    comments = [line for line in lines if line.startswith("#")]
    names = next((line.lstrip("# ").split() for line in comments if "logAge" in line and "Mini" in line), [])
    if not names:
        raise UserError(
            f"{path}: no line names the columns (# Zini MH logAge Mini ... expected); keep the table's header"
        )
    for line in comments:
        found = _DUST.search(line)
        if found and float(found[1]) > 1e-6:
            raise UserError(f"{path}: its magnitudes are reddened ({line.lstrip('# ')}); ask the web form for A_V = 0")
    table = _table(lines, names, path)
    missing = [name for name in (*_NEEDED, "logAge") if name not in table]
    if missing:
        raise UserError(f"{path}: no column {missing[0]}; expected a table of isochrones of the CMD web form")
    return _rows(table, comments, path)


def _table(lines: list[str], names: list[str], path: Path) -> dict[str, Array]:
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise UserError(
                f"{path}: row {number + 1} has {len(row)} numbers, the header names {len(names)} columns; the table is "
                "cut or damaged, download it again"
            )
    try:
        values = np.array(rows, dtype=float)
    except ValueError as error:
        raise UserError(f"{path}: has a row that is not numbers ({error})") from error
    if not len(values):
        raise UserError(f"{path}: a table without rows")
    return dict(zip(names, values.T))


def _rows(table: dict[str, Array], comments: list[str], path: Path) -> IsochronePoints:
    if "MH" in table:
        mh = table["MH"]
    elif "Zini" in table:
        mh = _mh_of_z(table["Zini"])
    else:
        raise UserError(f"{path}: neither MH nor Zini tells the composition")
    label = table.get("label")
    if label is None:
        raise UserError(f"{path}: no column label (evolutionary stage); it is part of every table of the CMD web form")
    version = next((found[1] for line in comments if (found := re.search(r"PARSEC release\s+(\S+)", line))), "")
    surface = None
    if "Z" in table and "X" in table:
        with np.errstate(all="ignore"):
            # Rounded numbers of the table: the initial ratio is its own main sequence's, not the nominal one.
            surface = np.where(table["X"] > 0, np.log10(table["Z"] / table["X"] / _SUN_Z_OVER_X), mh)
    facts = SetFacts(
        f"PARSEC {version}".strip(), "Bressan et al. (2012), MNRAS 427, 127", "Caffau et al. (2011)", 0.01524, 0.0,
        surface is not None,
    )  # fmt: skip
    quantities = {
        "initial_mass": table["Mini"], "mass": table["Mass"], "log_teff": table["logTe"], "logg": table["logg"],
        "log_l": table["logL"], "surface_mh": mh if surface is None else surface,
    }  # fmt: skip
    bands = {}
    for band, what in BANDS.items():
        name = next((name for name in what.parsec if name in table), None)
        if name:
            bands[band] = np.where(table[name] < _MAGNITUDE_PAD, table[name], np.nan)
    stage = np.maximum(label.astype(np.int64), 1)  # faint stars of old isochrones carry label 0 for good
    use = label <= _LAST_LABEL
    return IsochronePoints(facts, mh, table["logAge"], None, stage, label >= 4, quantities, bands).take(use)


def _mh_of_z(z: Array) -> Array:
    # Y = 0.2485 + 1.78 Z (Bressan et al. 2012)
    return np.asarray(np.log10(z / (1.0 - 0.2485 - 2.78 * z) / _SUN_Z_OVER_X))
