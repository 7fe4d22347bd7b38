r"""Fast posteriors: a Gaussian at the optimum, corrected by Pareto-smoothed importance sampling.

Draws come from a mixture of the Laplace approximation N(z, H^-1) and a wider Student t, and get the weights p/q. The
largest weights are replaced by the quantiles of a generalised Pareto distribution fitted to them; its shape k says
whether the answer can be trusted: k < 0.7 (Vehtari, Simpson, Gelman, Yao & Gabry 2024, JMLR 25, 72). Where the first
round is poor, the proposal moves to the weighted mean and covariance and the draws of all rounds are used together
with the deterministic-mixture weights (Cornuet et al. 2012, adaptive multiple importance sampling).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from phdlspec.fitting.problem import Problem
from phdlspec.fitting.random import StarRandom

WIDE = 1.2  # scale of the wider component, a Student t: it covers tails that the Gaussian lacks
WIDE_SHARE = 0.4
WIDE_FREEDOM = 5  # its degrees of freedom
K_LIMIT = 0.7
K_DOUBTFUL, ENOUGH_DRAWS = 1.2, 100.0
GOOD_EFFICIENCY = 0.25  # effective sample size per draw that ends the adaptation


@dataclass(frozen=True)
class WeightedSample:
    """Draws from the posteriors of S stars.

    Attributes
    ----------
    z : (S, N, D) coordinates
    weight : (S, N) normalised, Pareto-smoothed weights
    pareto_k : (S,) shape of the largest weights' distribution; above 0.7 the sample is not to be trusted
    ess : (S,) effective sample size 1 / sum w^2
    log_evidence : (S,) log of the mean weight, the evidence up to the constants of the likelihood and prior
    """

    z: Tensor
    weight: Tensor
    pareto_k: Tensor
    ess: Tensor
    log_evidence: Tensor

    @property
    def reliable(self) -> Tensor:
        """(S,) True where the sample stands for the posterior.

        Either the tail of the weights is light, or it is moderate and many draws count: the wide component bounds the
        weights, so that a large effective sample size is no accident where the fitted tail looks heavy.
        """
        return (self.pareto_k < K_LIMIT) | ((self.pareto_k < K_DOUBTFUL) & (self.ess > ENOUGH_DRAWS))

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


@dataclass(frozen=True)
class _Gaussian:
    """A Gaussian proposal mixed with a wider Student t, for S stars."""

    mean: Tensor  # (S, D)
    scale: Tensor  # (S, D, D) lower triangular, covariance = scale scale^T

    @classmethod
    def from_hessian(cls, mean: Tensor, hessian: Tensor) -> _Gaussian:
        # With H = R^T R (R upper), R^-1 is a square root of H^-1; any square root serves.
        upper = torch.linalg.cholesky(hessian).mT
        identity = torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device).expand_as(hessian)
        return cls(mean, torch.linalg.solve_triangular(upper, identity, upper=True))

    def draw(self, random: StarRandom, n: int) -> Tensor:
        chi_square = (random.normal(n, WIDE_FREEDOM) ** 2).sum(-1)
        wide = torch.where(random.uniform(n) < WIDE_SHARE, WIDE * (WIDE_FREEDOM / chi_square).sqrt(), 1.0)
        noise = random.normal(n, self.mean.shape[1]) * wide[..., None]
        return self.mean[:, None] + noise @ self.scale.mT

    def log_density(self, z: Tensor) -> Tensor:
        n_dim = z.shape[-1]
        noise = torch.linalg.solve(self.scale, (z - self.mean[:, None]).mT)  # (S, D, N)
        square = (noise**2).sum(1)
        log_det = torch.linalg.slogdet(self.scale).logabsdet[:, None]
        narrow = math.log(1.0 - WIDE_SHARE) - 0.5 * square - 0.5 * n_dim * math.log(2.0 * math.pi)
        shape = 0.5 * (WIDE_FREEDOM + n_dim)
        norm = math.lgamma(shape) - math.lgamma(0.5 * WIDE_FREEDOM) - 0.5 * n_dim * math.log(WIDE_FREEDOM * math.pi)
        constant = math.log(WIDE_SHARE) + norm - n_dim * math.log(WIDE)
        wide = constant - shape * torch.log1p(square / (WIDE_FREEDOM * WIDE**2))
        return torch.logaddexp(narrow, wide) - log_det


def importance_sample(
    problem: Problem,
    mean: Tensor,
    hessian: Tensor,
    random: StarRandom,
    draws: int = 512,
    rounds: int = 3,
) -> WeightedSample:
    """Sample the posteriors of S stars from their optima (S, D) and Hessians (S, D, D).

    Each round draws `draws` points. Stars whose first rounds were efficient take no part in later ones; all stars
    return the same number of draws, those not drawn having weight zero.
    """
    stars, n_dim = mean.shape
    proposals = [_Gaussian.from_hessian(mean, hessian)]
    z = mean.new_zeros(stars, draws * rounds, n_dim)
    log_p = torch.full((stars, draws * rounds), -math.inf, dtype=torch.float64, device=mean.device)
    log_q = torch.zeros_like(log_p)
    ratio = torch.full_like(log_p, -math.inf)
    weight, k = torch.zeros_like(log_p), torch.full_like(log_p[:, 0], math.inf)
    evidence = torch.zeros_like(k)
    active = torch.arange(stars, device=mean.device)
    used = draws
    for number in range(rounds):
        used = draws * (number + 1)
        fresh = slice(used - draws, used)
        proposal = proposals[-1]
        new = proposal.draw(random.select(active), draws)
        z[active, fresh] = new
        log_p[active, fresh] = problem.select(active).log_posterior(new)
        mixture = torch.stack([p.log_density(z[active, :used]) for p in proposals])
        log_q[active, :used] = torch.logsumexp(mixture, dim=0) - math.log(len(proposals))
        ratio[active, :used] = log_p[active, :used] - log_q[active, :used]
        part, part_k = pareto_smooth(ratio[active, :used])
        weight[active, :used], k[active] = part, part_k
        evidence[active] = torch.logsumexp(ratio[active, :used], dim=1) - math.log(used)
        poor = (part_k > 0.5) | (1.0 / (part**2).sum(1) < GOOD_EFFICIENCY * used)
        if number == rounds - 1 or not poor.any():
            break
        active = active[poor]
        # Temper the weights until they carry enough effective draws for a covariance in D dimensions.
        flat = ratio[active, :used] - ratio[active, :used].amax(dim=1, keepdim=True)
        tempered = _temper(flat, minimum=min(4.0 * n_dim, 0.3 * used))
        centre = (tempered[..., None] * z[active, :used]).sum(1)
        offset = z[active, :used] - centre[:, None]
        covariance = (tempered[..., None] * offset).mT @ offset
        shrink = 0.1
        old = proposals[-1].scale[poor]
        covariance = (1.0 - shrink) * covariance + shrink * (old @ old.mT)
        proposals = [_Gaussian(p.mean[poor], p.scale[poor]) for p in proposals]
        proposals.append(_Gaussian(centre, torch.linalg.cholesky(covariance)))
    z, weight = z[:, :used], weight[:, :used]
    return WeightedSample(z, weight, k, 1.0 / (weight**2).sum(1), evidence)


def _temper(log_weight: Tensor, minimum: float) -> Tensor:
    """Normalised weights w^t (S, N) with the largest t <= 1 whose effective sample size reaches `minimum`."""
    low = torch.zeros(len(log_weight), 1, dtype=log_weight.dtype, device=log_weight.device)
    high = torch.ones_like(low)
    log_weight = log_weight.clamp(min=-1e300)

    def size(t: Tensor) -> Tensor:
        return 1.0 / (torch.softmax(t * log_weight, dim=1) ** 2).sum(1, keepdim=True)

    enough = size(high) >= minimum
    for _ in range(30):
        middle = 0.5 * (low + high)
        good = size(middle) >= minimum
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return torch.softmax(torch.where(enough, torch.ones_like(low), low) * log_weight, dim=1)
