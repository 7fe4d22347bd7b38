"""The posterior of each star: by importance sampling where that is reliable or asked for, else by a sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from phdlspec.fitting.disagreement import stretched
from phdlspec.fitting.hmc import sample_hmc
from phdlspec.fitting.laplace import WeightedSample, importance_sample
from phdlspec.fitting.levenberg_marquardt import Optimum
from phdlspec.fitting.mcmc import sample_emcee
from phdlspec.fitting.problem import Problem
from phdlspec.fitting.progress import tell
from phdlspec.fitting.random import StarRandom
from phdlspec.fitting.settings import FitSettings
from phdlspec.labels import STRUCTURE

AT_BOUND = 0.02  # of a label's range
DRAWS = 256
FULL_ESS, FALLBACK_ESS = 400.0, 100.0
FULL_DRAWS, FALLBACK_DRAWS = 600, 80  # of each chain at most


@dataclass(frozen=True)
class PosteriorSample:
    """Draws of one star in coordinates z (N, D), weight (N,) or None for equal ones; how they were made; whether they
    stand for the posterior; and whether a sampler had to do what the fast mode could not."""

    z: Tensor
    weight: Tensor | None
    mode: str
    reliable: bool
    diagnostics: dict[str, float]
    fell_back: bool = False

    def widened(self, ratio: Tensor) -> PosteriorSample:
        """With variances larger by ratio (D,), where windows of the spectrum disagree."""
        told = {"disagreement": float(ratio.sqrt().median())}
        return replace(self, z=stretched(self.z, self.weight, ratio), diagnostics=self.diagnostics | told)


def sample_posteriors(
    problem: Problem, best: Optimum, random: StarRandom, settings: FitSettings
) -> list[PosteriorSample]:
    """One sample a star, from the optima of S stars."""
    sample = importance_sample(problem, best, random, DRAWS)
    found = [_of_importance(sample, star) for star in range(len(problem))]
    full = settings.mode == "full"
    if full:
        todo = list(range(len(problem)))
    else:  # a star outside the models is flagged; its posterior is a corner that is not worth a sampler's price
        inside = _inside(problem, best)
        todo = [star for star in range(len(problem)) if not found[star].reliable and inside[star]]
    if todo and full and settings.sampler == "emcee":
        sampled = [
            _by_emcee(problem, sample, random, star, settings.max_steps, partial(_tell_star, k, len(todo)))
            for k, star in enumerate(todo)
        ]
    else:
        sampled = _by_hmc(problem, best, random, todo, full, settings.max_steps) if todo else []
    for star, chain in zip(todo, sampled):
        found[star] = replace(chain, diagnostics=found[star].diagnostics | chain.diagnostics)
    return found


def _tell_star(star: int, stars: int, share: float) -> None:
    tell("posterior", (star + share) / stars)


def _of_importance(sample: WeightedSample, star: int) -> PosteriorSample:
    diagnostics = {"pareto_k": float(sample.pareto_k[star]), "ess": float(sample.ess[star])}
    return PosteriorSample(sample.z[star], sample.weight[star], "fast", bool(sample.reliable[star]), diagnostics)


def _by_emcee(
    problem: Problem,
    sample: WeightedSample,
    random: StarRandom,
    star: int,
    max_steps: int,
    told: Callable[[float], None],
) -> PosteriorSample:
    one = problem.select(torch.tensor([star], device=problem.device))
    start = sample.resample(random, 1000)[star]
    chain = sample_emcee(one, start, random.seed(star), max_steps=max_steps, told=told)
    diagnostics = {
        "ess": chain.ess, "rhat": chain.rhat, "acceptance": chain.acceptance,
        "autocorrelation_time": float(chain.autocorrelation_time.max()), "steps": float(chain.steps),
    }  # fmt: skip
    return PosteriorSample(chain.z.to(problem.device), None, "emcee", chain.converged, diagnostics)


def _by_hmc(
    problem: Problem, best: Optimum, random: StarRandom, stars: list[int], full: bool, max_steps: int
) -> list[PosteriorSample]:
    these = torch.tensor(stars, device=problem.device)
    chains = sample_hmc(
        problem.select(these), best.z[these], best.expansion.hessian[these], random.select(stars),
        FULL_ESS if full else FALLBACK_ESS, min(FULL_DRAWS if full else FALLBACK_DRAWS, max_steps),
    )  # fmt: skip
    diagnostics = [
        {name: float(getattr(chains, name)[i]) for name in ("ess", "rhat", "acceptance", "steps")}
        for i in range(len(stars))
    ]
    return [
        PosteriorSample(chains.z[i], None, "hmc", bool(chains.converged[i]), diagnostics[i], fell_back=not full)
        for i in range(len(stars))
    ]


def _inside(problem: Problem, best: Optimum) -> list[bool]:
    """For each star: True where none of the optimum's labels of structure is at its bound."""
    labels = problem.coordinates.labels
    theta = problem.coordinates.parameters(best.z)[:, : len(labels)].cpu().numpy()
    unit = labels.to_unit(theta)[:, [labels.index(name) for name in STRUCTURE]]
    return [bool((np.abs(of_star - 0.5) < 0.5 - AT_BOUND).all()) for of_star in unit]
