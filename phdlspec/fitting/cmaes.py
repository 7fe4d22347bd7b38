"""CMA-ES for many stars at once: each has its own mean, covariance, step size, paths and stop reason.

The strategy is Hansen's (2016, The CMA Evolution Strategy: A Tutorial, arXiv:1604.00772): weighted recombination with
negative weights for the worse half, cumulative step-size adaptation, rank-one and rank-mu updates; equation and table
numbers below are that paper's. One thing differs: points are m + sigma A x with A the Cholesky factor of C and x
standard normal, and the path of the step size lives in the space of x. A factorisation costs a small part of an
eigendecomposition, above all on a GPU, and A is a smooth function of C where eigenvectors are not, so that rounding
does not decide where points fall.

It searches in the coordinates of `Coordinates`, where bounds need no treatment. Stars that have stopped leave the
batch; each draws from its own random numbers, so that its search does not depend on its company.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from phdlspec.fitting.levenberg_marquardt import Optimum
from phdlspec.fitting.problem import Problem
from phdlspec.fitting.random import StarRandom
from phdlspec.fitting.stop_reason import StopReason

WIDENING = 3.0  # the search starts that much wider than the posterior's expansion, but never wider than the prior
SPREAD = 256  # points that tell how far from each other those of the search will be
MAX_ITERATIONS = 200
MAX_RESTARTS = 2
TOLERANCE = 0.05  # of lnL within a population and over its last generations: the optimiser does the rest
WORTHWHILE = 1.0  # gain in lnL that asks for a restart with a doubled population


class Objective(Protocol):
    """What is maximised: S functions of D coordinates (`Neighbourhood` is one)."""

    def log_posterior(self, z: Tensor) -> Tensor:
        """Values (S, N) at z (S, N, D); what is not finite counts as worst."""

    def select(self, index: Tensor) -> Objective:
        """The functions of some stars."""


@dataclass(frozen=True)
class Searched:
    """Best points of S stars.

    Attributes
    ----------
    z : (S, D) coordinates
    log_posterior : (S,) values there; -inf where none was finite
    evaluations : (S,) spent
    restarts : (S,) made
    stop_reason : one per star, of its last run
    """

    z: Tensor
    log_posterior: Tensor
    evaluations: Tensor
    restarts: Tensor
    stop_reason: tuple[StopReason, ...]


def search(problem: Problem, local: Optimum, random: StarRandom) -> Searched:
    """Look for better optima of S stars around those that have been found; the population is twice the usual one."""
    covariance = first_covariance(local.expansion.hessian)
    population = 2 * default_population(problem.n_dim)
    first = random.normal(SPREAD, problem.n_dim) @ torch.linalg.cholesky(covariance).mT
    return maximise(
        problem.near(local.z[:, None] + first), local.z, local.expansion.log_posterior, covariance, random, population
    )


def first_covariance(hessian: Tensor) -> Tensor:
    """Covariance (S, D, D) of the first population, (H / WIDENING^2 + 1)^-1 for minus Hessians H (S, D, D).

    It is the posterior's shape, widened; where the spectrum says nothing, the prior's.
    """
    answer: Tensor = torch.linalg.inv(hessian / WIDENING**2 + torch.eye(hessian.shape[-1]).to(hessian))
    return answer


def default_population(n_dim: int) -> int:
    """Points of a generation in D dimensions (eq. 48)."""
    return 4 + int(3 * math.log(n_dim))


def maximise(
    problem: Objective,
    start: Tensor,
    value: Tensor,
    covariance: Tensor,
    random: StarRandom,
    population: int,
    max_iterations: int = MAX_ITERATIONS,
    max_restarts: int = MAX_RESTARTS,
    tolerance: float = TOLERANCE,
) -> Searched:
    """Maximise S functions from points `start` (S, D), where they have the values `value` (S,).

    `covariance` (S, D, D) is that of the first population, `population` its size. A star whose run has gained more than
    `WORTHWHILE` starts again from its best point with twice the population.
    """
    z, best = start.to(torch.float64).clone(), value.to(torch.float64).nan_to_num(nan=-math.inf)
    root = torch.linalg.cholesky(covariance.to(torch.float64))
    evaluations = torch.zeros(len(z), dtype=torch.int64, device=z.device)
    restarts = torch.full_like(evaluations, -1)
    reason = [StopReason.ITERATION_LIMIT] * len(z)
    active = torch.arange(len(z), device=z.device)
    for attempt in range(max_restarts + 1):
        strategy = Strategy.of(z.shape[1], population * 2**attempt, z.device)
        part = problem.select(active)
        own = random.select(active.tolist())
        run = _SingleRun(strategy, part, z[active], best[active], root[active], own, tolerance)
        run.until_stopped(max_iterations)
        gain = run.value - best[active]
        z[active], best[active] = run.z, run.value
        evaluations[active] += run.generations * strategy.population
        restarts[active] += 1
        for i, star in enumerate(active.tolist()):
            reason[star] = run.reason[i]
        active = active[gain > WORTHWHILE]
        if len(active) == 0:
            break
    return Searched(z, best, evaluations, restarts, tuple(reason))


@dataclass(frozen=True)
class Strategy:
    """Strategy parameters (Table 1) for D dimensions and a population of N.

    Attributes
    ----------
    weights : (N,) of the points from best to worst; the first `parents` sum to 1, the others are negative
    mu_eff : variance effective selection mass
    c_sigma, d_sigma : rate and damping of the step size; c_c, c_1, c_mu : rates of path and covariance
    chi : expected length of a standard normal vector
    memory : generations over which the best value must have stood still for a search to have converged
    """

    weights: Tensor
    parents: int
    mu_eff: float
    c_sigma: float
    d_sigma: float
    c_c: float
    c_1: float
    c_mu: float
    chi: float
    memory: int

    @property
    def population(self) -> int:
        """Points of a generation."""
        return len(self.weights)

    @classmethod
    def of(cls, n_dim: int, population: int, device: torch.device | str = "cpu") -> Strategy:
        """The defaults."""
        n, parents = n_dim, population // 2
        rank = torch.arange(1, population + 1, dtype=torch.float64)
        raw = math.log((population + 1) / 2) - torch.log(rank)
        mu_eff, mu_eff_negative = (float(w.sum() ** 2 / (w**2).sum()) for w in (raw[:parents], raw[parents:]))
        c_1 = 2.0 / ((n + 1.3) ** 2 + mu_eff)
        c_mu = min(1.0 - c_1, 2.0 * (0.25 + mu_eff + 1.0 / mu_eff - 2.0) / ((n + 2.0) ** 2 + mu_eff))
        # Sum of the negative weights: nothing decays on average, and C stays positive definite (eqs. 50-53).
        negative = min(1.0 + c_1 / c_mu, 1.0 + 2.0 * mu_eff_negative / (mu_eff + 2.0), (1.0 - c_1 - c_mu) / (n * c_mu))
        positive_sum, negative_sum = raw[raw > 0].sum(), -raw[raw < 0].sum()
        weights = torch.where(raw > 0, raw / positive_sum, raw * (negative / negative_sum))
        c_sigma = (mu_eff + 2.0) / (n + mu_eff + 5.0)
        return cls(
            weights=weights.to(device),
            parents=parents,
            mu_eff=mu_eff,
            c_sigma=c_sigma,
            d_sigma=1.0 + 2.0 * max(0.0, ((mu_eff - 1.0) / (n + 1.0)) ** 0.5 - 1.0) + c_sigma,
            c_c=(4.0 + mu_eff / n) / (n + 4.0 + 2.0 * mu_eff / n),
            c_1=c_1,
            c_mu=c_mu,
            chi=n**0.5 * (1.0 - 1.0 / (4.0 * n) + 1.0 / (21.0 * n**2)),
            memory=10 + math.ceil(30 * n / population),
        )


@dataclass(frozen=True)
class _Distribution:
    """Search distributions of the stars that are still running: N(mean, sigma^2 C) with C = root root^T."""

    mean: Tensor  # (S, D)
    sigma: Tensor  # (S,)
    covariance: Tensor  # (S, D, D)
    root: Tensor  # (S, D, D) lower triangle; NaN where C has none
    sigma_path: Tensor  # (S, D) in the space of the standard normal numbers
    path: Tensor  # (S, D)
    history: Tensor  # (S, memory) best values of the last generations

    @classmethod
    def first(cls, mean: Tensor, root: Tensor, memory: int) -> _Distribution:
        stars = len(mean)
        return cls(
            mean, mean.new_ones(stars), root @ root.mT, root, torch.zeros_like(mean), torch.zeros_like(mean),
            mean.new_full((stars, memory), math.nan),
        )  # fmt: skip

    def select(self, index: Tensor) -> _Distribution:
        return _Distribution(*(getattr(self, f.name)[index] for f in fields(self)))

    def updated(self, s: Strategy, x: Tensor, value: Tensor, generation: int) -> _Distribution:
        """The next distributions, from normal numbers x (S, N, D) and values (S, N) of generation 1, 2, ..."""
        order = torch.argsort(value, dim=1, descending=True, stable=True)
        x = torch.gather(x, 1, order[..., None].expand_as(x))
        y = x @ self.root.mT
        x_step = s.weights[: s.parents] @ x[:, : s.parents]
        y_step = s.weights[: s.parents] @ y[:, : s.parents]
        mean = self.mean + self.sigma[:, None] * y_step
        sigma_path = (1.0 - s.c_sigma) * self.sigma_path + _unit_variance(s.c_sigma, s.mu_eff) * x_step
        length = sigma_path.norm(dim=1)
        sigma = self.sigma * torch.exp((s.c_sigma / s.d_sigma * (length / s.chi - 1.0)).clamp(max=1.0))
        # While the step size still has to grow, the covariance's path stalls.
        stationary = length / (1.0 - (1.0 - s.c_sigma) ** (2 * generation)) ** 0.5
        moves = (stationary < (1.4 + 2.0 / (x.shape[2] + 1.0)) * s.chi).to(x.dtype)[:, None]
        path = (1.0 - s.c_c) * self.path + moves * _unit_variance(s.c_c, s.mu_eff) * y_step
        # Negative weights refer to steps of a standard length, so that C stays positive definite (eq. 46).
        weight = torch.where(s.weights < 0, s.weights * x.shape[2] / (x**2).sum(-1), s.weights)
        lost = (1.0 - moves) * s.c_c * (2.0 - s.c_c)
        kept = 1.0 + s.c_1 * lost - s.c_1 - s.c_mu * s.weights.sum()
        covariance = (
            kept[..., None] * self.covariance
            + s.c_1 * path[:, :, None] * path[:, None, :]
            + s.c_mu * (weight[..., None] * y).mT @ y
        )
        root, failure = torch.linalg.cholesky_ex(covariance)
        root = torch.where(failure[:, None, None] > 0, math.nan, root)
        best = torch.gather(value, 1, order[:, :1])
        history = torch.cat([self.history[:, 1:], best], dim=1)
        return _Distribution(mean, sigma, covariance, root, sigma_path, path, history)


def _unit_variance(rate: float, mu_eff: float) -> float:
    # What keeps a path a standard normal vector under neutral selection.
    return float((rate * (2.0 - rate) * mu_eff) ** 0.5)


class _SingleRun:
    """One run of S stars from their best points so far, without restarts."""

    def __init__(
        self,
        strategy: Strategy,
        problem: Objective,
        start: Tensor,
        value: Tensor,
        root: Tensor,
        random: StarRandom,
        tolerance: float,
    ):
        self.strategy, self.problem, self.random, self.tolerance = strategy, problem, random, tolerance
        self.state = _Distribution.first(start, root, strategy.memory)
        self.z, self.value = start.clone(), value.clone()
        self.generations = torch.zeros(len(start), dtype=torch.int64, device=start.device)
        self.reason = [StopReason.ITERATION_LIMIT] * len(start)
        self.active = torch.arange(len(start), device=start.device)

    def until_stopped(self, max_iterations: int) -> None:
        for generation in range(1, max_iterations + 1):
            value = self._generation(generation)
            self._retire(value)
            if len(self.active) == 0:
                break

    def _generation(self, generation: int) -> Tensor:
        """Draw, evaluate and update; returns the values (A, N)."""
        state = self.state
        x = self.random.normal(self.strategy.population, state.mean.shape[1])
        z = state.mean[:, None] + state.sigma[:, None, None] * (x @ state.root.mT)
        value = self.problem.log_posterior(z).to(torch.float64)
        value = torch.where(torch.isfinite(value), value, -math.inf)
        self.generations[self.active] += 1
        best, which = value.max(dim=1)
        better = best > self.value[self.active]
        improved = self.active[better]
        self.value[improved] = best[better]
        self.z[improved] = z[better, which[better]]
        self.state = state.updated(self.strategy, x, value, generation)
        return value

    def _retire(self, value: Tensor) -> None:
        """Give the stars that are done their reasons and take them out of the batch."""
        state = self.state
        recent = state.history.amax(1) - state.history.amin(1)  # NaN until the history is full
        spread = value.amax(1) - value.amin(1)
        ended = {
            StopReason.CONVERGED: (recent < self.tolerance) & (spread < self.tolerance),
            StopReason.NO_VALUE: ~torch.isfinite(value).any(1),
            StopReason.DEGENERATE: ~torch.isfinite(state.root).all(2).all(1) | ~torch.isfinite(state.sigma),
        }  # fmt: skip
        stopped = torch.zeros_like(self.active, dtype=torch.bool)
        for reason, holds in ended.items():
            for i in self.active[holds].tolist():
                self.reason[i] = reason
            stopped |= holds
        keep = torch.nonzero(~stopped)[:, 0]
        self.active = self.active[keep]
        if 0 < len(keep) < len(stopped):
            self.state = state.select(keep)
            self.problem, self.random = self.problem.select(keep), self.random.select(keep.tolist())
