"""Tensors and what they are in one safetensors file: checkpoints, models, the state of a training. No pickle.

The header's entry `phdlspec` is a JSON text: the format and its version, whatever else describes the tensors, and the
SHA-256 of this with the names, types, shapes and bytes of the tensors. A byte that changes anywhere is seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from phdlspec.errors import UserError, first_line
from phdlspec.files import file_sha256, writing
from phdlspec.foreign import check_file, is_there
from phdlspec.items import checksum

_ENTRY, _DIGEST = "phdlspec", "sha256"
_TYPES = (
    torch.float16, torch.float32, torch.float64, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32,
    torch.int64,
)  # fmt: skip


@dataclass(frozen=True)
class FileKind:
    """A kind of file: its format, the newest and the oldest version that are read, and the first that has a digest.

    what : a word for it. maker : the command that makes it. nan_in : tensors in which NaN stands for what is missing.
    """

    format: str
    version: int
    what: str
    maker: str
    oldest: int = 1
    digest_since: int = 1
    nan_in: tuple[str, ...] = ()

    def write(self, path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any], kept: str = "") -> None:
        """Write a file; it appears when it is whole. `kept` : see `phdlspec.files.disk_errors`."""
        header = json.loads(json.dumps({**about, "format": self.format, "version": self.version}))  # as it is read
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        text = json.dumps({**header, _DIGEST: _seal(header, plain)}, sort_keys=True)
        content = save(plain, {_ENTRY: text})
        with writing(path, kept) as file:
            file.write(content)

    def read(self, path: str | Path) -> TensorFile:
        """Read a file. Raises `UserError` for one that is missing, damaged, of another kind, or not finite."""
        path = Path(path)
        if not is_there(path):
            raise UserError(f"{path}: there is no such {self.what}; `{self.maker}` makes one")
        check_file(path)
        try:
            header, tensors = _content(path)
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{path}: not a {self.what}, or a damaged one ({first_line(error)}); expected the safetensors file "
                f"of `{self.maker}`, copy it again"
            ) from error
        self._check(path, header, tensors)
        return TensorFile(tensors, header, file_sha256(path))

    def _check(self, path: Path, header: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        if header.get("format") != self.format:
            raise UserError(f"{path}: safetensors, but no {self.what} of `{self.maker}`")
        version, seal = header.get("version"), header.pop(_DIGEST, None)
        if type(version) is not int or not self.oldest <= version <= self.version:
            known = f"{self.oldest} to {self.version}" if self.oldest < self.version else f"{self.version}"
            raise UserError(
                f"{path}: {self.what} version {version!r:.20}, this program knows {known}; update phdlspec, or make it "
                "again"
            )
        if (seal is not None or version >= self.digest_since) and seal != _seal(header, tensors):
            raise UserError(f"{path}: the {self.what} was changed since it was written; copy it again")
        numbers = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
        if not all(_finite(tensor, name in self.nan_in) for name, tensor in numbers.items()):
            raise UserError(
                f"{path}: the {self.what} holds numbers that are not finite; make it again, or copy it again"
            )


@dataclass(frozen=True)
class TensorFile:
    """Tensors by name, what is told of them, and the SHA-256 of the file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    sha256: str


def check_model_name(out: Path) -> None:
    """Refuse a model to be written whose name does not end in .safetensors, before any work is done."""
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: expected an --out that ends in .safetensors")


def _finite(tensor: Tensor, nan_allowed: bool) -> bool:
    return not bool((tensor.isinf() if nan_allowed else ~torch.isfinite(tensor)).any())


def _content(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    if not isinstance(header, dict):
        raise ValueError("its description is no table of names and values")
    strange = [name for name, tensor in tensors.items() if tensor.dtype not in _TYPES]
    if strange:
        raise ValueError(f"{strange[0]:.60} is of a type that none of its tensors has")
    return header, tensors


def _seal(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    return checksum(header, {name: tensor.numpy() for name, tensor in tensors.items()})
