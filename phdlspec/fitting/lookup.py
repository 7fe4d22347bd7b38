"""The coarse look-up: which of some thousand emulated stars resembles the spectrum most.

The table follows the same quasi-random sequence every time. It is compared in the star's rest frame on LAMOST's pixels
at one resolving power, with the continuum fitted to each entry, and gives the starting points of the fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.stats import qmc
from torch import Tensor

from phdlspec.continuum import continuum_basis
from phdlspec.emulator.emulator import Emulator
from phdlspec.labels import STRUCTURE, LabelSet, Role, typical_vmic
from phdlspec.likelihood import Observations
from phdlspec.radial_velocity import ContinuumChi2
from phdlspec.wavelength import LAMOST_WAVE, SPEED_OF_LIGHT_KM_S

ENTRIES = 2048
RESOLVING_POWER = 1500.0
TYPICAL_VBROAD = 5.0  # km/s
REST_WAVE = LAMOST_WAVE[100:3750:2]  # 3786-8769 Å
_ALPHA = ("O_FE", "MG_FE", "SI_FE", "S_FE", "CA_FE", "TI_FE")
TEMPLATES = (
    {"TEFF": 4300.0, "LOGG": 1.5, "FE_H": -0.3}, {"TEFF": 4800.0, "LOGG": 2.5, "FE_H": -1.5},
    {"TEFF": 5200.0, "LOGG": 4.5, "FE_H": 0.0}, {"TEFF": 5800.0, "LOGG": 4.2, "FE_H": -0.5},
    {"TEFF": 6300.0, "LOGG": 4.0, "FE_H": -1.5}, {"TEFF": 7200.0, "LOGG": 4.0, "FE_H": 0.0},
)  # fmt: skip


@dataclass(frozen=True)
class Lookup:
    """The table: theta (N, L) labels, flux (N, P) normalised at `REST_WAVE`, and what fits continua to it."""

    theta: Tensor
    flux: Tensor
    chi2: ContinuumChi2

    @classmethod
    def of(cls, emulator: Emulator) -> Lookup:
        """The table of an emulator; it is kept, so that the next call costs nothing."""
        return _table(emulator)

    def nearest(self, data: Observations, rv: Tensor, count: int) -> Tensor:
        """Labels (S, count, L) of the entries that fit the S stars best, for their velocities (S,) km/s."""
        rest = torch.as_tensor(REST_WAVE, device=self.theta.device)
        flux, ivar = _at_rest(data, rest, rv)
        return self.theta[torch.topk(self.chi2.gains(ivar, flux, self.flux), count, dim=1).indices]


def velocity_templates(emulator: Emulator) -> Tensor:
    """Native fluxes (T, Pn) of a few stars across the label range, for the scan of velocities."""
    theta = np.stack([emulator.labels.complete(values) for values in TEMPLATES])
    with torch.no_grad():
        return emulator.native_flux(torch.as_tensor(theta, dtype=torch.float32, device=emulator.device))


def table_labels(labels: LabelSet, entries: int = ENTRIES) -> np.ndarray:
    """Labels (N, L) of the table: Teff, logg and [Fe/H] over their range, [alpha/Fe] between 0 and 0.4."""
    unit = qmc.Sobol(4, scramble=True, rng=np.random.default_rng(0)).random(entries)
    theta = np.zeros((entries, len(labels)))
    for column, name in enumerate(STRUCTURE):
        label = labels[name]
        margin = 0.02 * (label.upper - label.lower)
        low, high = label.lower + margin, label.upper - margin
        # Metal-rich stars are the most frequent ones and change most with [Fe/H].
        u = unit[:, column] ** 0.6 if name == "FE_H" else unit[:, column]
        theta[:, labels.index(name)] = low + u * (high - low)
    teff, logg, fe_h = (theta[:, labels.index(name)] for name in STRUCTURE)
    theta[:, labels.index("VMIC")] = typical_vmic(teff, logg, fe_h)
    for name in _ALPHA:
        theta[:, labels.index(name)] = 0.4 * unit[:, 3]
    theta[:, labels.place(Role.BROADENING)] = TYPICAL_VBROAD
    return theta


@lru_cache(maxsize=2)
def _table(emulator: Emulator) -> Lookup:
    theta = torch.as_tensor(table_labels(emulator.labels), dtype=torch.float32, device=emulator.device)
    rest = torch.as_tensor(REST_WAVE, device=emulator.device)
    with torch.no_grad():
        flux = torch.cat([emulator.observe(part, rest, RESOLVING_POWER) for part in theta.split(128)])  # type: ignore[no-untyped-call]
    basis = continuum_basis(REST_WAVE, knot_spacing=0.1)
    return Lookup(theta, flux, ContinuumChi2(torch.as_tensor(basis, dtype=torch.float32, device=emulator.device)))


def _at_rest(data: Observations, rest: Tensor, rv: Tensor) -> tuple[Tensor, Tensor]:
    # Linear interpolation of flux and ivar (S, R) at the rest wavelengths' places in the spectra; 0 beyond.
    wave = data.wave.expand(data.flux.shape)
    place = rest * (1.0 + rv.double()[:, None] / SPEED_OF_LIGHT_KM_S)
    right = torch.searchsorted(wave.contiguous(), place).clamp(1, wave.shape[1] - 1)
    left = right - 1
    below, above = wave.gather(1, left), wave.gather(1, right)
    fraction = ((place - below) / (above - below)).to(data.flux.dtype)
    weight = torch.minimum(data.ivar.gather(1, left), data.ivar.gather(1, right))
    inside = (place >= wave[:, :1]) & (place <= wave[:, -1:]) & (weight > 0)
    value = data.flux.gather(1, left) * (1 - fraction) + data.flux.gather(1, right) * fraction
    return torch.where(inside, value, torch.zeros_like(value)), torch.where(inside, weight, torch.zeros_like(weight))
