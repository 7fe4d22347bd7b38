"""What a stopped training left is gone on with if it is that training's, and nothing else is believed."""

from __future__ import annotations

import contextlib
import logging
import shutil

import numpy as np
import pytest
import torch

from phdlspec.datadriven import training_folder
from phdlspec.datadriven.training_folder import TrainingFolder
from phdlspec.errors import UserError

SETTINGS, DATA = {"seed": 1}, {"flux": np.arange(6.0).reshape(2, 3), "stars": ("a", "b\udce9")}
TENSORS = {"loadings": torch.arange(3.0)}


@pytest.fixture
def folder(tmp_path):
    """Of a training that was stopped with a state, a network and a finished piece in it."""
    path = tmp_path / "m.parts"
    with contextlib.suppress(KeyboardInterrupt), TrainingFolder.open(path, SETTINGS, DATA, False) as work:
        work.keep_state("a", TENSORS, {"step": 3})
        work.keep("net", *network(1), {"epoch": 2})
        work.keep_state("fold", TENSORS, {})
        work.keep_done("fold", {"held": np.arange(4)})
        raise KeyboardInterrupt
    return path


def network(seed):
    torch.manual_seed(seed)
    net = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(net.parameters())
    net(torch.ones(4, 3)).sum().backward()
    optimiser.step()
    return net, optimiser


def again(folder, settings=SETTINGS, data=DATA):
    return TrainingFolder.open(folder, settings, data, False)


def test_the_same_training_finds_all_of_it_and_takes_the_folder_along(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "done_fold.npz", "job.json", "state_a.safetensors", "state_net.safetensors",
    ]  # fmt: skip
    with again(folder) as work:
        state = work.state("a")
        assert state.metadata["step"] == 3
        assert torch.equal(state.tensors["loadings"], TENSORS["loadings"])
        (before, moments), (net, optimiser) = network(1), network(2)
        assert work.restore("net", net, optimiser)["epoch"] == 2
        assert torch.equal(net.weight, before.weight)
        one, other = (o.state_dict()["state"][0]["exp_avg"] for o in (moments, optimiser))
        assert torch.equal(one, other)
        assert work.done("fold")["held"].tolist() == [0, 1, 2, 3]
        assert work.state("b") is work.done("b") is work.restore("b", net, optimiser) is None
    assert not folder.exists()


@pytest.mark.parametrize("change", ["settings", "data", "names", "version"])
def test_another_training_is_refused(folder, change, monkeypatch):
    if change == "version":
        monkeypatch.setattr(training_folder, "__version__", "another")
    settings = {"seed": 2} if change == "settings" else SETTINGS
    other = {"data": {"flux": DATA["flux"] + 1}, "names": {"stars": ("a", "c")}}.get(change, {})
    with pytest.raises(UserError, match="left by a training on other data, with other settings or by another version"):
        again(folder, settings, DATA | other).__enter__()
    assert (folder / "done_fold.npz").exists()


def test_a_folder_in_which_nothing_was_finished_is_nobodys(tmp_path):
    (tmp_path / "job.json").write_text("{")
    with again(tmp_path) as work:
        work.keep_state("a", TENSORS, {})


def test_one_training_at_a_time(folder):
    with again(folder), pytest.raises(UserError, match="another run is making it"):
        again(folder).__enter__()


def test_what_is_damaged_edited_or_swapped_begins_again(folder, caplog):
    content = (folder / "state_net.safetensors").read_bytes()
    (folder / "state_half.safetensors").write_bytes(content[:-40])
    (folder / "state_edited.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    shutil.copy(folder / "state_net.safetensors", folder / "state_swapped.safetensors")
    shutil.copy(folder / "state_a.safetensors", folder / "state_net.safetensors")
    shutil.copy(folder / "done_fold.npz", folder / "done_other.npz")
    with caplog.at_level(logging.WARNING), again(folder) as work:
        for key in ("half", "edited", "swapped"):
            assert work.state(key) is None
        assert work.restore("net", *network(2)) is None
        assert work.done("other") is None
    assert len(caplog.records) == 5
    assert all("begins again" in record.getMessage() for record in caplog.records)


def test_a_state_of_another_network_begins_again(folder, caplog):
    other = torch.nn.Linear(2, 2)
    with again(folder) as work:
        assert work.restore("net", other, torch.optim.AdamW(other.parameters())) is None
    assert "begins again" in caplog.text


def test_without_a_folder_nothing_is_kept():
    with TrainingFolder.open(None, SETTINGS, DATA, True) as work:
        work.keep_state("a", TENSORS, {})
        work.keep_done("b", {})
        assert work.state("a") is work.done("b") is None
        assert work.progress
