"""A toy grid with exact derivatives and an emulator trained on it in seconds: real files, made by the real code.

The toy star has a few hundred lines whose strengths follow temperature, gravity, microturbulence and abundances in a
simple way; it is no physics, but every label that is listed in `ACTIVE` moves the spectrum.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kurucz_grids.grid_writer import collect, grid_attributes, make_manifest
from phdlspec.emulator.training import Trainer
from phdlspec.emulator.training_settings import TrainingSettings
from phdlspec.gridfile import FORMS, Grid
from phdlspec.gridfile.parts import GridParts
from phdlspec.labels import GRID_LABELS

WAVE = FORMS["survey"].wave
ELEMENTS = ("FE_H", "MG_FE", "CA_FE", "TI_FE", "C_FE", "NI_FE")
ACTIVE = ("TEFF", "LOGG", "VMIC", *ELEMENTS)
SETTINGS = TrainingSettings(
    steps=700, batch=16, patches=40, vectors=16, width=24, heads=4, hidden=32, second_hidden=24, evaluations=3
)


def _lines() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = np.random.default_rng(5)
    n = 200
    centre = np.sort(random.uniform(3720.0, 9050.0, n))
    element = random.integers(0, len(ELEMENTS), n)
    strength = random.normal(-0.2, 0.5, n)
    excitation = random.uniform(-1.0, 2.0, n)
    return torch.as_tensor(centre), torch.as_tensor(element), torch.as_tensor(strength), torch.as_tensor(excitation)


CENTRE, ELEMENT, STRENGTH, EXCITATION = _lines()
_OFFSET = np.log(WAVE) - np.log(CENTRE.numpy())[:, None]
_PROFILE = torch.as_tensor(np.exp(-0.5 * (_OFFSET / 1.6e-4) ** 2))
_WING = torch.as_tensor(1e-8 / (_OFFSET**2 + 1e-8)) * 0.25


def _strengths(active: Tensor) -> Tensor:
    # Strengths of cores and wings (2, lines) for the labels `ACTIVE`.
    teff, logg, vmic, *abundances = active.unbind()
    ratio = torch.stack([torch.zeros_like(teff), *abundances[1:]])
    metals = abundances[0] + ratio[ELEMENT]
    depth = 10.0 ** (0.5 * (STRENGTH + metals) - 0.7 * EXCITATION * (teff / 5000.0 - 1.0))
    core = depth / (1.0 + depth / (0.5 + 0.3 * vmic))
    return torch.stack([core, core * (0.1 + 0.15 * logg)])


def toy_model(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised flux (P,) of labels (32,) and its derivatives (32, P)."""
    used = [GRID_LABELS.index(name) for name in ACTIVE]
    strength = _strengths(labels[used])
    change = torch.func.jacfwd(_strengths)(labels[used]).permute(2, 0, 1)  # (A, 2, lines)
    flux = torch.exp(-(strength[0] @ _PROFILE + strength[1] @ _WING))
    jacobian = torch.zeros(len(GRID_LABELS), len(WAVE), dtype=torch.float64)
    jacobian[used] = -flux * (change[:, 0] @ _PROFILE + change[:, 1] @ _WING)
    return flux, jacobian


def write_grid(path: Path, n: int = 60) -> Grid:
    """A grid of toy stars with exact derivatives, in the real format."""
    random = np.random.default_rng(3)
    labels = GRID_LABELS.lower + random.random((n, len(GRID_LABELS))) * (GRID_LABELS.upper - GRID_LABELS.lower)
    labels[:, GRID_LABELS.index("FE_H")] = random.uniform(-1.0, 0.5, n)
    split = np.zeros(n, dtype=np.uint8)
    split[n - 16 : n - 8], split[n - 8 :] = 1, 2
    parts = GridParts(path)
    parts.folder.mkdir(parents=True)
    attrs = grid_attributes(FORMS["survey"], {"line_list_checksum": "toy", "atmospheres_checksum": "toy"}, 3)
    manifest = make_manifest(attrs, WAVE)
    parts.write_manifest(manifest, labels, split)
    continuum = np.ones(len(manifest["continuum_wave"]))
    for i, row in enumerate(labels):
        flux, jacobian = toy_model(torch.as_tensor(row))
        parts.write_row(i, row, flux.numpy(), continuum, jacobian.numpy())
    collect(path)
    return Grid(path)


def train(grid: Grid, path: Path) -> None:
    """An emulator of the toy stars."""
    Trainer(grid, SETTINGS, "cpu").train(path, progress=False)
