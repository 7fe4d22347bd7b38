"""The models that an emulator learns from, encoded in the patch basis, and those that it is judged by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phdlspec.emulator.basis import FLUX_WEIGHT, PatchBasis, fit_basis
from phdlspec.emulator.checkpoint import Checkpoint
from phdlspec.emulator.judging import HeldOutModels, seen
from phdlspec.emulator.training_settings import TrainingSettings
from phdlspec.gridfile import Grid
from phdlspec.labels import LabelSet
from phdlspec.lsf import NativeGrid

Index = NDArray[np.int64]

NO_EFFECT = 1e-3  # size (flux) that counts for a label whose derivative is zero everywhere


@dataclass(frozen=True)
class EncodedModels:
    """Models in the patch basis, on the training device.

    x (N, L) scaled labels; flux (N, Q K); change (N, L, Q K) derivatives; size (N, L) rms of each derivative.
    """

    x: Tensor
    flux: Tensor
    change: Tensor
    size: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> EncodedModels:
        """The same models on another device."""
        return EncodedModels(*(t.to(device) for t in (self.x, self.flux, self.change, self.size)))


def scaled_labels(label_set: LabelSet, labels: NDArray[np.float64]) -> Tensor:
    """Labels (N, L) scaled to -1 ... 1 at their bounds."""
    return torch.as_tensor(2.0 * label_set.to_unit(labels) - 1.0, dtype=torch.float32)


def _half_range(label_set: LabelSet) -> NDArray[np.float32]:
    # (L, 1): what turns derivatives by labels into those by scaled labels.
    half: NDArray[np.float32] = (0.5 * (label_set.upper - label_set.lower)).astype(np.float32)
    return half[:, None]


def _scaled_models(grid: Grid, rows: Index) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    half = _half_range(grid.label_set)
    for row in rows:
        yield grid.flux(int(row)), grid.jacobian(int(row)) * half


def encode(
    grid: Grid, rows: Index, settings: TrainingSettings, start: Checkpoint | None
) -> tuple[PatchBasis, EncodedModels]:
    """The basis of these rows of a grid, or that of a checkpoint to start from, and the rows in it."""
    n_labels = len(grid.label_set)
    mean, power = np.zeros(len(grid.wave)), np.zeros((len(rows), n_labels))
    for i, (flux, change) in enumerate(_scaled_models(grid, rows)):
        mean += flux / len(rows)
        power[i] = (change.astype(np.float64) ** 2).mean(1)
    size = np.sqrt(power.mean(0))
    size = np.maximum(size, 1e-6 * size.max())
    if start is None:
        flux_weight = FLUX_WEIGHT if settings.derivative_weight else math.inf
        models = _scaled_models(grid, rows)
        basis = fit_basis(models, size, mean, settings.patches, settings.vectors, flux_weight)
    else:
        basis = PatchBasis(start.tensors["basis.mean"], start.tensors["basis.vectors"], len(grid.wave))
    n = settings.patches * settings.vectors
    fluxes, changes = torch.empty(len(rows), n), torch.empty(len(rows), n_labels, n)
    for i, (flux, change) in enumerate(_scaled_models(grid, rows)):
        fluxes[i] = basis.encode(torch.as_tensor(flux)).reshape(-1)
        changes[i] = basis.encode_change(torch.as_tensor(change)).reshape(len(change), -1)
    # A label without any effect (in toy grids) shall move nothing, but not at the expense of the others.
    floor = np.where(size > 1e-4 * size.max(), settings.size_floor * size, NO_EFFECT)
    in_model = torch.as_tensor(np.sqrt(power + floor**2), dtype=torch.float32)
    return basis, EncodedModels(scaled_labels(grid.label_set, grid.labels[rows]), fluxes, changes, in_model)


def hold_out(grid: Grid, rows: Index, native: NativeGrid) -> HeldOutModels:
    """These rows of a grid, for judging."""
    half = _half_range(grid.label_set)
    flux = torch.stack([seen(torch.as_tensor(grid.flux(int(i))), native) for i in rows])
    change = torch.stack([seen(torch.as_tensor(grid.jacobian(int(i)) * half), native) for i in rows])
    return HeldOutModels(scaled_labels(grid.label_set, grid.labels[rows]), flux, change)
