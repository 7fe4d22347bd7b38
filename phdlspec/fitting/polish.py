"""Batched Levenberg-Marquardt with the exact Jacobian: each star has its own damping and stop reason.

In the coordinates of `Coordinates` the posterior has no bounds, and the Hessian of every star is at least the identity.
Damping follows Nielsen's rule (Madsen, Nielsen & Tingleff 2004, Methods for Non-Linear Least Squares Problems,
sect. 3.2). A refused step costs one model evaluation, not a Jacobian. Stars that have converged leave the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from phdlspec.fitting.problem import Expansion, Problem

CONVERGED = "converged"
ITERATION_LIMIT = "iteration limit"
NO_PROGRESS = "no step improves the fit"

MAX_STEP = 1.5  # largest change of a coordinate in one step
TOLERANCE = 2e-3  # expected gain of lnL at which a star has converged: a step below 0.06 of the errors


@dataclass(frozen=True)
class Polished:
    """Optima of S stars.

    Attributes
    ----------
    z : (S, D) coordinates of the optimum
    expansion : of the log posterior there
    stop_reason : one text per star
    iterations : (S,) Jacobians evaluated
    """

    z: Tensor
    expansion: Expansion
    stop_reason: tuple[str, ...]
    iterations: Tensor

    @property
    def converged(self) -> Tensor:
        """True (S,) for stars that met the tolerance."""
        return torch.tensor([r == CONVERGED for r in self.stop_reason], device=self.z.device)


def polish(
    problem: Problem, start: Tensor, max_iterations: int = 40, tolerance: float = TOLERANCE
) -> Polished:
    """Climb to the maximum of the log posterior from `start` (S, D).

    A star stops when the quadratic model expects less than `tolerance` in lnL from a full Newton step, when damping
    grows without any gain, or at the iteration limit.
    """
    device = start.device
    z = start.to(torch.float64).clone()
    stars, n_dim = z.shape
    best = problem.expand(z)
    damping = torch.full((stars,), 1e-2, dtype=torch.float64, device=device)
    growth = torch.full((stars,), 2.0, dtype=torch.float64, device=device)
    iterations = torch.ones(stars, dtype=torch.int64, device=device)
    reason = [ITERATION_LIMIT] * stars
    active = torch.arange(stars, device=device)
    for _ in range(3 * max_iterations):
        gradient, hessian = best.gradient[active], best.hessian[active]
        newton = torch.linalg.solve(hessian, gradient[..., None])[..., 0]
        expected = 0.5 * (gradient * newton).sum(-1)
        done = expected < tolerance
        stuck = damping[active] > 1e8
        for i in active[done].tolist():
            reason[i] = CONVERGED
        for i in active[stuck & ~done].tolist():
            reason[i] = NO_PROGRESS
        running = ~(done | stuck) & (iterations[active] < max_iterations)
        active, gradient, hessian = active[running], gradient[running], hessian[running]
        if len(active) == 0:
            break
        diagonal = torch.diagonal(hessian, dim1=1, dim2=2)
        damped = hessian + torch.diag_embed(damping[active, None] * diagonal)
        step = torch.linalg.solve(damped, gradient[..., None])[..., 0]
        length = step.abs().amax(-1, keepdim=True)
        step = step * (MAX_STEP / length).clamp(max=1.0)
        proposal = z[active] + step
        part = problem.select(active) if len(active) < stars else problem
        value = part.log_posterior(proposal[:, None])[:, 0]
        gain = value - best.log_posterior[active]
        model_gain = (step * gradient).sum(-1) - 0.5 * (step * (hessian @ step[..., None])[..., 0]).sum(-1)
        accepted = torch.isfinite(value) & (gain > 0)
        ratio = gain / model_gain.clamp(min=1e-12)
        factor = (1.0 - (2.0 * ratio.clamp(-1.0, 2.0) - 1.0) ** 3).clamp(0.1, 2.0)
        damping[active] = torch.where(accepted, damping[active] * factor, damping[active] * growth[active])
        damping.clamp_(min=1e-9)
        growth[active] = torch.where(accepted, 2.0, growth[active] * 2.0)
        moved = active[accepted]
        if len(moved):
            z[moved] = proposal[accepted]
            iterations[moved] += 1
            fresh = problem.select(moved).expand(z[moved])
            for name in ("log_posterior", "gradient", "hessian", "fisher", "chi2"):
                getattr(best, name)[moved] = getattr(fresh, name)
    return Polished(z, best, tuple(reason), iterations)
