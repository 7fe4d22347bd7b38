"""The file of a model learned from data: safetensors with a JSON header that says what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from phdlspec.errors import UserError, first_line
from phdlspec.files import replacing

_ENTRY = "phdlspec"


def write_safetensors(
    path: str | Path, kind: str, version: int, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> None:
    """Write tensors and a header of a format; the file appears when it is whole. `UserError` where it cannot be."""
    described = {"format": kind, "version": version, **header}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(plain, temporary, {_ENTRY: json.dumps(described)})
        temporary.chmod(0o644)


def read_safetensors(path: str | Path, kind: str, version: int, maker: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a safetensors file of ours of this format. Raises `UserError` for anything else."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; `{maker}` makes one")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a model, or a damaged one ({first_line(error)}); expected that of {maker}"
        ) from error
    if not isinstance(header, dict) or header.get("format") != kind:
        raise UserError(f"{path}: safetensors, but no file of `{maker}`")
    if header.get("version") != version:
        raise UserError(f"{path}: version {header.get('version')}, this program knows {version}; update or train again")
    return header, tensors
