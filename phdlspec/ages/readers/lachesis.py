"""Sets of the package `lachesis-grids`, and tables cut from them (`.npz` with `data` and `columns`).

The package holds one HDF5 a set ("sparse_v1"): `values` (N, C) in blocks of one isochrone each, `offsets` and `lengths`
by [Fe/H] and age, `feh_values`, `age_values` (log10 yr). No photometry and no surface composition.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from phdlspec.ages.rows import IsochronePoints, SetFacts
from phdlspec.errors import UserError, first_line
from phdlspec.hdf5_check import check_hdf5

Array = NDArray[np.float64]

# z_sun: of the Sun's protosolar models as the papers state it.
FACTS: dict[str, SetFacts] = {
    "mist": SetFacts(
        "MIST 2.5 (v/vcrit 0.4)", "Dotter (2016), ApJS 222, 8; Choi et al. (2016), ApJ 823, 102",
        "Grevesse & Sauval (1998)", float("nan"),
    ),
    "parsec": SetFacts("PARSEC 1.2S", "Bressan et al. (2012), MNRAS 427, 127", "Caffau et al. (2011)", 0.01524),
    "basti": SetFacts("BaSTI", "Hidalgo et al. (2018), ApJ 856, 125", "Caffau et al. (2011)", 0.0153),
    "dartmouth": SetFacts("Dartmouth", "Dotter et al. (2008), ApJS 178, 89", "Grevesse & Sauval (1998)", 0.01885),
    "yapsi": SetFacts("YaPSI", "Spada et al. (2017), ApJ 838, 161", "Grevesse & Sauval (1998)", float("nan")),
}  # fmt: skip
_FILES = {
    "mist": "mist_v2.5_vvcrit0.4.h5", "parsec": "parsec_v1.25.h5", "basti": "basti.h5",
    "dartmouth": "dartmouth_dsep.h5", "yapsi": "yapsi.h5",
}  # fmt: skip
_COLUMNS = {
    "initial_mass": "initial_mass", "star_mass": "mass", "log_Teff": "log_teff", "log_g": "logg", "log_L": "log_l",
}  # fmt: skip
_HELIUM = {"mist": (3.0, 4.5), "parsec": (4.0, 7.5)}  # phases of core helium burning and early asymptotic giants


def read_installed(name: str) -> IsochronePoints:
    """A set of the installed package. Raises `UserError` where the package is not there."""
    try:
        from lachesis_grids import grid_path
    except ImportError as error:
        raise UserError(
            f"isochrones {name}: need the package lachesis-grids, install phdlspec with the extra [ages], or name a "
            "file of MIST or PARSEC isochrones"
        ) from error
    try:
        path = grid_path(_FILES[name])
    except FileNotFoundError as error:
        raise UserError(
            f"isochrones {name}: the installed lachesis-grids has no {_FILES[name]}; install it again"
        ) from error
    return read_hdf5(path, name)


def read_hdf5(path: str | Path, name: str | None = None) -> IsochronePoints:
    """The rows of a set in the package's HDF5 layout."""
    path = Path(path)
    check_hdf5(path)
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("storage") != "sparse_v1" or len(file["offsets"]) != len(file["feh_values"]) * len(
                file["age_values"]
            ):
                raise UserError(f"{path}: HDF5, but not a set of isochrones of lachesis-grids (storage sparse_v1)")
            columns = [str(column) for column in file.attrs["columns"]]
            values = np.asarray(file["values"], dtype=float)
            lengths = np.asarray(file["lengths"])
            feh, age = np.asarray(file["feh_values"], dtype=float), np.asarray(file["age_values"], dtype=float)
    except (OSError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as isochrones ({first_line(error)})") from error
    if int(lengths.sum()) != len(values):
        raise UserError(f"{path}: {len(values)} points, {int(lengths.sum())} announced; the file is damaged")
    table = dict(zip(columns, values.T))
    table["feh"] = np.repeat(np.repeat(feh, len(age)), lengths)
    table["log_age_yr"] = np.repeat(np.tile(age, len(feh)), lengths)
    return _rows(table, name or _name_of(path), path)


def read_npz(path: str | Path) -> IsochronePoints:
    """The rows of a table cut from a set: arrays `data` (N, C) and `columns` (C,)."""
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            columns, data = [str(c) for c in file["columns"]], np.asarray(file["data"], dtype=float)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as isochrones (arrays data and columns expected)") from error
    return _rows(dict(zip(columns, data.T)), _name_of(path), path)


def _name_of(path: Path) -> str:
    return next((name for name in FACTS if name in path.name.lower()), path.stem)


def _rows(table: dict[str, Array], name: str, path: Path) -> IsochronePoints:
    missing = [column for column in (*_COLUMNS, "eep", "feh", "log_age_yr") if column not in table]
    if missing:
        raise UserError(f"{path}: no column {missing[0]} in its table of isochrones")
    facts = FACTS.get(name, SetFacts(name, "not stated", "not stated", float("nan")))
    quantities = {ours: table[theirs] for theirs, ours in _COLUMNS.items()}
    quantities["surface_mh"] = table["feh"]
    phase = table.get("phase", np.full(len(table["feh"]), np.nan))
    helium, use = None, np.ones(len(phase), dtype=bool)
    if name in _HELIUM:
        first, last = _HELIUM[name]
        helium, use = phase >= first - 0.5, (phase >= -0.5) & (phase < last)
    return IsochronePoints(
        facts, table["feh"], table["log_age_yr"], table["eep"], np.zeros(len(phase), dtype=np.int64), helium, quantities
    ).take(use)
