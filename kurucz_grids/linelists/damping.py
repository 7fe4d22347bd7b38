"""Widths of lines for which a list gives none: classical radiation, Cowley's Stark, Unsöld's van der Waals.

All widths are full widths at half maximum in angular frequency, as in the lists of Kurucz and VALD.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kurucz_grids.linelists.elements import ATOMIC_WEIGHT, IONISATION_ENERGY

UNSOLD_EXPONENT = 0.3  # of the temperature, for a width per perturber
# Widths (cm3/s) of molecular lines of which a list says nothing, per hydrogen atom and per electron. They are guesses,
# those that Kurucz's reader of gfall has for molecules; the one of his lists of molecules has others (`molecules`).
MOLECULE_VDW = 1e-7
MOLECULE_STARK = 1e-5
_RYDBERG_EV = 13.605693
_MAX_N_STAR_SQUARED = 25.0  # for levels at or above the ionisation limit
_HC_EV_ANGSTROM = 12398.41984


def classical_radiative(wave_vacuum: NDArray[np.float64]) -> NDArray[np.float64]:
    """Damping constant of the classical oscillator, 8 pi^2 e^2 / (3 m c lambda^2), in 1/s; wavelengths in Å."""
    return 2.2236e15 / np.asarray(wave_vacuum) ** 2


def upper_level_ev(wave_vacuum: NDArray[np.float64], elow_ev: NDArray[np.float64]) -> NDArray[np.float64]:
    """Energy of the upper level (eV)."""
    return elow_ev + _HC_EV_ANGSTROM / wave_vacuum


def _n_star_squared(z: NDArray[np.int_], charge: NDArray[np.int_], level_ev: NDArray[np.float64],
                    ) -> NDArray[np.float64]:
    ionisation = IONISATION_ENERGY[z, np.minimum(charge, 2)]
    binding = np.where(np.isfinite(ionisation), ionisation, 10.0) - level_ev
    rydberg = _RYDBERG_EV * (charge + 1.0) ** 2
    return np.where(binding > rydberg / _MAX_N_STAR_SQUARED, rydberg / np.maximum(binding, 1e-3), _MAX_N_STAR_SQUARED)


def stark(z: NDArray[np.int_], charge: NDArray[np.int_], eup_ev: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stark width per electron at 10^4 K (cm3/s) after Cowley (1971, Observatory 91, 139)."""
    n_star_squared = _n_star_squared(z, charge, eup_ev)
    return np.where(charge == 0, 2.26e-7, 5.42e-7 / (charge + 1.0) ** 2) * n_star_squared**2


def unsold_vdw(z: NDArray[np.int_], charge: NDArray[np.int_], elow_ev: NDArray[np.float64],
               eup_ev: NDArray[np.float64]) -> NDArray[np.float64]:
    """Van der Waals width per hydrogen atom at 10^4 K (cm3/s), 17 C6^0.4 v^0.6, in the hydrogenic approximation of
    Unsöld (1955, Physik der Sternatmosphären, p. 332) for the mean square radii of the levels."""
    low, up = _n_star_squared(z, charge, elow_ev), _n_star_squared(z, charge, eup_ev)
    # C6 = 0.3e-30 Z^2 [1/(I - E_up)^2 - 1/(I - E_low)^2] with the binding energies in eV.
    c6 = 0.3e-30 * np.maximum(up**2 - low**2, 0.25) / (_RYDBERG_EV**2 * (charge + 1.0) ** 2)
    speed = 1.4527e6 * np.sqrt(1.0 / 1.008 + 1.0 / ATOMIC_WEIGHT[z])  # sqrt(8 k T / pi mu) at 10^4 K, cm/s
    return 17.0 * c6**0.4 * speed**0.6
