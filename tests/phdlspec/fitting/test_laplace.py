"""Importance sampling: known distributions, the diagnostic, weighted statistics."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from phdlspec.fitting.laplace import WeightedSample, importance_sample, pareto_smooth
from phdlspec.fitting.levenberg_marquardt import Optimum, levenberg_marquardt
from phdlspec.fitting.random import StarRandom
from phdlspec.fitting.summary import weighted_quantiles
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


def test_weighted_moments_and_resampling():
    g = torch.Generator().manual_seed(2)
    x = torch.randn(1, 20000, 2, generator=g, dtype=torch.float64)
    log_w = x[..., 0]  # tilts N(0, 1) into N(1, 1)
    weight = torch.softmax(log_w, dim=1)
    sample = WeightedSample(x, torch.zeros_like(weight), weight, torch.zeros(1), 1 / (weight**2).sum(1))
    assert sample.mean()[0].tolist() == pytest.approx([1.0, 0.0], abs=0.06)
    assert sample.variance()[0].tolist() == pytest.approx([1.0, 1.0], abs=0.06)
    q = weighted_quantiles(x, weight, (0.16, 0.5, 0.84))
    assert q[0, 0].tolist() == pytest.approx([0.0055, 1.0, 1.9945], abs=0.06)
    assert q[0, 1].tolist() == pytest.approx([-0.9945, 0.0, 0.9945], abs=0.06)
    drawn = sample.resample(StarRandom(0, ["x"]), 5000)
    assert drawn[0, :, 0].mean().item() == pytest.approx(1.0, abs=0.06)


def test_posterior_of_mock_stars_is_near_gaussian():
    problem, truth = make_problem(3, snr=100.0, seed=5)
    best = levenberg_marquardt(problem, problem.coordinates.coordinates(truth))
    random = StarRandom(3, ["0", "1", "2"])
    sample = importance_sample(problem, best, random, draws=600)
    assert (sample.pareto_k < 0.8).all()
    assert (sample.ess > 100).all()
    one = torch.tensor([1])
    alone = Optimum(best.z[one], best.expansion.select(one), best.stop_reason[1:2], best.iterations[one])
    again = importance_sample(problem.select(one), alone, StarRandom(3, ["1"]), draws=600)
    sigma = sample.variance().sqrt()
    assert ((again.mean()[0] - sample.mean()[1]).abs() / sigma[1]).max() < 0.02


@pytest.mark.parametrize("shift", [0.5, 1.0])
def test_draws_follow_a_posterior_that_lies_elsewhere(shift):
    """Proposals about the wrong place, as curvature makes them: moved draws find the posterior."""
    problem, truth = make_problem(1, snr=100.0, seed=5)
    best = levenberg_marquardt(problem, problem.coordinates.coordinates(truth))
    right = importance_sample(problem, best, StarRandom(3, ["0"]), draws=2000)
    error = torch.linalg.cholesky(torch.linalg.inv(best.expansion.hessian[0]))
    z = best.z + shift * (error @ torch.tensor([1.0, -1.0]).repeat(6).double())
    off = Optimum(z, replace(problem.expand(best.z), gradient=-z), best.stop_reason, best.iterations)
    sample = importance_sample(problem, off, StarRandom(3, ["0"]), draws=600)
    assert sample.reliable.all()
    assert ((sample.mean() - right.mean()).abs() / right.variance().sqrt()).max() < 0.45  # of fifty draws
    ratio = (sample.variance() / right.variance()).sqrt()
    assert (ratio - 1.0).abs().max() < 0.4
