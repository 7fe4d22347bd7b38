"""Encoders of spectra and of light curves: convolutions make tokens, transformer blocks relate them.

Both give (B, T, D) tokens, the first a summary, the second of the whole spectrum or stretch. `pooled` reduces them to
the few that the DualFormer reads, `features` to one vector a star.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phdlspec.datadriven.desa.period_network import SAID, PeriodNetwork, said
from phdlspec.datadriven.desa.views import FLUX_POINTS, LAGS, SCALARS

PATCH = 64  # pixels of a spectrum, or points of the flux view, in one token
LEADING = 2  # tokens before those of places: the summary, and what is said of the whole
POOL = 4  # tokens in one of `pooled`
QUANTILES = (0.16, 0.5, 0.84)
COMPONENTS = 32  # principal components of a spectrum in a token of their own
_CLIP = 6.0  # of standardised pixels


def blocks(width: int, layers: int) -> nn.TransformerEncoder:
    """Transformer blocks that normalise before they attend."""
    layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)


def _convolutions(channels: int, width: int, strides: tuple[int, ...]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for number, stride in enumerate(strides):
        size = width // 2 if number == 0 and len(strides) > 1 else width
        kernel = 2 * stride + 1
        parts += [nn.Conv1d(channels, size, kernel, stride, stride), nn.GroupNorm(1, size), nn.GELU()]
        channels = size
    return nn.Sequential(*parts)


def pooled(tokens: Tensor) -> Tensor:
    """The first two tokens and the means of each `POOL` of the others, (B, 2 + ceil((T - 2) / POOL), D)."""
    rest = nn.functional.avg_pool1d(tokens[:, LEADING:].mT, POOL, ceil_mode=True).mT
    return torch.cat([tokens[:, :LEADING], rest], dim=1)


def features(tokens: Tensor) -> Tensor:
    """(B, 3 D): the first two tokens and the mean of the others."""
    return torch.cat([tokens[:, :LEADING].flatten(1), tokens[:, LEADING:].mean(dim=1)], dim=1)


class SpectrumEncoder(nn.Module):
    """Spectra of P pixels, with heads for masked pixels and for quantiles of L labels.

    `mean` and `scale` (P,) standardise the flux. Its `components` (C, P), the leading principal ones of the training
    spectra, make a token of their own: convolutions alone take long to find what is a straight line. `set_pixels` sets
    all three.
    """

    mean: Tensor
    scale: Tensor
    components: Tensor

    def __init__(self, pixels: int, labels: int, width: int = 64, layers: int = 2):
        super().__init__()
        self.pixels, self.tokens = pixels, -(-pixels // PATCH)
        self.register_buffer("mean", torch.ones(pixels))
        self.register_buffer("scale", torch.ones(pixels))
        self.register_buffer("components", torch.zeros(min(COMPONENTS, pixels), pixels))
        self.whole = nn.Linear(len(self.components), width)
        self.stem = _convolutions(2, width, (4, 4, 4))
        self.summary = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, self.tokens, width))
        self.blocks = blocks(width, layers)
        self.pixel_head = nn.Linear(width, PATCH)
        self.label_head = nn.Linear(width, len(QUANTILES) * labels) if labels else None

    def set_pixels(self, flux: Tensor, ivar: Tensor) -> None:
        """Mean, scatter and components of the training spectra (N, P)."""
        good = (ivar > 0).float()
        count = good.sum(0).clamp(min=1.0)
        self.mean = torch.where(good.sum(0) > 0, (flux * good).sum(0) / count, 1.0)
        self.scale = (((flux - self.mean).square() * good).sum(0) / count).sqrt().clamp(min=0.01)
        standard, _ = self.standardised(flux, ivar)
        rank = min(len(self.components), *standard.shape)
        _, singular, directions = torch.svd_lowrank(standard, rank, niter=4)
        self.components.zero_()
        self.components[:rank] = directions.mT * (len(flux) ** 0.5 / singular.clamp(min=1e-6))[:, None]

    def standardised(self, flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
        """Flux (B, P) in units of the scatter, 0 at bad pixels, and whether they are good."""
        good = ivar > 0
        return torch.where(good, ((flux - self.mean) / self.scale).clamp(-_CLIP, _CLIP), 0.0), good

    def forward(self, flux: Tensor, good: Tensor) -> Tensor:
        """Tokens (B, 2 + T, D) of standardised flux (B, P) and what is good of it; after the summary that of the
        components, taken from what is good alone."""
        padding = self.tokens * PATCH - self.pixels
        channels = torch.stack([flux, good.float()], dim=1)
        patches = self.stem(nn.functional.pad(channels, (0, padding)))[..., : self.tokens].mT + self.position
        filled = self.pixels / good.sum(dim=1, keepdim=True).clamp(min=1)
        whole = self.whole(flux @ self.components.mT * filled)[:, None]
        answer: Tensor = self.blocks(torch.cat([self.summary.expand(len(flux), -1, -1), whole, patches], dim=1))
        return answer

    def pixels_of(self, tokens: Tensor) -> Tensor:
        """Standardised flux (B, P) from tokens."""
        answer: Tensor = self.pixel_head(tokens[:, LEADING:]).flatten(1)[:, : self.pixels]
        return answer

    def quantiles(self, tokens: Tensor) -> Tensor:
        """(B, L, 3) quantiles of the standardised labels, in order."""
        if self.label_head is None:
            return tokens.new_empty(len(tokens), 0, len(QUANTILES))
        raw = self.label_head(tokens[:, 0]).unflatten(1, (-1, len(QUANTILES)))
        low, middle, high = raw.unbind(-1)
        softplus = nn.functional.softplus
        return torch.stack([middle - softplus(low), middle, middle + softplus(high)], dim=-1)


class LightCurveEncoder(nn.Module):
    """The three views of a stretch of a light curve; each has convolutions of its own, the blocks see all tokens.

    What the period network, learned before, says of the stretch is in the token of the scalars.
    """

    def __init__(self, width: int = 64, layers: int = 2):
        super().__init__()
        curve = len(LAGS) // 16
        self.counts = (FLUX_POINTS // PATCH, curve, curve)
        self.flux_stem = _convolutions(2, width, (4, 4, 4))
        self.acf_stem = _convolutions(1, width, (4, 4))
        self.power_stem = _convolutions(1, width, (4, 4))
        self.period = PeriodNetwork()
        self.scalar_stem = nn.Linear(len(SCALARS) + SAID, width)
        self.summary = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, sum(self.counts), width))
        self.blocks = blocks(width, layers)

    def forward(self, flux: Tensor, good: Tensor, acf: Tensor, power: Tensor, scalars: Tensor) -> Tensor:
        """Tokens (B, 2 + T, D) of the arrays of `Views`; after the summary that of scalars and period."""
        parts = [
            stem(x)[..., :count].mT
            for stem, x, count in zip(
                (self.flux_stem, self.acf_stem, self.power_stem),
                (torch.stack([flux, good.float()], dim=1), acf[:, None], power[:, None]),
                self.counts,
            )
        ]
        tokens = torch.cat(parts, dim=1) + self.position
        with torch.no_grad():
            period = said(self.period(acf, power))
        scalar = self.scalar_stem(torch.cat([scalars, period], dim=1))[:, None]
        answer: Tensor = self.blocks(torch.cat([self.summary.expand(len(flux), -1, -1), scalar, tokens], dim=1))
        return answer
