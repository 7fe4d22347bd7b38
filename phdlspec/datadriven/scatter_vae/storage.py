"""The file of a trained model: safetensors with a JSON header, the same for both forms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from phdlspec.datadriven.lux.lux import read_safetensors
from phdlspec.files import replacing

FORMAT, VERSION = "phdlspec-vae", 1
MAKER = "phdlspec vae train"


def write_model(path: str | Path, network: nn.Module, arrays: Mapping[str, NDArray], header: Mapping[str, Any]) -> None:
    """Write network, arrays and header."""
    tensors = {f"network.{name}": t.detach().cpu() for name, t in network.state_dict().items()}
    tensors |= {name: torch.as_tensor(np.ascontiguousarray(a)) for name, a in arrays.items()}
    described = {"format": FORMAT, "version": VERSION, **header}
    with replacing(path) as temporary:
        save_file({n: t.contiguous() for n, t in tensors.items()}, temporary, {"phdlspec": json.dumps(described)})
        temporary.chmod(0o644)


def read_model(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, NDArray]]:
    """Header, state of the network, arrays. Raises `UserError` for a file that is missing, damaged or another."""
    header, tensors = read_safetensors(path, FORMAT, VERSION, MAKER)
    prefix = "network."
    state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    return header, state, {name: t.numpy() for name, t in tensors.items() if not name.startswith(prefix)}
