"""SiH A-X: the band of silicon hydride near 4130 Å, which no list at hand has.

Cool stars show it, the Sun's spots too. Lines of the (0,0), (1,1), (0,1) and (1,0) bands follow from the molecular
constants of both states (Huber & Herzberg 1979): energies of a doublet state between Hund's cases a and b (Hill & Van
Vleck 1928), intensities of a 2Delta-2Pi transition in case b (Kovacs 1969), to which N > 5 is close; satellite branches
are left out. The oscillator strength of the band, 0.0045, is a first value: what counts is measured on stars
(`scripts/calibrate_lines.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from kurucz_grids.linelists.linelist import LineList

BAND = (4080.0, 4260.0)  # Å, where most of the (0,0) band lies
WAVE_MIN = 3690.0
_N_MAX = 70
_FAINTEST = -6.0  # log gf
_PER_EV = 8065.54  # 1/cm
_LOWEST_LEVEL = 75.0  # 1/cm: half the spin-orbit splitting of the ground state, above which it counts
_ORIGIN = 24193.04  # 1/cm, of the (0,0) band
_STRENGTH = {(0, 0): 0.0045, (1, 1): 0.0042, (0, 1): 0.0001, (1, 0): 0.0001}  # upper and lower vibration


@dataclass(frozen=True)
class _ElectronicState:
    """Constants of an electronic state, 1/cm: vibration, rotation, spin-orbit coupling; `momentum` is Lambda."""

    omega: float
    omega_x: float
    b: float
    alpha: float
    distortion: float
    coupling: float
    momentum: int

    def vibration(self, v: int) -> float:
        return self.omega * (v + 0.5) - self.omega_x * (v + 0.5) ** 2

    def rotation(self, v: int, j: float, component: int) -> float:
        """Energy (1/cm) of the level J of the component 1 (N = J - 1/2) or 2."""
        b, square, momentum2 = self.b - self.alpha * (v + 0.5), (j + 0.5) ** 2, self.momentum**2
        y = self.coupling / b
        root = np.sqrt(4.0 * square + y * (y - 4.0) * momentum2)
        sign = -0.5 if component == 1 else 0.5
        return float(b * (square - momentum2 + sign * root) - self.distortion * square**2)


_LOWER = _ElectronicState(2041.80, 35.51, 7.4996, 0.2190, 3.97e-4, 142.83, momentum=1)
_UPPER = _ElectronicState(1858.90, 99.175, 7.4664, 0.3445, 5.24e-4, 3.58, momentum=2)


def silicon_hydride() -> LineList:
    """The lines, in vacuum."""
    rows = [row for bands in _STRENGTH.items() for row in _band(*bands[0], bands[1])]
    wave, elow, loggf = np.array(sorted(rows)).T
    keep = (loggf > _FAINTEST) & (wave > WAVE_MIN)
    ones = np.ones(int(keep.sum()))
    return LineList.from_columns(
        np.full(len(ones), "SiH"), wave_vacuum=wave[keep], elow_ev=elow[keep], loggf=loggf[keep], gamma_rad=2e6 * ones,
        gamma_stark=1e-7 * ones, gamma_vdw=1e-8 * ones, vdw_exponent=0.3 * ones, isotope_fraction=ones,
        sources={"SiH A-X": len(ones)}, path="SiH A-X",
    )  # fmt: skip


def _band(upper: int, lower: int, strength: float) -> Iterator[tuple[float, float, float]]:
    # Wavelength (Å), lower energy (eV) and log gf of the main branches.
    excited = _UPPER.vibration(upper) - _UPPER.vibration(0)
    below = _LOWER.vibration(lower) - _LOWER.vibration(0)
    for component, n, step in product((1, 2), range(1, _N_MAX), (-1, 0, 1)):
        spin = 0.5 if component == 1 else -0.5
        j, j_upper = n + spin, n + step + spin
        if j < _LOWER.momentum - spin or j_upper < _UPPER.momentum - spin or n + step < 2:
            continue
        level = _LOWER.rotation(lower, j, component)
        wavenumber = _ORIGIN + excited - below + _UPPER.rotation(upper, j_upper, component) - level
        gf = 2.0 * strength * (2.0 * j + 1.0) * _intensity(n, step)
        if gf > 0.0:
            yield 1e8 / wavenumber, max(level + below + _LOWEST_LEVEL, 0.0) / _PER_EV, float(np.log10(gf))


def _intensity(n: int, step: int) -> float:
    # Hönl-London factor of a Delta-Pi transition in case b, over 2N + 1 and both components.
    if step == 1:
        return (n + 2) * (n + 3) / ((n + 1) * (2 * n + 1)) / 2.0
    if step == 0:
        return (n + 2) * (n - 1) / (n * (n + 1)) / 2.0
    return (n - 2) * (n - 1) / (n * (2 * n + 1)) / 2.0
