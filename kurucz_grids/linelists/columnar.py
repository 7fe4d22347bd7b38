"""The columnar line list (npz): rows compiled from several sources, whose columns mean different things.

Traps that this reader knows (they are those of the compilation, told apart by its column `src`):

* log gf of molecules and of isotopic patterns from linemake (`LM…`) and of C2 (`SHAH…`) are those of the pure
  isotope and get the isotope's solar fraction here; those of VALD and GALAH are scaled already;
* `vdw` of a VALD row is Turbospectrum's: a factor on the Unsöld width where positive, the logarithm of the width at
  10^4 K where negative; ABO columns take precedence;
* linemake states no damping: radiative widths come from lines that share the upper level (`damping.radiative`), Stark
  widths from a rule, and Unsöld's van der Waals widths are used;
* lines of H I are left out: hydrogen has profiles of its own.
"""

from __future__ import annotations

import logging
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from kurucz_grids.linelists.damping import (
    MOLECULE_STARK,
    UNSOLD_EXPONENT,
    classical_radiative,
    radiative,
    stark,
    unsold_vdw,
    upper_level_ev,
)
from kurucz_grids.linelists.elements import isotope_fraction, species_name
from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.linelists.medium import AIR_BEGINS
from phdlspec.errors import UserError, first_line
from phdlspec.hdf5_check import check_hdf5
from phdlspec.wavelength import air_to_vacuum

log = logging.getLogger(__name__)

