"""The linearised posterior: its draws have the moments of a Gaussian in a box, and VBROAD those of a quartic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import truncnorm

from phdlspec.fitting.boxed import BoxedGaussian
from phdlspec.fitting.linear import LinearPosterior
from phdlspec.fitting.random import StarRandom


def posterior(precision, mean, lower, upper, squared) -> LinearPosterior:
    mean, precision, lower, upper = (
        torch.as_tensor(np.array(v, dtype=float))[None] for v in (mean, precision, lower, upper)
    )
    low, high = lower.clone(), upper.clone()
    low[:, squared], high[:, squared] = lower[:, squared] ** 2, upper[:, squared] ** 2
    return LinearPosterior(BoxedGaussian.of(mean, precision, low, high, squared), lower, upper, squared)


def weighted(lin: LinearPosterior, n: int, log_target) -> tuple[np.ndarray, np.ndarray]:
    """Draws (n, D) and their importance weights for a target."""
    draws = lin.draw(StarRandom(1, ["a"]).sobol(n, lin.lower.shape[1]))
    log_weight = log_target(draws[0]) - lin.log_density(draws)[0]
    return draws[0].numpy(), torch.softmax(log_weight, 0).numpy()


def test_truncated_normals_and_a_quartic():
    lin = posterior(np.diag([4.0, 1e-6, 1e-4]), [0.0, 0.0, 0.0], [0.3, -1.0, 0.0], [5.0, 1.0, 60.0], 2)
    draws = lin.draw(StarRandom(1, ["a"]).uniform(4000, 3))[0].numpy()
    expected = truncnorm(0.3 / 0.5, 5.0 / 0.5, scale=0.5)
    assert draws[:, 0].mean() == pytest.approx(expected.mean(), abs=0.02)
    assert draws[:, 0].min() >= 0.3
    assert draws[:, 1].std() == pytest.approx(2 / 12**0.5, rel=0.03)
    density = [quad(lambda v, k=k: v**k * np.exp(-0.5e-4 * v**4), 0, 60)[0] for k in (0, 1, 2)]
    assert draws[:, 2].mean() == pytest.approx(density[1] / density[0], rel=0.03)
    assert (draws[:, 2] ** 2).mean() == pytest.approx(density[2] / density[0], rel=0.05)


def test_correlated_labels_within_wide_bounds():
    covariance = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1e4]])
    lin = posterior(np.linalg.inv(covariance), [0.0, 0.0, 0.0], [-20.0, -20.0, 0.0], [20.0, 20.0, 60.0], 2)
    draws = lin.draw(StarRandom(2, ["a"]).uniform(4000, 3))[0, :, :2].numpy()
    assert np.cov(draws.T) == pytest.approx(covariance[:2, :2], abs=0.08)


def test_weights_make_a_strongly_correlated_corner_exact():
    """What the order of drawing does to the density is known: the weights undo it."""
    covariance = np.array([[1.0, 0.95, 0.0], [0.95, 1.0, 0.0], [0.0, 0.0, 1e6]])
    precision = np.linalg.inv(covariance)
    lin = posterior(precision, [1.0, -1.0, 0.0], [-0.5, 0.0, 0.0], [3.0, 3.0, 60.0], 2)

    def log_target(x):
        d = torch.stack([x[:, 0] - 1.0, x[:, 1] + 1.0, x[:, 2] ** 2], dim=1)
        return -0.5 * ((d @ torch.as_tensor(precision)) * d).sum(1)

    draws, weight = weighted(lin, 4096, log_target)
    assert 1.0 / (weight**2).sum() > 1500
    axis = np.linspace(-0.5, 3.0, 701)
    a, b = np.meshgrid(axis, axis[axis >= 0.0], indexing="ij")
    d = np.stack([a - 1.0, b + 1.0])
    density = np.exp(-0.5 * np.einsum("iab,ij,jab->ab", d, precision[:2, :2], d))
    for place, axes in ((0, a), (1, b)):
        expected = (density * axes).sum() / density.sum()
        assert weight @ draws[:, place] == pytest.approx(expected, abs=0.01)


def test_the_density_of_a_box_that_cuts_nothing_is_the_gaussian():
    lin = posterior(np.diag([2.0, 3.0, 1e-4]), [0.4, 0.0, 0.0], [-30.0, -30.0, 0.0], [30.0, 30.0, 60.0], 2)
    at = torch.tensor([[[0.0, 0.0, 0.0], [0.5, -0.2, 4.0]]], dtype=torch.float64)
    values = lin.log_density(at)[0]
    expected = -0.5 * (2.0 * (0.01 - 0.16) + 3.0 * 0.04 + 1e-4 * 256.0)
    assert float(values[1] - values[0]) == pytest.approx(expected)


def test_far_tails_have_draws_and_densities():
    lin = posterior(np.diag([1.0, 1.0, 1e-4]), [60.0, -12.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 60.0], 2)
    draws = lin.draw(StarRandom(1, ["a"]).sobol(512, 3))
    assert torch.isfinite(lin.log_density(draws)).all()
    assert draws[0, :, 0].mean().item() == pytest.approx(1.0 - 1.0 / 59.0, abs=2e-3)
    assert draws[0, :, 1].mean().item() == pytest.approx(1.0 / 12.1, abs=3e-3)


def test_sobol_points_are_even_and_each_star_has_its_own():
    points = StarRandom(1, ["a", "b"]).sobol(256, 5)
    assert ((points > 0) & (points < 1)).all()
    counts = torch.stack([torch.histc(points[0, :, d], 16, 0.0, 1.0) for d in range(5)])
    assert (counts == 16).all()
    assert not torch.equal(points[0], points[1])
    assert torch.equal(points[1], StarRandom(1, ["b"]).sobol(256, 5)[0])
