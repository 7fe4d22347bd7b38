"""What a training has finished, in a folder of its own: stopped or killed, the same call goes on.

```
MODEL.parts/
├── job.json                  digest of data, settings and version: the folder of another training is refused
├── state_KEY.safetensors     where the optimisation KEY stands, replaced by the next
└── done_KEY.npz              what a finished piece KEY says
```
Each file carries the training, its key and a digest of its content. One that is damaged or was edited is not believed:
that piece begins again, and a line of the log says so.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phdlspec import __version__
from phdlspec.errors import UserError, first_line
from phdlspec.files import only_writer, remove_leftovers, write_text
from phdlspec.items import Arrays, WrongItem, checksum, read_item, write_item
from phdlspec.tensor_file import FileKind, TensorFile

_STATE = FileKind("phdlspec-training-state", 1, "state of a stopped training", "the same command")
_KEPT = "what was finished before is kept"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingFolder:
    """Kept pieces of one training; with no folder nothing is kept. progress : whether its stages show a bar."""

    folder: Path | None = None
    job: str = ""
    progress: bool = False

    @classmethod
    @contextmanager
    def open(
        cls, folder: str | Path | None, settings: Mapping[str, Any], data: Mapping[str, Any], progress: bool
    ) -> Iterator[TrainingFolder]:
        """The folder of a training with these settings (plain values) on these arrays; it goes when that is done.

        Raises `UserError` where another training left it, or is at work in it.
        """
        if folder is None:
            yield cls(progress=progress)
            return
        folder = Path(folder)
        arrays = {name: np.asarray(values) for name, values in data.items()}
        job = checksum({**settings, "version": __version__}, arrays)
        with only_writer(folder):
            _take_up(folder, json.dumps({"job": job}))
            yield cls(folder, job, progress)
            shutil.rmtree(folder, ignore_errors=True)

    def state(self, key: str) -> TensorFile | None:
        """Tensors of an optimisation and what was told with them; None where there are none."""
        if self.folder is None or not self._state(key).is_file():
            return None
        try:
            found = _STATE.read(self._state(key))
            if (found.metadata.pop("job", None), found.metadata.pop("key", None)) != (self.job, key):
                raise ValueError("it is of another training")
        except (UserError, ValueError) as error:
            _tell(self._state(key), error)
            return None
        return found

    def keep_state(self, key: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Write where an optimisation stands. about : plain values."""
        if self.folder is not None:
            _STATE.write(self._state(key), tensors, {**about, "job": self.job, "key": key}, _KEPT)

    def restore(self, key: str, network: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Put a network, its moments and torch's random state back; what was told with them."""
        found = self.state(key)
        if found is None:
            return None
        try:
            weights = {n.removeprefix("network."): t for n, t in found.tensors.items() if n.startswith("network.")}
            network.load_state_dict(weights)
            optimiser.load_state_dict({**optimiser.state_dict(), "state": _moments(found.tensors)})
            torch.set_rng_state(found.tensors["random"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            _tell(self._state(key), error)
            return None
        return found.metadata

    def keep(
        self, key: str, network: nn.Module, optimiser: torch.optim.Optimizer, about: Mapping[str, Any]
    ) -> None:  # fmt: skip
        """Write a network, its moments and torch's random state."""
        tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        for number, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"moments.{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        self.keep_state(key, tensors | {"random": torch.get_rng_state()}, about)

    def done(self, key: str) -> Arrays | None:
        """Arrays of a finished piece; None where it is not finished."""
        if self.folder is None or not self._done(key).is_file():
            return None
        try:
            return read_item(self._done(key), {"job": self.job, "key": key})
        except WrongItem as error:
            _tell(self._done(key), error)
            return None

    def keep_done(self, key: str, arrays: Arrays) -> None:
        """Write what a finished piece says; the state that led to it goes."""
        if self.folder is not None:
            write_item(self._done(key), {"job": self.job, "key": key}, arrays, _KEPT)
            self._state(key).unlink(missing_ok=True)

    def _state(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"state_{key}.safetensors"

    def _done(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"done_{key}.npz"


NOTHING_KEPT = TrainingFolder()


def _take_up(folder: Path, job: str) -> None:
    told = folder / "job.json"
    other = told.is_file() and told.read_text(encoding="utf-8", errors="replace") != job
    if other and any((*folder.glob("state_*"), *folder.glob("done_*"))):
        raise UserError(
            f"{folder}: was left by a training on other data, with other settings or by another version; give the same "
            "again, choose another output, or remove the folder"
        )
    remove_leftovers(folder)
    write_text(told, job)


def _tell(path: Path, error: Exception) -> None:
    log.warning("%s: %s; this part of the training begins again", path, first_line(error))


def _moments(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("moments."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = tensor
    return state
