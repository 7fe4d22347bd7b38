"""Cores of strong lines as a nuisance of the fit: expected at the labels of each star, free about that."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phdlspec.cores import CorePriors
from phdlspec.likelihood import ErrorFloor, Likelihood, Observations


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
