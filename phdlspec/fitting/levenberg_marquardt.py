"""Batched Levenberg-Marquardt with exact derivatives: each star has its own damping and stop reason.

In the coordinates of `Coordinates` the posterior has no bounds, and the Hessian of every star is at least the identity.
Damping follows Nielsen's rule (Madsen, Nielsen & Tingleff 2004, Methods for Non-Linear Least Squares Problems,
sect. 3.2). Every place that is tried is expanded in full: the closed form of the Jacobian costs little more than the
spectrum that a trial needs anyway. Stars that have converged leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from phdlspec.fitting.coordinates import Coordinates
from phdlspec.fitting.problem import Expansion
from phdlspec.fitting.stop_reason import StopReason

MAX_STEP = 1.5  # largest change of a coordinate in one step
TOLERANCE = 2e-3  # expected gain of lnL at which a star has converged: a step below 0.06 of the errors
NOISE = 1e-3  # of lnL by rounding: a step that loses less is no failure
HOPELESS = 1e8  # damping beyond which no step is tried


class Expandable(Protocol):
    """What is climbed: `Problem` is one."""

    @property
    def coordinates(self) -> Coordinates:
        """Of the S stars."""

    def expand(self, z: Tensor) -> Expansion:
        """At one place (S, D) a star."""

    def select(self, index: Tensor) -> Expandable:
        """Some stars."""


@dataclass(frozen=True)
class Optimum:
    """Optima of S stars.

    Attributes
    ----------
    z : (S, D) coordinates of the optimum
    expansion : of the log posterior there
    stop_reason : one per star
    iterations : (S,) accepted steps
    """

    z: Tensor
    expansion: Expansion
    stop_reason: tuple[StopReason, ...]
    iterations: Tensor

    @property
    def converged(self) -> Tensor:
        """True (S,) for stars that met the tolerance."""
        return torch.tensor([reason is StopReason.CONVERGED for reason in self.stop_reason], device=self.z.device)

    def select(self, index: Tensor) -> Optimum:
        """The optima of some stars."""
        reasons = tuple(self.stop_reason[i] for i in index.tolist())
        return Optimum(self.z[index], self.expansion.select(index), reasons, self.iterations[index])

    def with_stars(self, index: Tensor, other: Optimum) -> Optimum:
        """These optima, with those of `other` for the stars `index`."""
        reasons = list(self.stop_reason)
        for i, reason in zip(index.tolist(), other.stop_reason):
            reasons[i] = reason
        pairs = ((getattr(self.expansion, f.name), getattr(other.expansion, f.name)) for f in fields(Expansion))
        expansion = Expansion(*(mine.index_copy(0, index, theirs) for mine, theirs in pairs))
        iterations = self.iterations.index_copy(0, index, other.iterations)
        return Optimum(self.z.index_copy(0, index, other.z), expansion, tuple(reasons), iterations)

    @classmethod
    def best_of(cls, candidates: Sequence[Optimum]) -> Optimum:
        """For each star the optimum with the highest posterior."""
        if len(candidates) == 1:
            return candidates[0]
        values = torch.stack([c.expansion.log_posterior for c in candidates])
        winner = values.nan_to_num(nan=-torch.inf).argmax(dim=0)

        def pick(get: Callable[[Optimum], Tensor]) -> Tensor:
            stacked = torch.stack([get(c) for c in candidates])
            return stacked[winner, torch.arange(stacked.shape[1], device=stacked.device)]

        def of_expansion(name: str) -> Tensor:
            return pick(lambda candidate: getattr(candidate.expansion, name))

        expansion = Expansion(*(of_expansion(field.name) for field in fields(Expansion)))
        reasons = tuple(candidates[int(w)].stop_reason[s] for s, w in enumerate(winner))
        return cls(pick(lambda c: c.z), expansion, reasons, pick(lambda c: c.iterations))


def levenberg_marquardt(
    problem: Expandable, start: Tensor, max_iterations: int = 60, tolerance: float = TOLERANCE
) -> Optimum:
    """Climb to the maximum of the log posterior from `start` (S, D).

    A star stops when the quadratic model expects less than `tolerance` in lnL from a full Newton step, when damping
    grows without any gain, or at the iteration limit.
    """
    climb = _Climb(problem, start)
    for _ in range(3 * max_iterations):
        gradient, hessian = climb.quadratic_model()
        running = climb.retire(_expected_gain(gradient, hessian) < tolerance, max_iterations)
        if len(climb.active) == 0:
            break
        climb.step(gradient[running], hessian[running])
    return Optimum(climb.z, climb.best, tuple(climb.reason), climb.iterations)


class _Climb:
    """S stars on their way up.

    best : the expansion of each star at its place z; active : the stars that are still climbing, `part` their problem.
    """

    def __init__(self, problem: Expandable, start: Tensor):
        self.problem = self.part = problem
        self.z = start.to(torch.float64).clone()
        stars, device = len(self.z), start.device
        self.best = problem.expand(self.z)
        self.damping = torch.full((stars,), 1e-2, dtype=torch.float64, device=device)
        self.growth = torch.full((stars,), 2.0, dtype=torch.float64, device=device)
        self.iterations = torch.zeros(stars, dtype=torch.int64, device=device)
        self.reason = [StopReason.ITERATION_LIMIT] * stars
        self.active = torch.arange(stars, device=device)

    def quadratic_model(self) -> tuple[Tensor, Tensor]:
        """Gradient (A, D) and minus Hessian (A, D, D) of the active stars."""
        gradient = self.best.gradient[self.active]
        # What the map to bounded labels adds to the curvature: the pull of the data times the bend of the map.
        pull = gradient + self.z[self.active]
        bend = (self.part.coordinates.bend(self.z[self.active]) * pull).clamp(min=0.0)
        return gradient, self.best.hessian[self.active] + torch.diag_embed(bend)

    def retire(self, done: Tensor, max_iterations: int) -> Tensor:
        """Take the stars that are done (A,), stuck or out of steps out of the active ones; True (A,) for the rest."""
        stuck = self.damping[self.active] > HOPELESS
        running = ~(done | stuck) & (self.iterations[self.active] < max_iterations)
        if not bool(running.all()):
            for i in self.active[done].tolist():
                self.reason[i] = StopReason.CONVERGED
            for i in self.active[stuck & ~done].tolist():
                self.reason[i] = StopReason.NO_PROGRESS
            self.active = self.active[running]
            self.part = self.problem.select(self.active)
        return running

    def step(self, gradient: Tensor, hessian: Tensor) -> None:
        """Try a damped step of the active stars; take it where it gains, and adapt the damping."""
        active = self.active
        diagonal = torch.diagonal(hessian, dim1=1, dim2=2)
        damped = hessian + torch.diag_embed(self.damping[active, None] * diagonal)
        step = torch.linalg.solve(damped, gradient[..., None])[..., 0]
        step = step * (MAX_STEP / step.abs().amax(-1, keepdim=True)).clamp(max=1.0)
        proposal = self.z[active] + step
        tried = self.part.expand(proposal)
        gain = tried.log_posterior - self.best.log_posterior[active]
        model_gain = (step * gradient).sum(-1) - 0.5 * (step * (hessian @ step[..., None])[..., 0]).sum(-1)
        accepted = torch.isfinite(tried.log_posterior) & (gain > -NOISE)
        self._adapt_damping(accepted, gain / model_gain.clamp(min=1e-12))
        moved = active[accepted]
        self.z[moved] = proposal[accepted]
        self.iterations[moved] += 1
        for field in fields(Expansion):
            getattr(self.best, field.name)[moved] = getattr(tried, field.name)[accepted]

    def _adapt_damping(self, accepted: Tensor, ratio: Tensor) -> None:
        active = self.active
        factor = (1.0 - (2.0 * ratio.clamp(-1.0, 2.0) - 1.0) ** 3).clamp(0.1, 2.0)
        damping, growth = self.damping[active], self.growth[active]
        self.damping[active] = torch.where(accepted, damping * factor, damping * growth)
        self.damping.clamp_(min=1e-9)
        self.growth[active] = torch.where(accepted, 2.0, growth * 2.0)


def _expected_gain(gradient: Tensor, hessian: Tensor) -> Tensor:
    # Of lnL by a full Newton step.
    newton = torch.linalg.solve(hessian, gradient[..., None])[..., 0]
    answer: Tensor = 0.5 * (gradient * newton).sum(-1)
    return answer
