"""Each encoder alone: masked pixels and quantiles of labels for spectra, stretches of one star for light curves."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from phdlspec.datadriven.desa.encoders import LEADING, PATCH, QUANTILES, LightCurveEncoder, SpectrumEncoder, features
from phdlspec.datadriven.desa.views import Views

MASKED = 0.3  # of the patches of a spectrum
MODEL_ERROR = 0.3  # of the scatter among stars, below which errors of pixels make no difference
LABEL_WEIGHT = 1.0
DROPPED = 0.3  # longest part of a stretch that is hidden


def spectrum_loss(
    encoder: SpectrumEncoder, flux: Tensor, ivar: Tensor, labels: Tensor, generator: torch.Generator
) -> Tensor:
    """Of spectra (B, P): squared residuals of hidden patches, weighed by their noise, and the pinball loss of labels
    (B, L), standardised, NaN where missing."""
    standard, good = encoder.standardised(flux, ivar)
    hidden = torch.rand(len(flux), encoder.tokens, generator=generator) < MASKED
    hidden = hidden.repeat_interleave(PATCH, dim=1)[:, : encoder.pixels].to(flux.device)
    tokens = encoder(torch.where(hidden, 0.0, standard), good & ~hidden)
    variance = torch.where(good, 1.0 / (ivar.clamp(min=1e-12) * encoder.scale.square()), 0.0) + MODEL_ERROR**2
    weight = (hidden & good) / variance
    loss = (weight * (encoder.pixels_of(tokens) - standard).square()).sum() / weight.sum().clamp(min=1e-6)
    if labels.shape[1]:
        loss = loss + LABEL_WEIGHT * pinball(encoder.quantiles(tokens), labels)
    return loss


def pinball(quantiles: Tensor, labels: Tensor) -> Tensor:
    """Mean pinball loss of quantiles (B, L, 3) of labels (B, L); missing ones do not count."""
    level = torch.tensor(QUANTILES, device=labels.device)
    known = torch.isfinite(labels)
    off = torch.nan_to_num(labels)[..., None] - quantiles
    return (torch.maximum(level * off, (level - 1) * off) * known[..., None]).sum() / known.sum().clamp(min=1)


class Siamese(nn.Module):
    """Light-curve encoder with the two small networks of SimSiam (Chen & He 2021)."""

    def __init__(self, encoder: LightCurveEncoder, width: int, size: int = 128):
        super().__init__()
        self.encoder = encoder
        self.projector = nn.Sequential(
            nn.Linear((LEADING + 1) * width, size),
            nn.BatchNorm1d(size),
            nn.ReLU(),
            nn.Linear(size, size),
            nn.BatchNorm1d(size),
        )
        self.predictor = nn.Sequential(
            nn.Linear(size, size // 4), nn.BatchNorm1d(size // 4), nn.ReLU(), nn.Linear(size // 4, size)
        )

    def forward(self, one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> Tensor:
        """Negative mean cosine between the prediction of one stretch and the projection of another of the same star,
        through which no gradient goes; both ways."""
        z1, z2 = (self.projector(features(self.encoder(*views))) for views in (one, other))
        cosine = nn.functional.cosine_similarity
        return -0.5 * (cosine(self.predictor(z1), z2.detach()).mean() + cosine(self.predictor(z2), z1.detach()).mean())


def tensors_of(views: Views) -> tuple[Tensor, ...]:
    """The arrays of `Views` as the encoder takes them."""
    return tuple(torch.as_tensor(getattr(views, field.name)) for field in fields(Views))


class StretchPairs:
    """Two stretches of each of N stars, drawn anew whenever they are asked for; the same one twice where a star has no
    other. owner : (S,) star of each stretch, increasing, without gaps."""

    def __init__(self, views: Views, owner: NDArray[np.int64]):
        self.tensors = tensors_of(views)
        counts = np.bincount(owner)
        self.count = torch.as_tensor(counts)
        self.start = torch.as_tensor(np.concatenate([[0], np.cumsum(counts)[:-1]]))

    def __len__(self) -> int:
        return len(self.count)

    def draw(self, stars: Tensor, generator: torch.Generator) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Both, each with a part of its flux hidden."""
        first = (torch.rand(len(stars), generator=generator) * self.count[stars]).long()
        step = 1 + (torch.rand(len(stars), generator=generator) * (self.count[stars] - 1)).long()
        second = (first + step) % self.count[stars]
        one, other = (self._hidden(self.start[stars] + which, generator) for which in (first, second))
        return one, other

    def _hidden(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        flux, good, *rest = (tensor[rows] for tensor in self.tensors)
        points = flux.shape[1]
        start, length = torch.rand(2, len(rows), 1, generator=generator) * torch.tensor([1.0, DROPPED])[:, None, None]
        place = torch.arange(points) / points
        kept = (place < start) | (place > start + length)
        return flux * kept, good & kept, *rest
