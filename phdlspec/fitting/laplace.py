r"""Fast posteriors: the posterior of the linearised model, corrected by Pareto-smoothed importance sampling.

Draws come from `LinearPosterior`, which knows the bounds of the labels exactly, and get the weights p/q. The largest
weights are replaced by the quantiles of a generalised Pareto distribution fitted to them; its shape k says whether the
answer can be trusted: k < 0.7 (Vehtari, Simpson, Gelman, Yao & Gabry 2024, JMLR 25, 72).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from phdlspec.fitting.linear import LinearPosterior
from phdlspec.fitting.polish import Polished
from phdlspec.fitting.problem import Problem
from phdlspec.fitting.random import StarRandom

K_LIMIT = 0.7
ENOUGH = 100.0  # effective draws below which more are made


@dataclass(frozen=True)
class WeightedSample:
    """Draws from the posteriors of S stars.

    Attributes
    ----------
    z : (S, N, D) coordinates
    weight : (S, N) normalised, Pareto-smoothed weights
    pareto_k : (S,) shape of the largest weights' distribution; above 0.7 the sample is not to be trusted
    ess : (S,) effective sample size 1 / sum w^2
    """

    z: Tensor
    weight: Tensor
    pareto_k: Tensor
    ess: Tensor

    @property
    def reliable(self) -> Tensor:
        """(S,) True where the sample stands for the posterior.

        The tail of the weights is light, and enough draws count.
        """
        return (self.pareto_k < K_LIMIT) & (self.ess > 0.5 * ENOUGH)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted mean (S, D) and covariance (S, D, D) of quantities x (S, N, D) at the draws."""
        mean = (self.weight[..., None] * x).sum(1)
        centred = x - mean[:, None]
        return mean, (self.weight[..., None] * centred).mT @ centred

    def quantiles(self, x: Tensor, q: tuple[float, ...]) -> Tensor:
        """Weighted quantiles (S, D, Q) of quantities x (S, N, D)."""
        order = torch.argsort(x, dim=1)
        ordered = torch.gather(x, 1, order).mT.contiguous()
        weight = torch.gather(self.weight[..., None].expand_as(x), 1, order).mT
        cumulative = (torch.cumsum(weight, dim=-1) - 0.5 * weight).contiguous()
        target = torch.tensor(q, dtype=x.dtype, device=x.device).expand(*ordered.shape[:2], len(q)).contiguous()
        upper = torch.searchsorted(cumulative, target).clamp(1, ordered.shape[-1] - 1)
        lower = upper - 1
        c0, c1 = torch.gather(cumulative, -1, lower), torch.gather(cumulative, -1, upper)
        x0, x1 = torch.gather(ordered, -1, lower), torch.gather(ordered, -1, upper)
        fraction = ((target - c0) / (c1 - c0).clamp(min=1e-300)).clamp(0.0, 1.0)
        return x0 + fraction * (x1 - x0)

    def resample(self, random: StarRandom, n: int) -> Tensor:
        """n equally weighted draws (S, n, D), by systematic resampling in a random order."""
        cumulative = torch.cumsum(self.weight, dim=1)
        cumulative = cumulative / cumulative[:, -1:]
        points = (torch.arange(n, dtype=torch.float64, device=self.z.device) + random.uniform(1)) / n
        index = torch.searchsorted(cumulative, points.contiguous()).clamp(max=self.z.shape[1] - 1)
        index = torch.gather(index, 1, torch.argsort(random.uniform(n), dim=1))
        return torch.gather(self.z, 1, index[..., None].expand(-1, -1, self.z.shape[2]))


