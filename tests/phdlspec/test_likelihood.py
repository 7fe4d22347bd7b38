"""The marginal likelihood against the dense Gaussian it stands for."""

from __future__ import annotations

import math

import pytest
import torch

from phdlspec.likelihood import CONTINUUM_PRIOR_WIDTH, ErrorFloor, Likelihood, Observations
from phdlspec.lsf import NativeGrid
from phdlspec.lsf.blocks import Blocks

S, P, K, M, D = 2, 60, 3, 2, 4


@pytest.fixture
def case():
    g = torch.Generator().manual_seed(3)
    x = torch.linspace(-1, 1, P)
    basis = torch.stack([torch.ones(P), x, 1.5 * x**2 - 0.5], dim=-1)[None]
    ivar = torch.rand(S, P, generator=g) * 2000 + 500
    ivar[0, 5:9] = 0.0
    data = Observations(
        wave=torch.linspace(5000, 5100, P),
        flux=1 + 0.1 * torch.randn(S, P, generator=g),
        ivar=ivar,
        resolving_power=torch.full((P,), 1800.0),
        basis=basis,
        scale=torch.ones(S),
    )
    floor = ErrorFloor(0.01 + 0.01 * torch.rand(1, P, generator=g), 0.02 * torch.randn(1, M, P, generator=g))
    continuum = 1 + 0.1 * torch.rand(S, P, generator=g)
    flux = 1 - 0.3 * torch.rand(S, 3, P, generator=g)
    return data, floor, continuum, flux


def likelihood_of(data, floor=None, continuum=None):
    """In patches of a few pixels each."""
    wave = data.wave.double()
    grid = NativeGrid(float(wave[0]), float(torch.log(wave[-1] / wave[0])) / 200, 201, 3500.0)
    blocks = Blocks.of(grid, 32, wave, torch.zeros(len(data), dtype=torch.float64), data.ivar > 0)
    return Likelihood.of(data, blocks, floor, continuum)


def in_blocks(likelihood, flux):
    """Models (S, m, P) as (Q, S, m, N)."""
    return torch.stack([likelihood.blocks.gather(flux[:, m]) for m in range(flux.shape[1])], dim=2)


def values(likelihood, flux):
    """lnL (S, m) of models (S, m, P), about the continuum of the first."""
    blocks = in_blocks(likelihood, flux)
    return likelihood.about(blocks[:, :, 0]).log_likelihood(blocks)


def dense(data, floor, continuum, flux, star):
    """lnL of one model (P,) as a plain multivariate normal over the used pixels, float64."""
    good = data.ivar[star] > 0
    y = data.flux[star, good].double()
    design = (flux[:, None] * data.basis[0]).double()[good]
    q = continuum[star].double()[good]
    noise = torch.diag(1 / data.ivar[star, good].double() + (floor.sigma[0].double()[good] * q) ** 2)
    factor = floor.factor[0].double()[:, good] * q
    covariance = noise + factor.mT @ factor + CONTINUUM_PRIOR_WIDTH**2 * design @ design.mT
    normal = torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance)
    return normal.log_prob(y)


def test_equals_the_dense_gaussian(case):
    data, floor, continuum, flux = case
    value = values(likelihood_of(data, floor, continuum), flux)
    for s in range(S):
        for m in range(3):
            assert value[s, m].item() == pytest.approx(dense(data, floor, continuum, flux[s, m], s).item(), abs=2e-3)


def test_without_floor_and_continuum_freedom_chi2_is_not_halved(case):
    data, _, _, flux = case
    likelihood, flux = likelihood_of(data), flux[:, :1]
    continuum = likelihood.continuum(flux[:, 0])
    expected = ((data.flux - flux[:, 0] * continuum) ** 2 * data.ivar).sum(-1)
    assert torch.allclose(likelihood.chi2(flux[:, 0]), expected.double(), rtol=1e-4)
    # Scaling one star's noise by two changes lnL by -n ln 2 and the quadratic part by a quarter.
    doubled = likelihood_of(Observations(**{**data.__dict__, "ivar": data.ivar / 4}))
    n = likelihood.n_pixels
    difference = (values(doubled, flux) - values(likelihood, flux))[:, 0]
    expected_change = -n * math.log(2.0) + 0.375 * likelihood.chi2(flux[:, 0]) + K * math.log(2.0)
    assert torch.allclose(difference, expected_change.double(), atol=0.05)


def test_flux_gradient_is_exact(case):
    data, floor, continuum, flux = case
    likelihood = likelihood_of(data, floor, continuum)
    blocks = in_blocks(likelihood, flux).requires_grad_(True)
    value = likelihood.about(blocks[:, :, 0].detach()).log_likelihood(blocks)
    (in_slots,) = torch.autograd.grad(value.sum(), blocks)
    gradient = likelihood.blocks.scatter(in_slots[:, :, 1])
    for p in (0, 6, 20, 59):
        exact = flux[0, 1].double().requires_grad_(True)
        (reference,) = torch.autograd.grad(dense_double(data, floor, continuum, exact, 0), exact)
        assert gradient[0, p].item() == pytest.approx(reference[p].item(), rel=2e-3, abs=0.2)


