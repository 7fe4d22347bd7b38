"""Training: both encoders alone, the light curves' after its period network, then the DualFormer on what they say of
stars that have a spectrum and a light curve.

A share of the stars is held out of everything; their names stand in the model, and `phdlspec desa check` scores on
them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import NDArray
from torch import Tensor

from phdlspec.datadriven.dataset import Dataset
from phdlspec.datadriven.desa.desa import (
    Desa,
    DesaSettings,
    EmbeddingScale,
    Tokens,
    encode,
    new_dual,
    new_encoders,
    run_dual,
)
from phdlspec.datadriven.desa.dual_former import DualFormer, contrastive_loss, dual_loss
from phdlspec.datadriven.desa.epochs import run_epochs
from phdlspec.datadriven.desa.light_curve_set import LightCurveSet
from phdlspec.datadriven.desa.period_network import period_loss
from phdlspec.datadriven.desa.pretraining import Siamese, StretchPairs, spectrum_loss
from phdlspec.datadriven.desa.rotators import draw_rotators
from phdlspec.datadriven.desa.stars import DesaStars, StarLabels, gather, labels_of
from phdlspec.datadriven.folds import grouped_folds
from phdlspec.datadriven.training_folder import NOTHING_KEPT, TrainingFolder
from phdlspec.errors import UserError
from phdlspec.provenance import versions

FEWEST = 20  # pairs
FEWEST_PER_LABEL = 10

Mask = NDArray[np.bool_]


def train(
    spectra: Dataset,
    curves: LightCurveSet,
    pairs: str | Path | Table,
    labels: Sequence[str | Path | Table] = (),
    settings: DesaSettings | None = None,
    *,
    parts: str | Path | None = None,
    progress: bool = False,
) -> Desa:
    """Learn an embedding of stars.

    spectra, curves : what `read_dataset` and `read_light_curves` give; those in no pair help their encoder.
    pairs : see `gather`. labels : tables of labels that the spectrum encoder learns; without any, no label is in the
    embedding. parts : folder in which finished epochs are kept, and from which a stopped run goes on.

    Raises `UserError` for data from which nothing can be learned.
    """
    settings = settings or DesaSettings()
    stars = gather(spectra, curves, pairs)
    learned = labels_of(stars, spectra, curves, labels) if labels else None
    pairs_to_learn = _usable(stars, spectra, curves).all(axis=1) & _training_stars(stars, settings)
    _check_number(int(pairs_to_learn.sum()), settings)
    data: dict[str, Any] = {
        "wave": spectra.wave, "flux": spectra.flux, "ivar": spectra.ivar, "curves": curves.views.flux,
        "owner": curves.owner, "stars": stars.names, "spectrum": stars.spectrum, "light_curve": stars.light_curve,
    }  # fmt: skip
    if learned is not None:
        data |= {"values": learned.values, "errors": learned.errors}
    with TrainingFolder.open(parts, asdict(settings), data, progress) as work:
        return _train(spectra, curves, stars, learned, settings, work)


def _train(
    spectra: Dataset,
    curves: LightCurveSet,
    stars: DesaStars,
    learned: StarLabels | None,
    settings: DesaSettings,
    work: TrainingFolder,
) -> Desa:
    usable = _usable(stars, spectra, curves)
    paired, training = usable.all(axis=1), _training_stars(stars, settings)
    began = time.perf_counter()
    torch.manual_seed(settings.seed)
    model = _empty_model(spectra, learned, training & usable[:, 0], settings)
    history: dict[str, list[float]] = {}
    history["spectrum"] = _train_spectra(model, spectra, stars, learned, training & usable[:, 0], work)
    history["period"] = _train_periods(model, work)
    history["curve"] = _train_curves(model, curves, stars, training & usable[:, 1], work)
    tokens = encode(model.spectrum_encoder, model.curve_encoder, stars, spectra, curves)
    dual, history["dual"] = train_dual(take_tokens(tokens, paired & training), settings, work)
    metadata = {
        "stars": int((training & usable.any(axis=1)).sum()), "pairs": int((paired & training).sum()),
        "training": sorted({stars.names[i] for i in np.flatnonzero(training & usable.any(axis=1))}),
        "held_out": sorted({stars.names[i] for i in np.flatnonzero(~training)}),
        "losses": {name: [round(x, 5) for x in values] for name, values in history.items()},
        "training_seconds": round(time.perf_counter() - began, 1), "versions": versions(),
    }  # fmt: skip
    return replace(model, dual_former=dual, metadata=metadata, scales=_scales(dual, tokens, paired & training))


def _training_stars(stars: DesaStars, settings: DesaSettings) -> Mask:
    # The others are held out of everything.
    names = len(set(stars.names))
    fold: Mask = grouped_folds(stars.names, names, settings.seed) >= round(settings.hold_out * names)
    return fold


def _check_number(pairs: int, settings: DesaSettings) -> None:
    if pairs < FEWEST:
        raise UserError(
            f"{pairs} pairs to learn from, expected {FEWEST} or more with both a usable spectrum and a usable light "
            f"curve, after {settings.hold_out:.0%} of the stars are held out"
        )


def _usable(stars: DesaStars, spectra: Dataset, curves: LightCurveSet) -> Mask:
    one = (stars.spectrum >= 0) & spectra.readable[stars.spectrum]
    other = (stars.light_curve >= 0) & curves.readable[stars.light_curve]
    return np.column_stack([one, other])


def _empty_model(spectra: Dataset, labels: StarLabels | None, rows: Mask, settings: DesaSettings) -> Desa:
    count = 0 if labels is None else len(labels.infos)
    shift, scale = np.zeros(count), np.ones(count)
    if labels is not None:
        few = [i.name for i, n in zip(labels.infos, np.isfinite(labels.values[rows]).sum(0)) if n < FEWEST_PER_LABEL]
        if few:
            raise UserError(f"{few[0]} is known for fewer than {FEWEST_PER_LABEL} of the training stars; leave it out")
        shift, scale = np.nanmean(labels.values[rows], axis=0), np.nanstd(labels.values[rows], axis=0)
        scale = np.where(scale > 0, scale, 1.0)
    spectrum, curve = new_encoders(settings, len(spectra.wave), count)
    infos = () if labels is None else labels.infos
    return Desa(
        spectra.wave, spectrum, curve, new_dual(settings, (1, 1)), settings, infos, shift, scale, (), {}
    )  # fmt: skip


def _train_spectra(
    model: Desa, spectra: Dataset, stars: DesaStars, labels: StarLabels | None, rows: Mask, work: TrainingFolder
) -> list[float]:
    chosen = stars.spectrum[rows]
    flux, ivar = (torch.as_tensor(x[chosen]) for x in (spectra.flux, spectra.ivar))
    values = torch.empty(len(chosen), 0)
    if labels is not None:
        values = torch.as_tensor((labels.values[rows] - model.shift) / model.scale, dtype=torch.float32)
    encoder, settings = model.spectrum_encoder, model.settings
    encoder.set_pixels(flux, ivar)

    def loss_of(batch: Tensor, generator: torch.Generator) -> Tensor:
        return spectrum_loss(encoder, flux[batch], ivar[batch], values[batch], generator)

    return run_epochs(
        "spectrum", encoder, loss_of, len(chosen), epochs=settings.spectrum_epochs, batch=settings.batch,
        rate=settings.rate, seed=settings.seed, work=work,
    )  # fmt: skip


def _train_periods(model: Desa, work: TrainingFolder) -> list[float]:
    """The period network, from simulated rotators; they are drawn when the first batch is asked for, so never by a run
    that has finished this stage."""
    network, settings = model.curve_encoder.period, model.settings

    @cache
    def rotators() -> tuple[Tensor, ...]:
        return tuple(torch.as_tensor(x, dtype=torch.float32) for x in draw_rotators(settings.rotators, settings.seed))

    def loss_of(batch: Tensor, generator: torch.Generator) -> Tensor:
        return period_loss(network, *(x[batch] for x in rotators()))

    return run_epochs(
        "period", network, loss_of, settings.rotators, epochs=settings.period_epochs, batch=settings.batch,
        rate=2.0 * settings.rate, seed=settings.seed, work=work,
    )  # fmt: skip


def _train_curves(
    model: Desa, curves: LightCurveSet, stars: DesaStars, rows: Mask, work: TrainingFolder
) -> list[float]:
    part = curves.take(np.unique(stars.light_curve[rows]))
    settings = model.settings
    pairs = StretchPairs(part.views, part.owner)
    siamese = Siamese(model.curve_encoder, settings.width)

    def loss_of(batch: Tensor, generator: torch.Generator) -> Tensor:
        answer: Tensor = siamese(*pairs.draw(batch, generator))
        return answer

    return run_epochs(
        "curve", siamese, loss_of, len(pairs), epochs=settings.curve_epochs, batch=settings.batch,
        rate=settings.rate, seed=settings.seed, work=work,
    )  # fmt: skip


def take_tokens(tokens: Tokens, rows: Mask) -> Tokens:
    """Those of some of the stars."""
    chosen = torch.as_tensor(np.flatnonzero(rows))
    return Tokens(**{name: getattr(tokens, name)[chosen] for name in Tokens.__dataclass_fields__})


def train_dual(
    tokens: Tokens, settings: DesaSettings, work: TrainingFolder = NOTHING_KEPT
) -> tuple[DualFormer, list[float]]:
    """A DualFormer learned from the tokens of pairs, and its loss by epoch."""
    torch.manual_seed(settings.seed)
    dual = new_dual(settings, (tokens.spectrum.shape[1], tokens.curve.shape[1]))
    dual.set_tokens(tokens.spectrum, tokens.curve)
    loss = {"dual": dual_loss, "contrastive": contrastive_loss}[settings.objective]

    def loss_of(batch: Tensor, generator: torch.Generator) -> Tensor:
        return loss(dual, tokens.spectrum[batch], tokens.curve[batch])

    history = run_epochs(
        "dual", dual, loss_of, len(tokens.have), epochs=settings.dual_epochs, batch=settings.batch,
        rate=settings.rate, seed=settings.seed, work=work,
    )  # fmt: skip
    with torch.no_grad():  # what is standardised at last is all pairs, not those of the last batch
        dual.note(*dual.raw(tokens.spectrum, tokens.curve, tokens.have))
    return dual, history


def seen_with(tokens: Tokens, kind: str) -> Tokens:
    """The same stars seen with "both" modalities, the "spectrum" alone or the "light curve" alone."""
    have: dict[str, Any] = {"both": [True, True], "spectrum": [True, False], "light curve": [False, True]}
    return replace(tokens, have=tokens.have & torch.tensor(have[kind]))


def _scales(dual: DualFormer, tokens: Tokens, rows: Mask) -> tuple[EmbeddingScale, ...]:
    part = take_tokens(tokens, rows)
    return tuple(
        EmbeddingScale.of(run_dual(dual, seen_with(part, kind))) for kind in ("both", "spectrum", "light curve")
    )
