"""HMC and emcee on one problem: the same posterior; and the measures of convergence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from phdlspec.fitting import hmc, mcmc
from phdlspec.fitting.convergence import autocorrelation_time, effective_sample_size, split_rhat
from phdlspec.fitting.coordinates import Coordinates
from phdlspec.fitting.hmc import sample_hmc
from phdlspec.fitting.laplace import importance_sample
from phdlspec.fitting.levenberg_marquardt import levenberg_marquardt
from phdlspec.fitting.mcmc import sample_emcee
from phdlspec.fitting.problem import Expansion
from phdlspec.fitting.random import StarRandom
from tests.phdlspec.fitting.test_problem import make_problem
from tests.phdlspec.fitting.toy import ToyEmulator

pytestmark = pytest.mark.slow


class Skewed:
    """A problem-like object with a known posterior: Gaussians of many widths, one skewed coordinate."""

    coordinates = Coordinates.around(ToyEmulator().labels, torch.zeros(1, dtype=torch.float64), 0.1)
    n_dim = len(coordinates.names)
    width = torch.tensor([1.0, 0.1, 0.8, 0.5, 1.0, 0.05, 0.9, 0.3, 1.0, 0.6, 0.02, 0.7], dtype=torch.float64)

    def __len__(self):
        return 1

    def select(self, index):
        return self

    def near(self, z):
        return self

    def log_posterior(self, z):
        first = z[..., 0]
        return -torch.exp(first) + 2.0 * first - 0.5 * ((z[..., 1:] / self.width[1:]) ** 2).sum(-1)

    def log_posterior_and_gradient(self, z):
        gradient = -z / self.width**2
        gradient[..., 0] = 2.0 - torch.exp(z[..., 0])
        return self.log_posterior(z), gradient

    def expand(self, z):
        value, gradient = self.log_posterior_and_gradient(z)
        hessian = torch.diag_embed((self.width**-2).expand(len(z), -1)).clone()
        hessian[:, 0, 0] = torch.exp(z[:, 0])
        return Expansion(value, gradient, hessian, hessian, value)


OPTIMUM = torch.tensor([np.log(2.0), *[0.0] * (Skewed.n_dim - 1)], dtype=torch.float64)
MEAN, SIGMA = 0.42278, 0.64493**0.5  # of the skewed coordinate: the logarithm of a Gamma(2) variable


def starting_draws(width: float, n: int = 500) -> torch.Tensor:
    """Draws about the optimum, `width` times as wide as the posterior."""
    generator = torch.Generator().manual_seed(1)
    return OPTIMUM + width * torch.randn(n, Skewed.n_dim, generator=generator, dtype=torch.float64) * Skewed.width


def check_moments(z: torch.Tensor) -> None:
    assert z[:, 0].mean().item() == pytest.approx(MEAN, abs=0.08)
    assert z[:, 0].std().item() == pytest.approx(SIGMA, rel=0.08)
    assert (z[:, 1:].mean(0) / Skewed.width[1:]).abs().max() < 0.12
    assert torch.allclose(z[:, 1:].std(0), Skewed.width[1:], rtol=0.1)


def test_hmc_samples_the_posterior():
    problem = Skewed()
    hessian = problem.expand(OPTIMUM[None]).hessian
    chains = sample_hmc(problem, OPTIMUM[None], hessian, StarRandom(3, ["star"]), min_ess=600.0)
    assert chains.converged.all()
    check_moments(chains.z[0])


def test_hmc_is_reproducible():
    problem = Skewed()
    hessian = problem.expand(OPTIMUM[None]).hessian
    one, two = (
        sample_hmc(problem, OPTIMUM[None], hessian, StarRandom(3, ["star"]), max_draws=5).z[0] for _ in range(2)
    )
    assert torch.equal(one, two)


def test_company_does_not_change_a_star():
    """One star is through long before the other: it leaves, with the draws that it has alone."""
    problem, truth = make_problem(2, snr=100.0, seed=7)
    best = levenberg_marquardt(problem, problem.coordinates.coordinates(truth))
    hessian = best.expansion.hessian
    both = sample_hmc(problem, best.z, hessian, StarRandom(5, ["a", "b"]), min_ess=300.0, max_draws=120)
    assert both.steps[0] != both.steps[1]
    for s, name in enumerate("ab"):
        one = torch.tensor([s])
        alone = sample_hmc(problem.select(one), best.z[one], hessian[one], StarRandom(5, [name]), 300.0, 120)
        assert torch.equal(both.steps[one], alone.steps)
        sigma = alone.z[0].std(0)
        assert ((both.z[s].mean(0) - alone.z[0].mean(0)).abs() / sigma).max() < 0.1


def test_trajectories_alone_mend_a_hessian_that_is_far_off(monkeypatch):
    monkeypatch.setattr(hmc, "JUMPS", 0)
    problem = Skewed()
    hessian = problem.expand(OPTIMUM[None]).hessian.clone()
    hessian[:, 1, 1] *= 100.0  # this coordinate is ten times as wide as it says
    chains = sample_hmc(problem, OPTIMUM[None], hessian, StarRandom(3, ["star"]), min_ess=600.0)
    assert chains.converged.all()
    check_moments(chains.z[0])


@pytest.mark.parametrize("linear_share", [0.5, 1.0])
def test_emcee_samples_the_posterior_with_each_of_its_moves(monkeypatch, linear_share):
    monkeypatch.setattr(mcmc, "LINEAR_SHARE", linear_share)
    ensemble = sample_emcee(Skewed(), starting_draws(1.0), seed=1, min_ess=800.0)
    assert ensemble.converged
    assert ensemble.ess >= 800.0
    check_moments(ensemble.z)


def test_linear_proposals_mix_fast():
    tau = sample_emcee(Skewed(), starting_draws(1.0), seed=1).autocorrelation_time.max()
    assert 1.0 <= tau < 12.0


def test_a_short_chain_does_not_claim_to_have_converged():
    assert not sample_emcee(Skewed(), starting_draws(0.01), seed=1, max_steps=30).converged


def test_emcee_and_hmc_agree_on_a_star():
    problem, truth = make_problem(1, snr=100.0, seed=5)
    best = levenberg_marquardt(problem, problem.coordinates.coordinates(truth))
    sample = importance_sample(problem, best, StarRandom(3, ["star"]))
    ensemble = sample_emcee(problem, sample.resample(StarRandom(4, ["star"]), 1000)[0], seed=1, min_ess=200.0)
    chains = sample_hmc(problem, best.z, best.expansion.hessian, StarRandom(5, ["star"]), min_ess=200.0)
    assert ensemble.converged
    assert chains.converged.all()
    one, two = ensemble.z, chains.z[0]
    assert ((one.mean(0) - two.mean(0)).abs() / two.std(0)).max() < 0.3
    assert torch.allclose(one.std(0), two.std(0), rtol=0.25)


def test_measures_of_convergence():
    g = torch.Generator().manual_seed(0)
    independent = torch.randn(1, 4, 1000, 2, generator=g, dtype=torch.float64)
    assert torch.allclose(effective_sample_size(independent), torch.tensor([[4000.0, 4000.0]]).double(), rtol=0.15)
    assert (split_rhat(independent) < 1.01).all()
    rho, noise = 0.9, torch.randn(4, 4000, generator=g, dtype=torch.float64)
    chain = torch.zeros_like(noise)
    for i in range(1, 4000):
        chain[:, i] = rho * chain[:, i - 1] + (1 - rho**2) ** 0.5 * noise[:, i]
    tau = autocorrelation_time(chain[None, ..., None])[0, 0].item()
    assert tau == pytest.approx((1 + rho) / (1 - rho), rel=0.25)
    apart = independent.clone()
    apart[:, 0] += 3.0
    assert (split_rhat(apart) > 1.3).all()
