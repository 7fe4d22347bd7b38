"""Pixels that no star can explain, found before anything is fitted: a least-squares step would follow them.

Hot and dead pixels are sharper or brighter than any spectrum can be, whatever the star. Against the look-up's entry
that resembles the star most, what stands far above is emission or sky. These pixels are left out of velocity, look-up
and first fit; what is an outlier in the end is decided by that fit, from all pixels (`error_model`).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from phdlspec.fitting.problem import Problem
from phdlspec.likelihood import Observations

WINDOW = 25  # pixels of the running median: several resolution elements
HOT, HOT_NEIGHBOUR = 2.0, 1.3  # of the running median
SIGNIFICANT = 8.0  # of the stated noise
DEAD = 0.55  # of the running median: a pixel below its neighbours by more is sharper than the line spread function
NEGATIVE = 6.0  # of the stated noise
WIDE_WINDOW = 151  # pixels in which the misfit of the look-up's entry is typical
UNEXPLAINED = 8.0  # robust standard deviations of that misfit
EXCESS = 0.15  # of the continuum


def without(data: Observations, bad: Tensor) -> Observations:
    """The data with pixels (S, P) that do not count."""
    return replace(data, ivar=torch.where(bad, torch.zeros_like(data.ivar), data.ivar))


def impossible_pixels(data: Observations) -> Tensor:
    """Pixels (S, P) that are hot, dead or negative beyond their noise."""
    used = data.ivar > 0
    noise = torch.where(used, data.ivar.clamp(min=1e-30) ** -0.5, torch.zeros_like(data.ivar))
    level = _running_median(data.flux, used, WINDOW)
    hot = data.flux > HOT * level + SIGNIFICANT * noise
    near = _neighbour(hot, 1) | _neighbour(hot, -1)
    hot = hot | (near & (data.flux > HOT_NEIGHBOUR * level + SIGNIFICANT * noise))
    beside = 0.5 * (data.flux.roll(1, 1) + data.flux.roll(-1, 1))
    both = used.roll(1, 1) & used.roll(-1, 1) & ~hot.roll(1, 1) & ~hot.roll(-1, 1)
    dead = both & (beside - data.flux > DEAD * level + SIGNIFICANT * noise)
    negative = data.flux < -NEGATIVE * noise
    return used & ((hot & (level > 0)) | dead | negative)


def unexplained_pixels(problem: Problem, z: Tensor, data: Observations) -> Tensor:
    """Pixels (S, P) that stand far above the models at z (S, D), for which a problem without the worst is given."""
    flux = problem.flux(z)
    continuum = problem.likelihood.continuum(flux)
    used = data.ivar > 0
    excess = data.flux - flux * continuum
    deviation = excess * data.ivar.sqrt()
    typical = 1.4826 * _running_median(deviation.abs(), used, WIDE_WINDOW)
    return used & (deviation > UNEXPLAINED * typical.clamp(min=1.0)) & (excess > EXCESS * continuum)


def _running_median(x: Tensor, used: Tensor, window: int) -> Tensor:
    # Of the used pixels about each (S, P); NaN where there are none.
    half = window // 2
    known = torch.where(used, x, torch.full_like(x, torch.nan))
    padded = torch.nn.functional.pad(known, (half, half), value=torch.nan)
    return padded.unfold(1, window, 1).nanmedian(dim=-1).values


def _neighbour(mask: Tensor, step: int) -> Tensor:
    moved = mask.roll(step, 1)
    moved[:, 0 if step > 0 else -1] = False
    return moved
