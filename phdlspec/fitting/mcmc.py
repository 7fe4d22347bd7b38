"""Ensemble MCMC with emcee (Foreman-Mackey et al. 2013), all walkers of half an ensemble in one batch.

Moves that know only the ensemble need of the order of a hundred steps for one independent draw in 35 dimensions. Most
moves here propose draws of the linearised posterior instead (`linear_proposals`): half of them are taken, and some ten
steps make an independent draw. Differential evolution is mixed in for walkers in places that such draws reach too
rarely. The chain grows until it holds the effective sample size that is asked for, or says that it does not.

Snooker moves are left out on purpose: those of emcee 3.1 do not keep the distribution that is sampled (a Gaussian of
unit width comes out 6% to 22% too narrow in 2 to 10 dimensions, narrower ones more so).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import emcee
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phdlspec.fitting.convergence import autocorrelation_time, split_rhat
from phdlspec.fitting.linear_proposals import LinearProposals
from phdlspec.fitting.problem import Problem
from phdlspec.fitting.random import StarRandom

WALKERS_PER_DIMENSION = 2
LINEAR_SHARE = 0.9  # of the moves
CHECK_EVERY = 30
BURN_IN_TIMES = 3.0  # autocorrelation times
TRUSTED_LENGTH = 20.0  # autocorrelation times in a chain whose autocorrelation time can be believed

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ensemble:
    """Draws z (N, D) after burn-in; autocorrelation time (D,) in steps; ess, rhat: the worst parameter's."""

    z: Tensor
    autocorrelation_time: Array
    ess: float
    rhat: float
    acceptance: float
    steps: int
    converged: bool


def sample_emcee(
    problem: Problem,
    draws: Tensor,
    seed: int,
    min_ess: float = 400.0,
    max_steps: int = 4000,
    told: Callable[[float], None] = lambda share: None,
) -> Ensemble:
    """Sample the posterior of one star.

    Parameters
    ----------
    problem : of one star; draws : (N, D) coordinates to start from, N at least the number of walkers
    min_ess : effective sample size of the worst parameter at which to stop
    max_steps : at which to stop anyway
    told : is called with the share of `min_ess` that has been reached
    """
    n_dim = draws.shape[1]
    walkers = 2 * ((WALKERS_PER_DIMENSION * n_dim + 1) // 2)
    random = np.random.default_rng(seed)

    near = problem.near(draws[None])

    def log_posterior(points: Array) -> Array:
        z = torch.as_tensor(points, dtype=torch.float64, device=draws.device)
        values = near.log_posterior(z[None])[0].cpu().numpy()
        return np.where(np.isfinite(values), values, -np.inf)

    stream = StarRandom(seed, ["linear proposals"], draws.device)
    proposals = LinearProposals.around(problem, draws.mean(0, keepdim=True), stream)
    moves = [(_linear_move(proposals), LINEAR_SHARE), (emcee.moves.DEMove(), 1.0 - LINEAR_SHARE)]
    sampler = emcee.EnsembleSampler(walkers, n_dim, log_posterior, moves=moves, vectorize=True)
    sampler.random_state = np.random.RandomState(seed).get_state()  # noqa: NPY002 (what emcee takes)
    chosen = draws[torch.as_tensor(random.choice(len(draws), walkers, replace=len(draws) < walkers))]
    # Repeated draws would leave the ensemble in a subspace.
    state = chosen.cpu().numpy() + 1e-3 * random.normal(size=(walkers, n_dim))
    while sampler.iteration < max_steps:
        # A look costs more the longer the chain is.
        steps = min(max(CHECK_EVERY, sampler.iteration // 5), max_steps - sampler.iteration)
        state = sampler.run_mcmc(state, steps, skip_initial_state_check=False)
        result = _summary(sampler, min_ess)
        told(result.ess / min_ess)
        if result.converged and result.ess >= min_ess:
            break
    return _summary(sampler, min_ess)


def _linear_move(proposals: LinearProposals) -> emcee.moves.MHMove:
    device = proposals.coordinates.lower.device

    def propose(points: Array, _: np.random.RandomState) -> tuple[Array, Array]:
        old, new = torch.as_tensor(points, dtype=torch.float64, device=device)[None], proposals.draw(len(points))
        factor = proposals.log_density(old) - proposals.log_density(new)
        return new[0].cpu().numpy(), factor[0].cpu().numpy()

    return emcee.moves.MHMove(propose)


def _summary(sampler: emcee.EnsembleSampler, min_ess: float) -> Ensemble:
    def chain_after(burn: int) -> Tensor:
        return torch.as_tensor(sampler.get_chain(discard=burn)).permute(1, 0, 2)[None]  # (1, W, N, D)

    # Walkers count as chains, so that one that is stuck is seen.
    steps = sampler.iteration
    tau = autocorrelation_time(chain_after(steps // 4))[0].numpy()
    chain = chain_after(min(int(BURN_IN_TIMES * tau.max()), steps // 2))
    size = chain.shape[1] * chain.shape[2]
    ess, rhat = size / tau.max(), float(split_rhat(chain).max())
    converged = steps > TRUSTED_LENGTH * tau.max() and ess >= 0.5 * min_ess
    flat = chain[0].reshape(size, -1)
    return Ensemble(flat, tau, float(ess), rhat, float(np.mean(sampler.acceptance_fraction)), steps, bool(converged))
