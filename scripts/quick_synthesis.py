"""A synthesizer that takes no time, for studies of storing and resuming: one line an abundance, exact derivatives.

It is of no physics; worker processes import it by its name.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from phdlspec.wavelength import log_grid

WAVE = log_grid(3685.0, 9120.0, 1 / 40_000)
_CENTRES = np.geomspace(3800.0, 9000.0, 28)
_ABUNDANCES = slice(4, None)  # of the labels of a grid: Teff, log g, vmic and [Fe/H] come first


@dataclass(frozen=True)
class QuickFactory:
    """Makes synthesizers that take `seconds` a model."""

    seconds: float = 0.0

    def __call__(self) -> QuickSynthesizer:
        return QuickSynthesizer(self.seconds)


class QuickSynthesizer:
    """Spectra whose lines follow the abundances, their wings [Fe/H], their slope Teff."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.provenance = {"line_list_checksum": "quick", "atmospheres_checksum": "quick"}

    def synthesize(self, labels: np.ndarray) -> SimpleNamespace:
        """Spectrum, derivatives and continuum of labels (32,)."""
        time.sleep(self.seconds)
        profile = np.exp(-0.5 * (np.log(WAVE / _CENTRES[:, None]) / 2e-4) ** 2)
        absorbed = 0.3 * 10.0 ** (0.5 * labels[_ABUNDANCES, None]) * profile
        flux = np.exp(-absorbed.sum(0))
        jacobian = np.zeros((len(labels), len(WAVE)))
        jacobian[_ABUNDANCES] = -flux * absorbed * 0.5 * np.log(10.0)
        jacobian[0] = (1.0 - flux) * 1e-4
        continuum = np.full(len(WAVE), 1e6 * labels[0] / 5000.0)
        return SimpleNamespace(wave=WAVE, flux=flux, jacobian=jacobian, continuum=continuum)
