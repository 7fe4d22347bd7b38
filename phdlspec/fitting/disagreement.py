r"""Do the windows of a spectrum agree about each label? Where they do not, errors are too small, whatever chi2 says.

The error of a model of real stars is not noise: it goes together over lines, bands and wings, in the very directions
in which labels change the spectrum, and a reduced chi2 of 0.3 does not tell. But what it does to a label differs from
window to window. With P the inverse covariance of the data after all that is fitted (continuum, cores, contrasts,
labels) and q = J C e the change of the spectrum along which label e is measured, window w pulls the label by

    u_w = q_w^T (P r)_w,    expected u_w^2 = q_w^T P_ww q_w,

if the noise is what the fit takes it for; the leverage of a window is in P. The sum of u_w^2 over that of its
expectations is the square of a Birge ratio, for each label by itself (Birge 1932, Phys. Rev. 40, 207; the scale factor
of the Particle Data Group). Where it exceeds one by more than chance, the label's error is multiplied by it. On mocks
it is one on average (`scripts/real_stars.py` and `scripts/mock_study.py` have figures). What all windows share, as a
temperature scale that is off, no comparison of windows tells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phdlspec.fitting.misfit import WINDOW, window_of
from phdlspec.fitting.priors import prior_expansion
from phdlspec.fitting.problem import Problem
from phdlspec.likelihood import CONTINUUM_PRIOR_WIDTH

SIGNIFICANCE = 2.0  # of an excess, in units of what chance makes of it
TINY = 1e-12  # expected pull of a parameter that is not free


def disagreement(problem: Problem, z: Tensor, wave: Tensor) -> Tensor:
    """By what the variances of the parameters (S, D) are too small, at the optima z (S, D); 1 where windows agree.

    wave : (P,) pixels, cut into windows that all stars share.
    """
    sizes = torch.bincount(window_of(wave, WINDOW)).tolist()
    return torch.cat([_of_group(part, z[index], sizes) for index, part in problem.groups()])


def _of_group(problem: Problem, z: Tensor, sizes: list[int]) -> Tensor:
    weight, residual, nuisances, slopes = _columns(problem, z)
    columns = torch.cat([nuisances, slopes], dim=-1)
    weighted = weight[..., None] * columns
    covariance = torch.linalg.inv(_prior(problem, z, nuisances.shape[-1]) + columns.mT @ weighted)
    left = weight * residual - (weighted @ (covariance @ (weighted.mT @ residual[..., None])))[..., 0]  # P r
    n = slopes.shape[-1]
    along = slopes @ covariance[:, -n:, -n:]
    pulls, expected = [], []
    parts = (x.split(sizes, dim=1) for x in (along, weight, weighted, left))
    for q, w, u, r in zip(*parts):
        across = u.mT @ q
        pulls.append((q * r[..., None]).sum(1))
        expected.append((q**2 * w[..., None]).sum(1) - (across * (covariance @ across)).sum(1))
    pull2, chance = torch.stack(pulls).square().sum(0), torch.stack(expected).clamp(min=0.0)
    total = chance.sum(0)
    ratio = pull2 / total.clamp(min=TINY)
    freedom = total**2 / (chance**2).sum(0).clamp(min=TINY**2)
    significant = (ratio > 1.0 + SIGNIFICANCE * (2.0 / freedom.clamp(min=1.0)).sqrt()) & (total > TINY)
    return torch.where(significant, ratio, torch.ones_like(ratio))


def _columns(problem: Problem, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1/D (S, P), residuals (S, P), what is free besides the parameters (S, P, C), slopes by these (S, P, D)."""
    flux, jacobian = problem.flux_and_jacobian(z)
    likelihood = problem.likelihood.about(flux)
    blocks, data = likelihood.blocks, likelihood.data
    model, basis = blocks.scatter(flux).double(), data.basis.double().expand(len(flux[0]), -1, -1)
    continuum = (basis @ likelihood.reference[..., None])[..., 0]
    by_parameter = torch.stack([blocks.scatter(column) for column in jacobian.unbind(2)], dim=-1).double()
    slopes = by_parameter * problem.coordinates.scales(z)[:, None] * continuum[..., None]
    nuisances = torch.cat([likelihood.factor.mT.double(), model[..., None] * basis], dim=-1)
    return likelihood.weight.double(), data.flux.double() - model * continuum, nuisances, slopes


def _prior(problem: Problem, z: Tensor, nuisances: int) -> Tensor:
    """Inverse covariance (S, C, C) of nuisances and parameters before the data."""
    spline = problem.likelihood.data.basis.shape[-1]
    diagonal = z.new_ones(len(z), nuisances + z.shape[1])
    diagonal[:, nuisances - spline : nuisances] = CONTINUUM_PRIOR_WIDTH**-2
    prior = torch.diag_embed(diagonal)
    if problem.priors:
        prior[:, nuisances:, nuisances:] += prior_expansion(problem.priors, problem.coordinates, z)[2]
    return prior


def widened(variance: Tensor, ratio: Tensor) -> Tensor:
    """Variances in z (..., D) where what the data say of each parameter is less by ratio (..., D).

    The prior in z is standard normal, and no variance becomes larger than its.
    """
    return ratio * variance / (1.0 + (ratio - 1.0) * variance.clamp(max=1.0))


def stretched(z: Tensor, weight: Tensor | None, ratio: Tensor) -> Tensor:
    """Draws z (N, D) of one star about their mean, with variances `widened` by ratio (D,)."""
    mean = z.mean(0) if weight is None else weight @ z
    variance = (z - mean).square().mean(0) if weight is None else weight @ (z - mean).square()
    factor = (widened(variance, ratio) / variance.clamp(min=TINY)).sqrt()
    return mean + factor * (z - mean)
