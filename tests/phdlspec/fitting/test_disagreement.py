"""Windows that disagree about a label widen its error, and those that differ by noise do not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from phdlspec.fitting.disagreement import SIGNIFICANCE, disagreement, stretched
from phdlspec.fitting.levenberg_marquardt import levenberg_marquardt
from phdlspec.likelihood import Likelihood
from tests.phdlspec.fitting.test_problem import make_problem

STARS = 12


@pytest.fixture(scope="module")
def fitted():
    problem, truth = make_problem(STARS, snr=100.0, seed=5)
    return problem, levenberg_marquardt(problem, problem.coordinates.coordinates(truth)).z


def test_noise_is_no_disagreement(fitted, monkeypatch):
    problem, z = fitted
    wave = problem.likelihood.data.wave.double()
    teff = problem.coordinates.names.index("TEFF")
    assert (disagreement(problem, z, wave)[:, teff] > 1.0).double().mean() <= 0.25
    # The ratio itself is one in the mean: leverages are right.
    monkeypatch.setattr("phdlspec.fitting.disagreement.SIGNIFICANCE", -1e9)
    ratio = disagreement(problem, z, wave)
    assert float(ratio[:, teff].mean()) == pytest.approx(1.0, abs=0.3)
    assert SIGNIFICANCE > 0


def test_windows_that_want_other_labels_widen_their_error(fitted):
    """Every other stretch is of a star that is hotter by thirty errors."""
    problem, z = fitted
    data, wave = problem.likelihood.data, problem.likelihood.data.wave.double()
    teff = problem.coordinates.names.index("TEFF")
    hot = z.clone()
    hot[:, teff] += 30.0 * torch.linalg.inv(problem.expand(z).hessian)[:, teff, teff].sqrt()
    hotter = problem.flux(hot) - problem.flux(z)
    stretch = (torch.log(wave / wave[0]) / 0.03).long() % 2 == 0
    continuum = problem.likelihood.continuum(problem.flux(z))
    spoiled = replace(data, flux=data.flux + stretch * hotter * continuum)
    other = problem.with_likelihood(Likelihood.of(spoiled, problem.likelihood.blocks))
    again = levenberg_marquardt(other, z).z
    found, before = disagreement(other, again, wave), disagreement(problem, z, wave)
    # Where one line alone tells Teff, the others do: some label of nearly every star, and of few without the fault.
    assert (found.amax(1) > 3.0).double().mean() > 0.8
    assert (before.amax(1) > 3.0).double().mean() < 0.3


def test_draws_never_become_wider_than_the_prior():
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(4000, 3, generator=generator, dtype=torch.float64) * torch.tensor([0.05, 0.5, 1.0])
    weight = torch.full((4000,), 1.0 / 4000, dtype=torch.float64)
    wide = stretched(z, weight, torch.tensor([4.0, 4.0, 4.0], dtype=torch.float64))
    variance = torch.tensor([0.05, 0.5, 1.0], dtype=torch.float64) ** 2
    assert wide.var(0).numpy() == pytest.approx((4.0 * variance / (1.0 + 3.0 * variance)).numpy(), rel=0.08)
    assert wide.mean(0).numpy() == pytest.approx(z.mean(0).numpy(), abs=1e-12)
    assert torch.allclose(stretched(z, None, torch.ones(3, dtype=torch.float64)), z)
