"""What all text formats share: numbered lines, and from columns to a `LineList`: medium, species, damping, isotopes."""

from __future__ import annotations

import gzip
import logging
import zlib
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kurucz_grids.linelists.damping import (
    MOLECULE_STARK,
    MOLECULE_VDW,
    UNSOLD_EXPONENT,
    classical_radiative,
    stark,
    unsold_vdw,
    upper_level_ev,
)
from kurucz_grids.linelists.elements import ATOMIC_WEIGHT, ISOTOPES, MOLECULE_ATOMS, isotope_fraction
from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.linelists.medium import settle, to_vacuum, told_by_energies, told_by_strong_lines
from phdlspec.errors import UserError, first_line
from phdlspec.solar import ATOMIC_NUMBER, SYMBOLS

log = logging.getLogger(__name__)

EV_PER_INVERSE_CM = 1.0 / 8065.544
GZIP = b"\x1f\x8b"
UNKNOWN = ""  # species that the chemistry does not know


def read_text(path: str | Path) -> str:
    """The text of a file, plain or gzipped; raises `UserError` for a gzipped one that is cut off or damaged."""
    data = Path(path).read_bytes()
    if data.startswith(GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: not a whole gzip file ({first_line(error)}); fetch it again") from error
    return data.decode(errors="replace")


def filled_lines(path: str | Path) -> list[tuple[int, str]]:
    """The lines of a text that are not blank, with their numbers in the file."""
    text = read_text(path)
    return [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def is_number(text: str) -> bool:
    """Whether a text is one number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass
class LineRows:
    """Columns (N,) as a format states them; NaN where it states none.

    `species` is "" for one that the chemistry does not know; `wave` is in Å of the list's own medium; `energy_cm` is
    the difference of the levels (1/cm); `rad`, `stark`, `vdw` are log10 of the widths of `LineList`; `alpha` is the
    velocity exponent of the ABO theory; `fraction` is a factor still to be put into gf.
    """

    species: NDArray[np.str_]
    wave: NDArray[np.float64]
    elow_ev: NDArray[np.float64]
    loggf: NDArray[np.float64]
    energy_cm: NDArray[np.float64]
    rad: NDArray[np.float64]
    stark: NDArray[np.float64]
    vdw: NDArray[np.float64]
    alpha: NDArray[np.float64]
    fraction: NDArray[np.float64]

    @classmethod
    def empty(cls, size: int) -> LineRows:
        """N rows with nothing stated, isotope fraction 1."""
        columns = {field.name: np.full(size, np.nan) for field in fields(cls)}
        columns |= {"species": np.full(size, UNKNOWN, dtype="U8"), "fraction": np.ones(size)}
        return cls(**columns)


def assemble(path: str, rows: LineRows, source: str, medium: str | None, stated: str | None = None) -> LineList:
    """The line list; lines of hydrogen are left out (its profiles are SMElib's), unknown species with a warning.

    Raises `UserError` where the medium is contradicted or unknown, or no line is left.
    """
    found = told_by_energies(rows.wave, rows.energy_cm)
    found = found or told_by_strong_lines(rows.species, rows.wave, rows.elow_ev)
    medium = settle(path, medium, stated, found)
    unknown = rows.species == UNKNOWN
    if unknown.any():
        log.warning("%s: %d lines of species that the chemistry does not know are left out", path, unknown.sum())
    keep = ~unknown & (rows.species != "H")
    if not keep.any():
        raise UserError(f"{path}: no line of a known species is in this list; expected atoms, ions or diatomics")
    rows = LineRows(**{name: values[keep] for name, values in vars(rows).items()})
    wave = to_vacuum(rows.wave, medium)
    names, kind = np.unique(rows.species, return_inverse=True)
    molecule = np.array([name in MOLECULE_ATOMS for name in names])[kind]
    z = np.array([1 if name in MOLECULE_ATOMS else ATOMIC_NUMBER[name.rstrip("+")] for name in names])[kind]
    charge = np.array([name.count("+") for name in names])[kind]
    upper = upper_level_ev(wave, rows.elow_ev)

    def stated_or(logarithm: NDArray[np.float64], estimate: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(np.isfinite(logarithm), 10.0 ** np.nan_to_num(logarithm), estimate)

    exponent = np.where(np.isfinite(rows.alpha), (1.0 - np.nan_to_num(rows.alpha)) / 2.0, UNSOLD_EXPONENT)
    return LineList.from_columns(
        rows.species, wave_vacuum=wave, elow_ev=rows.elow_ev, loggf=rows.loggf + np.log10(rows.fraction),
        gamma_rad=stated_or(rows.rad, classical_radiative(wave)),
        gamma_stark=stated_or(rows.stark, np.where(molecule, MOLECULE_STARK, stark(z, charge, upper))),
        gamma_vdw=stated_or(rows.vdw, np.where(molecule, MOLECULE_VDW, unsold_vdw(z, charge, rows.elow_ev, upper))),
        vdw_exponent=exponent, isotope_fraction=rows.fraction, medium=medium,
        sources={source: int(keep.sum())}, path=path,
    )  # fmt: skip


def molecule_fraction(path: str, atoms: tuple[int, int], masses: tuple[int, ...], *, either_order: bool) -> float:
    """Solar fraction of an isotopologue from the mass numbers of its atoms, one or both of them, in any order.

    Of molecules of one element with two isotopes, as 12C13C, there are 2 f12 f13, for either atom may be the rare one;
    but they share twice the levels of 12C2, whose partition function is used for all, so that a level holds f12 f13.
    `either_order` asks for the former, which suits lists whose gf are halved for it; the others want the latter.
    """
    product, left = 1.0, list(atoms)
    for mass in masses:
        owner = next((z for z in left if _has_isotope(z, mass)), None)
        if owner is None:
            raise UserError(f"{path}: isotope {mass} fits no atom of the molecule {atoms}; drop or correct its lines")
        left.remove(owner)
        product *= isotope_fraction(owner, mass)
    mixed = atoms[0] == atoms[1] and len(masses) == 2 and masses[0] != masses[1]
    return product * (2.0 if mixed and either_order else 1.0)


def _has_isotope(z: int, mass: int) -> bool:
    # The table leaves out elements whose one isotope is all there is, or nearly: Al, Y.
    table = ISOTOPES.get(SYMBOLS[z - 1])
    return mass == round(ATOMIC_WEIGHT[z]) if table is None else mass in table
