"""Air or vacuum: what a list says, what its own energies and strong lines say, and the error where they disagree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phdlspec.errors import UserError
from phdlspec.wavelength import air_to_vacuum, vacuum_to_air

# Species, air wavelength (Å) and lower level (eV) of lines that cannot be mistaken: Ca II K H and triplet, Na D, Mg b.
_STRONG = (
    ("Ca+", 3933.663, 0.0), ("Ca+", 3968.468, 0.0), ("Na", 5889.951, 0.0), ("Na", 5895.924, 0.0),
    ("Mg", 5167.322, 2.709), ("Mg", 5172.684, 2.712), ("Mg", 5183.604, 2.717),
    ("Ca+", 8498.023, 1.692), ("Ca+", 8542.091, 1.700), ("Ca+", 8662.141, 1.692),
)  # fmt: skip
_NEAR = 0.1  # Å; air and vacuum differ by 1.1 Å and more here
HOW_TO_SAY = "say which, with --medium of `phdlspec grid build` or medium= of read_line_list"
AIR_BEGINS = 2000.0  # Å; shorter wavelengths are in vacuum by convention, in every list


def to_vacuum(wave: NDArray[np.float64], medium: str) -> NDArray[np.float64]:
    """Vacuum wavelengths (Å) of a list in `medium`; below 2000 Å lists "in air" are in vacuum already."""
    wave = np.asarray(wave, dtype=float)
    if medium == "vacuum":
        return wave
    return np.where(wave < AIR_BEGINS, wave, air_to_vacuum(np.maximum(wave, AIR_BEGINS)))


def told_by_energies(wave: NDArray[np.float64], energy_cm: NDArray[np.float64]) -> str | None:
    """Medium from the wavelengths (Å) that the difference of the two levels (1/cm) asks for; None if undecided."""
    usable = (energy_cm > 0) & (wave > AIR_BEGINS)
    if not usable.any():
        return None
    vacuum = 1e8 / energy_cm[usable]
    shift = vacuum - vacuum_to_air(vacuum)
    offset = np.median((vacuum - wave[usable]) / shift)  # 0 in vacuum, 1 in air
    if abs(offset) < 0.3:
        return "vacuum"
    return "air" if abs(offset - 1.0) < 0.3 else None


def told_by_strong_lines(
    species: NDArray[np.str_],
    wave: NDArray[np.float64],
    elow_ev: NDArray[np.float64],
) -> str | None:
    """Medium from well-known strong lines in the list; None if it holds none of them or they disagree."""
    votes = set()
    for name, air, level in _STRONG:
        here = wave[(species == name) & (np.abs(elow_ev - level) < 0.02)]
        if np.any(np.abs(here - air) < _NEAR):
            votes.add("air")
        if np.any(np.abs(here - air_to_vacuum(air)) < _NEAR):
            votes.add("vacuum")
    return votes.pop() if len(votes) == 1 else None


def settle(path: str, asked: str | None, stated: str | None, found: str | None) -> str:
    """The medium of a list: what the caller asked, the file states and physics finds must not disagree.

    Raises `UserError` for a disagreement, and where none of the three says anything.
    """
    if asked not in (None, "air", "vacuum"):
        raise UserError(f"{path}: the medium is {asked!r}, expected 'air' or 'vacuum'")
    says = asked or stated
    if asked and stated and asked != stated:
        raise UserError(
            f"{path}: the file says that its wavelengths are in {stated}, but {asked} was asked for; "
            f"ask for {stated} or for nothing"
        )
    if says and found and says != found:
        raise UserError(
            f"{path}: wavelengths are said to be in {says}, but its lines lie where they lie in {found}; "
            f"say {found} or correct the file"
        )
    medium = says or found
    if medium is None:
        raise UserError(f"{path}: nothing tells whether wavelengths are in air or vacuum; {HOW_TO_SAY}")
    return medium
