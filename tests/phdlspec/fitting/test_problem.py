"""The posterior in free coordinates: gradients, expansions, chunking."""

from __future__ import annotations

import pytest
import torch

from phdlspec.fitting.coordinates import Coordinates
from phdlspec.fitting.priors import select_priors
from phdlspec.fitting.problem import Problem
from phdlspec.labels import LabelSet
from phdlspec.likelihood import Likelihood, Observations
from tests.phdlspec.fitting.toy import ToyEmulator, mock_observations, random_theta


def make_problem(n=3, snr=100.0, seed=0, priors=(), resolution_width=0.05, dtype=torch.float32):
    emulator = ToyEmulator(dtype)
    theta = random_theta(emulator, n, seed)
    rv = torch.linspace(-50, 60, n)
    data = mock_observations(emulator, theta, rv, snr, seed)
    data = Observations(**{name: value.to(dtype) for name, value in data.__dict__.items()})
    coordinates = Coordinates.around(emulator.labels, rv + 10.0, resolution_width)
    problem = Problem(emulator, Likelihood.of(data), coordinates, priors=select_priors(priors))
    columns = [theta.double(), rv.double()[:, None]]
    if resolution_width:
        columns.append(torch.zeros(n, 1, dtype=torch.float64))
    return problem, torch.cat(columns, dim=1)


def test_coordinates_round_trip_and_prior():
    coordinates = Coordinates.around(LabelSet(), torch.tensor([20.0, -3.0]), 0.05)
    g = torch.Generator().manual_seed(1)
    z = torch.randn(2, 5, len(coordinates.names), generator=g, dtype=torch.float64)
    p = coordinates.parameters(z)
    assert torch.allclose(coordinates.coordinates(p), z, atol=1e-6)
    step = 1e-5
    numerical = (coordinates.parameters(z + step) - coordinates.parameters(z - step)) / (2 * step)
    assert torch.allclose(numerical, coordinates.scales(z), rtol=1e-5)
    many = coordinates.parameters(torch.randn(2, 20000, len(coordinates.names), generator=g))
    teff = many[0, :, 0]
    assert teff.mean().item() == pytest.approx(5750.0, abs=30)
    assert teff.std().item() == pytest.approx(3500 / 12**0.5, rel=0.02)


def test_gradient_matches_finite_differences():
    problem, truth = make_problem(2, priors=("vmic", "kiel"), snr=50.0, dtype=torch.float64)
    z = problem.coordinates.coordinates(truth) + 0.02
    value, gradient = problem.log_posterior_and_gradient(z[:, None])
    assert torch.allclose(value, problem.log_posterior(z[:, None]), atol=1e-4)
    for d in range(problem.n_dim):
        step = torch.zeros_like(z)
        step[:, d] = 2e-3
        numerical = (
            problem.log_posterior((z + step)[:, None]) - problem.log_posterior((z - step)[:, None])
        ) / 4e-3
        assert torch.allclose(gradient[:, 0, d], numerical[:, 0], rtol=0.02, atol=1.5), problem.coordinates.names[d]


def test_expansion_agrees_with_the_gradient_and_is_positive():
    problem, truth = make_problem(3, priors=("vmic",))
    z = problem.coordinates.coordinates(truth)
    expansion = problem.expand(z)
    value, gradient = problem.log_posterior_and_gradient(z[:, None])
    assert torch.allclose(expansion.log_posterior, value[:, 0], atol=5e-3)
    size = torch.diagonal(expansion.hessian, dim1=1, dim2=2).sqrt()
    assert ((expansion.gradient - gradient[:, 0]).abs() / size).max() < 0.02
    assert torch.linalg.eigvalsh(expansion.hessian).min() >= 0.99


def test_chunks_do_not_change_values():
    problem, truth = make_problem(3)
    z = problem.coordinates.coordinates(truth)[:, None] + 0.1 * torch.randn(3, 7, problem.n_dim)
    whole = problem.log_posterior(z)
    small = Problem(problem.model, problem.likelihood, problem.coordinates, chunk=2)
    assert torch.allclose(small.log_posterior(z), whole, atol=2e-2)
    assert torch.allclose(small.expand(z[:, 0]).log_posterior, whole[:, 0], atol=2e-2)
    one = problem.select(torch.tensor([2]))
    assert torch.allclose(one.log_posterior(z[2:]), whole[2:], atol=2e-2)
