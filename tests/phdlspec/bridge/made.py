"""A bridge made by hand, and stars of a sky on which it holds: mocks of the toy emulator that lack what it adds."""

from __future__ import annotations

import numpy as np
import torch

from phdlspec.emulator.bridge import Bridge, BridgedEmulator
from phdlspec.emulator.emulator import Emulator
from phdlspec.emulator.label_process import LabelProcess, scaled

LINES = (3950.0, 4110.0, 4345.0, 4520.0, 4870.0, 5190.0, 5300.0, 5410.0, 6120.0, 6510.0, 7050.0)


def hand_made(emulator: Emulator, stars: int = 60, seed: int = 3, scatter: float = 0.05) -> Bridge:
    """Lines that are deeper in cool stars, and others that are in giants, by 3% of the continuum or so."""
    random = np.random.default_rng(seed)
    labels = np.column_stack([
        random.uniform(4300, 5600, stars), random.uniform(1.0, 4.8, stars), random.uniform(-1.0, 0.4, stars)
    ])  # fmt: skip
    at = scaled(torch.as_tensor(labels))
    values = torch.stack([4.0 * (at[:, 0] - 0.95), 0.5 * (at[:, 1] - 3.0), torch.zeros(stars)], dim=1).double()
    wave = emulator.native.wave
    spectra = np.zeros((2, len(wave)))
    for i, line in enumerate(LINES):
        spectra[i % 2] -= 0.03 * np.exp(-0.5 * (np.log(wave / line) / 3e-4) ** 2)
    one = torch.ones(3, dtype=torch.float64)
    process = LabelProcess.of(
        at, values, torch.full_like(values, 1e-4), torch.tensor([0.15, 1.2, 0.9]).double(), one, scatter * one
    )
    told = {"checkpoint": emulator.checkpoint_hash, "stars": [f"star {i}" for i in range(stars)], "told": {}}
    return Bridge(process, torch.as_tensor(spectra).float(), torch.full((len(wave),), 1e-3), told)


def crossed(emulator: Emulator) -> BridgedEmulator:
    """The toy emulator with the hand-made bridge."""
    return BridgedEmulator(emulator, hand_made(emulator))
