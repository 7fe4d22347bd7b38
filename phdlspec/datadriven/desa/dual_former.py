"""DualFormer: tokens of a spectrum and of a light curve attend to themselves and to each other, and one matrix and its
transpose project both to one space.

After Kamai, Bronstein & Perets (2025). With e1 of the spectrum and e2 of the light curve, p1 = W e1 and p2 = Wᵀ e2, and
the loss is ½ mean (e1ᵀ W e1 - e2ᵀ Wᵀ e2)² plus the covariances between different components of e. A quadratic form sees
the symmetric part of W alone; its eigenvectors are the shared axes. Three things are ours. The loss is smallest where e
or W vanish: e is standardised over the batch, and W has a fixed norm. Nothing in it asks that e keep what the encoders
know: a straight line must read their features from it, and beside the attention a straight line carries them there,
which starts at their principal components. The embedding of a star with one modality learns to be what its
pair's would be, so that one is enough.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from phdlspec.datadriven.desa.encoders import LEADING, features

Attention = Literal["both", "self", "cross"]
COVARIANCE_WEIGHT = 0.1
MISSING_WEIGHT = 1.0
KEPT_WEIGHT = 1.0
_CLIP = 6.0  # of standardised tokens


class _Layer(nn.Module):
    # Self-attention, cross-attention and a small network, each added to what went in.

    def __init__(self, width: int, attention: Attention):
        super().__init__()
        self.own = nn.MultiheadAttention(width, 4, batch_first=True) if attention != "cross" else None
        self.other = nn.MultiheadAttention(width, 4, batch_first=True) if attention != "self" else None
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.network = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.own is not None:
            z = self.norms[0](x)
            x = x + self.own(z, z, z, need_weights=False)[0]
        if self.other is not None:
            y = self.norms[1](y)
            x = x + self.other(self.norms[2](x), y, y, need_weights=False)[0]
        answer: Tensor = x + self.network(self.norms[3](x))
        return answer


class DualFormer(nn.Module):
    """Joint embedding of spectra and light curves.

    tokens : of a spectrum and of a light curve. width : of a token. size : K, of e1 and e2. attention : what the blocks
    have. transpose : p2 = Wᵀ e2, else W e2.
    """

    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        tokens: tuple[int, int],
        width: int = 64,
        size: int = 32,
        layers: int = 2,
        attention: Attention = "both",
        transpose: bool = True,
    ):
        super().__init__()
        self.size, self.transpose = size, transpose
        self.absent = nn.ParameterList(nn.Parameter(0.02 * torch.randn(1, count, width)) for count in tokens)
        for i, count in enumerate(tokens):
            self.register_buffer(f"mean_{i}", torch.zeros(count, width))
            self.register_buffer(f"scale_{i}", torch.ones(count, width))
        self.towers = nn.ModuleList(nn.ModuleList(_Layer(width, attention) for _ in range(layers)) for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear((LEADING + 1) * width, size) for _ in range(2))
        for head in self.heads:
            nn.init.zeros_(head.get_parameter("weight"))
        self.lines = nn.ModuleList(nn.Linear((LEADING + 1) * width, size) for _ in range(2))
        self.readers = nn.ModuleList(nn.Linear(size, (LEADING + 1) * width) for _ in range(2))
        self.raw_matrix = nn.Parameter(nn.init.orthogonal_(torch.empty(size, size)))
        self.temperature = nn.Parameter(torch.tensor(2.0))  # log, of the contrastive loss
        self.register_buffer("centre", torch.zeros(2, size))
        self.register_buffer("spread", torch.ones(2, size))

    @property
    def matrix(self) -> Tensor:
        """W (K, K), of Frobenius norm √K."""
        answer: Tensor = self.raw_matrix * (self.size**0.5 / self.raw_matrix.norm())
        return answer

    def axes(self) -> Tensor:
        """Eigenvectors (K, K), in columns, of the symmetric part of W, the largest absolute eigenvalue first."""
        values, vectors = torch.linalg.eigh((0.5 * (self.matrix + self.matrix.mT)).double())
        answer: Tensor = vectors[:, values.abs().argsort(descending=True)].to(self.matrix.dtype)
        return answer

    def set_tokens(self, spectrum: Tensor, curve: Tensor) -> None:
        """Standardise tokens by those of the training pairs, as what all stars share is most of a token; begin with the
        principal components of their features."""
        for i, tokens in enumerate((spectrum, curve)):
            setattr(self, f"mean_{i}", tokens.mean(0))
            setattr(self, f"scale_{i}", tokens.std(0).clamp(min=1e-3))
            self._start_line(i, features(self.standard_tokens(tokens, i)))

    @torch.no_grad()
    def _start_line(self, which: int, known: Tensor) -> None:
        centre = known.mean(0)
        _, singular, directions = torch.linalg.svd(known - centre, full_matrices=False)
        rank = min(self.size, int((singular > 1e-3 * singular[0]).sum()))
        scatter = singular[:rank, None] / len(known) ** 0.5
        line, reader = self.lines[which], self.readers[which]
        assert isinstance(line, nn.Linear)
        assert isinstance(reader, nn.Linear)
        line.weight.zero_()
        line.weight[:rank] = directions[:rank] / scatter
        line.bias.copy_(-line.weight @ centre)
        reader.weight.zero_()
        reader.weight[:, :rank] = (directions[:rank] * scatter).mT
        reader.bias.copy_(centre)

    def standard_tokens(self, tokens: Tensor, which: int) -> Tensor:
        """Tokens (B, T, D) of the spectrum (0) or the light curve (1) in units of their scatter among stars."""
        mean, scale = getattr(self, f"mean_{which}"), getattr(self, f"scale_{which}")
        answer: Tensor = ((tokens - mean) / scale).clamp(-_CLIP, _CLIP)
        return answer

    def raw(self, spectrum: Tensor, curve: Tensor, have: Tensor) -> tuple[Tensor, Tensor]:
        """e1, e2 (B, K) before they are standardised. have : (B, 2) which modality is there."""
        x, y = (
            torch.where(have[:, i, None, None], self.standard_tokens(tokens, i), absent)
            for i, (tokens, absent) in enumerate(zip((spectrum, curve), self.absent))
        )
        straight = [line(features(z)) for line, z in zip(self.lines, (x, y))]
        for one, other in zip(*self.towers):
            x, y = one(x, y), other(y, x)
        bent = [head(features(z)) for head, z in zip(self.heads, (x, y))]
        return straight[0] + bent[0], straight[1] + bent[1]

    def standardised(self, e1: Tensor, e2: Tensor) -> tuple[Tensor, Tensor]:
        """e1, e2 with mean 0 and scatter 1 over pairs of the training set."""
        return (e1 - self.centre[0]) / self.spread[0], (e2 - self.centre[1]) / self.spread[1]

    def note(self, e1: Tensor, e2: Tensor) -> tuple[Tensor, Tensor]:
        """Standardise over these pairs, and remember how; the gradient goes through mean and scatter too."""
        means, scatters = ([f(e) for e in (e1, e2)] for f in (lambda e: e.mean(0), lambda e: (e.var(0) + 1e-4).sqrt()))  # type: ignore[no-untyped-call]
        self.centre, self.spread = torch.stack(means).detach(), torch.stack(scatters).detach()
        return (e1 - means[0]) / scatters[0], (e2 - means[1]) / scatters[1]

    def projected(self, e1: Tensor, e2: Tensor) -> tuple[Tensor, Tensor]:
        """p1 = W e1 and p2 = Wᵀ e2 (W e2 without the transpose), each (B, K)."""
        return e1 @ self.matrix.mT, e2 @ (self.matrix if self.transpose else self.matrix.mT)

    def forward(self, spectrum: Tensor, curve: Tensor, have: Tensor) -> Tensor:
        """The embedding (B, 2 K): p1 and p2 on the shared axes."""
        p1, p2 = self.projected(*self.standardised(*self.raw(spectrum, curve, have)))
        axes = self.axes()
        return torch.cat([p1 @ axes, p2 @ axes], dim=1)


def alignment(e1: Tensor, e2: Tensor, matrix: Tensor, transpose: bool = True) -> Tensor:
    """½ mean (e1ᵀ W e1 - e2ᵀ Wᵀ e2)², over K².

    Without the transpose the second form is e2ᵀ W e2, which is the same number.
    """
    one = torch.einsum("bi,ij,bj->b", e1, matrix, e1)
    other = torch.einsum("bi,ij,bj->b", e2, matrix.mT if transpose else matrix, e2)
    return 0.5 * ((one - other) / e1.shape[1]).square().mean()


def covariance(e: Tensor) -> Tensor:
    """Sum of the squared covariances between different components of e (B, K), over K."""
    centred = e - e.mean(0)
    matrix = centred.mT @ centred / (len(e) - 1)
    return (matrix - matrix.diagonal().diag()).square().sum() / e.shape[1]


def contrastive(e1: Tensor, e2: Tensor, log_scale: Tensor) -> Tensor:
    """CLIP's loss: each e1 must find its e2 among those of the batch, and the reverse (Radford et al. 2021)."""
    one, other = (nn.functional.normalize(e, dim=1) for e in (e1, e2))
    scores = log_scale.clamp(max=4.6).exp() * one @ other.mT
    own = torch.arange(len(e1), device=e1.device)
    return 0.5 * (nn.functional.cross_entropy(scores, own) + nn.functional.cross_entropy(scores.mT, own))


