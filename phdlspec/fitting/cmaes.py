"""CMA-ES (Hansen 2016, arXiv:1604.00772) for one star, with the `cma` package; each population is one batch.

It searches in the coordinates of `Coordinates`, where bounds need no treatment, starting from the look-up with the
widths of the posterior's expansion there, and restarts with a doubled population while restarts still help.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from phdlspec.fitting.problem import Problem

MAX_ITERATIONS = 120
MAX_RESTARTS = 1
TOLERANCE = 0.05  # of lnL within a population at which the search stops: the polish does the rest
WORTHWHILE = 1.0  # gain in lnL by a restart that asks for another one


@dataclass(frozen=True)
class Searched:
    """Best coordinates (D,), their log posterior, evaluations spent, and why the search stopped."""

    z: Tensor
    log_posterior: float
    evaluations: int
    stop_reason: str


def search(problem: Problem, start: Tensor, seed: int) -> Searched:
    """Search the posterior of one star (`len(problem) == 1`) from coordinates `start` (D,)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cma

    expansion = problem.expand(start[None])
    width = torch.diagonal(torch.linalg.inv(expansion.hessian[0])).sqrt().cpu().numpy()
    best, value, evaluations, reason = start, float(expansion.log_posterior[0]), 0, ""
    population = 4 + int(3 * np.log(len(start)))
    for attempt in range(MAX_RESTARTS + 1):
        options = {
            "seed": seed + attempt + 1, "popsize": population * 2 ** (attempt + 1), "maxiter": MAX_ITERATIONS,
            "tolfun": TOLERANCE, "verbose": -9, "CMA_stds": np.clip(3.0 * width, 0.02, 1.0),
        }  # fmt: skip
        strategy = cma.CMAEvolutionStrategy(best.cpu().numpy(), 1.0, options)
        while not strategy.stop():
            points = strategy.ask()
            z = torch.as_tensor(np.stack(points), dtype=torch.float64, device=start.device)
            score = -problem.log_posterior(z[None])[0]
            strategy.tell(points, score.nan_to_num(nan=1e30, posinf=1e30).cpu().tolist())
        evaluations += int(strategy.result.evaluations)
        reason = ", ".join(strategy.stop())
        gain = -float(strategy.result.fbest) - value
        if gain > 0:
            best = torch.as_tensor(strategy.result.xbest, dtype=torch.float64, device=start.device)
            value += gain
        if attempt > 0 and gain < WORTHWHILE:
            break
    return Searched(best, value, evaluations, reason)
