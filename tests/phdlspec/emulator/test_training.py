"""Training: the prior, resume, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from phdlspec.cli import main
from phdlspec.emulator import training_state
from phdlspec.emulator.basis import fit_basis
from phdlspec.emulator.checkpoint import load_checkpoint
from phdlspec.emulator.training import Trainer
from phdlspec.emulator.training_state import KIND, AveragedWeights, TrainingState
from phdlspec.errors import UserError
from tests.phdlspec import tiny

SHORT = replace(tiny.SETTINGS, steps=60, evaluations=3)


def test_the_basis_is_orthonormal_and_holds_fluxes_and_derivatives(toy_grid):
    rows = toy_grid.rows("train")
    flux, jacobian = toy_grid.flux(rows), toy_grid.jacobian(rows)
    size = np.sqrt((jacobian.astype(float) ** 2).mean((0, 2)))
    size = np.maximum(size, 1e-6 * size.max())
    basis = fit_basis(zip(flux, jacobian), size, flux.mean(0, dtype=float), 40, 60)
    gram = basis.vectors @ basis.vectors.mT
    assert torch.allclose(gram, torch.eye(60).expand_as(gram), atol=1e-5)
    spectra = torch.as_tensor(flux[:3])
    assert (basis.decode(basis.encode(spectra)) - spectra).pow(2).mean().sqrt() < 2e-3
    change = torch.as_tensor(jacobian[0, :4])
    back = basis.decode_change(basis.encode_change(change))
    assert ((back - change).norm(dim=1) / change.norm(dim=1).clamp(min=1e-9)).max() < 0.05


class Stopped(Exception):
    """Instead of a kill."""


def train_until_saved(grid, out, monkeypatch, settings=SHORT, times=1):
    """Train and stop when the state was saved so many times."""
    save, saved = TrainingState.save, []

    def stop_after_saving(self, path, identity, step):
        save(self, path, identity, step)
        saved.append(step)
        if len(saved) == times:
            raise Stopped

    trainer = Trainer(grid, settings, "cpu")
    trainer.save_every = 0.0
    with monkeypatch.context() as patched:
        patched.setattr(TrainingState, "save", stop_after_saving)
        with pytest.raises(Stopped):
            trainer.train(out, progress=False)
    return saved[-1]


def test_a_stopped_run_goes_on_to_the_very_same_weights(toy_grid, tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(training_state, "CLIPPED_AT", 0.7)  # so that most gradients are clipped
    settings = replace(SHORT, steps=36, evaluations=36)  # the state is saved after every step
    whole, resumed = tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"
    Trainer(toy_grid, settings, "cpu").train(whole, progress=False)
    # Before the first clipped step, at it and after it, and after the last one.
    stops = [train_until_saved(toy_grid, resumed, monkeypatch, settings, times) for times in (3, 18, 5, 10)]
    assert stops == [3, 21, 26, 36]
    assert not resumed.exists()
    Trainer(toy_grid, settings, "cpu").train(resumed, progress=False)
    assert resumed.read_bytes() == whole.read_bytes()


def test_stopped_when_all_but_the_file_was_done_no_step_is_added(toy_grid, tmp_path, monkeypatch):
    settings = replace(SHORT, steps=36, evaluations=36, patience=2, learning_rate=1e-9)  # nothing gets better
    whole, resumed = tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"
    Trainer(toy_grid, settings, "cpu").train(whole, progress=False)
    steps = load_checkpoint(whole).metadata["training"]["steps_done"]
    assert steps < 36
    assert train_until_saved(toy_grid, resumed, monkeypatch, settings, steps) == steps
    Trainer(toy_grid, settings, "cpu").train(resumed, progress=False)
    assert resumed.read_bytes() == whole.read_bytes()


def test_a_checkpoint_is_trained_on(toy_grid, toy_checkpoint, tmp_path):
    start = load_checkpoint(toy_checkpoint)
    trainer = Trainer(toy_grid, SHORT, "cpu", start=start)
    before = trainer.evaluate().summary()["flux_rms_median"]
    assert before == pytest.approx(start.metadata["validation"]["flux_rms_median"], rel=1e-3)
    out = tmp_path / "on.safetensors"
    trainer.train(out, progress=False)
    assert load_checkpoint(out).metadata["training"]["started_from"] == start.sha256
    with pytest.raises(UserError, match="other sizes of the network"):
        Trainer(toy_grid, replace(SHORT, hidden=2 * SHORT.hidden), "cpu", start=start)


def test_a_network_that_knows_no_carbon_monoxide_is_trained_on(toy_grid, tmp_path):
    out = tmp_path / "without.safetensors"
    Trainer(toy_grid, replace(SHORT, steps=20, co_layers=0), "cpu").train(out, progress=False)
    start = load_checkpoint(out)
    before = Trainer(toy_grid, SHORT, "cpu", start=start).evaluate().summary()["flux_rms_median"]
    assert before == pytest.approx(start.metadata["validation"]["flux_rms_median"], rel=1e-3)


def test_another_setting_or_a_damaged_state_does_not_continue_a_run(toy_grid, tmp_path, monkeypatch):
    out, state = tmp_path / "a.safetensors", tmp_path / "a.safetensors.training"
    train_until_saved(toy_grid, out, monkeypatch)
    before = state.read_bytes()
    # Sizes of the network and of the data are the same: nothing but the identity tells.
    other = replace(SHORT, learning_rate=2 * SHORT.learning_rate)
    with pytest.raises(UserError, match="a run with other settings"):
        Trainer(toy_grid, other, "cpu").train(out, progress=False)
    with pytest.raises(UserError, match="a run with other settings"):
        Trainer(toy_grid, SHORT, "cpu", rows=toy_grid.rows("train")[:-1]).train(out, progress=False)
    assert state.read_bytes() == before
    assert not out.exists()
    state.write_bytes(b"damaged")
    with pytest.raises(UserError, match="or a damaged one"):
        Trainer(toy_grid, SHORT, "cpu").train(out, progress=False)


IMPOSSIBLE = [
    ({"step": -5}, r"\$.step"), ({"step": 10**9}, "at step 1000000000 of 60"), ({"step": 2.5}, r"\$.step"),
    ({"stale": -1}, r"\$.stale"), ({"best_error": float("nan")}, r"\$.best_error"),
    ({"identity": None}, r"\$.identity"),
    ({"now.scale": torch.ones(3)}, "no whole state"), ({"adam.step.attention.bias": None}, "no whole state"),
    ({"now.scale": torch.full((40, 16), float("nan"))}, "not finite"),
    ({"best.lower": torch.ones(32, dtype=torch.int32)}, "no whole state"), ({"more": torch.ones(1)}, "no whole state"),
    ({"gradients": torch.ones(101)}, "no whole state"),
]  # fmt: skip


def test_a_state_that_cannot_be_is_refused(toy_grid, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors.training"
    train_until_saved(toy_grid, tmp_path / "a.safetensors", monkeypatch)
    trainer, found = Trainer(toy_grid, SHORT, "cpu"), KIND.read(path)
    state = TrainingState(
        trainer.network, AveragedWeights.start(trainer.network), torch.optim.AdamW(trainer.network.parameters())
    )
    identity = found.metadata["identity"]
    for change, reason in IMPOSSIBLE:
        (name, value), tensors, about = *change.items(), dict(found.tensors), dict(found.metadata)
        (about if name in about else tensors)[name] = value
        KIND.write(path, {k: v for k, v in tensors.items() if v is not None}, about)  # its digest is right
        with pytest.raises(UserError, match=reason):
            state.resume(path, identity, SHORT.steps)
    KIND.write(path, found.tensors, found.metadata)
    assert state.resume(path, identity, SHORT.steps) == 20


@pytest.mark.parametrize("options", ["--heads 7", "--evaluations 0", "--patches 0", "--batch -1", "--models 0",
                                     "--learning-rate nan", "--seed -1"])  # fmt: skip
def test_settings_that_cannot_be_are_one_sentence(toy_grid, tmp_path, capsys, options):
    assert main(["train", str(toy_grid.path), "--out", str(tmp_path / "e.safetensors"), *options.split()]) == 1
    assert f"{options.split()[0]} " in capsys.readouterr().err


def test_derivatives_are_learned_from_the_prior(toy_grid, tmp_path):
    figures = {}
    for weight in (0.0, 300.0):
        trainer = Trainer(toy_grid, replace(tiny.SETTINGS, steps=400, derivative_weight=weight), "cpu")
        figures[weight] = trainer.train(tmp_path / f"{weight}.safetensors", progress=False)
    active = [figures[0.0].label_names.index(n) for n in tiny.ACTIVE]
    without, with_prior = (np.median(figures[w].derivative_error[:, active]) for w in (0.0, 300.0))
    assert with_prior < 0.8 * without


def test_the_command_and_its_metadata(toy_grid, tmp_path, capsys):
    out = tmp_path / "e.safetensors"
    options = ["--steps", "20", "--patches", "40", "--vectors", "8", "--width", "16", "--heads", "2", "--hidden", "16"]
    assert main(["train", str(toy_grid.path), "--out", str(out), "--device", "cpu", *options]) == 0
    assert "validation (8 models" in capsys.readouterr().out
    metadata = load_checkpoint(out).metadata
    assert metadata["training"]["models"] == len(toy_grid.rows("train"))
    assert metadata["solar_scale"] == "Asplund2009"
    assert metadata["grid"]["line_list_checksum"] == "toy"
    assert main(["train", str(tmp_path / "none.h5"), "--out", str(out)]) == 1
    assert "there is no such grid" in capsys.readouterr().err
