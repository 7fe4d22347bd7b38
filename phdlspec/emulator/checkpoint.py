"""Checkpoints: one safetensors file whose header holds, as JSON, what the tensors are and what made them. No pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from phdlspec.errors import UserError, first_line

FORMAT, VERSION = "phdlspec-emulator", 3  # 3: the model error is told in label space


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, metadata, and the SHA-256 of the file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    sha256: str


def save_checkpoint(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a checkpoint; it appears under its name only when it is whole."""
    path = Path(path)
    header = {"format": FORMAT, "version": VERSION, **metadata}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(plain, temporary, metadata={"phdlspec": json.dumps(header)})
        temporary.chmod(0o644)  # safetensors makes files that only their owner can read
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: the checkpoint cannot be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint. Raises `UserError` for a file that is missing, damaged, or something else."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such checkpoint; `phdlspec train GRID --out CKPT` makes one")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("phdlspec", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a checkpoint, or a damaged one ({first_line(error)}); expected the safetensors file "
            "of `phdlspec train`, copy it again"
        ) from error
    if header.get("format") != FORMAT:
        raise UserError(f"{path}: safetensors, but no emulator of phdlspec (format {header.get('format')!r})")
    if header["version"] > VERSION:
        version = header["version"]
        raise UserError(f"{path}: checkpoint version {version}, this program knows {VERSION}; update phdlspec")
    if not all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point()):
        raise UserError(f"{path}: the checkpoint holds numbers that are not finite; train or copy it again")
    return Checkpoint(tensors, header, hashlib.sha256(path.read_bytes()).hexdigest())
