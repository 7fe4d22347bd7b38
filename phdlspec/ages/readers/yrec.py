"""YREC isochrones in comma-separated columns, one age and composition a file (`iso_age4_0_feh0_0.csv`).

Columns used: Age_gyr, Metallicity_input, Mass_input, Mass_msun, log_Teff, Log_g, LogL_lsun, X_cen (hydrogen in the
centre), Z_X_sur (metals over hydrogen at the surface).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phdlspec.ages.rows import IsochronePoints, SetFacts
from phdlspec.errors import UserError

Array = NDArray[np.float64]

FACTS = SetFacts("YREC", "Demarque et al. (2008), Ap&SS 316, 31", "Grevesse & Sauval (1998)", 0.0179, 0.0, False)
_NEEDED = ("Age_gyr", "Metallicity_input", "Mass_input", "Mass_msun", "log_Teff", "Log_g", "LogL_lsun", "X_cen")
_EXHAUSTED = 1e-4


def is_yrec(head: str) -> bool:
    """True for the first lines of a table of YREC isochrones."""
    return all(name in head.split("\n", 1)[0].split(",") for name in _NEEDED)


def read_yrec(path: str | Path) -> IsochronePoints:
    """The rows of one file."""
    path = Path(path)
    lines = path.read_text(errors="replace").splitlines()
    names = lines[0].split(",")
    try:
        rows = [[cell or "nan" for cell in line.split(",")] for line in lines[1:] if line.strip(", ")]
        values = np.array(rows, dtype=float)
    except ValueError as error:
        raise UserError(f"{path}: has a row that is not {len(names)} numbers; the file is damaged") from error
    if values.ndim != 2 or values.shape[1] != len(names):
        raise UserError(f"{path}: a table without rows")
    table = dict(zip(names, values.T))
    mh = table["Metallicity_input"]
    quantities = {
        "initial_mass": table["Mass_input"], "mass": table["Mass_msun"], "log_teff": table["log_Teff"],
        "logg": table["Log_g"], "log_l": table["LogL_lsun"], "surface_mh": mh,
    }  # fmt: skip
    segment = (table["X_cen"] < _EXHAUSTED).astype(np.int64)
    order = np.argsort(table["Mass_input"], kind="stable")
    return _ordered(
        IsochronePoints(FACTS, mh, np.log10(table["Age_gyr"]) + 9.0, None, segment, None, quantities), order
    )


def _ordered(rows: IsochronePoints, order: NDArray[np.intp]) -> IsochronePoints:
    return IsochronePoints(
        rows.facts, rows.mh[order], rows.log_age[order], None, rows.segment[order], None,
        {name: values[order] for name, values in rows.quantities.items()},
    )  # fmt: skip
