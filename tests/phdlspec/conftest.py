"""The toy grid and its emulator, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from phdlspec.default_emulator import load_emulator
from phdlspec.emulator.emulator import Emulator
from phdlspec.gridfile import Grid
from tests.phdlspec import tiny


@pytest.fixture(scope="session")
def toy_grid(tmp_path_factory) -> Grid:
    return tiny.write_grid(tmp_path_factory.mktemp("grid") / "toy.h5")


@pytest.fixture(scope="session")
def toy_checkpoint(toy_grid, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "toy.safetensors"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same sums whatever the machine
    tiny.train(toy_grid, path)
    torch.set_num_threads(threads)
    return path


@pytest.fixture(scope="session")
def toy_emulator(toy_checkpoint) -> Emulator:
    return load_emulator(toy_checkpoint, "cpu")
