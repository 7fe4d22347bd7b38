"""The file of a trained model: safetensors with a JSON header, the same for both forms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from phdlspec.tensor_file import FileKind

# Version 2: the header holds a digest. Versions 3, 4: other signs of strangeness. 5: Balmer lines.
KIND = FileKind("phdlspec-vae", 5, "model", "phdlspec vae train", oldest=5, digest_since=2)


def write_model(
    path: str | Path, network: nn.Module, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]
) -> None:
    """Write network, arrays and header."""
    tensors = {f"network.{name}": t.detach().cpu() for name, t in network.state_dict().items()}
    tensors |= {name: torch.as_tensor(np.ascontiguousarray(a)) for name, a in arrays.items()}
    KIND.write(path, tensors, header)


def read_model(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, NDArray[Any]]]:
    """Header, state of the network, arrays. Raises `UserError` for a file that is missing, damaged or another."""
    file = KIND.read(path)
    tensors = file.tensors
    prefix = "network."
    state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    return file.metadata, state, {name: t.numpy() for name, t in tensors.items() if not name.startswith(prefix)}


def under(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Those whose names begin with a prefix, by the rest of the name."""
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
