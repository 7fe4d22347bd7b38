"""Training on Gaia XP coefficients."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phdlspec.datadriven.folds import grouped_folds
from phdlspec.datadriven.scatter_vae.latent_space import LatentSpace
from phdlspec.datadriven.scatter_vae.optimise import Schedule, optimise
from phdlspec.datadriven.scatter_vae.score import learn_reference
from phdlspec.datadriven.scatter_vae.signs import XP_SIGNS
from phdlspec.datadriven.scatter_vae.xp_model import Standardisation, XPModel, signal_to_noise, xp_residuals, xp_signs
from phdlspec.datadriven.scatter_vae.xp_network import LATENTS, XPNetwork
from phdlspec.datadriven.scatter_vae.xp_table import XPSet
from phdlspec.datadriven.training_folder import TrainingFolder
from phdlspec.errors import UserError
from phdlspec.provenance import versions

FEWEST = 100
FOLDS = 10
EPOCHS = 500
_FIRST_CYCLE = 20


@dataclass(frozen=True)
class XPSettings:
    """What a training is asked for."""

    latents: int = LATENTS
    normalisation: str = "gflux"
    epochs: int = EPOCHS
    batch: int = 512
    learning_rate: float = 1e-3
    seed: int = 0


def train_xp(
    data: XPSet, settings: XPSettings, *, device: str = "cpu", parts: Path | None = None, progress: bool = False
) -> XPModel:
    """Learn from XP coefficients; one source in ten is kept apart and makes the reference of ordinary sources.

    parts : folder in which the training is kept while it lasts. Raises `UserError` for too few sources.
    """
    _, _, reasons = data.scaled(settings.normalisation)
    usable = np.array([not r for r in reasons])
    if usable.sum() < FEWEST:
        first = next((f"; the first that cannot be used: {r}" for r in reasons if r), "")
        raise UserError(
            f"{int(usable.sum())} of {len(data)} sources can be used, too few to learn from, expected at least "
            f"{FEWEST}{first}"
        )
    data = data.take(usable)
    held = grouped_folds(data.sources, FOLDS, settings.seed) == 0
    standard = Standardisation.of(data.take(~held), settings.normalisation)
    x, error, _ = standard.apply(data)
    learned_from = {"x": x, "error": error, "sources": data.sources}  # what is held out goes by source
    with TrainingFolder.open(parts, asdict(settings), learned_from, progress) as work:
        return _train(data, settings, standard, held, x, error, device, work)


def _train(
    data: XPSet, settings: XPSettings, standard: Standardisation, held: NDArray[np.bool_], x: NDArray[Any],
    error: NDArray[Any], device: str, work: TrainingFolder,
) -> XPModel:  # fmt: skip
    torch.manual_seed(settings.seed)
    network = XPNetwork(settings.latents).to(device)
    seen, seen_error = (torch.as_tensor(a[~held], device=device) for a in (x, error))
    schedule = Schedule(
        settings.epochs, settings.batch, settings.learning_rate, 0.1 * settings.epochs,
        min(_FIRST_CYCLE, max(settings.epochs, 1)),
    )  # fmt: skip
    began = time.perf_counter()
    history = optimise(
        network, lambda rows, kl: network.loss(seen[rows], seen_error[rows], kl), len(seen), schedule, settings.seed,
        work=work, key="xp",
    )  # fmt: skip
    seconds = time.perf_counter() - began
    network = network.cpu().requires_grad_(False)
    latents = LatentSpace.of(xp_residuals(network, seen.cpu(), seen_error.cpu())[0])
    apart = (torch.as_tensor(a[held]) for a in (x, error))
    z, _, left = xp_residuals(network, *apart)
    signs = xp_signs(left, latents, z)
    reference = learn_reference(signs, signal_to_noise(data.take(held)), XP_SIGNS)
    metadata = {
        "settings": asdict(settings), "versions": versions(), "sources": int((~held).sum()),
        "held_out": int(held.sum()), "loss": history[-1], "seconds": round(seconds, 1),
        "held_out_rchi2": float(np.mean(left.deviation**2)), "correlations": "not used",
    }  # fmt: skip
    return XPModel(standard, network, latents, reference, metadata)
