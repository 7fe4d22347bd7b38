"""Training: number of latents and label map by grouped cross-validation, errors on held-out stars, then the model of
all.

A run that was stopped goes on (`TrainingFolder`): with the sweep or block of an optimisation that it had come to, and
with what finished folds say of their held-out stars.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from phdlspec.datadriven.dataset import Dataset, read_dataset
from phdlspec.datadriven.folds import grouped_folds
from phdlspec.datadriven.label_table import GivenLabels, LabelInfo
from phdlspec.datadriven.lux.judging import Fold, Judgement, judge, robust
from phdlspec.datadriven.lux.label_map import MapCandidates
from phdlspec.datadriven.lux.lux import Limits, Lux
from phdlspec.datadriven.lux.model import Parameters, StarArrays, infer
from phdlspec.datadriven.lux.optimise import OptimisationState, canonical, optimise
from phdlspec.datadriven.training_folder import TrainingFolder
from phdlspec.errors import UserError
from phdlspec.provenance import versions
from phdlspec.spectrum import Spectrum

FOLDS = 5
HELD_OUT = 3000  # stars, with which errors are well known, of rare labels too: larger sets try fewer folds
CHOICE_STARS = 2500  # most that the number of latents is chosen with
CHOICE_FOLDS = 2  # in which it is
LATENTS = (6, 12, 24, 48, 96)
STARS_PER_LATENT = 3  # least
FEWEST_PER_LABEL = 10
COVERED = 0.2  # of the stars that must have a pixel for it to be used
BETTER = 0.01  # by which more latents must raise the likelihood of a held-out label, in its logarithm, to be taken
LIMIT = 0.999
FOLD_SWEEPS = 12  # of a model that only serves to judge: what later ones gain is far below the labels' scatter

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LuxSettings:
    """latents : number, or None for a choice by cross-validation. restarts : starts tried, the best goes on."""

    latents: int | None = None
    seed: int = 0
    restarts: int = 1


@dataclass(frozen=True)
class _LuxTraining:
    # Stars in internal units with what makes them so.
    stars: StarArrays
    groups: tuple[str, ...]
    used: NDArray[np.bool_]
    shift: Array
    scale: Array


def train(
    spectra: Dataset | Sequence[str | Path | Spectrum],
    labels: Sequence[str | Path | Table | GivenLabels] = (),
    *,
    latents: int | None = None,
    seed: int = 0,
    restarts: int = 1,
    device: str = "cpu",
    parts: str | Path | None = None,
    progress: bool = False,
    **reading: Any,
) -> Lux:
    """Learn labels from spectra.

    Parameters
    ----------
    spectra, labels : a data set, or what `read_dataset` takes, of which `reading` are the options.
    latents : number of latents, at least that of labels; by default chosen by cross-validation.
    restarts : starts tried with a few sweeps each, of which the best goes on.
    device : "cpu" or "cuda".
    parts : folder in which finished work is kept, and from which a stopped run goes on.

    Raises `UserError` for data from which nothing can be learned.
    """
    data = spectra if isinstance(spectra, Dataset) else read_dataset(spectra, labels, progress=progress, **reading)
    if isinstance(spectra, Dataset) and labels:
        data = data.with_labels([t for t in labels if isinstance(t, GivenLabels)])
    data = data.take(data.readable)
    settings = LuxSettings(latents, seed, restarts)
    training = _prepare(data, device)
    _check_size(data, settings)
    learned_from = {
        "wave": data.wave, "flux": data.flux, "ivar": data.ivar, "values": data.values, "errors": data.errors,
        "stars": data.stars,
    }  # fmt: skip
    with TrainingFolder.open(parts, asdict(settings), learned_from, progress) as work:
        began = time.perf_counter()
        count = latents or _choose_latents(training, settings, work)
        folds = [_fold(training, count, fold, settings, work) for fold in _fold_numbers(len(data))]
        judgement = judge(folds, training.groups)
        final = _optimised(training.stars, count, settings, work, f"all_{count}")
        metadata = {
            "settings": asdict(settings) | {"latents": count},
            "versions": versions(),
            "stars": len(data),
            "files": data.files,
        }
        model = _assemble(data, training, final, folds, judgement, metadata)
        model.metadata["training_seconds"] = round(time.perf_counter() - began, 1)  # type: ignore[index]
        return model


def _check_size(data: Dataset, settings: LuxSettings) -> None:
    labels = len(data.infos)
    least = settings.latents or labels
    if settings.latents is not None and settings.latents < labels:
        raise UserError(
            f"{settings.latents} latents cannot carry {labels} labels: give --latents {labels} or more, or fewer labels"
        )
    if len(data) < STARS_PER_LATENT * least:
        raise UserError(
            f"{len(data)} stars are too few for {least} latents ({labels} labels), expected at least "
            f"{STARS_PER_LATENT * least}; add stars, or take fewer labels"
        )


def _prepare(data: Dataset, device: str) -> _LuxTraining:
    if not data.infos:
        raise UserError("no labels to learn from: give a table of labels")
    known = np.isfinite(data.values)
    for info, count in zip(data.infos, known.sum(0)):
        if count < FEWEST_PER_LABEL:
            raise UserError(
                f"{info.name} of {info.set_name} is known for {count} of the {len(data)} spectra, expected at least "
                f"{FEWEST_PER_LABEL}; leave the column out or match more stars"
            )
    used = (data.ivar > 0).mean(0) >= COVERED
    if used.sum() < 2 * len(data.infos):
        raise UserError(
            f"only {used.sum()} pixels are usable in {100 * COVERED:.0f}% of the stars: nothing to learn from"
        )
    shift, scale = np.nanmedian(data.values, axis=0), np.nanstd(data.values, axis=0)
    constant = np.flatnonzero(~(scale > 0))
    if len(constant):
        info = data.infos[constant[0]]
        raise UserError(f"{info.name} of {info.set_name} has one value for all stars: nothing to learn from")
    label = np.where(known, (data.values - shift) / scale, 0.0)
    label_ivar = np.where(known, (scale / np.where(known, data.errors, 1.0)) ** 2, 0.0)
    stars = StarArrays(
        torch.as_tensor(np.ascontiguousarray(data.flux[:, used]), device=device),
        torch.as_tensor(np.ascontiguousarray(data.ivar[:, used]), device=device),
        torch.as_tensor(label, device=device), torch.as_tensor(label_ivar, device=device),
    )  # fmt: skip
    return _LuxTraining(stars, data.stars, used, shift, scale)


def _fold_numbers(stars: int) -> range:
    return range(min(FOLDS, -(-HELD_OUT * FOLDS // stars)))


def _choose_latents(training: _LuxTraining, settings: LuxSettings, work: TrainingFolder) -> int:
    """The number of latents that makes held-out labels most likely; more only where they help."""
    names = np.unique(training.groups)
    if len(training.groups) > CHOICE_STARS:
        share = CHOICE_STARS / len(training.groups)
        kept = np.random.default_rng(settings.seed).permutation(names)[: max(int(share * len(names)), 1)]
        rows = np.flatnonzero(np.isin(training.groups, kept))
        taken = tuple(training.groups[i] for i in rows)
        training = replace(training, stars=training.stars.take(torch.as_tensor(rows)), groups=taken)
    labels, stars = training.stars.label.shape[1], len(training.stars)
    ladder = [k for k in LATENTS if labels <= k <= stars * (FOLDS - 1) // FOLDS // STARS_PER_LATENT] or [labels]
    best, best_score = ladder[0], np.inf
    for count in ladder:
        folds = [_fold(training, count, fold, settings, work) for fold in range(CHOICE_FOLDS)]
        score = judge(folds, training.groups).score
        if score > best_score - BETTER:
            break
        best, best_score = count, score
    return best


def _fold(training: _LuxTraining, count: int, number: int, settings: LuxSettings, work: TrainingFolder) -> Fold:
    """Train without one fold of the stars, and look at them."""
    stars = training.stars
    key = f"{len(stars)}_{count}_{number}"
    finished = work.done(key)
    if finished is not None:
        return Fold(**finished)
    fold = grouped_folds(training.groups, FOLDS, settings.seed)
    kept, held = (torch.as_tensor(np.flatnonzero(x)) for x in (fold != number, fold == number))
    part = stars.take(kept)
    parameters = _optimised(part, count, settings, work, key, FOLD_SWEEPS)
    z, covariance, residual, variance, chi2 = _seen_without_labels(parameters, part)
    mean, spread = _latent_moments(z, covariance)
    left = stars.take(held)
    held_z, held_covariance, held_residual, held_variance, held_chi2 = _seen_without_labels(parameters, left)
    wide = held_covariance.numpy() + spread
    offset = held_z.numpy() - mean
    distance = np.sqrt(np.einsum("nk,nk->n", offset, np.linalg.solve(wide, offset[..., None])[..., 0]) / count)
    pixels = (left.ivar > 0).sum(1).cpu().numpy()
    result = Fold(
        held.numpy(), z.numpy(), _signal(covariance), residual.numpy(),
        variance.numpy() + _straight_spread(parameters, covariance),
        held_z.numpy(), held_covariance.float().numpy(), held_residual.numpy(),
        held_variance.numpy(), distance, held_chi2.numpy() / np.maximum(pixels, 1),
        parameters.label_loadings.cpu().numpy(),
    )  # fmt: skip
    work.keep_done(key, vars(result))
    return result


def _optimised(
    stars: StarArrays, count: int, settings: LuxSettings, work: TrainingFolder, key: str, sweeps: int | None = None
) -> Parameters:
    # With a number of sweeps only these; else all the way.
    def save(state: OptimisationState) -> None:
        about = {"stage": state.stage, "step": state.step, "values": state.values}
        work.keep_state(key, state.parameters.tensors(), about)

    def tell(stage: str, value: float) -> None:
        bar.set_postfix_str(f"{stage} {value:.1f}")
        bar.update()

    kept, begun = work.state(key), None
    if kept is not None:
        parameters = Parameters(**{name: tensor.to(stars.flux.device) for name, tensor in kept.tensors.items()})
        about = kept.metadata
        begun = OptimisationState(parameters, about["stage"], about["step"], tuple(about["values"]))
    with tqdm(desc=key, unit="step", disable=not work.progress) as bar:
        state = optimise(stars, count, settings.seed, settings.restarts, begun, sweeps, save, tell)
    return canonical(state.parameters, stars)


def _seen_without_labels(parameters: Parameters, stars: StarArrays) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    # Latents and covariances from flux alone, what the straight map leaves of labels (NaN = missing), variances, chi2.
    z, covariance, chi2 = (part.cpu() for part in infer(parameters, stars.without_labels()))
    label, ivar = stars.label.cpu(), stars.label_ivar.cpu()
    residual = label - parameters.label_mean.cpu() - z @ parameters.label_loadings.cpu().T
    nan = torch.full_like(residual, torch.nan)
    return z, covariance, torch.where(ivar > 0, residual, nan), torch.where(ivar > 0, 1.0 / ivar, nan), chi2


def _signal(covariance: Tensor) -> Array:
    # Squared signal-to-noise ratio (K,) of the latents in a spectrum: their prior variance is one.
    return np.asarray(1.0 / covariance.diagonal(dim1=1, dim2=2).mean(0).numpy() - 1.0).clip(min=1e-9)


def _straight_spread(parameters: Parameters, covariance: Tensor) -> Array:
    # Variance (n, L) that the uncertainty of the latents gives the labels of the straight map.
    slope = parameters.label_loadings.cpu()
    return np.asarray(torch.einsum("lk,nkj,lj->nl", slope, covariance, slope).numpy())


def _latent_moments(z: Tensor, covariance: Tensor) -> tuple[Array, Array]:
    # Mean and covariance of the stars' true latents.
    spread = torch.cov(z.T).reshape(z.shape[1], z.shape[1]) + covariance.mean(0)
    return z.mean(0).numpy(), spread.numpy()


def _assemble(
    data: Dataset,
    training: _LuxTraining,
    parameters: Parameters,
    folds: list[Fold],
    judgement: Judgement,
    metadata: dict[str, Any],
) -> Lux:
    z, covariance, residual, variance, _ = _seen_without_labels(parameters, training.stars)
    mean, spread = _latent_moments(z, covariance)
    plain = Parameters(**{name: tensor.cpu() for name, tensor in parameters.tensors().items()})
    metadata["held_out"] = _accuracy(data.infos, judgement, training.scale)
    metadata["pairs"] = judgement.errors.pairs
    held = judgement.held
    files = tuple(data.files[i] for i in held)
    given = (data.values[held] - training.shift) / training.scale
    signal, straight = torch.as_tensor(_signal(covariance)), torch.as_tensor(_straight_spread(plain, covariance))
    label_map = MapCandidates.fit(z, signal, residual, variance + straight, plain.label_loadings).mean(judgement.shares)
    return Lux(
        data.wave, training.used, data.resolving_power, plain, label_map, judgement.errors,
        data.infos, training.shift, training.scale, mean, spread,
        Limits(
            float(np.quantile(np.concatenate([f.distance for f in folds]), LIMIT)),
            float(np.quantile(np.concatenate([f.rchi2 for f in folds]), LIMIT)),
            np.nanmin(data.values, axis=0), np.nanmax(data.values, axis=0),
        ),
        metadata, files, training.shift + training.scale * (given + judgement.difference),
    )  # fmt: skip


def _accuracy(infos: tuple[LabelInfo, ...], found: Judgement, scale: Array) -> list[dict[str, Any]]:
    """Of each label: held-out stars, robust scatter, and the scatter over the error with the table's own."""
    pull = found.difference / np.sqrt(np.einsum("nll->nl", found.covariance) + found.given_variance)
    return [
        {
            "label": info.name, "set": info.set_name, "stars": int(np.isfinite(found.difference[:, i]).sum()),
            "scatter": float(robust(found.difference)[i] * scale[i]), "pull": float(robust(pull)[i]),
        }
        for i, info in enumerate(infos)
    ]  # fmt: skip
