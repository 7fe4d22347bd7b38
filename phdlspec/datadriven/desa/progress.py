"""Where a training stands, on the disk: a run that was killed goes on from its last finished epoch.

```
MODEL.parts/
├── job.json                     digest of data and settings
└── STAGE.safetensors            weights and the optimiser's moments after a finished epoch, replaced by the next
```
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from phdlspec.files import replacing, write_text


@dataclass(frozen=True)
class Parts:
    """The folder of finished work, or none (`folder` None)."""

    folder: Path | None
    progress: bool = False

    @classmethod
    def open(cls, folder: Path | None, digest: str, progress: bool = False) -> Parts:
        """Take up the folder; what another job left in it goes."""
        if folder is not None:
            job = folder / "job.json"
            if job.is_file() and json.loads(job.read_text(encoding="utf-8")).get("digest") != digest:
                shutil.rmtree(folder)
            write_text(job, json.dumps({"digest": digest}))
        return cls(folder, progress)

    def close(self) -> None:
        """Everything is done: remove the folder."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def load(self, stage: str, module: nn.Module, optimiser: torch.optim.Optimizer) -> int:
        """Put weights and moments back; the number of finished epochs."""
        path = None if self.folder is None else self.folder / f"{stage}.safetensors"
        if path is None or not path.is_file():
            return 0
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, OSError):
            return 0
        module.load_state_dict({n[2:]: t for n, t in tensors.items() if n.startswith("m.")})
        moments = optimiser.state_dict()
        moments["state"] = _nested(tensors)
        optimiser.load_state_dict(moments)
        return int(tensors["epoch"])

    def save(self, stage: str, epoch: int, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Keep what an epoch has made."""
        if self.folder is None:
            return
        tensors = {f"m.{name}": t.contiguous() for name, t in module.state_dict().items()}
        for number, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"o.{number}.{name}": torch.as_tensor(t).contiguous() for name, t in moments.items()}
        with replacing(self.folder / f"{stage}.safetensors") as temporary:
            save_file(tensors | {"epoch": torch.tensor(epoch)}, temporary)


def _nested(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("o."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = tensor
    return state


def run_epochs(
    stage: str,
    module: nn.Module,
    loss_of: Callable[[Tensor, torch.Generator], Tensor],
    rows: int,
    *,
    epochs: int,
    batch: int,
    rate: float,
    seed: int,
    parts: Parts,
) -> list[float]:
    """Minimise a loss by AdamW with a warm-up and a cosine; the mean loss of each epoch run here.

    loss_of : of a batch, from the indices of its rows (of 0 to `rows`) and a generator of random numbers. What an epoch
    draws depends on seed and epoch alone, so that a run taken up again ends as one that never stopped.
    """
    optimiser = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=1e-4)
    first = parts.load(stage, module, optimiser)
    history = []
    for epoch in tqdm(range(first, epochs), desc=stage, unit="epoch", disable=not parts.progress):
        module.train()
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        losses = []
        steps = list(_batches(rows, batch, generator))
        for number, chosen in enumerate(steps):
            done = (epoch + number / len(steps)) / epochs
            for group in optimiser.param_groups:
                group["lr"] = (
                    rate * min(1.0, 20.0 * done + 0.05) * 0.5 * float(1.0 + torch.cos(torch.tensor(done * torch.pi)))
                )
            optimiser.zero_grad()
            loss = loss_of(chosen, generator)
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
        history.append(sum(losses) / len(losses))
        parts.save(stage, epoch + 1, module, optimiser)
    module.eval()
    return history


def _batches(rows: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    order = torch.randperm(rows, generator=generator)
    for start in range(0, rows, size):
        part = order[start : start + size]
        if len(part) > 1:  # statistics of a batch need two
            yield part
