"""CMA-ES, HMC and emcee on one problem: the same optimum, the same posterior; and the measures of convergence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from phdlspec.fitting.cmaes import search
from phdlspec.fitting.convergence import autocorrelation_time, effective_sample_size, split_rhat
from phdlspec.fitting.hmc import sample_hmc
from phdlspec.fitting.mcmc import sample_emcee
from phdlspec.fitting.random import StarRandom


class Skewed:
    """A problem-like object with a known posterior: Gaussians of many widths, one skewed coordinate."""

    n_dim = 5
    width = torch.tensor([1.0, 0.1, 2.0, 0.5, 1.0], dtype=torch.float64)

    def __len__(self):
        return 1

    def select(self, index):
        return self

    def log_posterior(self, z):
        first = z[..., 0]
        return -torch.exp(first) + 2.0 * first - 0.5 * ((z[..., 1:] / self.width[1:]) ** 2).sum(-1)

    def log_posterior_and_gradient(self, z):
        gradient = -z / self.width**2
        gradient[..., 0] = 2.0 - torch.exp(z[..., 0])
        return self.log_posterior(z), gradient

    def expand(self, z):
        hessian = torch.diag(self.width**-2)
        hessian[0, 0] = 2.0

        class Expansion:
            pass

        found = Expansion()
        found.hessian = hessian[None]
        found.log_posterior = self.log_posterior(z)
        return found


OPTIMUM = torch.tensor([np.log(2.0), 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
MEAN, SIGMA = 0.42278, 0.64493**0.5  # of the skewed coordinate: the logarithm of a Gamma(2) variable


def test_cmaes_finds_the_optimum():
    found = search(Skewed(), OPTIMUM + torch.tensor([1.0, 0.5, -3.0, 1.0, 2.0], dtype=torch.float64), seed=1)
    assert ((found.z - OPTIMUM).abs() / Skewed.width).max() < 0.3
    assert found.stop_reason
    assert found.evaluations > 100


def test_hmc_samples_the_posterior():
    problem = Skewed()
    hessian = problem.expand(OPTIMUM[None]).hessian
    chains = sample_hmc(problem, OPTIMUM[None], hessian, StarRandom(3, ["star"]), min_ess=1500.0)
    assert chains.converged.all()
    z = chains.z[0]
    assert z[:, 0].mean().item() == pytest.approx(MEAN, abs=0.08)
    assert z[:, 0].std().item() == pytest.approx(SIGMA, rel=0.08)
    assert torch.allclose(z[:, 1:].std(0), Skewed.width[1:], rtol=0.1)
    again = sample_hmc(problem, OPTIMUM[None], hessian, StarRandom(3, ["star"]), min_ess=1500.0)
    assert torch.equal(again.z, chains.z)


def test_emcee_samples_the_posterior(tmp_path):
    random = torch.Generator().manual_seed(1)
    draws = OPTIMUM + torch.randn(500, 5, generator=random, dtype=torch.float64) * Skewed.width
    chain = tmp_path / "chain.h5"
    ensemble = sample_emcee(Skewed(), draws, seed=1, min_ess=700.0, backend=chain)
    assert ensemble.converged
    assert chain.exists()
    assert ensemble.z[:, 0].mean().item() == pytest.approx(MEAN, abs=0.1)
    assert torch.allclose(ensemble.z[:, 1:].std(0), Skewed.width[1:], rtol=0.15)
    assert 1.0 <= ensemble.autocorrelation_time.max() < 100.0


def test_a_short_chain_does_not_claim_to_have_converged():
    draws = OPTIMUM + 0.01 * torch.randn(200, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert not sample_emcee(Skewed(), draws, seed=1, max_steps=60).converged


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
