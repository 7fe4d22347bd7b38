"""From spectra to parameters: a start by principal components, alternating sweeps, then L-BFGS on everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from phdlspec.datadriven.lux.model import CHUNK, Parameters, StarArrays, objective
from phdlspec.datadriven.lux.sweeps import LEAST_LN_SCATTER, curvatures, gradient, update_loadings, update_scatter

SWEEPS = 30  # at most
BLOCK = 10  # iterations of L-BFGS between two savings of the state
BLOCKS = 4  # at most
PATIENCE = 0.02  # of the objective per star: a smaller gain of a sweep or a block's iteration ends the stage
SCATTER_EVERY = 3  # sweeps
_TRIAL_SWEEPS = 4  # of each start before the best goes on

ReportProgress = Callable[[str, float], None]


@dataclass(frozen=True)
class OptimisationState:
    """Where an optimisation stands. stage : "sweeps", "quasi-newton" or "done"; step within it; values: objective so
    far."""

    parameters: Parameters
    stage: str
    step: int
    values: tuple[float, ...]


def start(stars: StarArrays, latents: int, seed: int) -> Parameters:
    """Principal components of the spectra, masked pixels at their mean; seeds other than 0 draw the stars anew."""
    generator = torch.Generator().manual_seed(seed)
    good = stars.ivar > 0
    count = good.sum(0).clamp(min=1)
    mean = (stars.flux * good).sum(0, dtype=torch.float64) / count
    noise = (torch.where(good, stars.ivar, torch.inf).reciprocal()).sum(1) / good.sum(1).clamp(min=1)
    weight = (1.0 / (1.0 + noise / noise.median())).to(stars.flux.dtype)
    if seed:
        weight = weight * torch.bincount(
            torch.randint(len(stars), (len(stars),), generator=generator), minlength=len(stars)
        ).to(weight).sqrt()  # fmt: skip
    centred = torch.where(good, stars.flux - mean.float(), 0.0)
    torch.manual_seed(seed)
    _, values, right = torch.svd_lowrank(centred * weight[:, None], q=min(latents + 10, *centred.shape), niter=4)
    loadings = (right * values)[:, :latents].double() / float(weight.square().sum().sqrt())
    kept = loadings.square().sum(1)
    total = centred.square().sum(0, dtype=torch.float64) / count
    left = total - kept - torch.where(good, stars.ivar, torch.inf).reciprocal().sum(0, dtype=torch.float64) / count
    zeros = torch.zeros(stars.label.shape[1], dtype=torch.float64, device=stars.flux.device)
    return Parameters(
        mean, loadings, torch.maximum(left, 0.05 * total).clamp(min=1e-8).log(),
        zeros, torch.zeros(len(zeros), latents, dtype=torch.float64, device=zeros.device), zeros - 2.0,
    )  # fmt: skip


def optimise(
    stars: StarArrays,
    latents: int,
    seed: int = 0,
    restarts: int = 1,
    state: OptimisationState | None = None,
    sweeps: int | None = None,
    save: Callable[[OptimisationState], None] = lambda state: None,
    report: ReportProgress = lambda stage, value: None,
) -> OptimisationState:
    """Minimise the objective; from a saved state where there is one, which gives the same as a run never stopped.

    sweeps : stop after so many, without L-BFGS.
    """
    state = state or OptimisationState(_best_start(stars, latents, seed, restarts), "sweeps", 0, ())
    while state.stage == "sweeps" and (sweeps is None or state.step < sweeps):
        state = _sweep(stars, state)
        report("sweep", state.values[-1])
        save(state)
    while state.stage == "quasi-newton" and sweeps is None:
        state = _quasi_newton(stars, state)
        report("L-BFGS", state.values[-1])
        save(state)
    return state


def _best_start(stars: StarArrays, latents: int, seed: int, restarts: int) -> Parameters:
    starts = [start(stars, latents, 0 if i == 0 else seed + i) for i in range(restarts)]
    if restarts == 1:
        return starts[0]
    values = []
    for i, parameters in enumerate(starts):
        state = OptimisationState(parameters, "sweeps", 0, ())
        for _ in range(_TRIAL_SWEEPS):
            state = _sweep(stars, state)
        starts[i] = state.parameters
        values.append(state.values[-1])
    return starts[values.index(min(values))]


def _sweep(stars: StarArrays, state: OptimisationState) -> OptimisationState:
    update = update_scatter if state.step % SCATTER_EVERY == SCATTER_EVERY - 1 else update_loadings
    value, better = update(state.parameters, stars)
    values = (*state.values, value)
    gains = [a - b for a, b in zip(values, values[1:])][-SCATTER_EVERY:]
    step = state.step + 1
    if step >= SWEEPS or (len(gains) == SCATTER_EVERY and max(gains) < PATIENCE * len(stars)):
        # The value belongs to the parameters before this update; what follows starts from those after it.
        return OptimisationState(better, "quasi-newton", 0, values)
    return OptimisationState(better, "sweeps", step, values)


def _quasi_newton(stars: StarArrays, state: OptimisationState) -> OptimisationState:
    scale = curvatures(state.parameters, stars)
    scales = torch.cat([getattr(scale, f.name).flatten() for f in fields(Parameters)]).sqrt()
    x = (_flat(state.parameters) * scales).requires_grad_()
    steps = torch.optim.LBFGS([x], lr=1.0, max_iter=BLOCK, history_size=BLOCK, line_search_fn="strong_wolfe",
                              tolerance_grad=0.0, tolerance_change=0.0)  # fmt: skip
    unit = float(len(stars))
    best: list[tuple[float, Tensor]] = []

    def closure() -> float:
        value, slope = gradient(_shaped(x.detach() / scales, state.parameters), stars)
        x.grad = _flat(slope) / scales / unit
        if not best or value < best[0][0]:
            best[:] = [(value, x.detach().clone())]
        return value / unit

    before = gradient(state.parameters, stars)[0] if not state.values else state.values[-1]
    steps.step(closure)  # type: ignore[no-untyped-call]
    value, point = best[0]
    parameters = _shaped(point / scales, state.parameters)
    done = state.step + 1 >= BLOCKS or before - value < PATIENCE * BLOCK * len(stars)
    return OptimisationState(
        parameters, "done" if done else "quasi-newton", state.step + 1, (*state.values, min(value, before))
    )


def _flat(parameters: Parameters) -> Tensor:
    return torch.cat([getattr(parameters, f.name).flatten() for f in fields(Parameters)])


def _shaped(flat: Tensor, like: Parameters) -> Parameters:
    parts, place = {}, 0
    for f in fields(Parameters):
        shape = getattr(like, f.name).shape
        parts[f.name] = flat[place : place + shape.numel()].reshape(shape)
        place += shape.numel()
    parts["ln_scatter"] = parts["ln_scatter"].clamp(min=LEAST_LN_SCATTER)
    parts["ln_label_scatter"] = parts["ln_label_scatter"].clamp(min=LEAST_LN_SCATTER)
    return Parameters(**parts)


def canonical(parameters: Parameters, stars: StarArrays) -> Parameters:
    """The same model with its latents in order of what they do to the spectra of a mean star, and uncorrelated
    there."""
    weight = torch.zeros_like(parameters.mean)
    for chunk in stars.chunks():
        weight += (chunk.ivar / (1.0 + chunk.ivar * parameters.ln_scatter.exp().float())).sum(0, dtype=torch.float64)
    loadings = parameters.loadings
    _, vectors = torch.linalg.eigh((loadings * weight[:, None]).T @ loadings)
    return parameters.rotated(vectors.flip(1))


__all__ = ["CHUNK", "OptimisationState", "canonical", "objective", "optimise", "replace", "start"]
