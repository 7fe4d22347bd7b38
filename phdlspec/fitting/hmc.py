"""Hamiltonian Monte Carlo for many stars at once, through the emulator's exact gradient.

In coordinates whitened by the Hessian at the optimum the posterior is close to a unit Gaussian: a trajectory of a few
steps crosses it, and 35 dimensions mix as fast as two. Weakly measured labels (VBROAD, oxygen) are wider than their
Hessian says, so that halfway through the warm-up the coordinates are whitened again, by the covariance of the draws
made so far, drawn towards the unit matrix. Between trajectories a few draws of the linearised posterior are proposed
(`linear_proposals`), which cost no gradient and get a chain out of corners where steps would have to be small (oxygen
near its bound). Each star has several chains, its own step size (dual averaging towards an acceptance of 0.8: Hoffman &
Gelman 2014, JMLR 15, 1593) and its own random numbers. Trajectories have random lengths, so that no period is met.
Rounds are added to each star until it has the effective sample size that is asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from phdlspec.fitting.convergence import effective_sample_size, split_rhat
from phdlspec.fitting.linear_proposals import LinearProposals
from phdlspec.fitting.problem import Neighbourhood, Problem
from phdlspec.fitting.progress import tell
from phdlspec.fitting.random import StarRandom

CHAINS = 8
SPREAD = 256  # draws of the linearised posterior that tell how far from each other places will be
JUMPS = 4  # proposals of the linearised posterior between trajectories
WARM_UP = 50
WARM_UP_SHARE = 0.4  # of the work of a star
WHITEN_FROM, WHITEN_AT = 8, 32  # transitions whose draws whiten the coordinates again
ROUND = 20  # draws of each chain between looks at the convergence
TARGET_ACCEPTANCE = 0.8
LENGTH = 1.6  # of a trajectory in the whitened space, a quarter of a period
MAX_LEAPS = 8
RHAT_LIMIT = 1.02


@dataclass(frozen=True)
class Chains:
    """Draws of all chains of each star, and their convergence.

    z : S tensors (N, D); ess (S,) smallest effective sample size of any parameter; rhat (S,) largest split R-hat;
    acceptance (S,); steps (S,) transitions of each chain; converged (S,)
    """

    z: list[Tensor]
    ess: Tensor
    rhat: Tensor
    acceptance: Tensor
    steps: Tensor
    converged: Tensor

    def star(self, i: int) -> Chains:
        """The chains of one star."""
        rest = (getattr(self, f.name)[i : i + 1] for f in fields(self))
        return Chains(*rest)

    @classmethod
    def together(cls, parts: list[Chains]) -> Chains:
        """Those of several stars."""
        numbers = (torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)[1:])
        return cls([z for part in parts for z in part.z], *numbers)


def sample_hmc(
    problem: Problem,
    mean: Tensor,
    hessian: Tensor,
    random: StarRandom,
    min_ess: float = 400.0,
    max_draws: int = 600,
) -> Chains:
    """Sample the posteriors of S stars from their optima (S, D) and Hessians (S, D, D).

    A star with enough effective draws leaves the batch.
    """
    walk = _Walk.start(problem, mean, hessian, random)
    for iteration in range(WARM_UP):
        tell("posterior", WARM_UP_SHARE * iteration / WARM_UP)
        walk.transition()
        walk.adapt(final=iteration + 1 == WARM_UP)
        if iteration + 1 == WHITEN_AT:
            walk.whiten_again()
    walk.forget()
    left, found = list(range(len(mean))), dict[int, Chains]()
    for total in range(1, max_draws + 1):
        walk.transition()
        if total % ROUND and total < max_draws:
            continue
        result = walk.result(min_ess)
        done = (result.ess >= min_ess) & (result.rhat < RHAT_LIMIT)
        if total == max_draws:
            done = torch.ones_like(done)
        for i in torch.nonzero(done)[:, 0].tolist():
            found[left[i]] = result.star(i)
        stay = torch.nonzero(~done)[:, 0]
        left = [left[i] for i in stay.tolist()]
        tell("posterior", WARM_UP_SHARE + (1.0 - WARM_UP_SHARE) * (1.0 - len(left) / len(mean)))
        if not left:
            break
        walk = walk.select(stay)
    return Chains.together([found[s] for s in range(len(mean))])


@dataclass
class _Walk:
    """The chains of S stars on their way: places x (S, C, D) in whitened coordinates, z = mean + scale x.

    value (S, C) and gradient (S, C, D) of the log posterior at x; kept : places of all transitions; averaging : of the
    step sizes; probability : (S,) mean of the last transition's acceptance, accepted (S,) its sum since `forget`
    """

    problem: Neighbourhood
    random: StarRandom
    proposals: LinearProposals
    mean: Tensor
    scale: Tensor
    x: Tensor
    value: Tensor
    gradient: Tensor
    averaging: _DualAveraging
    step: Tensor
    probability: Tensor
    accepted: Tensor
    kept: list[Tensor]
    steps: int = 0

    @classmethod
    def start(cls, problem: Problem, mean: Tensor, hessian: Tensor, random: StarRandom) -> _Walk:
        """From draws of the Gaussian that the Hessians (S, D, D) at the optima (S, D) describe."""
        stars, n_dim = mean.shape
        scale = torch.linalg.inv(torch.linalg.cholesky(hessian)).mT  # covariance = scale scale^T
        proposals = LinearProposals.around(problem, mean, random)
        near = problem.near(proposals.draw(SPREAD))
        x = random.normal(CHAINS, n_dim)
        value, gradient = _value_and_gradient(near, mean, scale, x)
        step = torch.full((stars,), n_dim**-0.25, dtype=mean.dtype, device=mean.device)
        averaging, zero = _DualAveraging.around(step), torch.zeros_like(step)
        return cls(near, random, proposals, mean, scale, x, value, gradient, averaging, step, zero, zero, [])

    def select(self, index: Tensor) -> _Walk:
        """Some of the stars."""
        tensors: dict[str, Any] = {name: x[index] for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(
            self, problem=self.problem.select(index), random=self.random.select(index),
            proposals=self.proposals.select(index), averaging=self.averaging.select(index),
            kept=[x[index] for x in self.kept], **tensors,
        )  # fmt: skip

    def _place(self, x: Tensor) -> Tensor:
        return self.mean[:, None] + x @ self.scale.mT

    def transition(self) -> None:
        """One step of every chain: proposals of the linearised posterior, then a trajectory."""
        z = _jump(self.problem, self.proposals, self._place(self.x), self.value, self.random)
        self.x = torch.linalg.solve(self.scale, (z - self.mean[:, None]).mT).mT
        self.value, self.gradient = _value_and_gradient(self.problem, self.mean, self.scale, self.x)
        momentum = self.random.normal(CHAINS, self.x.shape[-1])
        length = LENGTH * (0.5 + self.random.uniform(1)[:, 0])
        leaps = (length / self.step).clamp(1, MAX_LEAPS).ceil()  # each star its own: company must not change a result
        jump = torch.minimum(self.step, length / leaps)[:, None, None]
        x, value, gradient = self.x.clone(), self.value.clone(), self.gradient.clone()
        p = momentum + 0.5 * jump * gradient
        for leap in range(int(leaps.max())):
            on = torch.nonzero(leaps > leap)[:, 0]
            x[on] += jump[on] * p[on]
            problem = self.problem if len(on) == len(x) else self.problem.select(on)
            value[on], gradient[on] = _value_and_gradient(problem, self.mean[on], self.scale[on], x[on])
            share = torch.where(leaps[on] == leap + 1, 0.5, 1.0)[:, None, None]
            p[on] += share * jump[on] * gradient[on]
        energy = (value - 0.5 * (p**2).sum(-1)) - (self.value - 0.5 * (momentum**2).sum(-1))
        probability = torch.exp(energy.clamp(max=0.0)).nan_to_num(nan=0.0)  # (S, C)
        take = self.random.uniform(CHAINS) < probability
        self.x = torch.where(take[..., None], x, self.x)
        self.value = torch.where(take, value, self.value)
        self.gradient = torch.where(take[..., None], gradient, self.gradient)
        self.kept.append(self.x)
        self.probability = probability.mean(1)
        self.accepted = self.accepted + self.probability
        self.steps += 1

    def adapt(self, final: bool) -> None:
        """Change the step sizes by the last transition's acceptance."""
        self.step = self.averaging.update(self.probability, final)

    def whiten_again(self) -> None:
        """Whiten by the covariance of the draws made so far."""
        wider = _whitening(torch.stack(self.kept[WHITEN_FROM:], dim=2))
        self.x = torch.linalg.solve(wider, self.x.mT).mT
        self.scale, self.gradient = self.scale @ wider, self.gradient @ wider
        self.averaging = _DualAveraging.around(self.step)

    def forget(self) -> None:
        """Leave the warm-up behind."""
        self.kept, self.accepted = [], torch.zeros_like(self.accepted)

    def result(self, min_ess: float) -> Chains:
        """What has been drawn since `forget`."""
        chains = torch.stack(self.kept, dim=2)  # (S, C, N, D)
        ess, rhat = effective_sample_size(chains).amin(-1), split_rhat(chains).amax(-1)
        z = self._place(chains.flatten(1, 2))
        steps = torch.full_like(ess, self.steps)
        converged = (ess >= 0.5 * min_ess) & (rhat < 1.05)
        return Chains(list(z), ess, rhat, self.accepted / len(self.kept), steps, converged)


