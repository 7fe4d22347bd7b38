"""Widths of lines for which a list gives none: radiation by levels, Stark by effective quantum number, Unsöld's van der
Waals.

All widths are full widths at half maximum in angular frequency, as in the lists of Kurucz and VALD.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kurucz_grids.linelists.elements import ATOMIC_WEIGHT, IONISATION_ENERGY

UNSOLD_EXPONENT = 0.3  # of the temperature, for a width per perturber
# Widths (cm3/s) of molecular lines of which a list says nothing, per hydrogen atom and per electron. The first is twice
# ExoMol's default (Tennyson et al. 2016, J. Mol. Spectrosc. 327, 73: 0.07 1/cm/bar at 296 K, for H2) brought to 10^4 K;
# Kurucz's readers have 1e-7, which gives the TiO of cool dwarfs wings of an ångström. The second is Kurucz's guess.
MOLECULE_VDW = 1e-8
MOLECULE_STARK = 1e-5
STARK_RULE = (-7.59, 2.41), (-7.94, 2.01)  # of atoms and of ions: log10 width = a + b log10 n*^2
LEVEL_TOLERANCE = 0.0015  # eV between levels of a species
NEAREST_OF_SPECIES, NEAREST_OF_ALL = 11, 101  # known levels that stand for an unknown one
_RYDBERG_EV = 13.605693
_MAX_N_STAR_SQUARED = 25.0  # for levels at or above the ionisation limit
_HC_EV_ANGSTROM = 12398.41984


def classical_radiative(wave_vacuum: NDArray[np.float64]) -> NDArray[np.float64]:
    """Damping constant of the classical oscillator, 8 pi^2 e^2 / (3 m c lambda^2), in 1/s; wavelengths in Å."""
    return 2.2236e15 / np.asarray(wave_vacuum) ** 2


def upper_level_ev(wave_vacuum: NDArray[np.float64], elow_ev: NDArray[np.float64]) -> NDArray[np.float64]:
    """Energy of the upper level (eV)."""
    return elow_ev + _HC_EV_ANGSTROM / wave_vacuum


def _binding_ev(z: NDArray[np.int_], charge: NDArray[np.int_], level_ev: NDArray[np.float64]) -> NDArray[np.float64]:
    ionisation = IONISATION_ENERGY[z, np.minimum(charge, 2)]
    return np.where(np.isfinite(ionisation), ionisation, 10.0) - level_ev


def effective_quantum_number_squared(
    z: NDArray[np.int_], charge: NDArray[np.int_], level_ev: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Rydberg (of the particle's charge) over the binding energy of levels, at most 25."""
    binding = _binding_ev(z, charge, level_ev)
    rydberg = _RYDBERG_EV * (charge + 1.0) ** 2
    return np.where(binding > rydberg / _MAX_N_STAR_SQUARED, rydberg / np.maximum(binding, 1e-3), _MAX_N_STAR_SQUARED)


