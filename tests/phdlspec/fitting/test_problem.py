"""The posterior in free coordinates: gradients, expansions, chunking."""

from __future__ import annotations

import pytest
import torch

from phdlspec.fitting import problem as problem_module
from phdlspec.fitting.coordinates import Coordinates
from phdlspec.fitting.priors import select_priors
from phdlspec.fitting.problem import Problem
from phdlspec.labels import LabelSet
from phdlspec.likelihood import Observations
from tests.phdlspec.fitting.toy import ToyEmulator, mock_observations, random_theta


def make_problem(n=3, snr=100.0, seed=0, priors=(), resolution_width=0.05, dtype=torch.float32):
    emulator = ToyEmulator(dtype)
    theta = random_theta(emulator, n, seed)
    rv = torch.linspace(-50, 60, n)
    data = mock_observations(emulator, theta, rv, snr, seed)
    data = Observations(**{name: value.to(dtype) for name, value in data.__dict__.items()})
    coordinates = Coordinates.around(emulator.labels, rv + 10.0, resolution_width)
    problem = Problem.of(emulator, data, coordinates, priors=select_priors(priors))
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
    assert teff.mean().item() == pytest.approx(5800.0, abs=30)
    assert teff.std().item() == pytest.approx(4400 / 12**0.5, rel=0.02)


def spread_about(problem, truth, n=40, size=0.05):
    """Coordinates (S, n, D) about the truth, as far from each other as draws of a posterior may be."""
    g = torch.Generator().manual_seed(8)
    z = problem.coordinates.coordinates(truth)
    return z[:, None] + size * torch.randn(len(z), n, z.shape[1], generator=g, dtype=torch.float64)


def test_gradient_matches_finite_differences():
    problem, truth = make_problem(2, priors=("vmic", "kiel"), snr=50.0, dtype=torch.float64)
    z = problem.coordinates.coordinates(truth) + 0.02
    near = problem.near(spread_about(problem, truth))
    value, gradient = near.log_posterior_and_gradient(z[:, None])
    assert torch.allclose(value, near.log_posterior(z[:, None]), atol=1e-8)
    for d in range(problem.n_dim):
        step = torch.zeros_like(z)
        step[:, d] = 1e-4
        numerical = (near.log_posterior((z + step)[:, None]) - near.log_posterior((z - step)[:, None])) / 2e-4
        assert torch.allclose(gradient[:, 0, d], numerical[:, 0], rtol=1e-4, atol=1e-2), problem.coordinates.names[d]


def test_expansion_agrees_with_the_neighbourhood_and_is_positive():
    problem, truth = make_problem(3, priors=("vmic",))
    z = problem.coordinates.coordinates(truth)
    expansion = problem.expand(z)
    value, gradient = problem.near(spread_about(problem, truth)).log_posterior_and_gradient(z[:, None])
    assert torch.allclose(expansion.log_posterior, value[:, 0], atol=2e-2)
    size = torch.diagonal(expansion.hessian, dim1=1, dim2=2).sqrt()
    assert ((expansion.gradient - gradient[:, 0]).abs() / size).max() < 0.02
    assert torch.linalg.eigvalsh(expansion.hessian).min() >= 0.99


def test_many_models_are_as_exact_as_one():
    """Kernels are interpolated between three variances and followed to second order in velocity."""
    problem, truth = make_problem(2, snr=100.0, dtype=torch.float64)
    z = spread_about(problem, truth, n=12, size=0.1)
    rv = len(problem.model.labels)
    z[..., rv] = z[:, :1, rv] + torch.linspace(-0.01, 0.01, 12)  # +-3 km/s
    every = torch.stack([problem.expand(z[:, i]).log_posterior for i in range(12)], dim=1)
    assert (problem.near(z).log_posterior(z) - every).abs().max() < 0.1


def test_how_many_are_treated_at_once_does_not_matter(monkeypatch):
    problem, truth = make_problem(3)
    z = spread_about(problem, truth, n=7)
    whole, expanded = problem.log_posteriors(z), problem.expand(z[:, 0]).log_posterior
    monkeypatch.setattr(problem_module, "STARS_AT_ONCE", {"cpu": 2})
    monkeypatch.setattr(problem_module, "MODELS_AT_ONCE", {"cpu": 3})
    assert torch.allclose(problem.log_posteriors(z), whole, atol=2e-2)
    assert torch.allclose(problem.expand(z[:, 0]).log_posterior, expanded, atol=2e-2)
    one = problem.select(torch.tensor([2]))
    assert torch.allclose(one.log_posteriors(z[2:]), whole[2:], atol=2e-2)


def test_flux_at_the_pixels_is_what_the_projection_makes():
    problem, truth = make_problem(2, dtype=torch.float64)
    theta, seen = problem.dispersion(truth)
    data = problem.likelihood.data
    whole = problem.model.observe(theta, data.wave, data.resolving_power, seen.rv)
    used = problem.likelihood.weight > 0
    flux = problem.flux(problem.coordinates.coordinates(truth))
    assert (flux - whole)[used].abs().max() < 2e-6
    assert (flux[~used] == 0).all()
