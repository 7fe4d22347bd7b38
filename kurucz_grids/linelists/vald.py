"""VALD "extract stellar", short and long: the header names the medium, gf values are scaled by isotope already."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from kurucz_grids.linelists.damping import (
    MOLECULE_STARK,
    MOLECULE_VDW,
    UNSOLD_EXPONENT,
    classical_radiative,
    stark,
    unsold_vdw,
    upper_level_ev,
)
from kurucz_grids.linelists.elements import MOLECULE_ATOMS, SYMBOLS
from kurucz_grids.linelists.linelist import LineList
from phdlspec.errors import UserError
from phdlspec.wavelength import air_to_vacuum

_ROW = re.compile(r"^'([A-Za-z0-9]+) +(\d+)'\s*,(.*)$")
_ISOTOPE = re.compile(r"\(\d+\)[A-Z]")  # "(48)TiO" in a reference
_HEADER = re.compile(r"WL_(vac|air)\((A|nm)\)")


def is_vald(head: str) -> bool:
    """Whether the first lines of a file are those of VALD."""
    return bool(_HEADER.search(head)) and "Spec Ion" in head


def read_vald(path: str | Path, medium: str | None = None) -> LineList:
    """Read an "extract stellar" file, short or long form by its header.

    Raises `UserError` for a damaged line, an unknown species, other units than Å, or a medium that the header denies.
    """
    text = Path(path).read_text(errors="replace").splitlines()
    header = next((line for line in text[:10] if "Spec Ion" in line), "")
    match = _HEADER.search(header)
    if match is None or match[2] != "A":
        raise UserError(f"{path}: its header does not say 'WL_vac(A)' or 'WL_air(A)'; extract it again in Å")
    stated = "vacuum" if match[1] == "vac" else "air"
    if medium not in (None, stated):
        raise UserError(f"{path}: its header says that the wavelengths are in {stated}, but {medium} was asked for")
    if "(cm-1)" in header:
        raise UserError(f"{path}: its levels are in 1/cm; extract it again with energies in eV")
    if "gf*" not in header and any(_ISOTOPE.search(line) for line in text):
        raise UserError(f"{path}: its gf are not scaled by isotope; extract it again with isotopic scaling on")
    long_form = "E_low(eV)" in header
    # Columns after the species: wavelength, log gf, lower level (eV), radiative, Stark, van der Waals.
    places = (0, 1, 2, 9, 10, 11) if long_form else (0, 3, 1, 4, 5, 6)
    species, rows = [], []
    for number, line in enumerate(text, start=1):
        found = _ROW.match(line)
        if found is None:
            continue
        words = next(csv.reader([found[3]], quotechar="'", skipinitialspace=True))
        try:
            rows.append([float(words[i]) for i in places])
        except (ValueError, IndexError) as error:
            raise UserError(f"{path}: line {number} is damaged: {line.strip()[:60]!r}") from error
        species.append(_name(found[1], int(found[2]), str(path)))
    if not rows:
        raise UserError(f"{path}: VALD's header without a line of spectrum; extract it again")
    listed, loggf, lower, rad, stark_log, vdw_log = np.array(rows).T
    keep = np.array([name is not None and name != "H" for name in species])
    names = np.array([name or "" for name in species])[keep]
    listed, loggf, lower, rad, stark_log, vdw_log = (c[keep] for c in (listed, loggf, lower, rad, stark_log, vdw_log))
    wave = listed if stated == "vacuum" else air_to_vacuum(listed)
    molecule = np.array([name in MOLECULE_ATOMS for name in names])
    z = np.array([1 if m else SYMBOLS.index(n.rstrip("+")) + 1 for n, m in zip(names, molecule)])
    charge = np.array([name.count("+") for name in names])
    upper = upper_level_ev(wave, lower)
    abo = vdw_log > 20.0  # sigma.alpha of Anstee, Barklem & O'Mara
    vdw = np.where(molecule, MOLECULE_VDW, unsold_vdw(z, charge, lower, upper))
    vdw = np.where((vdw_log < 0) & ~molecule, 10.0 ** np.minimum(vdw_log, 0.0), vdw)
    vdw = np.where(abo, _abo_width(vdw_log, z), vdw)
    exponent = np.where(abo, (1.0 - vdw_log % 1.0) / 2.0, UNSOLD_EXPONENT)
    estimate = np.where(molecule, MOLECULE_STARK, stark(z, charge, upper))
    return LineList.from_columns(
        names, wave_vacuum=wave, elow_ev=lower, loggf=loggf,
        gamma_rad=np.where(rad > 0, 10.0**rad, classical_radiative(wave)),
        gamma_stark=np.where(stark_log < 0, 10.0**stark_log, estimate),
        gamma_vdw=vdw, vdw_exponent=exponent, isotope_fraction=np.ones(len(wave)), medium=stated,
        sources={"VALD": len(wave)}, path=str(path),
    )  # fmt: skip


def _name(symbol: str, stage: int, path: str) -> str | None:
    # "Fe", 2 to "Fe+"; None for what no late-type star shows.
    if symbol in SYMBOLS:
        return symbol + "+" * (stage - 1) if stage <= 2 else None
    if symbol in MOLECULE_ATOMS:
        return symbol if stage == 1 else None
    raise UserError(f"{path}: unknown species {symbol} {stage}; drop its lines")


def _abo_width(packed: np.ndarray, z: np.ndarray) -> np.ndarray:
    # Full width per hydrogen atom at 10^4 K of cross-section sigma (a0^2 at 10 km/s) and exponent alpha
    # (Anstee & O'Mara 1995, MNRAS 276, 859, eq. 1).
    from scipy.special import gamma

    from kurucz_grids.linelists.elements import ATOMIC_WEIGHT

    sigma, alpha = np.floor(packed) * 2.80028e-17, packed % 1.0
    speed = 1.4527e6 * np.sqrt(1.0 / 1.008 + 1.0 / ATOMIC_WEIGHT[z])
    shape = 2.0 * (4.0 / np.pi) ** (alpha / 2.0) * gamma(2.0 - alpha / 2.0)
    return shape * 1e6 * sigma * (speed / 1e6) ** (1.0 - alpha)
