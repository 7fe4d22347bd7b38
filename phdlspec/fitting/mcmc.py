"""Ensemble MCMC with emcee (Foreman-Mackey et al. 2013), all walkers of half an ensemble in one batch.

Plain stretch moves mix badly in 35 dimensions. The walkers start from draws of the corrected Laplace posterior, so that
there is little to burn in, and move mostly by differential evolution. The chain grows until it holds the effective
sample size that is asked for, or says that it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import emcee
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phdlspec.fitting.convergence import split_rhat
from phdlspec.fitting.problem import Problem

WALKERS_PER_DIMENSION = 4
CHECK_EVERY = 60
BURN_IN_TIMES = 3.0  # autocorrelation times
TRUSTED_LENGTH = 20.0  # autocorrelation times in a chain whose autocorrelation time can be believed


@dataclass(frozen=True)
class Ensemble:
    """Draws z (N, D) after burn-in; autocorrelation time (D,) in steps; ess, rhat: the worst parameter's."""

    z: Tensor
    autocorrelation_time: NDArray[np.float64]
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
    backend: str | Path | None = None,
) -> Ensemble:
    """Sample the posterior of one star.

    Parameters
    ----------
    problem : of one star; draws : (N, D) coordinates to start from, N at least the number of walkers
    min_ess : effective sample size of the worst parameter at which to stop
    max_steps : at which to stop anyway; backend : HDF5 file that keeps the chain, None for memory
    """
    n_dim = draws.shape[1]
    walkers = 2 * ((WALKERS_PER_DIMENSION * n_dim + 1) // 2)
    random = np.random.default_rng(seed)

    def log_posterior(points: NDArray[np.float64]) -> NDArray[np.float64]:
        z = torch.as_tensor(points, dtype=torch.float64, device=draws.device)
        values = problem.log_posterior(z[None])[0].cpu().numpy()
        return np.where(np.isfinite(values), values, -np.inf)

    moves = [
        (emcee.moves.DEMove(), 0.7), (emcee.moves.DEMove(gamma0=1.0), 0.1), (emcee.moves.DESnookerMove(), 0.1),
        (emcee.moves.StretchMove(), 0.1),
    ]  # fmt: skip
    store = emcee.backends.HDFBackend(str(backend)) if backend is not None else None
    if store is not None:
        store.reset(walkers, n_dim)
    sampler = emcee.EnsembleSampler(walkers, n_dim, log_posterior, moves=moves, vectorize=True, backend=store)
    sampler.random_state = np.random.RandomState(seed).get_state()  # noqa: NPY002 (what emcee takes)
    chosen = draws[torch.as_tensor(random.choice(len(draws), walkers, replace=len(draws) < walkers))]
    # Repeated draws would leave the ensemble in a subspace.
    state = chosen.cpu().numpy() + 1e-3 * random.normal(size=(walkers, n_dim))
    while sampler.iteration < max_steps:
        state = sampler.run_mcmc(state, CHECK_EVERY, skip_initial_state_check=False)
        result = _summary(sampler, walkers, min_ess)
        if result.converged and result.ess >= min_ess:
            break
    return _summary(sampler, walkers, min_ess)


def _summary(sampler: emcee.EnsembleSampler, walkers: int, min_ess: float) -> Ensemble:
    tau = np.maximum(np.nan_to_num(sampler.get_autocorr_time(tol=0, quiet=True), nan=1e9), 1.0)
    steps = sampler.iteration
    burn = min(int(BURN_IN_TIMES * tau.max()), steps // 2)
    chain = sampler.get_chain(discard=burn)  # (N, W, D)
    ess = float((len(chain) * walkers / tau).min())
    # Walkers are not independent chains, but groups of them that disagree show what has not mixed.
    rhat = float(split_rhat(torch.as_tensor(chain).permute(1, 0, 2)[None]).max())
    converged = steps > TRUSTED_LENGTH * tau.max() and ess >= 0.5 * min_ess
    flat = torch.as_tensor(chain.reshape(-1, chain.shape[-1]))
    return Ensemble(flat, tau, ess, rhat, float(np.mean(sampler.acceptance_fraction)), steps, bool(converged))
