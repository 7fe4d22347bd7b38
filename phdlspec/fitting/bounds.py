"""Cramer-Rao bounds: how well a spectrum, with what is known besides, can tell each parameter."""

from __future__ import annotations

import torch
from torch import Tensor

from phdlspec.fitting.coordinates import Coordinates
from phdlspec.fitting.known import KnownPrior
from phdlspec.fitting.levenberg_marquardt import Optimum
from phdlspec.fitting.problem import Expansion, Problem


def cramer_rao(expansion: Expansion, coordinates: Coordinates, known: Tensor | None = None) -> Tensor:
    """Bounds (S, D) in label units: the likelihood alone, all else marginalised; inf without information.

    Only the resolving power keeps its prior: it is knowledge about the instrument, not about the star. known : (S, D,
    D) information besides, in the parameters' units.
    """
    fisher = expansion.fisher if known is None else expansion.fisher + known
    fisher = fisher.clone()
    n = coordinates.lower.shape[1]
    width = torch.ones_like(fisher[:, 0])
    width[:, :n] = coordinates.upper - coordinates.lower
    labels = torch.as_tensor(coordinates.labels.upper - coordinates.labels.lower, dtype=width.dtype)
    closed = width[:, : len(labels)] < 0.5 * labels.to(width.device)
    diagonal = torch.diagonal(fisher, dim1=1, dim2=2)
    diagonal[:, : len(labels)] += torch.where(closed, width[:, : len(labels)] ** -2, 0.0)
    width[:, : len(labels)] = labels.to(width.device)
    if coordinates.resolution_width > 0:
        diagonal[:, n] += coordinates.resolution_width**-2
    # In units of the ranges, with a trace of a prior a thousand ranges wide, so that the matrix can be inverted.
    unit = torch.eye(fisher.shape[-1], dtype=fisher.dtype, device=fisher.device)
    scaled = fisher * width[:, None] * width[:, :, None] + 1e-6 * unit
    bound = torch.diagonal(torch.linalg.inv(scaled), dim1=1, dim2=2).clamp(min=0.0).sqrt()
    return torch.where(bound > 100.0, torch.full_like(bound, torch.inf), bound) * width


def bounds_with_what_is_known(problem: Problem, best: Optimum) -> Tensor:
    """Bounds (S, D) at the optima; what is known of single stars counts, the general priors of labels do not."""
    parameters, information = problem.coordinates.parameters(best.z), None
    for prior in problem.priors:
        if isinstance(prior, KnownPrior):
            information = torch.zeros_like(best.expansion.fisher)
            n = len(problem.coordinates.labels)
            information[:, :n, :n] = prior.information(problem.coordinates.labels, parameters[:, :n])
    return cramer_rao(best.expansion, problem.coordinates, information)
