"""Draws of the linearised posterior as proposals of a sampler: an independence Metropolis-Hastings step.

The posterior is close to that of the linearised model, whose draws cost little and cross it in one step, whatever its
bounds and correlations are. Proposed as a chain's next place and accepted with the probability min(1, w'/w), w the
posterior over the density of the proposals, they keep the exact posterior.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phdlspec.fitting.linear import LinearPosterior
from phdlspec.fitting.problem import Problem
from phdlspec.fitting.random import StarRandom

STOCK = 2000  # draws made at once: many cost little more than one


class LinearProposals:
    """Independent draws for S stars, linearised at `centre` (S, D), and their density in coordinates."""

    def __init__(self, problem: Problem, centre: Tensor, random: StarRandom):
        self.coordinates = problem.coordinates
        self._linear = LinearPosterior.of(centre, problem.expand(centre), problem.coordinates)
        self._random = random
        self._stock = centre.new_zeros(len(centre), 0, centre.shape[1])

    def draw(self, n: int) -> Tensor:
        """Coordinates (S, n, D)."""
        if self._stock.shape[1] < n:
            self._stock = self.coordinates.coordinates(self._linear.draw(self._random, max(n, STOCK)))
        drawn, self._stock = self._stock[:, :n], self._stock[:, n:]
        return drawn

    def log_density(self, z: Tensor) -> Tensor:
        """Log density (S, n) at coordinates (S, n, D), without its constant."""
        of_parameters = self._linear.log_density(self.coordinates.parameters(z))
        return of_parameters + torch.log(self.coordinates.scales(z)).sum(-1)
