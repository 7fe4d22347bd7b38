r"""A transformer from labels to the coefficients of wavelength patches.

Every label is a token. It knows its own value, the abundance that it amounts to ([X/H]) and the parameters of the
atmosphere, for what calcium does depends on temperature, gravity and metallicity. Every patch is a query that attends
to the label tokens; to which ones is learned, starting from how much each label moves the patch in the training models.
Patches need not talk to each other once the labels are known, so there is no attention between them; in return each has
feed-forward weights of its own, which cost no more operations than shared ones and see the labels themselves beside
what was attended to. Activations are smooth, hence so are the derivatives.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

MAIN = 4  # TEFF, LOGG, VMIC, FE_H come first among the labels
TOKEN_FEATURES = MAIN + 3  # main labels, 1/TEFF, the label's value, its abundance relative to hydrogen
METAL_UNIT = 1.5  # dex, in which [X/H] is measured


@dataclass(frozen=True)
class Architecture:
    """Sizes of the network; `version` tells incompatible ones apart."""

    n_labels: int
    n_patches: int
    n_vectors: int
    width: int = 64
    heads: int = 8
    hidden: int = 128
    second_hidden: int = 96
    token_hidden: int = 32
    version: int = 1

    def as_dict(self) -> dict[str, int]:
        """For the metadata of a checkpoint."""
        return asdict(self)


def _matrices(*shape: int) -> nn.Parameter:
    # Random matrices (..., inputs, outputs) that keep the size of what goes through.
    return nn.Parameter(torch.randn(shape) / shape[-2] ** 0.5)


class LabelTokens(nn.Module):
    """Features of the labels to tokens (B, L, width); each label has its own small perceptron."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        n, hidden, width = architecture.n_labels, architecture.token_hidden, architecture.width
        self.first = _matrices(n, TOKEN_FEATURES, hidden)
        self.offset = nn.Parameter(0.5 * torch.randn(n, 1, hidden))
        self.second = _matrices(n, hidden, width)
        self.identity = nn.Parameter(0.5 * torch.randn(n, 1, width))

    def forward(self, features: Tensor) -> Tensor:
        """(L, B, TOKEN_FEATURES) to (B, L, width)."""
        hidden = nn.functional.silu(torch.baddbmm(self.offset, features, self.first))
        return torch.baddbmm(self.identity, hidden, self.second).transpose(0, 1)


class PatchAttention(nn.Module):
    """What each patch gathers from the label tokens: (B, L, width) to (Q, B, width)."""

    def __init__(self, architecture: Architecture, bias: Tensor):
        super().__init__()
        width, self.heads = architecture.width, architecture.heads
        self.query = nn.Parameter(torch.randn(self.heads, architecture.n_patches, width // self.heads))
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        # Heads differ in how strongly they keep to the labels that move the patch.
        self.bias = nn.Parameter(torch.linspace(0.0, 1.5, self.heads)[:, None, None] * bias)  # (H, Q, L)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, n_labels, width = tokens.shape
        size = width // self.heads
        key = self.key(tokens).reshape(batch, n_labels, self.heads, size).permute(0, 2, 3, 1)
        value = self.value(tokens).reshape(batch, n_labels, self.heads, size).transpose(1, 2)
        weight = torch.softmax(self.query @ key / size**0.5 + self.bias, dim=-1)  # (B, H, Q, L)
        return (weight @ value).permute(2, 0, 1, 3).reshape(-1, batch, width)


class PatchPerceptrons(nn.Module):
    """A perceptron with weights of its own in every patch: (Q, B, inputs) to (Q, B, K)."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        patches, hidden, second = architecture.n_patches, architecture.hidden, architecture.second_hidden
        inputs = architecture.width + architecture.n_labels + 1
        self.first = _matrices(patches, inputs, hidden)
        self.first_offset = nn.Parameter(0.1 * torch.randn(patches, 1, hidden))
        self.second = _matrices(patches, hidden, second)
        self.second_offset = nn.Parameter(0.1 * torch.randn(patches, 1, second))
        self.head = _matrices(patches, second, architecture.n_vectors)
        self.head_offset = nn.Parameter(torch.zeros(patches, 1, architecture.n_vectors))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = nn.functional.silu(torch.baddbmm(self.first_offset, inputs, self.first))
        hidden = nn.functional.silu(torch.baddbmm(self.second_offset, hidden, self.second))
        return torch.baddbmm(self.head_offset, hidden, self.head)


class Network(nn.Module):
    """Scaled labels (B, L), -1 to 1 at the bounds, to coefficients (B, Q, K).

    Parameters
    ----------
    lower, upper : (L,) bounds of the labels, label units
    energy : (Q, L) rms of each label's derivative in each patch relative to the label's own rms: where it acts
    scale : (Q, K) typical size of each coefficient
    """

    lower: Tensor
    upper: Tensor
    scale: Tensor

    def __init__(self, architecture: Architecture, lower: Tensor, upper: Tensor, energy: Tensor, scale: Tensor):
        super().__init__()
        self.architecture = architecture
        for name, value in (("lower", lower), ("upper", upper), ("scale", scale)):
            self.register_buffer(name, value.detach().clone().float())
        bias = torch.log(energy.clamp(min=1e-3))
        self.tokens = LabelTokens(architecture)
        self.attention = PatchAttention(architecture, bias - bias.mean(dim=1, keepdim=True))
        self.perceptrons = PatchPerceptrons(architecture)

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # The labels with [X/H] and 1/Teff beside them: (L, B, TOKEN_FEATURES) and (B, L + 1).
        half = 0.5 * (self.upper - self.lower)
        teff = self.lower[0] + half[0] * (x[:, :1] + 1.0)
        inverse = (self.lower[0] * self.upper[0] / teff - 0.5 * (self.lower[0] + self.upper[0])) / half[0]
        dex = half * x
        metals = (dex[:, MAIN:] + self.lower[MAIN - 1] + half[MAIN - 1] * (x[:, MAIN - 1 : MAIN] + 1.0)) / METAL_UNIT
        absolute = torch.cat([x[:, :MAIN], metals], dim=1)
        main = torch.cat([x[:, :MAIN], inverse], dim=1)
        own = torch.stack([x.T, absolute.T], dim=-1)  # (L, B, 2)
        tokens = torch.cat([main[None].expand(x.shape[1], -1, -1), own], dim=-1)
        return tokens, torch.cat([absolute, inverse], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        token_features, plain = self._features(x)
        gathered = self.attention(self.tokens(token_features))
        inputs = torch.cat([gathered, plain[None].expand(gathered.shape[0], -1, -1)], dim=-1)
        return self.perceptrons(inputs).transpose(0, 1) * self.scale
