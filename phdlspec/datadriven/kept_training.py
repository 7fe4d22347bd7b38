"""Where the training of a network stands, on disk: weights, the optimiser's moments, and what they belong to.

A state that is damaged, was edited or belongs to another job is not believed: that training begins again, and a line
of the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phdlspec.errors import UserError, first_line
from phdlspec.tensor_file import FileKind

KIND = FileKind("phdlspec-network-training", 1, "state of a stopped training", "the same command")
KEPT = "the state that was saved last is kept"

log = logging.getLogger(__name__)


def keep(
    path: Path, job: str, network: nn.Module, optimiser: torch.optim.Optimizer, about: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write network, moments and torch's random state. job : stands for data and settings. about : plain values."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for number, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"moments.{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    KIND.write(path, tensors | {"random": torch.get_rng_state()}, {"job": job, "about": dict(about)}, KEPT)


def restore(path: Path, job: str, network: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Put network, moments and random state back; what was told with them. None where there is no state of this job."""
    if not path.is_file():
        return None
    try:
        file = KIND.read(path)
        if file.metadata.get("job") != job:
            raise ValueError("it belongs to other data or settings")
        weights = {n.removeprefix("network."): t for n, t in file.tensors.items() if n.startswith("network.")}
        network.load_state_dict(weights)
        state = optimiser.state_dict()
        optimiser.load_state_dict({**state, "state": _nested(file.tensors)})
        torch.set_rng_state(file.tensors["random"])
        return dict(file.metadata["about"])
    except (UserError, KeyError, TypeError, ValueError, RuntimeError) as error:
        log.warning("%s; this part of the training begins again", first_line(error))
        return None


def _nested(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("moments."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = tensor
    return state
