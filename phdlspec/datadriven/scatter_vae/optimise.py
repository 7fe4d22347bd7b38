"""Training of a network by AdamW with cosine warm restarts; stopped or killed, it goes on where it stood."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from phdlspec.datadriven.training_folder import NOTHING_KEPT, TrainingFolder
from phdlspec.errors import UserError

KEEP_EVERY = 20.0  # s between two states on disk


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    kl_epochs : over which the weight of the latents' divergence rises from 0 to 1. first_cycle : epochs of the first
    cosine cycle of the learning rate; each further one is twice as long.
    """

    epochs: int
    batch: int
    learning_rate: float
    kl_epochs: float
    first_cycle: int
    weight_decay: float = 0.01


Loss = Callable[[Tensor, float], Tensor]


def optimise(
    network: nn.Module, loss: Loss, size: int, schedule: Schedule, seed: int, *,
    work: TrainingFolder = NOTHING_KEPT, key: str = "network",
) -> list[float]:  # fmt: skip
    """Train in place; the mean loss of each epoch.

    loss : of rows (b,) with a weight of the divergence: the value (b,) of each. size : rows there are. work : where
    the training is kept as `key` every `KEEP_EVERY` seconds. Raises `UserError` where the loss is no longer a number.
    """
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(
        [p for p in network.parameters() if p.requires_grad], schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, schedule.first_cycle, 2)
    history = _restored(work.restore(key, network, optimizer), optimizer, scheduler)
    kept = time.monotonic()
    network.train()
    for epoch in tqdm(range(len(history), schedule.epochs), desc=key, unit="epoch", disable=not work.progress):
        total = 0.0
        batches = torch.randperm(size).chunk(max(1, size // schedule.batch))
        for number, rows in enumerate(batches):
            weight = min(1.0, (epoch + number / len(batches)) / max(schedule.kl_epochs, 1e-9))
            value = loss(rows, weight).mean()
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            scheduler.step(epoch + number / len(batches))
            total += float(value.detach()) * len(rows)
        history.append(total / size)
        if not history[-1] < float("inf"):
            raise UserError(f"the training diverged in epoch {epoch + 1}: the loss is {history[-1]}; look at the data")
        if time.monotonic() - kept > KEEP_EVERY or epoch + 1 == schedule.epochs:
            rates = [group["lr"] for group in optimizer.param_groups]
            about = {"history": history, "scheduler": scheduler.state_dict(), "rates": rates}
            work.keep(key, network, optimizer, about)
            kept = time.monotonic()
    network.eval()
    return history


def _restored(
    about: dict[str, Any] | None, optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler
) -> list[float]:
    if about is None:
        return []
    scheduler.load_state_dict(about["scheduler"])
    for group, rate in zip(optimizer.param_groups, about["rates"]):
        group["lr"] = rate
    return list(about["history"])
