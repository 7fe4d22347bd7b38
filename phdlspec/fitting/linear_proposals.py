"""Draws of the linearised posterior as proposals of a sampler: an independence Metropolis-Hastings step.

The posterior is close to that of the linearised model, whose draws cost little and cross it in one step, whatever its
bounds and correlations are. Proposed as a chain's next place and accepted with the probability min(1, w'/w), w the
posterior over the density of the proposals, they keep the exact posterior.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from phdlspec.fitting.coordinates import Coordinates
from phdlspec.fitting.linear import DRAWN_EDGE, LinearPosterior
from phdlspec.fitting.problem import Problem
from phdlspec.fitting.random import StarRandom

STOCK = 2000  # draws made at once: many cost little more than one


@dataclass
class LinearProposals:
    """Independent draws for S stars, linearised at one place, and their density in coordinates.

    stock : (S, N, D) coordinates drawn and not used yet
    """

    coordinates: Coordinates
    linear: LinearPosterior
    random: StarRandom
    stock: Tensor

    @classmethod
    def around(cls, problem: Problem, centre: Tensor, random: StarRandom) -> LinearProposals:
        """Linearised at `centre` (S, D)."""
        linear = LinearPosterior.of(centre, problem.expand(centre), problem.coordinates)
        return cls(problem.coordinates, linear, random, centre.new_zeros(len(centre), 0, centre.shape[1]))

    def select(self, index: Tensor) -> LinearProposals:
        """Those of some stars."""
        return LinearProposals(
            self.coordinates.select(index), self.linear.select(index), self.random.select(index), self.stock[index]
        )

    def draw(self, n: int) -> Tensor:
        """Coordinates (S, n, D)."""
        if self.stock.shape[1] < n:
            drawn = self.linear.draw(self.random.uniform(max(n, STOCK), len(self.coordinates.names)))
            self.stock = self.coordinates.coordinates(drawn, edge=DRAWN_EDGE)
        drawn, self.stock = self.stock[:, :n], self.stock[:, n:]
        return drawn

    def log_density(self, z: Tensor) -> Tensor:
        """Log density (S, n) at coordinates (S, n, D), without its constant."""
        of_parameters = self.linear.log_density(self.coordinates.parameters(z))
        return of_parameters + torch.log(self.coordinates.scales(z)).sum(-1)
