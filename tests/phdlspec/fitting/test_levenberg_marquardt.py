"""The optimiser finds the optimum of mock stars."""

from __future__ import annotations

import torch

from phdlspec.fitting.levenberg_marquardt import levenberg_marquardt
from phdlspec.fitting.stop_reason import StopReason
from tests.phdlspec.fitting.test_problem import make_problem


def test_climbs_back_to_the_optimum_from_far_starts():
    problem, truth = make_problem(6, snr=150.0, seed=2)
    best = problem.coordinates.coordinates(truth)
    at_truth = problem.expand(best).log_posterior
    g = torch.Generator().manual_seed(0)
    start = best + 0.4 * torch.randn(best.shape, generator=g, dtype=torch.float64)
    start[:, -2] = 0.0  # the velocity starts 10 km/s off
    result = levenberg_marquardt(problem, start)
    assert all(reason == StopReason.CONVERGED for reason in result.stop_reason)
    assert (result.expansion.log_posterior > at_truth).all()
    covariance = torch.linalg.inv(result.expansion.hessian)
    pull = (result.z - best) / torch.diagonal(covariance, dim1=1, dim2=2).sqrt()
    assert pull.abs().max() < 4.0
    assert 0.6 < pull.std() < 1.4


def test_two_starts_meet_and_the_batch_does_not_matter():
    problem, truth = make_problem(4, snr=100.0, seed=3)
    best = problem.coordinates.coordinates(truth)
    a = levenberg_marquardt(problem, best + 0.3)
    b = levenberg_marquardt(problem, best - 0.3)
    sigma = torch.diagonal(torch.linalg.inv(a.expansion.hessian), dim1=1, dim2=2).sqrt()
    assert ((a.z - b.z).abs() / sigma).max() < 0.1
    alone = levenberg_marquardt(problem.select(torch.tensor([2])), (best + 0.3)[2:3])
    assert ((alone.z - a.z[2:3]).abs() / sigma[2:3]).max() < 0.02
