"""Batched Levenberg-Marquardt with exact derivatives: each star has its own damping and stop reason.

In the coordinates of `Coordinates` the posterior has no bounds, and the Hessian of every star is at least the identity.
Damping follows Nielsen's rule (Madsen, Nielsen & Tingleff 2004, Methods for Non-Linear Least Squares Problems,
sect. 3.2). A Jacobian costs as much as seventy spectra, an exact gradient (reverse mode) as much as three: the
Gauss-Newton Hessian of a star is kept as long as it foretells what a step gains. Stars that have converged leave the
batch.
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
NOISE = 1e-3  # of lnL by rounding: a step that loses less is no failure
FAITHFUL = 0.3  # a Hessian is kept while gain / foretold gain is within this of one


@dataclass(frozen=True)
class Polished:
    """Optima of S stars.

    Attributes
    ----------
    z : (S, D) coordinates of the optimum
    expansion : of the log posterior there
    stop_reason : one text per star
    iterations : (S,) accepted steps
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
    problem: Problem, start: Tensor, max_iterations: int = 60, tolerance: float = TOLERANCE, keep_hessian: bool = True
) -> Polished:
    """Climb to the maximum of the log posterior from `start` (S, D).

    A star stops when the quadratic model expects less than `tolerance` in lnL from a full Newton step, when damping
    grows without any gain, or at the iteration limit. Models without reverse-mode gradients need `keep_hessian` False.
    """
    device = start.device
    z = start.to(torch.float64).clone()
    stars, n_dim = z.shape
    best = problem.expand(z)
    current = torch.ones(stars, dtype=torch.bool, device=device)  # the expansion is of this very point
    damping = torch.full((stars,), 1e-2, dtype=torch.float64, device=device)
    growth = torch.full((stars,), 2.0, dtype=torch.float64, device=device)
    iterations = torch.zeros(stars, dtype=torch.int64, device=device)
    reason = [ITERATION_LIMIT] * stars
    active = torch.arange(stars, device=device)

    def expand(index: Tensor) -> None:
        if len(index):
            fresh = problem.select(index).expand(z[index])
            for name in ("log_posterior", "gradient", "hessian", "fisher", "chi2"):
                getattr(best, name)[index] = getattr(fresh, name)
            current[index] = True

    for _ in range(3 * max_iterations):
        gradient = best.gradient[active]
        # What the map to bounded labels adds to the curvature: the pull of the data times the bend of the map.
        pull = gradient + z[active]
        bend = (problem.coordinates.select(active).bend(z[active]) * pull).clamp(min=0.0)
        hessian = best.hessian[active] + torch.diag_embed(bend)
        expected = _expected_gain(gradient, hessian)
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
        if keep_hessian:
            value, new_gradient = (x[:, 0] for x in part.log_posterior_and_gradient(proposal[:, None]))
        else:
            value, new_gradient = part.log_posterior(proposal[:, None])[:, 0], gradient
        gain = value - best.log_posterior[active]
        model_gain = (step * gradient).sum(-1) - 0.5 * (step * (hessian @ step[..., None])[..., 0]).sum(-1)
        accepted = torch.isfinite(value) & (gain > -NOISE)
        ratio = gain / model_gain.clamp(min=1e-12)
        factor = (1.0 - (2.0 * ratio.clamp(-1.0, 2.0) - 1.0) ** 3).clamp(0.1, 2.0)
        damping[active] = torch.where(accepted, damping[active] * factor, damping[active] * growth[active])
        damping.clamp_(min=1e-9)
        growth[active] = torch.where(accepted, 2.0, growth[active] * 2.0)
        moved = active[accepted]
        z[moved] = proposal[accepted]
        iterations[moved] += 1
        best.log_posterior[moved], best.gradient[moved] = value[accepted], new_gradient[accepted]
        current[moved] = False
        faithful = ((ratio - 1.0).abs() < FAITHFUL) & keep_hessian
        expand(active[~faithful & ~current[active]])
    expand(torch.nonzero(~current)[:, 0])
    return Polished(z, best, tuple(reason), iterations)


def _expected_gain(gradient: Tensor, hessian: Tensor) -> Tensor:
    # Of lnL by a full Newton step.
    newton = torch.linalg.solve(hessian, gradient[..., None])[..., 0]
    return 0.5 * (gradient * newton).sum(-1)
