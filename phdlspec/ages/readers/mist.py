"""MIST isochrones (Dotter 2016, Choi et al. 2016): `.iso` with theoretical quantities, `.iso.cmd` with magnitudes.

A file holds one composition: a header with lines of `#` (version, Yinit Zinit [Fe/H] [a/Fe] v/vcrit, number of
isochrones) and, for each age, `# number of EEPs, cols = n m`, a line of column numbers, a line of column names that
begins with `# EEP`, and n rows. Ages are log10 or, on request, linear.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phdlspec.ages.composition import metallicity_term
from phdlspec.ages.rows import IsochronePoints, SetFacts
from phdlspec.bolometric import BANDS
from phdlspec.errors import UserError

Array = NDArray[np.float64]

_BLOCK = re.compile(r"#\s*number of EEPs, cols\s*=\s*(\d+)\s+(\d+)")
_HELIUM_PHASE = 3.0  # 0 main sequence, 2 giant branch, 3 core helium burning, 4 and 5 asymptotic giant branch
_LAST_PHASE = 4.5
_SCALES = {1: ("Asplund et al. (2009)", 0.0142, "Choi et al. (2016), ApJ 823, 102"),
           2: ("Grevesse & Sauval (1998)", float("nan"), "Choi et al. (2016), ApJ 823, 102; version 2")}  # fmt: skip


def is_mist(head: str) -> bool:
    """True for the first lines of a MIST isochrone file."""
    return "MIST version number" in head or bool(_BLOCK.search(head))


def read_mist(path: str | Path) -> IsochronePoints:
    """The rows of one file. Raises `UserError` where it is damaged, reddened, or a track instead of an isochrone."""
    path = Path(path)
    lines = path.read_text(errors="replace").splitlines()
    version, composition = _header(lines, path)
    blocks = list(_blocks(lines, path))
    if not blocks:
        raise UserError(f"{path}: a MIST file without isochrones ('# number of EEPs' expected); tracks are not read")
    names = blocks[0][0]
    for other, _ in blocks:
        if other != names:
            raise UserError(f"{path}: its isochrones have different columns; download it again")
    table = np.concatenate([block for _, block in blocks])
    return _rows(dict(zip(names, table.T)), version, composition, path)


def _header(lines: list[str], path: Path) -> tuple[str, dict[str, float]]:
    version, composition = "", {}
    for line, following in zip(lines[:40], lines[1:41]):
        if "MIST version number" in line:
            version = line.split("=")[-1].strip()
        if "Yinit" in line and "[Fe/H]" in line:
            composition = dict(zip(line.lstrip("# ").split(), map(float, following.lstrip("# ").split())))
        if "extinction" in line and "Av" in line and abs(float(line.split("=")[-1])) > 1e-6:
            raise UserError(
                f"{path}: its magnitudes are reddened ({line.lstrip('# ').strip()}); download them with Av = 0, "
                "extinction is part of the fit"
            )
    if "[Fe/H]" not in composition:
        raise UserError(f"{path}: a MIST file whose header does not state its composition (Yinit Zinit [Fe/H] ...)")
    return version, composition


def _blocks(lines: list[str], path: Path) -> Iterator[tuple[list[str], Array]]:
    i = 0
    while i < len(lines):
        found = _BLOCK.match(lines[i])
        if not found:
            i += 1
            continue
        count, columns = int(found[1]), int(found[2])
        names = lines[i + 2].lstrip("# ").split() if i + 2 < len(lines) else []
        rows = lines[i + 3 : i + 3 + count]
        try:
            block = np.array([row.split() for row in rows], dtype=float)
        except ValueError:
            block = np.empty((0, 0))
        if block.shape != (count, columns) or len(names) != columns:
            raise UserError(
                f"{path}: the isochrone at line {i + 1} should have {count} rows of {columns} numbers and does not; "
                "the file is cut or damaged, download it again"
            )
        yield names, block
        i += 3 + count


def _rows(table: dict[str, Array], version: str, composition: dict[str, float], path: Path) -> IsochronePoints:
    needed = ("EEP", "initial_mass", "star_mass", "log_Teff", "log_g", "log_L")
    missing = [name for name in needed if name not in table]
    if missing:
        raise UserError(
            f"{path}: a MIST file without the column {missing[0]}; choose the basic or full .iso, or .iso.cmd"
        )
    alpha = composition.get("[a/Fe]", 0.0)
    term = float(metallicity_term(alpha))
    if "log10_isochrone_age_yr" in table:
        log_age = table["log10_isochrone_age_yr"]
    elif "isochrone_age_yr" in table:
        log_age = np.log10(table["isochrone_age_yr"])
    else:
        raise UserError(f"{path}: a MIST file without a column of ages (log10_isochrone_age_yr)")
    phase = table.get("phase", np.zeros(len(log_age)))
    surface = _surface_mh(table, composition, term)
    scale, z_sun, reference = _SCALES.get(int(version[:1] or 1), _SCALES[2])
    facts = SetFacts(f"MIST {version}".strip(), reference, scale, z_sun, alpha, surface is not None)
    mh = np.full(len(log_age), composition["[Fe/H]"] + term)
    quantities = {
        "initial_mass": table["initial_mass"], "mass": table["star_mass"], "log_teff": table["log_Teff"],
        "logg": table["log_g"], "log_l": table["log_L"], "surface_mh": mh if surface is None else surface,
    }  # fmt: skip
    bands = {band: table[name] for band, what in BANDS.items() for name in what.mist if name in table}
    use = (phase >= -0.5) & (phase < _LAST_PHASE)
    segment = phase.astype(np.int64)
    helium = phase >= _HELIUM_PHASE - 0.5 if "phase" in table else None
    return IsochronePoints(facts, mh, log_age, table["EEP"], segment, helium, quantities, bands).take(use)


def _surface_mh(table: dict[str, Array], composition: dict[str, float], term: float) -> Array | None:
    # Photospheric [M/H]: .iso.cmd states [Fe/H], a full .iso the abundances of H and He.
    if "[Fe/H]" in table:
        return np.asarray(table["[Fe/H]"] + term)
    if {"surface_h1", "surface_he3", "surface_he4"} <= set(table) and composition.get("Zinit", 0.0) > 0:
        hydrogen = table["surface_h1"]
        metals = 1.0 - hydrogen - table["surface_he3"] - table["surface_he4"]
        start = composition["Zinit"] / (1.0 - composition["Zinit"] - composition["Yinit"])
        with np.errstate(all="ignore"):
            return np.asarray(composition["[Fe/H]"] + term + np.log10(metals / hydrogen / start))
    return None
