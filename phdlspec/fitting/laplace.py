r"""Fast posteriors: the posterior of the linearised model, corrected by Pareto-smoothed importance sampling.

Draws come from `LinearPosterior`, which knows the bounds of the labels exactly, are spread evenly (quasi-random
numbers) and get the weights p/q. The largest
weights are replaced by the quantiles of a generalised Pareto distribution fitted to them; its shape k says whether the
answer can be trusted: k < 1 - 1 / lg(draws), 0.58 for 256 of them (Vehtari, Simpson, Gelman, Yao & Gabry 2024, JMLR 25,
72). Where it cannot, the curvature of the model has moved the posterior away from where the linear one lies: the draws
are shifted and stretched to the moments that their weights show, and weighted again (Paananen, Piironen, Buerkner &
Vehtari 2021, Stat. Comp. 31, 16).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from phdlspec.fitting.levenberg_marquardt import Optimum
from phdlspec.fitting.linear import DRAWN_EDGE, LinearPosterior
from phdlspec.fitting.problem import Problem
from phdlspec.fitting.random import StarRandom

ENOUGH = 50.0  # effective draws below which better ones are looked for
MOVES = 6  # at most, of the draws
SCANT = 10.0  # draws whose worth the width of the proposals has against what the weights say


@dataclass(frozen=True)
class WeightedSample:
    """Draws from the posteriors of S stars.

    Attributes
    ----------
    z : (S, N, D) coordinates
    log_proposal : (S, N) log density that they were drawn from
    weight : (S, N) normalised, Pareto-smoothed weights
    pareto_k : (S,) shape of the largest weights' distribution; where it is not `light` the sample is not to be trusted
    ess : (S,) effective sample size 1 / sum w^2
    """

    z: Tensor
    log_proposal: Tensor
    weight: Tensor
    pareto_k: Tensor
    ess: Tensor

    @property
    def reliable(self) -> Tensor:
        """(S,) True where the sample stands for the posterior.

        The tail of the weights is light, and enough draws count.
        """
        return self.light & (self.ess > 0.5 * ENOUGH)

    @property
    def light(self) -> Tensor:
        """(S,) True where the tail of the weights is light enough for as many draws."""
        return self.pareto_k < min(1.0 - 1.0 / math.log10(self.weight.shape[1]), 0.7)

    @property
    def score(self) -> Tensor:
        """(S,) for comparison: effective draws where the tail is light, else the less heavy tail."""
        return torch.where(self.light, self.ess, -self.pareto_k)

    def mean(self) -> Tensor:
        """Weighted mean (S, D) of the coordinates."""
        return (self.weight[..., None] * self.z).sum(1)

    def variance(self) -> Tensor:
        """Weighted variance (S, D) of the coordinates."""
        return (self.weight[..., None] * (self.z - self.mean()[:, None]) ** 2).sum(1)

    def select(self, index: Tensor) -> WeightedSample:
        """The samples of some stars."""
        return WeightedSample(*(getattr(self, f.name)[index] for f in fields(self)))

    def with_stars(self, index: Tensor, other: WeightedSample) -> WeightedSample:
        """These samples, with those of `other` for the stars `index`."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return WeightedSample(*(mine.index_copy(0, index, theirs) for mine, theirs in pairs))

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


def importance_sample(problem: Problem, best: Optimum, random: StarRandom, draws: int = 256) -> WeightedSample:
    """Sample the posteriors of S stars from their optima, with as many draws for each.

    Where the weights have a heavy tail, or too few draws count, the draws are moved as a whole to the mean that their
    weights show, then stretched to the widths, and weighted anew, `MOVES` times at most.
    """
    proposal = LinearPosterior.of(best.z, best.expansion, problem.coordinates)
    parameters = proposal.draw(random.sobol(draws, problem.n_dim))
    z = problem.coordinates.coordinates(parameters, edge=DRAWN_EDGE)
    # The proposal as a density of the coordinates: that of the parameters times dp/dz.
    log_proposal = proposal.log_density(parameters) + torch.log(problem.coordinates.scales(z)).sum(-1)
    sample = _weighted(problem, z, log_proposal)
    in_vain = torch.zeros_like(sample.ess)
    for number in range(MOVES):
        todo = torch.nonzero((sample.score < ENOUGH) & (in_vain < 2))[:, 0]
        if len(todo) == 0:
            break
        old = sample.select(todo)
        z, log_factor = _stretched(old) if number % 2 else _moved(old)
        new = _weighted(problem.select(todo), z, old.log_proposal - log_factor)
        better = new.score > old.score
        in_vain[todo] = torch.where(better, torch.zeros_like(old.ess), in_vain[todo] + 1)
        sample = sample.with_stars(todo[better], new.select(torch.nonzero(better)[:, 0]))
    return sample


def _weighted(problem: Problem, z: Tensor, log_proposal: Tensor) -> WeightedSample:
    weight, k = pareto_smooth(problem.log_posteriors(z) - log_proposal)
    return WeightedSample(z, log_proposal, weight, k, 1.0 / (weight**2).sum(1))


def _moved(sample: WeightedSample) -> tuple[Tensor, Tensor]:
    """Draws (S, N, D) shifted to their weighted mean, and the logarithm (S, 1) of the change of volume."""
    shift = sample.mean() - sample.z.mean(1)
    return sample.z + shift[:, None], torch.zeros_like(sample.ess)[:, None]


def _stretched(sample: WeightedSample) -> tuple[Tensor, Tensor]:
    """Draws (S, N, D) stretched towards their weighted variances, and the logarithm (S, 1) of the change of volume."""
    mean = sample.z.mean(1, keepdim=True)
    plain = ((sample.z - mean) ** 2).mean(1).clamp(min=1e-20)
    share = (sample.ess / (sample.ess + SCANT))[:, None]  # a few draws know little about widths
    factor = (share * sample.variance() / plain + 1.0 - share).sqrt()
    return mean + (sample.z - mean) * factor[:, None], torch.log(factor).sum(1, keepdim=True)
