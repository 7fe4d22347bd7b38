"""The state of a training: averaged weights, the best of them, and all of it on disk for a run that is stopped."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from phdlspec.emulator.network import Network
from phdlspec.errors import UserError

AVERAGING = 0.999  # per step
_EVERY = 10  # steps between additions to the average

Weights = dict[str, Tensor]


def weights_of(network: Network) -> Weights:
    """A copy of the network's present weights."""
    return {name: value.clone() for name, value in network.state_dict().items()}


@dataclass
class AveragedWeights:
    """The averaged weights, the best of them so far, and for how many evaluations there have been no better."""

    mean: Weights
    best: Weights
    best_error: float = math.inf
    stale: int = 0

    @classmethod
    def start(cls, network: Network) -> AveragedWeights:
        """From the present weights of a network."""
        return cls(weights_of(network), weights_of(network))

    @torch.no_grad()
    def add(self, network: Network, step: int) -> None:
        """Take the weights after a step into the average."""
        if step % _EVERY:
            return
        keep = min(AVERAGING, (1.0 + step) / (10.0 + step)) ** _EVERY
        for name, value in network.state_dict().items():
            self.mean[name].lerp_(value, 1.0 - keep)

    def record(self, error: float) -> None:
        """The average has been judged: keep it if it is the best so far."""
        if error < self.best_error:
            self.best_error, self.stale = error, 0
            self.best = {name: value.clone() for name, value in self.mean.items()}
        else:
            self.stale += 1


def save_state(
    path: Path, identity: str, step: int, network: Network, averaged: AveragedWeights, optimiser: torch.optim.Optimizer
) -> None:
    """Write all that going on after `step` needs; `identity` tells what is trained on what."""
    names = [name for name, _ in network.named_parameters()]
    state = optimiser.state_dict()["state"]
    tensors = {f"now.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"mean.{k}": v for k, v in averaged.mean.items()} | {f"best.{k}": v for k, v in averaged.best.items()}
    for i, name in enumerate(names):
        tensors |= {f"adam.{name}.{key}": value for key, value in state[i].items()}
    header = {"identity": identity, "step": str(step)}
    header |= {"best": repr(averaged.best_error), "stale": str(averaged.stale)}
    temporary = path.with_name(path.name + ".tmp")
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary, metadata=header)
    os.replace(temporary, path)


def resume_state(
    path: Path, identity: str, network: Network, averaged: AveragedWeights, optimiser: torch.optim.Optimizer
) -> int:
    """Put the state of a stopped run back in place; the step it goes on with, 0 where there is none.

    Raises `UserError` for a state that is damaged or of another run.
    """
    if not path.is_file():
        return 0
    device = next(network.parameters()).device
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: the state of the stopped run is damaged; remove it to start again") from error
    if header["identity"] != identity:
        raise UserError(
            f"{path}: was left by a run with other settings or another state of the grid; give those again, or "
            "remove it to start anew"
        )

    def part(prefix: str) -> Weights:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    network.load_state_dict(part("now."))
    averaged.mean, averaged.best = part("mean."), part("best.")
    averaged.best_error, averaged.stale = float(header["best"]), int(header["stale"])
    state = optimiser.state_dict()
    for i, (name, _) in enumerate(network.named_parameters()):
        state["state"][i] = part(f"adam.{name}.")
    optimiser.load_state_dict(state)
    return int(header["step"])