def _value_and_gradient(problem: Neighbourhood, mean: Tensor, scale: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    # Log posterior at z = mean + scale x, (S, C), and its gradient in x, (S, C, D).
    value, gradient = problem.log_posterior_and_gradient(mean[:, None] + x @ scale.mT)
    return value.nan_to_num(nan=-math.inf), (gradient @ scale).nan_to_num(nan=0.0)


def _jump(problem: Neighbourhood, proposals: LinearProposals, z: Tensor, value: Tensor, random: StarRandom) -> Tensor:
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
    answer: Tensor = torch.linalg.cholesky((centred.mT @ centred + (n_dim + 10) * unit) / (c * n + n_dim + 10))
    return answer


@dataclass
class _DualAveraging:
    """Step sizes (S,) that reach the target acceptance."""

    centre: Tensor
    error: Tensor
    mean: Tensor
    count: int = 0

    @classmethod
    def around(cls, start: Tensor) -> _DualAveraging:
        """From step sizes (S,)."""
        return cls(torch.log(10.0 * start), torch.zeros_like(start), torch.zeros_like(start))

    def select(self, index: Tensor) -> _DualAveraging:
        """Some of the stars."""
        return _DualAveraging(self.centre[index], self.error[index], self.mean[index], self.count)

    def update(self, acceptance: Tensor, final: bool) -> Tensor:
        """The next step sizes, or the final ones, after transitions with this acceptance (S,)."""
        self.count += 1
        rate = 1.0 / (self.count + 10.0)
        self.error = (1.0 - rate) * self.error + rate * (TARGET_ACCEPTANCE - acceptance)
        log_step = self.centre - self.count**0.5 / 0.05 * self.error
        weight = self.count**-0.75
        self.mean = weight * log_step + (1.0 - weight) * self.mean
        return torch.exp((self.mean if final else log_step).clamp(math.log(1e-3), math.log(1.5)))
