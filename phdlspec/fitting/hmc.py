"""Hamiltonian Monte Carlo for many stars at once, through the emulator's exact gradient.

In coordinates whitened by the Hessian at the optimum the posterior is close to a unit Gaussian: a trajectory of a few
steps crosses it, and 35 dimensions mix as fast as two. Weakly measured labels (VBROAD, oxygen) are wider than their
Hessian says, so that halfway through the warm-up the coordinates are whitened again, by the covariance of the draws
made so far, drawn towards the unit matrix. Between trajectories a few draws of the linearised posterior are proposed
(`independence`), which cost no gradient and get a chain out of corners where steps would have to be small (oxygen near
its bound). Each star has several chains, its own step size (dual averaging towards an
acceptance of 0.8: Hoffman & Gelman 2014, JMLR 15, 1593) and its own random numbers. Trajectories have random lengths,
so that no period is met. Rounds are added until every star has the effective sample size that is asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from phdlspec.fitting.convergence import effective_sample_size, split_rhat
from phdlspec.fitting.independence import LinearProposals
from phdlspec.fitting.problem import Problem
from phdlspec.fitting.random import StarRandom

CHAINS = 8
JUMPS = 4  # proposals of the linearised posterior between trajectories
WARM_UP = 50
WHITEN_FROM, WHITEN_AT = 8, 32  # transitions whose draws whiten the coordinates again
ROUND = 20  # draws of each chain between looks at the convergence
TARGET_ACCEPTANCE = 0.8
LENGTH = 1.6  # of a trajectory in the whitened space, a quarter of a period
MAX_LEAPS = 8
RHAT_LIMIT = 1.02


@dataclass(frozen=True)
class Chains:
    """Draws z (S, N, D) of all chains of each star, and their convergence.

    ess (S,) smallest effective sample size of any parameter; rhat (S,) largest split R-hat; acceptance (S,);
    steps : transitions of each chain; converged (S,)
    """

    z: Tensor
    ess: Tensor
    rhat: Tensor
    acceptance: Tensor
    steps: int
    converged: Tensor


def sample_hmc(
    problem: Problem,
    mean: Tensor,
    hessian: Tensor,
    random: StarRandom,
    min_ess: float = 400.0,
    max_draws: int = 600,
) -> Chains:
    """Sample the posteriors of S stars from their optima (S, D) and Hessians (S, D, D)."""
    stars, n_dim = mean.shape
    scale = torch.linalg.inv(torch.linalg.cholesky(hessian)).mT  # covariance = scale scale^T

    def place(x: Tensor) -> Tensor:
        return mean[:, None] + x @ scale.mT

    def whitened(z: Tensor) -> Tensor:
        return torch.linalg.solve(scale, (z - mean[:, None]).mT).mT

    def value_and_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        # x (S, C, D) whitened; the gradient is pulled back through z = mean + scale x.
        value, gradient = problem.log_posterior_and_gradient(place(x))
        return value.nan_to_num(nan=-math.inf), (gradient @ scale).nan_to_num(nan=0.0)

    proposals = LinearProposals(problem, mean, random)
    x = random.normal(CHAINS, n_dim)
    value, gradient = value_and_gradient(x)
    step = torch.full((stars,), 0.5 * n_dim**-0.25 * 2.0, dtype=mean.dtype, device=mean.device)
    averaging = _DualAveraging(step)
    kept: list[Tensor] = []
    accepted = torch.zeros(stars, dtype=mean.dtype, device=mean.device)
    total = 0
    for iteration in range(WARM_UP + max_draws):
        x = whitened(_jump(problem, proposals, place(x), value, random))
        value, gradient = value_and_gradient(x)
        momentum = random.normal(CHAINS, n_dim)
        length = LENGTH * (0.5 + random.uniform(1)[:, 0])
        leaps = int((length / step).max().clamp(1, MAX_LEAPS).ceil())
        jump = torch.minimum(step, length / leaps)[:, None, None]
        new_x, new_value, new_gradient = x, value, gradient
        p = momentum + 0.5 * jump * new_gradient
        for leap in range(leaps):
            new_x = new_x + jump * p
            new_value, new_gradient = value_and_gradient(new_x)
            p = p + (jump if leap + 1 < leaps else 0.5 * jump) * new_gradient
        energy = (new_value - 0.5 * (p**2).sum(-1)) - (value - 0.5 * (momentum**2).sum(-1))
        probability = torch.exp(energy.clamp(max=0.0)).nan_to_num(nan=0.0)  # (S, C)
        take = random.uniform(CHAINS) < probability
        x = torch.where(take[..., None], new_x, x)
        value = torch.where(take, new_value, value)
        gradient = torch.where(take[..., None], new_gradient, gradient)
        kept.append(x)
        if iteration < WARM_UP:
            step = averaging.update(probability.mean(1), final=iteration + 1 == WARM_UP)
            if iteration + 1 == WHITEN_AT:
                wider = _whitening(torch.stack(kept[WHITEN_FROM:], dim=2))
                x = torch.linalg.solve(wider, x.mT).mT
                scale, gradient = scale @ wider, gradient @ wider
                averaging = _DualAveraging(step)
            if iteration + 1 == WARM_UP:
                kept.clear()
            continue
        accepted += probability.mean(1)
        total += 1
        if total % ROUND == 0:
            chains = torch.stack(kept, dim=2)  # (S, C, N, D)
            ess = effective_sample_size(chains).amin(-1)
            rhat = split_rhat(chains).amax(-1)
            if ((ess >= min_ess) & (rhat < RHAT_LIMIT)).all():
                break
    chains = torch.stack(kept, dim=2)
    ess, rhat = effective_sample_size(chains).amin(-1), split_rhat(chains).amax(-1)
    z = place(chains.reshape(stars, -1, n_dim))
    return Chains(z, ess, rhat, accepted / total, total + WARM_UP, (ess >= 0.5 * min_ess) & (rhat < 1.05))


def _jump(problem: Problem, proposals: LinearProposals, z: Tensor, value: Tensor, random: StarRandom) -> Tensor:
    """Places (S, C, D) after `JUMPS` independence steps from z with log posterior `value` (S, C)."""
    weight = value - proposals.log_density(z)
    for _ in range(JUMPS):
        new = proposals.draw(z.shape[1])
        new_weight = (problem.log_posterior(new) - proposals.log_density(new)).nan_to_num(nan=-math.inf)
        take = torch.log(random.uniform(z.shape[1])) < new_weight - weight
        z, weight = torch.where(take[..., None], new, z), torch.where(take, new_weight, weight)
    return z


def _whitening(chains: Tensor) -> Tensor:
    """Cholesky factors (S, D, D) of the covariances of chains (S, C, N, D), drawn towards 1 as if D + 10 draws said so.

    Pooled over the chains: what has not mixed counts as wide.
    """
    stars, c, n, n_dim = chains.shape
    flat = chains.reshape(stars, c * n, n_dim)
    centred = flat - flat.mean(1, keepdim=True)
    unit = torch.eye(n_dim, dtype=chains.dtype, device=chains.device)
    return torch.linalg.cholesky((centred.mT @ centred + (n_dim + 10) * unit) / (c * n + n_dim + 10))


class _DualAveraging:
    """Step sizes (S,) that reach the target acceptance."""

    def __init__(self, start: Tensor):
        self.centre = torch.log(10.0 * start)
        self.error = torch.zeros_like(start)
        self.mean = torch.zeros_like(start)
        self.count = 0

    def update(self, acceptance: Tensor, final: bool) -> Tensor:
        self.count += 1
        rate = 1.0 / (self.count + 10.0)
        self.error = (1.0 - rate) * self.error + rate * (TARGET_ACCEPTANCE - acceptance)
        log_step = self.centre - self.count**0.5 / 0.05 * self.error
        weight = self.count**-0.75
        self.mean = weight * log_step + (1.0 - weight) * self.mean
        return torch.exp((self.mean if final else log_step).clamp(math.log(1e-3), math.log(1.5)))