def dual_loss(model: DualFormer, spectrum: Tensor, curve: Tensor) -> Tensor:
    """The loss of a batch of pairs: alignment, covariance, what e has lost of the encoders' features, and what one
    modality misses of the embedding of both."""
    have = torch.ones(len(spectrum), 2, dtype=torch.bool, device=spectrum.device)
    e1, e2 = model.note(*model.raw(spectrum, curve, have))
    loss = alignment(e1, e2, model.matrix, model.transpose)
    loss = loss + COVARIANCE_WEIGHT * (covariance(e1) + covariance(e2))
    for i, (e, tokens, reader) in enumerate(zip((e1, e2), (spectrum, curve), model.readers)):
        unread = reader(e) - features(model.standard_tokens(tokens, i))
        loss = loss + KEPT_WEIGHT * unread.square().mean()
    for alone in range(2):
        there = have.clone()
        there[:, 1 - alone] = False
        f1, f2 = model.standardised(*model.raw(spectrum, curve, there))
        missed = (f1 - e1.detach()).square().mean() + (f2 - e2.detach()).square().mean()
        loss = loss + MISSING_WEIGHT * missed
    return loss


def contrastive_loss(model: DualFormer, spectrum: Tensor, curve: Tensor) -> Tensor:
    """CLIP's loss of a batch of pairs, each modality seen alone."""
    have = torch.ones(len(spectrum), 2, dtype=torch.bool, device=spectrum.device)
    return contrastive(*model.note(*model.raw(spectrum, curve, have)), model.temperature)