COLUMNS = (
    "wl_air z1 z2 ion iso elow_ev loggf log_gamrad log_gamstark vdw src abo_loggam1e4K abo_alpha abo_gamrad".split()
)
_DAMAGED = (
    OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, SyntaxError, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
LEAST_RADIATIVE = 3.0  # log10 of a width (1/s); smaller ones are no widths
MOLECULE_VDW = 1e-8  # cm3/s; molecular lines are too faint for it to matter
# Mass numbers of the atoms of a molecule, by the code of its isotopes; where only one atom is coded the other is H.
_MOLECULE_CODES = {
    112: ((6, 12),), 113: ((6, 13),), 114: ((7, 14),), 115: ((7, 15),), 116: ((8, 16),),
    124: ((12, 24),), 125: ((12, 25),), 126: ((12, 26),),
    1212: ((6, 12), (6, 12)), 1213: ((6, 12), (6, 13)), 1214: ((6, 12), (7, 14)), 1314: ((6, 13), (7, 14)),
}  # fmt: skip


def read_columnar(path: str | Path) -> LineList:
    """Read the npz or HDF5 (array `lines` with the fields `COLUMNS`, wavelengths in air).

    Raises `UserError` for a file that is none or damaged, lacks a field, holds no line or one of an isotope that cannot
    be told, or is in nm.
    """
    try:
        rows = _load(path)
    except _DAMAGED as error:
        raise UserError(
            f"{path}: not a whole columnar line list ({first_line(error)}); expected npz or HDF5 with the array 'lines'"
        ) from error
    missing = [name for name in COLUMNS if name not in (rows.dtype.names or ())]
    if missing:
        raise UserError(f"{path}: the line list lacks the field {missing[0]!r}; expected {', '.join(COLUMNS)}")
    for name in COLUMNS:
        if name != "src" and not np.issubdtype(rows.dtype[name], np.number):
            raise UserError(f"{path}: the field {name!r} is of type {rows.dtype[name]}; expected numbers")
    if rows.ndim != 1 or not rows.size:
        raise UserError(f"{path}: the line list has shape {rows.shape}; expected (N,) with a row for each line")
    if rows["wl_air"].max() < AIR_BEGINS:
        raise UserError(
            f"{path}: all wavelengths are below {AIR_BEGINS:g} Å, where lists in air have none; write them "
            "in Å, not in nm"
        )
    rows = rows[~((rows["z1"] == 1) & (rows["z2"] == 0))]
    names, kind = _species(rows)
    unknown = np.array([name is None for name in names])[kind]
    if unknown.any():
        log.warning("%s: %d lines of species that the chemistry does not know are left out", path, unknown.sum())
        rows, kind = rows[~unknown], kind[~unknown]
    fraction = _isotope_fractions(rows, str(path))
    wave = air_to_vacuum(rows["wl_air"])
    vdw, exponent = _van_der_waals(rows, wave)
    sources, counts = np.unique(rows["src"].astype(str), return_counts=True)
    return LineList.from_columns(
        np.array([str(name) for name in names])[kind],
        wave_vacuum=wave,
        elow_ev=rows["elow_ev"],
        loggf=rows["loggf"] + np.log10(fraction),
        gamma_rad=_radiative(rows, wave),
        gamma_stark=_stark(rows, wave),
        gamma_vdw=vdw,
        vdw_exponent=exponent,
        isotope_fraction=fraction,
        medium="air",
        sources={str(s): int(n) for s, n in zip(sources, counts)},
        path=str(path),
    )


def _load(path: str | Path) -> NDArray[Any]:
    if h5py.is_hdf5(path):
        check_hdf5(path)
        with h5py.File(path, "r") as file:
            if not isinstance(file["lines"], h5py.Dataset):
                raise ValueError("'lines' is a group of arrays, not one array")
            return np.asarray(file["lines"][()])
    with np.load(path, allow_pickle=False) as archive:
        return np.asarray(archive["lines"])


def _species(rows: NDArray[Any]) -> tuple[list[str | None], NDArray[np.intp]]:
    codes, kind = np.unique(np.stack([rows["z1"], rows["z2"], rows["ion"]], axis=1), axis=0, return_inverse=True)
    return [species_name(int(a), int(b), int(c)) for a, b, c in codes], kind.ravel()


def _isotope_fractions(rows: NDArray[Any], path: str) -> NDArray[np.float64]:
    source = rows["src"].astype(str)
    pure = np.char.startswith(source, "LM") | np.char.startswith(source, "SHAH")
    isotopic = pure & (rows["iso"] > 0)
    fraction = np.ones(len(rows))
    codes = np.unique(np.stack([rows["z1"], rows["z2"], rows["iso"]], axis=1)[isotopic], axis=0)
    for z1, z2, iso in codes.tolist():
        here = isotopic & (rows["z1"] == z1) & (rows["z2"] == z2) & (rows["iso"] == iso)
        if z2 == 0:
            value = isotope_fraction(z1, iso)
        elif iso in _MOLECULE_CODES:
            parts = _MOLECULE_CODES[iso]
            value = float(np.prod([isotope_fraction(z, mass) for z, mass in parts]))
            if len(set(parts)) > 1 and parts[0][0] == parts[1][0]:
                value *= 2.0  # either atom may be the rare one
        else:
            value = 0.0
        if value <= 0:
            raise UserError(f"{path}: isotope code {iso} of species ({z1}, {z2}) is unknown; drop or correct its lines")
        fraction[here] = value
    return fraction


def _radiative(rows: NDArray[Any], wave: NDArray[np.float64]) -> NDArray[np.float64]:
    # Some rows of GALAH state the width itself instead of its logarithm; Turbospectrum's 1e5 means unknown.
    given = rows["log_gamrad"].astype(float)
    logarithm = np.where(given > 15, np.log10(np.maximum(given, 1.0)), given)
    known = np.isfinite(logarithm) & (logarithm > LEAST_RADIATIVE) & (logarithm < 11) & (logarithm != 5.0)
    width = np.where(known, 10.0 ** np.where(known, logarithm, 0.0), np.nan)
    calculated = rows["abo_gamrad"].astype(float)
    width = np.where(calculated > 10.0**LEAST_RADIATIVE, calculated, width)
    atoms = rows["z2"] == 0
    answer = classical_radiative(wave)
    z, charge, lower = (rows[name][atoms] for name in ("z1", "ion", "elow_ev"))
    answer[atoms] = radiative(z.astype(int), charge.astype(int), wave[atoms], lower.astype(float), width[atoms])
    return answer


def _stark(rows: NDArray[Any], wave: NDArray[np.float64]) -> NDArray[np.float64]:
    given = rows["log_gamstark"].astype(float)
    known = np.isfinite(given) & (given < -3)
    z, charge = rows["z1"].astype(int), rows["ion"].astype(int)
    upper = upper_level_ev(wave, rows["elow_ev"].astype(float))
    estimate = np.where(rows["z2"] > 0, MOLECULE_STARK, stark(z, charge, upper))
    return np.where(known, 10.0 ** np.where(known, given, -30.0), estimate)


def _van_der_waals(rows: NDArray[Any], wave: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    z, charge, lower = rows["z1"].astype(int), rows["ion"].astype(int), rows["elow_ev"].astype(float)
    width = unsold_vdw(z, charge, lower, upper_level_ev(wave, lower))
    given = rows["vdw"].astype(float)
    width = np.where((given > 0) & (given < 20), width * given, width)
    width = np.where((given < -5) & (given > -9.9), 10.0 ** np.minimum(given, 0.0), width)
    exponent = np.full(len(rows), UNSOLD_EXPONENT)
    abo = rows["abo_loggam1e4K"].astype(float)
    known = np.isfinite(abo)
    width = np.where(known, 10.0 ** np.where(known, abo, -30.0), width)
    alpha = rows["abo_alpha"].astype(float)
    exponent = np.where(known & np.isfinite(alpha), (1.0 - np.nan_to_num(alpha)) / 2.0, exponent)
    return np.where(rows["z2"] > 0, MOLECULE_VDW, width), exponent