def stark(z: NDArray[np.int_], charge: NDArray[np.int_], eup_ev: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stark width per electron at 10^4 K (cm3/s), a power of the upper level's effective quantum number.

    Straight lines through the widths that Kurucz computed for 2,658 lines of atoms and 1,006 of ions whose upper level
    is bound by more than a 24th of the Rydberg (`scripts/line_widths.py`); half of them lie within a factor of 2. The
    widths of Cowley (1971, Observatory 91, 139) are two to four times as large for atoms, ten times for ions.
    """
    log_n_star_squared = np.log10(effective_quantum_number_squared(z, charge, eup_ev))
    neutral, ion = (10.0 ** (a + b * log_n_star_squared) for a, b in STARK_RULE)
    return np.where(charge == 0, neutral, ion)


def radiative(
    z: NDArray[np.int_],
    charge: NDArray[np.int_],
    wave_vacuum: NDArray[np.float64],
    elow_ev: NDArray[np.float64],
    given: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Radiative widths (N,), 1/s, where the list knows only some.

    A width belongs to the levels, nearly all of it to the upper one. Lines that share an upper level with a line whose
    width is known get the median of its widths; levels without one get the median of the known levels of their species
    nearest in energy or, in species with few of them, of all species of that charge nearest in binding energy.

    Parameters
    ----------
    z, charge, wave_vacuum (Å), elow_ev : (N,). given : (N,) 1/s, NaN where unknown; kept as they are
    """
    known = np.isfinite(given)
    if not known.any():
        return classical_radiative(wave_vacuum)
    upper = upper_level_ev(wave_vacuum, elow_ev)
    species = 4 * z.astype(int) + charge
    order = np.lexsort((upper, species))
    new = (np.diff(species[order]) != 0) | (np.diff(upper[order]) > LEVEL_TOLERANCE)
    level = np.empty(len(order), dtype=np.intp)
    level[order] = np.concatenate([[0], np.cumsum(new)])
    first = order[np.concatenate([[0], np.flatnonzero(new) + 1])]  # a line of each level
    width = _median_by_group(level[known], np.log(given[known]), len(first))
    _fill_levels(width, species[first], charge[first], upper[first], _binding_ev(z, charge, upper)[first])
    width = np.where(np.isfinite(width), width, np.log(classical_radiative(wave_vacuum[first])))
    return np.where(known, given, np.exp(width[level]))


def _fill_levels(
    width: NDArray[np.float64],
    species: NDArray[np.int_],
    charge: NDArray[np.int_],
    upper_ev: NDArray[np.float64],
    binding_ev: NDArray[np.float64],
) -> None:
    # Logarithmic widths of levels (G,), NaN where unknown: set from the nearest known ones.
    known = np.isfinite(width)
    measured = width.copy()
    for one in np.unique(species[~known]):
        mine = species == one
        rich = (mine & known).sum() >= NEAREST_OF_SPECIES
        place = upper_ev if rich else binding_ev
        source = known & (mine if rich else charge == charge[mine][0])
        if source.any():
            count = NEAREST_OF_SPECIES if rich else NEAREST_OF_ALL
            width[mine & ~known] = _median_of_nearest(place[source], measured[source], place[mine & ~known], count)


def _median_by_group(group: NDArray[np.intp], values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    # Median of the values of each group (size,), NaN for those without one.
    answer = np.full(size, np.nan)
    order = np.argsort(group, kind="stable")
    present, first = np.unique(group[order], return_index=True)
    for one, members in zip(present, np.split(values[order], first[1:])):
        answer[one] = np.median(members)
    return answer


def _median_of_nearest(
    place: NDArray[np.float64], values: NDArray[np.float64], wanted: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    order = np.argsort(place)
    place, values = place[order], values[order]
    count = min(count, len(place))
    first = np.clip(np.searchsorted(place, wanted) - count // 2, 0, len(place) - count)
    return np.asarray(np.median(values[first[:, None] + np.arange(count)], axis=1))


def unsold_vdw(
    z: NDArray[np.int_], charge: NDArray[np.int_], elow_ev: NDArray[np.float64], eup_ev: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Van der Waals width per hydrogen atom at 10^4 K (cm3/s), 17 C6^0.4 v^0.6, in the hydrogenic approximation of
    Unsöld (1955, Physik der Sternatmosphären, p. 332) for the mean square radii of the levels."""
    low, up = effective_quantum_number_squared(z, charge, elow_ev), effective_quantum_number_squared(z, charge, eup_ev)
    # C6 = 0.3e-30 Z^2 [1/(I - E_up)^2 - 1/(I - E_low)^2] with the binding energies in eV.
    c6 = 0.3e-30 * np.maximum(up**2 - low**2, 0.25) / (_RYDBERG_EV**2 * (charge + 1.0) ** 2)
    speed = 1.4527e6 * np.sqrt(1.0 / 1.008 + 1.0 / ATOMIC_WEIGHT[z])  # sqrt(8 k T / pi mu) at 10^4 K, cm/s
    return 17.0 * c6**0.4 * speed**0.6
