"""The epochs of a training, each of which is kept: a run that was killed goes on from the last one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from tqdm import tqdm

from phdlspec.datadriven.training_folder import TrainingFolder


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
    work: TrainingFolder,
) -> list[float]:
    """Minimise a loss by AdamW with a warm-up and a cosine; the mean loss of each epoch run here.

    loss_of : of a batch, from the indices of its rows (of 0 to `rows`) and a generator of random numbers. What an epoch
    draws depends on seed and epoch alone, so that a run taken up again ends as one that never stopped.
    """
    optimiser = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=1e-4)
    before = work.restore(stage, module, optimiser)
    first = 0 if before is None else int(before["epoch"])
    history = []
    for epoch in tqdm(range(first, epochs), desc=stage, unit="epoch", disable=not work.progress):
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
        work.keep(stage, module, optimiser, {"epoch": epoch + 1})
    module.eval()
    return history


def _batches(rows: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    order = torch.randperm(rows, generator=generator)
    for start in range(0, rows, size):
        part = order[start : start + size]
        if len(part) > 1:  # statistics of a batch need two
            yield part
