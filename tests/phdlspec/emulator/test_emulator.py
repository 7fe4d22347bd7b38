"""Fluxes, exact derivatives, bounds, observed pixels."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from phdlspec.default_emulator import load_emulator
from phdlspec.emulator.checkpoint import load_checkpoint
from phdlspec.emulator.emulator import Emulator
from phdlspec.errors import UserError
from tests.phdlspec import tiny


def labels(emulator, n=3, seed=0):
    random = np.random.default_rng(seed)
    low, high = emulator.labels.lower, emulator.labels.upper
    return torch.as_tensor(low + (0.2 + 0.6 * random.random((n, len(low)))) * (high - low), dtype=torch.float32)


def test_it_learned_the_toy_stars(toy_emulator, toy_grid):
    rows = toy_grid.rows("test")
    theta = np.column_stack([toy_grid.labels[rows], np.zeros(len(rows))])
    flux = toy_emulator.native_flux(torch.as_tensor(theta, dtype=torch.float32)).numpy()
    truth = toy_grid.flux(rows)
    spread = truth.std(axis=0).mean()
    assert np.sqrt(((flux - truth) ** 2).mean()) < 0.35 * spread


def test_a_label_without_lines_has_no_derivative(toy_emulator):
    _, jacobian = toy_emulator.flux_and_jacobian(labels(toy_emulator))
    size = jacobian.pow(2).mean((0, 1)).sqrt() * torch.as_tensor(toy_emulator.labels.upper - toy_emulator.labels.lower)
    names = toy_emulator.labels.names
    active = max(float(size[names.index(n)]) for n in tiny.ACTIVE)
    assert float(size[names.index("EU_FE")]) < 0.05 * active


def test_jacobian_matches_finite_differences(toy_emulator):
    theta = labels(toy_emulator, 2)
    theta[:, -1] = 20.0
    _, jacobian = toy_emulator.flux_and_jacobian(theta)
    for column, name in enumerate(toy_emulator.labels.names):
        step = torch.zeros_like(theta)
        step[:, column] = 2e-3 * float(toy_emulator.labels.upper[column] - toy_emulator.labels.lower[column])
        difference = (toy_emulator.flux(theta + step) - toy_emulator.flux(theta - step)) / (2 * step[:, column, None])
        size = difference.norm().clamp(min=1e-4 / float(step[0, column]))
        assert (jacobian[..., column] - difference).norm() / size < 0.05, name


def test_velocity_and_resolution_derivatives(toy_emulator):
    theta = labels(toy_emulator, 2)
    wave = torch.as_tensor(toy_emulator.wave[300:3500].copy())
    rv = torch.tensor([-30.0, 40.0])
    _, jacobian = toy_emulator.observe_and_jacobian(theta, wave, 1500.0, rv)
    assert jacobian.shape[-1] == len(toy_emulator.labels) + 2
    ends = [toy_emulator.observe(theta, wave, 1500.0, rv + d) for d in (2.0, -2.0)]
    assert torch.allclose((ends[0] - ends[1]) / 4.0, jacobian[..., -2], atol=2e-5)
    ends = [toy_emulator.observe(theta, wave, 1500.0 * float(np.exp(d)), rv) for d in (0.02, -0.02)]
    assert torch.allclose((ends[0] - ends[1]) / 0.04, jacobian[..., -1], atol=2e-3)


def test_gradients_flow_to_labels_and_velocity(toy_emulator):
    theta = labels(toy_emulator, 1).requires_grad_(True)
    rv = torch.tensor([10.0], requires_grad=True)
    wave = torch.as_tensor(toy_emulator.wave[300:3500].copy())
    toy_emulator.observe(theta, wave, 1800.0, rv).sum().backward()
    assert theta.grad is not None
    assert float(theta.grad.abs().sum()) > 0
    assert float(rv.grad.abs()) > 0


def test_labels_outside_the_bounds(toy_emulator):
    theta = labels(toy_emulator, 2)
    theta[1, 0] = 9000.0
    with pytest.raises(UserError, match="TEFF = 9000 is outside"):
        toy_emulator.flux(theta)
    flagged = toy_emulator.flux(theta, outside="flag")
    assert torch.isfinite(flagged[0]).all()
    assert torch.isnan(flagged[1]).all()
    assert torch.isfinite(toy_emulator.flux(theta, outside="allow")).all()
    assert toy_emulator.trusted(theta).tolist()[1] is False


def test_one_star_by_name(toy_emulator):
    wave, flux = toy_emulator.spectrum({"TEFF": 5500.0, "MG_FE": 0.2}, resolving_power=1500.0)
    assert wave.shape == flux.shape == (3909,)
    with pytest.raises(UserError, match="did you mean"):
        toy_emulator.spectrum({"TEF": 5500.0})


def test_a_missing_or_damaged_checkpoint_is_refused(toy_checkpoint, tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        load_emulator(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(toy_checkpoint.read_bytes()[:5000])
    with pytest.raises(UserError, match="damaged"):
        load_emulator(tmp_path / "cut.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(UserError, match="not a checkpoint"):
        load_emulator(tmp_path / "text.safetensors")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU"):
            load_emulator(toy_checkpoint, "cuda")
    with pytest.raises(UserError, match="unknown device"):
        load_emulator(toy_checkpoint, "nonsense")


def test_model_error_is_of_the_size_of_the_residuals(toy_emulator, toy_grid):
    rows = toy_grid.rows("validation")
    theta = torch.as_tensor(np.column_stack([toy_grid.labels[rows], np.zeros(len(rows))]), dtype=torch.float32)
    residual = toy_emulator.native_flux(theta).numpy() - toy_grid.flux(rows)
    floor = toy_emulator.error_floor(torch.as_tensor(toy_emulator.wave[100:3800].copy()), theta)
    assert floor.sigma.shape == (len(rows), 3700)
    total = float((floor.sigma**2 + (floor.factor**2).sum(1)).mean().sqrt())
    assert 0.3 < total / np.sqrt((residual**2).mean()) < 1.5


def test_a_checkpoint_of_other_labels_is_refused_with_the_first_that_differs(toy_emulator, toy_checkpoint):
    checkpoint = load_checkpoint(toy_checkpoint)
    rows = copy.deepcopy(checkpoint.metadata["labels"])
    rows[0]["lower"] = 4000.0
    with pytest.raises(UserError, match="TEFF is from 4000 to 8000, this version's is from 3600 to 8000"):
        _made(checkpoint, rows)
    with pytest.raises(UserError, match="TEFF is missing"):
        _made(checkpoint, rows[1:])


def _made(checkpoint, rows):
    other = replace(checkpoint, metadata={**checkpoint.metadata, "labels": rows})
    return Emulator(other, torch.device("cpu"), 1800.0, np.arange(3800.0, 8900.0))
