"""Checkpoints: the tensors of an emulator and, as JSON in the header, what they are and what made them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta, Struct
from torch import Tensor

from phdlspec.errors import UserError, first_line
from phdlspec.tensor_file import FileKind, TensorFile

# Version 3: the model error is told in label space. 4: the header holds a digest.
KIND = FileKind("phdlspec-emulator", 4, "checkpoint", "phdlspec train", oldest=3, digest_since=4)

Checkpoint = TensorFile

_Count = Annotated[int, Meta(ge=1, le=1_000_000)]
_Number = Annotated[float, Meta(ge=-1e9, le=1e9)]
_Positive = Annotated[float, Meta(gt=0.0, le=1e9)]


class _NetworkLabel(Struct):
    name: str
    lower: _Number
    upper: _Number


class _Native(Struct, forbid_unknown_fields=True):
    wave0: _Positive
    dlnlam: Annotated[float, Meta(gt=0.0, le=0.1)]
    size: _Count
    resolving_power: _Positive


class _Architecture(Struct, forbid_unknown_fields=True):
    n_labels: _Count
    n_patches: _Count
    n_vectors: _Count
    width: _Count
    heads: _Count
    hidden: _Count
    second_hidden: _Count
    token_hidden: _Count
    co_layers: Annotated[int, Meta(ge=0, le=1000)]
    version: Annotated[int, Meta(ge=1, le=1)]

    def shapes(self, native: _Native) -> dict[str, tuple[int, ...]]:
        """Of the tensors that together tell all sizes of the network and the basis."""
        patches, pixels = self.n_patches, -(-native.size // self.n_patches)
        return {
            "network.tokens.second": (self.n_labels, self.token_hidden, self.width),
            "network.attention.query": (self.heads, patches, self.width // self.heads),
            "network.perceptrons.second": (patches, self.hidden, self.second_hidden),
            "network.perceptrons.head": (patches, self.second_hidden, self.n_vectors),
            "network.scale": (patches, self.n_vectors),
            **({"network.carbon_monoxide.offset": (self.co_layers,)} if self.co_layers else {}),
            "basis.mean": (patches, pixels),
            "basis.vectors": (patches, self.n_vectors, pixels),
            "model_error.sigma": (native.size,),
        }


class _Description(Struct):
    code_version: str
    architecture: _Architecture
    labels: list[_NetworkLabel]
    native: _Native
    solar_scale: str
    grid: dict[str, str | int | float | bool]
    training: dict[str, Any]
    trusted: dict[str, tuple[_Number, _Number]]
    validation: dict[str, Any] | None = None  # what says nothing is told by `emulator.trust`


def save_checkpoint(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a checkpoint; it appears under its name only when it is whole."""
    KIND.write(path, tensors, metadata, "the state of the training is kept")


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint. Raises `UserError` for a file that is missing, damaged, changed, or something else."""
    found = KIND.read(path)
    try:
        description = msgspec.convert(found.metadata, _Description)
        _check_tensors(found.tensors, description)
    except (ValueError, RecursionError) as error:  # msgspec's own are ValueErrors
        raise UserError(
            f"{path}: the checkpoint's tensors and its description do not belong together ({first_line(error)}); copy "
            "or train it again"
        ) from error
    return found


def _check_tensors(tensors: Mapping[str, Tensor], description: _Description) -> None:
    # Before a network of the sizes that are told is made: they are those of the file, and no larger than it.
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name:.60} is of type {tensor.dtype}, expected float32")
    for name, shape in description.architecture.shapes(description.native).items():
        found = tuple(tensors[name].shape) if name in tensors else "missing"
        if found != shape:
            raise ValueError(f"{name} is {found}, expected {shape}")
