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
from torch import Tensor, nn
from tqdm import tqdm

from phdlspec.datadriven.kept_training import keep, restore
from phdlspec.files import write_text


@dataclass(frozen=True)
class FinishedEpochs:
    """The folder of finished work, or none (`folder` None)."""

    folder: Path | None
    progress: bool = False
    digest: str = ""

    @classmethod
    def open(cls, folder: Path | None, digest: str, progress: bool = False) -> FinishedEpochs:
        """Take up the folder; what another job left in it goes."""
        if folder is not None:
            job = folder / "job.json"
            if job.is_file() and job.read_text(encoding="utf-8", errors="replace") != json.dumps({"digest": digest}):
                for path in (job, *folder.glob("*.safetensors")):
                    path.unlink(missing_ok=True)
            write_text(job, json.dumps({"digest": digest}))
        return cls(folder, progress, digest)

    def close(self) -> None:
        """Everything is done: remove the folder."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def load(self, stage: str, module: nn.Module, optimiser: torch.optim.Optimizer) -> int:
        """Put weights and moments back; the number of finished epochs."""
        if self.folder is None:
            return 0
        about = restore(self._path(stage), self._job(stage), module, optimiser)
        return 0 if about is None else int(about["epoch"])

    def save(self, stage: str, epoch: int, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Keep what an epoch has made."""
        if self.folder is None:
            return
        keep(self._path(stage), self._job(stage), module, optimiser, {"epoch": epoch})

    def _path(self, stage: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{stage}.safetensors"

    def _job(self, stage: str) -> str:
        return f"{self.digest} {stage}"


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
    parts: FinishedEpochs,
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
            loss.backward()  # type: ignore[no-untyped-call]
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
