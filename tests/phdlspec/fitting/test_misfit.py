"""Noise is added where the model misfits, and only there."""

from __future__ import annotations

from dataclasses import replace

import torch

from phdlspec.fitting.misfit import enlarged, misfit
from phdlspec.likelihood import ErrorFloor, Likelihood
from tests.phdlspec.fitting.test_problem import make_problem


def test_good_fits_get_nothing_and_a_bad_window_gets_what_it_lacks():
    problem, truth = make_problem(3, snr=100.0, seed=5)
    likelihood = problem.likelihood
    z = problem.coordinates.coordinates(truth)
    flux, wave = problem.flux(z), likelihood.data.wave.double()
    clean = misfit(likelihood, flux, wave, problem.n_dim)
    assert (clean > 0).double().mean() < 0.02
    # A tenth of the range of the second star misses lines of 5 per cent rms.
    bad = (wave > wave[0]) & (wave < wave[0] * 1.1)
    noise = 0.05 * torch.randn(int(bad.sum()), generator=torch.Generator().manual_seed(0))
    data = likelihood.data
    spoiled = data.flux.clone()
    spoiled[1, bad] += noise * likelihood.continuum(flux[:, None])[1, 0, bad]
    again = Likelihood.of(replace(data, flux=spoiled))
    extra = misfit(again, flux, wave, problem.n_dim)
    inside = (wave > wave[0] * 1.005) & (wave < wave[0] * 1.07)
    assert 0.035 < float(extra[1, inside].median()) < 0.065
    assert torch.equal(extra[0], clean[0])


def test_pixels_that_err_together_count_as_fewer():
    """Errors smoothed over five pixels: the variance is larger by the five that each of them stands for."""
    problem, truth = make_problem(1, snr=100.0, seed=5)
    likelihood = problem.likelihood
    flux, wave = problem.flux(problem.coordinates.coordinates(truth)), likelihood.data.wave.double()
    generator = torch.Generator().manual_seed(0)
    alone = 0.05 * torch.randn(1, len(wave) + 4, generator=generator)
    together = alone.unfold(1, 5, 1).sum(-1) / 5**0.5
    sizes = []
    for error in (alone[:, : len(wave)], together):
        data = likelihood.data
        spoiled = data.flux + error.to(flux) * likelihood.continuum(flux[:, None])[:, 0]
        extra = misfit(Likelihood.of(replace(data, flux=spoiled)), flux, wave, problem.n_dim)
        sizes.append(float((extra**2).mean()))
    assert 0.7 < sizes[0] / 0.05**2 < 1.4
    assert 2.8 < sizes[1] / sizes[0] < 6.5  # the fitted continuum takes a part


def test_added_noise_adds_in_quadrature():
    floor = ErrorFloor(torch.tensor([[3.0, 1.0]]), torch.zeros(1, 0, 2))
    assert torch.allclose(enlarged(floor, torch.tensor([[4.0, 0.0]])).sigma, torch.tensor([[5.0, 1.0]]))
