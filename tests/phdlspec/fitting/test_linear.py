"""The linearised posterior: its draws have the moments of a Gaussian in a box, and VBROAD those of a quartic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import truncnorm

from phdlspec.fitting.linear import LinearPosterior
from phdlspec.fitting.random import StarRandom


def posterior(precision, gradient, lower, upper, squared) -> LinearPosterior:
    size = len(lower)
    as_tensor = [torch.as_tensor(np.array(v, dtype=float))[None] for v in (gradient, precision, lower, upper)]
    return LinearPosterior(torch.zeros(1, size, dtype=torch.float64), *as_tensor, squared)


def test_truncated_normals_and_a_quartic():
    lin = posterior(np.diag([4.0, 1e-6, 1e-4]), [0.0, 0.0, 0.0], [0.3, -1.0, 0.0], [5.0, 1.0, 60.0], 2)
    draws = lin.draw(StarRandom(1, ["a"]), 4000)[0].numpy()
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
    draws = lin.draw(StarRandom(2, ["a"]), 4000)[0, :, :2].numpy()
    assert np.cov(draws.T) == pytest.approx(covariance[:2, :2], abs=0.08)


def test_the_density_is_that_of_the_draws():
    lin = posterior(np.diag([2.0, 3.0, 1e-4]), [0.4, 0.0, 0.0], [-3.0, -3.0, 0.0], [3.0, 3.0, 60.0], 2)
    at = torch.tensor([[[0.0, 0.0, 0.0], [0.5, -0.2, 4.0]]], dtype=torch.float64)
    values = lin.log_density(at)[0]
    expected = 0.4 * 0.5 - 0.5 * (2.0 * 0.25 + 3.0 * 0.04 + 1e-4 * 256.0)
    assert float(values[1] - values[0]) == pytest.approx(expected)
