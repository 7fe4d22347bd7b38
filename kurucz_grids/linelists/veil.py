"""The veil: weak lines in the blue that no list has.

No list at hand has the lines between predicted levels that ATLAS9's own opacities include: computed dwarfs are 8-13%
too bright at 3750-3950 Å without them. They are too many and too faint to be known one by one; what counts is how much
light they block, by wavelength and by the energy of their lower level, which decides in which stars. So lines of
neutral iron stand for them, in three classes of excitation, each a comb of equal lines at even distances: so close
together that a spectrograph sees one faint absorption and no pattern of chance. How strong each class is in each bin
of wavelength is measured on stars (`scripts/calibrate_lines.py`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kurucz_grids.linelists.linelist import LineList

Array = NDArray[np.float64]

SPECIES = "Fe"
EXCITATION = (0.7, 2.5, 4.3)  # eV, of the classes
BIN = 60.0  # Å, within which a class has one strength
WAVE_MIN, WAVE_MAX = 3690.0, 5670.0
SPACING = 0.1  # Å between the lines of a class
# log gf before any measurement: faint, fading to the red, fainter for lower levels as seen lines are.
_LOGGF, _BY_EXCITATION, _BY_WAVE = -6.6, 1.0, -0.0022 * np.log10(np.e)
_GAMMA_RAD, _GAMMA_STARK, _GAMMA_VDW = 1.5e8, 1e-6, 3e-8


def bins() -> int:
    """Number of bins of wavelength."""
    return int((WAVE_MAX - WAVE_MIN) / BIN)


def veil(change: Array | None = None) -> LineList:
    """The lines, in order of wavelength; `change` (3, bins()) is added to their log gf by class and bin (dex)."""
    comb = WAVE_MIN + SPACING * np.arange(round((WAVE_MAX - WAVE_MIN) / SPACING))
    number = np.arange(len(EXCITATION))[:, None]
    wave = comb + SPACING * (number + 0.5) / len(EXCITATION)  # one class between the lines of the others
    elow = np.broadcast_to(np.array(EXCITATION)[:, None], wave.shape)
    loggf = _LOGGF + _BY_EXCITATION * elow + _BY_WAVE * (wave - WAVE_MIN)
    if change is not None:
        loggf += np.take_along_axis(change, _bin(wave), axis=1)
    ones = np.ones(wave.size)
    return LineList.from_columns(
        np.full(wave.size, SPECIES), wave_vacuum=wave.ravel(), elow_ev=elow.ravel(), loggf=loggf.ravel(),
        gamma_rad=_GAMMA_RAD * ones, gamma_stark=_GAMMA_STARK * ones, gamma_vdw=_GAMMA_VDW * ones,
        vdw_exponent=0.3 * ones, isotope_fraction=ones, sources={"veil": wave.size}, path="veil",
    )  # fmt: skip


def classes(lines: LineList) -> NDArray[np.intp]:
    """Class and bin (N,) of each line of `veil`, as class x bins() + bin."""
    which = np.abs(lines.elow_ev[:, None].astype(float) - np.array(EXCITATION)).argmin(axis=1)
    return np.asarray(which * bins() + _bin(lines.wave_vacuum))


def _bin(wave: Array) -> NDArray[np.intp]:
    return np.clip((wave - WAVE_MIN) // BIN, 0, bins() - 1).astype(np.intp)