def pareto_smooth(log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised smoothed weights (S, N) and shapes k (S,) of log importance ratios (S, N).

    The generalised Pareto distribution is fitted as by Zhang & Stephens (2009, Technometrics 51, 316), with the weak
    prior on k of Vehtari et al. (2024). Ratios of -inf (outside the support) get weight zero.
    """
    log_ratio = log_ratio.to(torch.float64).nan_to_num(nan=-math.inf, posinf=-math.inf)
    size = log_ratio.shape[1]
    log_weight = log_ratio - log_ratio.amax(dim=1, keepdim=True)
    tail = int(min(0.2 * size, 3.0 * math.sqrt(size)))
    ordered, order = torch.sort(log_weight, dim=1)
    cut = ordered[:, size - tail - 1].exp()
    excess = ordered[:, size - tail :].exp() - cut[:, None]
    # A flat tail (all weights equal) needs no smoothing; the fit would divide by zero.
    usable = excess[:, -1] > 1e-12
    safe = torch.where(usable[:, None], excess, torch.linspace(0.1, 1.0, tail, dtype=torch.float64).to(excess))
    k, sigma = _fit_generalised_pareto(safe.clamp(min=1e-300))
    p = (torch.arange(tail, dtype=torch.float64, device=excess.device) + 0.5) / tail
    quantile = torch.where(
        k[:, None].abs() > 1e-8,
        sigma[:, None] * torch.expm1(-k[:, None] * torch.log1p(-p)) / k[:, None],
        -sigma[:, None] * torch.log1p(-p),
    )
    smoothed = torch.log((cut[:, None] + quantile).clamp(min=1e-300)).clamp(max=0.0)
    new_tail = torch.where(usable[:, None], smoothed, ordered[:, size - tail :])
    ordered = torch.cat([ordered[:, : size - tail], new_tail], dim=1)
    result = torch.empty_like(ordered).scatter_(1, order, ordered)
    k = torch.where(usable, k, torch.zeros_like(k))
    return torch.softmax(result, dim=1), k


def _fit_generalised_pareto(x: Tensor) -> tuple[Tensor, Tensor]:
    """Shape k and scale sigma (S,) of ascending positive excesses (S, N): profile posterior mean over a grid."""
    n = x.shape[1]
    grid_size = 30 + int(math.sqrt(n))
    grid = torch.arange(1, grid_size + 1, dtype=torch.float64, device=x.device)
    quartile = x[:, int(n / 4 + 0.5) - 1]
    theta = 1.0 / x[:, -1:] + (1.0 - torch.sqrt(grid_size / (grid - 0.5))) / (3.0 * quartile[:, None])
    k = torch.log1p(-theta[..., None] * x[:, None]).mean(-1)
    profile = n * (torch.log(-theta / k) - k - 1.0)
    weight = torch.softmax(profile.nan_to_num(nan=-math.inf), dim=1)
    centre = (weight * theta).sum(1)
    shape = torch.log1p(-centre[:, None] * x).mean(-1)
    sigma = -shape / centre
    return (shape * n + 0.5 * 10.0) / (n + 10.0), sigma


def importance_sample(
    problem: Problem, best: Polished, random: StarRandom, draws: int = 512, rounds: int = 3
) -> WeightedSample:
    """Sample the posteriors of S stars from their optima.

    Each round makes `draws` draws. Stars for which enough of them count take no part in later rounds; all stars return
    the same number of draws, those not made having weight zero.
    """
    stars, n_dim = best.z.shape
    z = best.z.new_zeros(stars, draws * rounds, n_dim)
    ratio = torch.full((stars, draws * rounds), -math.inf, dtype=torch.float64, device=z.device)
    weight, k = torch.zeros_like(ratio), torch.full_like(ratio[:, 0], math.inf)
    active = torch.arange(stars, device=z.device)
    used = draws
    for number in range(rounds):
        used = draws * (number + 1)
        part = problem.select(active)
        proposal = LinearPosterior.of(best.z[active], best.expansion.select(active), part.coordinates)
        parameters = proposal.draw(random.select(active), draws)
        new = part.coordinates.coordinates(parameters)
        z[active, used - draws : used] = new
        # The target as a density of the parameters: that of the coordinates over dp/dz.
        target = part.log_posterior(new) - torch.log(part.coordinates.scales(new)).sum(-1)
        ratio[active, used - draws : used] = target - proposal.log_density(parameters)
        weight[active, :used], k[active] = pareto_smooth(ratio[active, :used])
        ess = 1.0 / (weight[active, :used] ** 2).sum(1)
        active = active[(ess < ENOUGH) | (k[active] > K_LIMIT)]
        if len(active) == 0:
            break
    z, weight = z[:, :used], weight[:, :used]
    return WeightedSample(z, weight, k, 1.0 / (weight**2).sum(1))
