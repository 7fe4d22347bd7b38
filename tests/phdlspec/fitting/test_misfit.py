"""What the model misfits is found, as contrast of lines or as noise, and only where it is."""

from __future__ import annotations

from dataclasses import replace

import torch

from phdlspec.fitting.misfit import contrast, misfit, with_misfit
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
    spoiled[1, bad] += noise * likelihood.continuum(flux)[1, bad]
    again = Likelihood.of(replace(data, flux=spoiled), problem.likelihood.blocks)
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
        spoiled = data.flux + error.to(flux) * likelihood.continuum(flux)
        extra = misfit(Likelihood.of(replace(data, flux=spoiled), problem.likelihood.blocks), flux, wave, problem.n_dim)
        sizes.append(float((extra**2).mean()))
    assert 0.7 < sizes[0] / 0.05**2 < 1.4
    assert 2.8 < sizes[1] / sizes[0] < 6.5  # the fitted continuum takes a part


def _too_shallow(problem, flux, shares):
    """The likelihood of stars whose lines are deeper than the models' by these shares, one for each third of pixels."""
    data = problem.likelihood.data
    continuum = problem.likelihood.continuum(flux)
    third = torch.arange(flux.shape[1]) * len(shares) // flux.shape[1]
    share = torch.tensor(shares).to(flux)[third]
    spoiled = replace(data, flux=data.flux - share * (1.0 - flux) * continuum)
    return Likelihood.of(spoiled, problem.likelihood.blocks)


def test_lines_that_are_too_strong_by_stretches_are_found_as_such(monkeypatch):
    monkeypatch.setattr("phdlspec.fitting.misfit.CONTRAST_WINDOW", 0.02)
    problem, truth = make_problem(2, snr=300.0, seed=5)
    flux, wave = problem.flux(problem.coordinates.coordinates(truth)), problem.likelihood.data.wave.double()
    _, none, _ = contrast(problem.likelihood, flux, wave)
    assert (none < 0.02).all()
    shares = [0.3, -0.2, 0.25]
    share, size, templates = contrast(_too_shallow(problem, flux, shares), flux, wave)
    within = share[:, [120, 220, 400]]  # pixels of windows that lie in one third
    assert torch.allclose(within, -torch.tensor(shares).to(flux).expand(2, 3), atol=0.06)
    assert ((size > 0.15) & (size < 0.4)).all()
    assert torch.allclose(templates.sum(1), 1.0 - flux)


def test_what_misfits_widens_the_floor_and_nothing_else_does():
    problem, truth = make_problem(1, snr=300.0, seed=5)
    flux, wave = problem.flux(problem.coordinates.coordinates(truth)), problem.likelihood.data.wave.double()
    floor = ErrorFloor(torch.zeros_like(flux), flux.new_zeros(1, 0, flux.shape[1]))
    clean = with_misfit(floor, problem.likelihood, flux, wave, problem.n_dim)
    assert (clean.sigma > 0).double().mean() < 0.1
    wide = with_misfit(floor, _too_shallow(problem, flux, [0.3, -0.2, 0.25]), flux, wave, problem.n_dim)
    assert (wide.sigma**2 + (wide.factor**2).sum(1)).mean() > 100.0 * (clean.sigma**2).mean().clamp(min=1e-10)
