"""The state of a training: averaged weights, the best of them, recent gradients, and all on disk for a stopped run.

A run that goes on from its state makes, on the same machine, the very weights of the run that was not stopped.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import torch
from msgspec import Meta, Struct
from torch import Tensor

from phdlspec.emulator.network import Network
from phdlspec.errors import UserError, first_line
from phdlspec.tensor_file import FileKind

KIND = FileKind("phdlspec-training", 1, "state of a stopped training", "phdlspec train")
KEPT = "the state that was saved last is kept"
AVERAGING = 0.999  # per step
_EVERY = 10  # steps between additions to the average
_HISTORY = 100  # gradients that are remembered
_ENOUGH = 20  # of them, before the next are clipped
CLIPPED_AT = 5.0  # times the median of the last gradients

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


@dataclass
class GradientSizes:
    """Sizes of the last gradients as they were used, by which the next is clipped."""

    last: deque[float] = field(default_factory=lambda: deque(maxlen=_HISTORY))

    def limit(self) -> float:
        """What the next gradient is clipped to."""
        return CLIPPED_AT * float(np.median(self.last)) if len(self.last) > _ENOUGH else math.inf

    def add(self, size: float) -> None:
        """Remember the size of a gradient."""
        self.last.append(size)


class _Header(Struct):
    identity: str
    step: Annotated[int, Meta(ge=1)]
    best_error: Annotated[float, Meta(ge=0.0)] | None  # None: nothing was judged yet
    stale: Annotated[int, Meta(ge=0)]


@dataclass
class TrainingState:
    """What changes while a network is trained."""

    network: Network
    averaged: AveragedWeights
    optimiser: torch.optim.Optimizer
    gradients: GradientSizes = field(default_factory=GradientSizes)

    def save(self, path: Path, identity: str, step: int) -> None:
        """Write all that going on after `step` steps needs; `identity` tells what is trained on what."""
        best = self.averaged.best_error
        about = {
            "identity": identity, "step": step, "best_error": best if math.isfinite(best) else None,
            "stale": self.averaged.stale,
        }  # fmt: skip
        KIND.write(path, self._tensors(), about, KEPT)

    def _tensors(self) -> Weights:
        tensors = {f"now.{name}": value for name, value in self.network.state_dict().items()}
        for kind, weights in (("mean", self.averaged.mean), ("best", self.averaged.best)):
            tensors |= {f"{kind}.{name}": value for name, value in weights.items()}
        moments = self.optimiser.state_dict()["state"]
        for i, (name, _) in enumerate(self.network.named_parameters()):
            tensors |= {f"adam.{key}.{name}": value for key, value in moments[i].items()}
        return tensors | {"gradients": torch.tensor(self.gradients.last, dtype=torch.float64)}

    def resume(self, path: Path, identity: str, steps: int) -> int:
        """Put the state of a stopped run back in place; the step it goes on with, 0 where there is none.

        Raises `UserError` for a state that is damaged, of another run, or none of a run of `steps` steps.
        """
        if not path.exists():
            return 0
        found = KIND.read(path)
        try:
            header = msgspec.convert(found.metadata, _Header)
            if header.step > steps:
                raise ValueError(f"it is at step {header.step} of {steps}")
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: no whole state of a training ({first_line(error)}); remove it") from error
        if header.identity != identity:
            raise UserError(
                f"{path}: was left by a run with other settings, another state of the grid or another version; "
                "give those again, or remove it to start anew"
            )
        self._refuse_other_shapes(path, found.tensors)
        self._take(found.tensors, header)
        return header.step

    def _take(self, tensors: Mapping[str, Tensor], header: _Header) -> None:
        device = next(self.network.parameters()).device

        def part(prefix: str) -> Weights:
            return {k.removeprefix(prefix): v.to(device) for k, v in tensors.items() if k.startswith(prefix)}

        self.network.load_state_dict(part("now."))
        averaged = self.averaged
        averaged.mean, averaged.best, averaged.stale = part("mean."), part("best."), header.stale
        averaged.best_error = math.inf if header.best_error is None else header.best_error
        moments = {key: part(f"adam.{key}.") for key in ("step", "exp_avg", "exp_avg_sq")}
        state = self.optimiser.state_dict()
        for i, (name, _) in enumerate(self.network.named_parameters()):
            state["state"][i] = {key: values[name] for key, values in moments.items()}
        self.optimiser.load_state_dict(state)
        self.gradients.last.extend(tensors["gradients"].tolist())

    def _refuse_other_shapes(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        expected = {
            f"{kind}.{name}": tuple(value.shape)
            for name, value in self.network.state_dict().items()
            for kind in ("now", "mean", "best")
        }
        for name, value in self.network.named_parameters():
            expected |= {f"adam.{key}.{name}": tuple(value.shape) for key in ("exp_avg", "exp_avg_sq")}
            expected[f"adam.step.{name}"] = ()
        found = {name: tuple(value.shape) for name, value in tensors.items() if name != "gradients"}
        history = tensors.get("gradients")
        whole = history is not None and history.ndim == 1 and len(history) <= _HISTORY
        if found != expected or not whole or not all(value.is_floating_point() for value in tensors.values()):
            raise UserError(f"{path}: no whole state of this training; remove it to start again")
