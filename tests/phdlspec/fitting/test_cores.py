"""Cores that models lack: templates hold one ångström, and a planted core is fitted as such, not as another star."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from phdlspec.cores import CorePriors
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.settings import FitSettings
from tests.phdlspec.fitting.test_driver import mock

WAVE = (4862.7, 6564.6)
PRIORS = CorePriors(
    torch.tensor(WAVE), torch.tensor([[0.3, 0.5, 0.0], [0.5, 1.0, -0.1]]), torch.tensor([0.15, 0.15])
)  # fmt: skip
PLANTED = (0.45, 0.6)  # Å
FAST = FitSettings(mode="fast", seed=2)


def test_templates_have_one_angstrom_of_equivalent_width():
    wave = torch.linspace(4700.0, 6800.0, 40_000, dtype=torch.float64)[None]
    templates = PRIORS.templates(wave, torch.full((wave.shape[1],), 1800.0))
    assert torch.trapezoid(-templates[0], wave).numpy() == pytest.approx(1.0, abs=1e-3)


def test_expectation_is_a_plane_in_the_labels():
    mean = PRIORS.mean(torch.tensor([5040.0, 4200.0]), torch.tensor([4.0, 2.0]))
    assert mean.numpy() == pytest.approx(np.array([[0.3, 0.5], [0.4, 0.5 + 0.2 + 0.2]]), abs=1e-5)


def planted(emulator):
    star = mock(emulator, name="deep cores")
    rest = star.wave / (1.0 + 55.0 / 299792.458)
    power = torch.as_tensor(np.broadcast_to(star.resolving_power, star.wave.shape).copy())
    templates = PRIORS.templates(torch.as_tensor(rest)[None], power)[0].numpy()
    level = np.median(star.flux)
    return replace(star, flux=star.flux + level * (np.array(PLANTED) @ templates))


def test_a_planted_core_does_not_move_the_star(toy_emulator, monkeypatch):
    spectrum, clean = planted(toy_emulator), mock(toy_emulator, name="deep cores")
    (before,) = fit_batch([clean], toy_emulator, FAST)
    monkeypatch.setattr(CorePriors, "shipped", classmethod(lambda cls, made_with, device: PRIORS))
    (after,) = fit_batch([spectrum], toy_emulator, FAST, keep=True)
    for name in ("TEFF", "LOGG", "FE_H"):
        i = after.names.index(name)
        assert abs(after.value[i] - before.value[i]) < 2.0 * after.err[i], name
    assert after.rchi2 == pytest.approx(1.0, abs=0.35)
    # The model that is shown has the cores that were found, and they are no outliers.
    i = int(np.argmin(np.abs(after.spectrum.wave - 6564.6 * (1.0 + 55.0 / 299792.458))))
    off = (after.spectrum.flux - after.spectrum.model)[i - 3 : i + 4] / after.spectrum.sigma[i - 3 : i + 4]
    assert np.abs(off).mean() < 2.0
    assert not after.spectrum.outlier[i - 3 : i + 4].any()


def test_other_physics_knows_no_cores():
    assert CorePriors.shipped({"synthesis_version": -1}) is None
