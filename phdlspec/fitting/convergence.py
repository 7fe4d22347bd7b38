"""Have the chains converged? Effective sample size and split R-hat (Gelman et al. 2013, Bayesian Data Analysis 11)."""

from __future__ import annotations

import torch
from torch import Tensor


def _split(chains: Tensor) -> Tensor:
    # Halves of chains (S, C, N, D) as chains of their own.
    half = chains.shape[2] // 2
    return torch.cat([chains[:, :, :half], chains[:, :, -half:]], dim=1)


def _variances(chains: Tensor) -> tuple[Tensor, Tensor]:
    # Mean variance within chains and the pooled estimate, (S, D).
    n = chains.shape[2]
    within = chains.var(dim=2).mean(dim=1)
    between = n * chains.mean(dim=2).var(dim=1)
    return within, (n - 1) / n * within + between / n


def split_rhat(chains: Tensor) -> Tensor:
    """R-hat (S, D) of chains (S, C, N, D), each split in two: 1 when all agree."""
    within, pooled = _variances(_split(chains))
    return (pooled / within.clamp(min=1e-300)).sqrt()


def effective_sample_size(chains: Tensor) -> Tensor:
    """Effective number of independent draws (S, D) in chains (S, C, N, D), between chains accounted for."""
    chains = _split(chains)
    _, c, n, _ = chains.shape
    within, pooled = _variances(chains)
    centred = chains - chains.mean(dim=2, keepdim=True)
    padded = torch.fft.rfft(centred, n=2 * n, dim=2)
    covariance = torch.fft.irfft(padded.abs() ** 2, n=2 * n, dim=2)[:, :, :n].mean(dim=1) / n  # (S, N, D)
    correlation = 1.0 - (within[:, None] - covariance * n / (n - 1)) / pooled[:, None].clamp(min=1e-300)
    # Geyer's initial monotone sequence of sums of neighbouring pairs.
    even = correlation[:, : n - n % 2]
    pairs = even[:, 0::2] + even[:, 1::2]
    positive = torch.cumprod((pairs > 0).to(pairs.dtype), dim=1)
    monotone = torch.cummin(pairs, dim=1).values
    tau = (-1.0 + 2.0 * (monotone * positive).sum(dim=1)).clamp(min=1.0 / torch.log10(torch.tensor(float(c * n))))
    return c * n / tau


def autocorrelation_time(chains: Tensor) -> Tensor:
    """Integrated autocorrelation time (S, D) in steps of a chain."""
    return chains.shape[1] * chains.shape[2] / effective_sample_size(chains)
