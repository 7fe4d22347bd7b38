"""Cores that LTE cannot make: equivalent widths missing in strong lines, with what stars say of them beforehand.

The cores of Balmer lines, of Ca II H and K and of Na D form where local thermodynamic equilibrium does not hold, in
active stars in a chromosphere: in giants Balmer cores are deeper by half an ångström of equivalent width than the
models', which a fit would take for a Teff 150 K too high. How much is missing is a nuisance: for each core an
amplitude that enters the spectrum linearly, with a Gaussian prior whose mean is a plane in (5040 K / Teff, log g) and
whose width is the scatter about it. Both were measured on benchmark stars (`scripts/core_depths.py`) with one version
of the synthesis; with emulators of another nothing is assumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from phdlspec.lsf import NativeGrid
from phdlspec.spectrum import SIGMA_TO_FWHM

INTRINSIC = 1.5  # Å, standard deviation of a core's profile before the spectrograph's
LOG_G0 = 4.0  # where the planes are anchored, with Teff = 5040 K
TABLE = "cores.ecsv"


@dataclass(frozen=True)
class CorePriors:
    """What is known beforehand of M cores.

    wave : (M,) vacuum Å; plane : (M, 3) equivalent width missing in the models (Å) at 5040 K and log g 4, its slopes in
    5040 K / Teff and in log g; width : (M,) scatter about the plane, Å
    """

    wave: Tensor
    plane: Tensor
    width: Tensor

    @classmethod
    def shipped(cls, made_with: Mapping[str, Any], device: torch.device | str = "cpu") -> CorePriors | None:
        """Those of the package, if they are for the physics that an emulator was made with (attributes of its grid)."""
        table = _table()
        if table.meta["synthesis_version"] != made_with.get("synthesis_version"):
            return None
        columns = [torch.tensor(list(table[name]), dtype=torch.float32) for name in table.colnames if name != "name"]
        wave, constant, by_theta, by_logg, width = (column.to(device) for column in columns)
        return cls(wave, torch.stack([constant, by_theta, by_logg], dim=1), width)

    def mean(self, teff: Tensor, logg: Tensor) -> Tensor:
        """Missing equivalent widths (S, M), Å, expected at labels (S,)."""
        at = torch.stack([torch.ones_like(teff), 5040.0 / teff - 1.0, logg - LOG_G0], dim=1)
        return at.to(self.plane) @ self.plane.T

    def templates(self, rest_wave: Tensor, resolving_power: Tensor) -> Tensor:
        """Change of the normalised flux (S, M, P) by one ångström of missing equivalent width.

        rest_wave (S, P) vacuum Å at rest; resolving_power (P,) or (S, P).
        """
        sigma = torch.hypot(rest_wave / resolving_power / SIGMA_TO_FWHM, torch.full_like(rest_wave, INTRINSIC))
        off = (rest_wave[:, None] - self.wave.to(rest_wave)[:, None]) / sigma[:, None]
        return -torch.exp(-0.5 * off**2) / (sigma[:, None] * math.sqrt(2.0 * math.pi))

    def planted(
        self, flux: ArrayLike, grid: NativeGrid, teff: float, logg: float, random: np.random.Generator
    ) -> NDArray[np.float64]:
        """A model's normalised flux (Pn,) on its grid with cores that such a star may have, drawn at random."""
        wave = torch.as_tensor(grid.wave)[None]
        templates = self.templates(wave, torch.full_like(wave[0], grid.resolving_power))[0].numpy()
        expected = self.mean(torch.tensor([teff]), torch.tensor([logg]))[0].double().numpy()
        missing = expected + self.width.double().numpy() * random.normal(size=len(expected))
        return np.asarray(np.asarray(flux, dtype=np.float64) + missing @ templates)


@cache
def _table() -> Table:
    return Table.read(str(resources.files("phdlspec") / "data" / TABLE), format="ascii.ecsv")