def dense_double(data, floor, continuum, flux, star):
    """As `dense`, keeping the graph of a float64 flux."""
    good = data.ivar[star] > 0
    y = data.flux[star, good].double()
    design = (flux[:, None] * data.basis[0].double())[good]
    q = continuum[star].double()[good]
    noise = torch.diag(1 / data.ivar[star, good].double() + (floor.sigma[0].double()[good] * q) ** 2)
    factor = floor.factor[0].double()[:, good] * q
    covariance = noise + factor.mT @ factor + CONTINUUM_PRIOR_WIDTH**2 * design @ design.mT
    return torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y)


def test_fisher_matrix_is_the_expected_curvature(case):
    data, floor, continuum, flux = case
    g = torch.Generator().manual_seed(5)
    jacobian = torch.randn(S, P, D, generator=g)
    likelihood = likelihood_of(data, floor, continuum)
    rows = likelihood.blocks.gather(jacobian).mT
    local = likelihood.linearise(in_blocks(likelihood, flux)[:, :, 0], rows)
    for s in range(S):
        exact = flux[s, 0].double().requires_grad_(True)
        value = dense_double(data, floor, continuum, exact, s)
        (reference,) = torch.autograd.grad(value, exact)
        assert local.log_likelihood[s].item() == pytest.approx(value.item(), abs=2e-3)
        assert torch.allclose(local.gradient[s], jacobian[s].double().mT @ reference, rtol=1e-3, atol=0.5)
    for s in range(S):
        good = data.ivar[s] > 0
        q = continuum[s].double()[good]
        noise = torch.diag(1 / data.ivar[s, good].double() + (floor.sigma[0].double()[good] * q) ** 2)
        factor = floor.factor[0].double()[:, good] * q
        design = (flux[s, 0][:, None] * data.basis[0]).double()[good]
        total = noise + factor.mT @ factor + CONTINUUM_PRIOR_WIDTH**2 * design @ design.mT
        response = (likelihood.continuum(flux[:, 0])[s][:, None] * jacobian[s]).double()[good]
        reference = response.mT @ torch.linalg.solve(total, response)
        assert torch.allclose(local.fisher[s], reference, rtol=1e-4, atol=1e-2)


def test_padded_basis_columns_change_nothing(case):
    data, floor, continuum, flux = case
    padded = Observations(**{**data.__dict__, "basis": torch.cat([data.basis, torch.zeros(1, P, 2)], dim=-1)})
    a, b = (values(likelihood_of(d, floor, continuum), flux) for d in (data, padded))
    assert torch.allclose(a, b, atol=1e-3)


def test_outliers_finds_spikes_and_spares_a_wrong_model(case):
    g = torch.Generator().manual_seed(9)
    wave = torch.linspace(5000, 5400, 1000)
    data = Observations(
        wave=wave,
        flux=1 + 0.01 * torch.randn(1, 1000, generator=g),
        ivar=torch.full((1, 1000), 1e4),
        resolving_power=torch.full((1000,), 1800.0),
        basis=torch.ones(1, 1000, 1),
        scale=torch.ones(1),
    )
    data.flux[0, 400] += 0.5
    data.flux[0, 401] += 0.04
    bad = likelihood_of(data).outliers(torch.ones(1, 1000), data)
    assert bad.nonzero()[:, 1].tolist() == [400, 401]
    wrong = 1 + 0.3 * torch.sin(wave / 3)[None]
    assert likelihood_of(data).outliers(wrong, data).float().mean() < 0.05


def test_select_repeats_stars(case):
    data, floor, continuum, flux = case
    likelihood = likelihood_of(data, floor, continuum)
    index = torch.tensor([1, 0, 1])
    assert torch.allclose(values(likelihood.select(index), flux[index]), values(likelihood, flux)[index], atol=1e-4)


def test_a_nuisance_of_gaussian_amplitude_is_a_column_of_the_factor(case):
    """Marginalised in closed form: as a model that has the amplitude as a parameter with that prior."""
    data, _, continuum, flux = case
    shape, width = torch.exp(-0.5 * ((torch.arange(P) - 30.0) / 2.0) ** 2), 0.05
    floor = ErrorFloor(torch.zeros(1, P), width * shape[None, None])
    marginal = values(likelihood_of(data, floor, continuum), flux[:, :1])[0, 0]
    amplitude = torch.linspace(-6.0, 6.0, 241) * width
    fixed = likelihood_of(data)
    moved = flux[:, :1] + amplitude[None, :, None] * shape * continuum[:, None] / fixed.continuum(flux[:, 0])[:, None]
    log_prior = torch.distributions.Normal(0.0, width).log_prob(amplitude.double())
    integral = torch.logsumexp(values(fixed, moved)[0] + log_prior, 0) + torch.log(amplitude[1] - amplitude[0])
    assert marginal.item() == pytest.approx(integral.item(), abs=0.1)
