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
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import torch
from astropy.table import Table
from torch import Tensor

from phdlspec.likelihood import ErrorFloor, Likelihood, Observations
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


@dataclass(frozen=True)
class Cores:
    """What is missing in the cores of S stars: expected change of the normalised flux (S, P), and its factor (S, M, P).

    A column of the factor is the change of the flux by one standard deviation of one core's prior.
    """

    expected: Tensor
    factor: Tensor

    @classmethod
    def of(
        cls, priors: CorePriors, teff: Tensor, logg: Tensor, rest_wave: Tensor, resolving_power: Tensor
    ) -> Cores:  # fmt: skip
        """Of stars with labels (S,) about these, at pixels (S, P)."""
        templates = priors.templates(rest_wave, resolving_power).to(torch.float32)
        mean = priors.mean(teff, logg)
        return cls(torch.einsum("sm,smp->sp", mean, templates), priors.width[:, None] * templates)

    def corrected(self, data: Observations, continuum: Tensor) -> Observations:
        """The observations without what is expected to be missing in the models."""
        return replace(data, flux=data.flux - continuum * self.expected)

    def likelihood(self, before: Likelihood, continuum: Tensor) -> Likelihood:
        """The likelihood of stars with stated noise, with their cores free within the priors."""
        floor = ErrorFloor(torch.zeros_like(self.expected), self.factor)
        return Likelihood.of(self.corrected(before.data, continuum), before.blocks, floor, continuum)

    def fitted(self, likelihood: Likelihood, flux: Tensor) -> Tensor:
        """What the spectra say is missing besides, change of the normalised flux (S, P), about models (S, P)."""
        continuum = likelihood.continuum(flux)
        residual = (likelihood.data.flux - flux * continuum).double()
        columns = (self.factor * continuum[:, None]).double()
        weighted = columns * likelihood.weight[:, None].double()
        normal = weighted @ columns.mT + torch.eye(columns.shape[1], dtype=columns.dtype, device=columns.device)
        amplitude = torch.linalg.solve(normal, (weighted @ residual[..., None]))[..., 0]
        return torch.einsum("sm,smp->sp", amplitude.to(flux.dtype), self.factor)

    def added_to(self, floor: ErrorFloor) -> ErrorFloor:
        """An error floor with the freedom of the cores besides."""
        stars = len(self.factor)
        sigma, factor = (x.expand(stars, *x.shape[1:]) for x in (floor.sigma, floor.factor))
        return ErrorFloor(sigma, torch.cat([factor, self.factor], dim=1))


@cache
def _table() -> Table:
    return Table.read(str(resources.files("phdlspec") / "data" / TABLE), format="ascii.ecsv")
