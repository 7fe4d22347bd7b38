"""Pixels that no star can explain are found before the fit, and do not reach its labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from phdlspec.fitting.cleaning import impossible_pixels, without
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.settings import FitSettings
from phdlspec.flags import StarFlag
from phdlspec.likelihood import Observations
from tests.phdlspec.fitting.test_driver import mock


def flat(pixels: int = 400, noise: float = 0.01) -> Observations:
    """Noise about one, with a deep line that the line spread function resolves."""
    generator = torch.Generator().manual_seed(2)
    place = torch.arange(pixels)
    line = 1.0 - 0.8 * torch.exp(-0.5 * ((place - 200.0) / 1.5) ** 2)
    flux = (line + noise * torch.randn(pixels, generator=generator))[None]
    return Observations(
        wave=5000.0 + place.double(), flux=flux, ivar=torch.full((1, pixels), noise**-2),
        resolving_power=torch.full((pixels,), 1800.0), basis=torch.ones(1, pixels, 1), scale=torch.ones(1),
    )  # fmt: skip


def test_hot_dead_and_negative_pixels_are_found_and_lines_are_not():
    data = flat()
    assert not impossible_pixels(data).any()
    data.flux[0, 50] += 3.0
    data.flux[0, 80:85] *= 10.0
    data.flux[0, 120] = 0.0
    data.flux[0, 150] = -0.5
    data.flux[0, 300] = 50.0
    data.ivar[0, 300] = 0.0  # masked already: not found again
    assert torch.nonzero(impossible_pixels(data)[0])[:, 0].tolist() == [50, *range(80, 85), 120, 150]
    assert (without(data, impossible_pixels(data)).ivar[0, 50:121] > 0).sum() == 71 - 7


def test_noise_that_is_as_large_as_the_star_is_no_fault():
    data = flat(noise=1.0)
    assert not impossible_pixels(data).any()


def test_spikes_do_not_reach_the_labels(toy_emulator):
    star = mock(toy_emulator, name="a")
    flux = star.flux.copy()
    for place, height in ((900, 3.0), (1500, 10.0), (2600, 30.0)):
        flux[place : place + 2] *= height
    clean, spoiled = fit_batch([star, replace(star, flux=flux)], toy_emulator, FitSettings(mode="fast"))
    for name in ("TEFF", "FE_H", "RV"):
        i = clean.names.index(name)
        assert abs(clean.value[i] - spoiled.value[i]) < 0.6 * clean.err[i], name
    assert 6 <= spoiled.diagnostics["outliers"] - clean.diagnostics["outliers"] <= 9


def test_a_wrong_resolving_power_and_fast_rotation_are_flagged(toy_emulator):
    star = mock(toy_emulator, name="a")
    wrong = replace(star, resolving_power=0.6 * np.asarray(star.resolving_power_by_pixel))
    right, flagged = fit_batch([star, wrong], toy_emulator, FitSettings(mode="fast"))
    assert not right.flag & StarFlag.NUISANCE_AT_BOUND
    assert flagged.flag & StarFlag.NUISANCE_AT_BOUND
