"""Importance sampling: known distributions, the diagnostic, weighted statistics."""

from __future__ import annotations

import pytest
import torch

from phdlspec.fitting.laplace import WeightedSample, importance_sample, pareto_smooth
from phdlspec.fitting.polish import polish
from phdlspec.fitting.random import StarRandom
from tests.phdlspec.fitting.test_problem import make_problem


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_shape_is_recovered(k):
    g = torch.Generator().manual_seed(4)
    u = torch.rand(20, 4000, generator=g, dtype=torch.float64)
    log_ratio = -k * torch.log(u)
    _, shape = pareto_smooth(log_ratio)
    assert shape.mean().item() == pytest.approx(k, abs=0.1)


def test_equal_weights_stay_equal_and_lost_draws_weigh_nothing():
    ratio = torch.zeros(2, 100)
    ratio[1, :10] = -torch.inf
    weight, k = pareto_smooth(ratio)
    assert torch.allclose(weight[0], torch.full((100,), 0.01, dtype=torch.float64))
    assert weight[1, :10].sum() == 0.0
    assert (k <= 0.0).all()


class _Target:
    """A problem-like object with a known density: skewed in the first dimension, Gaussian in the others."""

    def select(self, index):
        return self

    def log_posterior(self, z):
        first = z[..., 0]
        return -torch.exp(first) + 2.0 * first - 0.5 * (z[..., 1:] ** 2 / 4.0).sum(-1)


def test_moments_of_a_skewed_target():
    # exp(first) is Gamma(2, 1): mean of first = digamma(2), variance = trigamma(2).
    stars, n_dim = 3, 6
    hessian = torch.diag_embed(torch.tensor([2.0] + [0.25] * 5, dtype=torch.float64)).expand(stars, -1, -1)
    mean = torch.tensor([0.6931] + [0.0] * 5, dtype=torch.float64).expand(stars, -1)
    random = StarRandom(1, ["a", "b", "c"])
    sample = importance_sample(_Target(), mean, hessian, random, draws=4000, rounds=2)
    centre, covariance = sample.moments(sample.z)
    assert torch.allclose(centre[:, 0], torch.full((stars,), 0.4228, dtype=torch.float64), atol=0.06)
    assert torch.allclose(covariance[:, 0, 0], torch.full((stars,), 0.6449, dtype=torch.float64), rtol=0.2)
    assert torch.allclose(covariance[:, 1, 1], torch.full((stars,), 4.0, dtype=torch.float64), rtol=0.2)
    assert sample.reliable.all()
    norm = 0.5 * (n_dim - 1) * torch.log(torch.tensor(8.0 * torch.pi))
    assert torch.allclose(sample.log_evidence, norm.double().expand(stars), atol=0.1)


def test_weighted_quantiles_and_resampling():
    g = torch.Generator().manual_seed(2)
    x = torch.randn(1, 20000, 2, generator=g, dtype=torch.float64)
    log_w = x[..., 0]  # tilts N(0, 1) into N(1, 1)
    weight = torch.softmax(log_w, dim=1)
    sample = WeightedSample(x, weight, torch.zeros(1), 1 / (weight**2).sum(1), torch.zeros(1))
    q = sample.quantiles(x, (0.16, 0.5, 0.84))
    assert q[0, 0].tolist() == pytest.approx([0.0055, 1.0, 1.9945], abs=0.06)
    assert q[0, 1].tolist() == pytest.approx([-0.9945, 0.0, 0.9945], abs=0.06)
    drawn = sample.resample(StarRandom(0, ["x"]), 5000)
    assert drawn[0, :, 0].mean().item() == pytest.approx(1.0, abs=0.06)


def test_posterior_of_mock_stars_is_near_gaussian():
    problem, truth = make_problem(3, snr=100.0, seed=5)
    best = polish(problem, problem.coordinates.coordinates(truth))
    random = StarRandom(3, ["0", "1", "2"])
    sample = importance_sample(problem, best.z, best.expansion.hessian, random, draws=600)
    assert (sample.pareto_k < 0.8).all()
    assert (sample.ess > 100).all()
    again = importance_sample(
        problem.select(torch.tensor([1])),
        best.z[1:2],
        best.expansion.hessian[1:2],
        StarRandom(3, ["1"]),
        draws=600,
    )
    mean, covariance = sample.moments(sample.z)
    sigma = torch.diagonal(covariance, dim1=1, dim2=2).sqrt()
    assert ((again.moments(again.z)[0][0] - mean[1]).abs() / sigma[1]).max() < 0.02
