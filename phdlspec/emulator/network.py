r"""A transformer from labels to the coefficients of wavelength patches.

Every label is a token. It knows its own value, the abundance that it amounts to ([X/H]) and the parameters of the
atmosphere, for what calcium does depends on temperature, gravity and metallicity. Every patch is a query that attends
to the label tokens; to which ones is learned, starting from how much each label moves the patch in the training models.
Patches need not talk to each other once the labels are known, so there is no attention between them; in return each has
feed-forward weights of its own, which cost no more operations than shared ones and see the labels themselves beside
what was attended to. What changes most abruptly in cool stars, how much carbon and oxygen carbon monoxide leaves free,
is worked out beforehand. Activations are smooth, hence so are the derivatives.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from phdlspec.labels import GRID_LABELS, STRUCTURE, Role
from phdlspec.solar import SOLAR_ABUNDANCES

MAIN, ABUNDANCES = GRID_LABELS.place(Role.MAIN), GRID_LABELS.place(Role.ABUNDANCE)
TEFF, LOGG, FE_H, CARBON, OXYGEN = (GRID_LABELS.index(name) for name in (*STRUCTURE, "C_FE", "O_FE"))
N_MAIN = MAIN.stop - MAIN.start
TOKEN_FEATURES = N_MAIN + 3  # main labels, 1/TEFF, the label's value, its abundance relative to hydrogen
METAL_UNIT = 1.5  # dex, in which [X/H] is measured
SOLAR_C_TO_O = 10 ** (SOLAR_ABUNDANCES["C"] - SOLAR_ABUNDANCES["O"])
LOG_SOLAR_O = SOLAR_ABUNDANCES["O"] - 12.0


@dataclass(frozen=True)
class Architecture:
    """Sizes of the network; `version` tells incompatible ones apart. co_layers : see `CarbonMonoxide`."""

    n_labels: int
    n_patches: int
    n_vectors: int
    width: int = 64
    heads: int = 8
    hidden: int = 128
    second_hidden: int = 96
    token_hidden: int = 32
    co_layers: int = 0
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
        self.first = _matrices(n, TOKEN_FEATURES + 2 * architecture.co_layers, hidden)
        self.offset = nn.Parameter(0.5 * torch.randn(n, 1, hidden))
        self.second = _matrices(n, hidden, width)
        self.identity = nn.Parameter(0.5 * torch.randn(n, 1, width))

    def forward(self, features: Tensor) -> Tensor:
        """Features (L, B, F) to (B, L, width)."""
        hidden = nn.functional.silu(torch.baddbmm(self.offset, features, self.first))
        return torch.baddbmm(self.identity, hidden, self.second).transpose(0, 1)


class CarbonMonoxide(nn.Module):
    """Shares of carbon and oxygen that CO leaves free, in a few layers of an atmosphere, as logarithms.

    In cool gas CO binds nearly all of the rarer of the two, so that C2, CN or TiO appear where C/O passes one. Mass
    action, n(C) n(O) = kappa n(CO), has a closed solution; kappa starts at what the dissociation constant of Tsuji
    (1973, A&A 23, 411) gives in a rough atmosphere and is learned on from there, linear in the labels and 1/Teff.
    """

    def __init__(self, architecture: Architecture, lower: Tensor, upper: Tensor):
        super().__init__()
        half, middle = 0.5 * (upper - lower)[MAIN], 0.5 * (upper + lower)[MAIN]
        share = torch.linspace(0.75, 0.95, architecture.co_layers)  # temperature of the layer over Teff
        slope = torch.zeros(N_MAIN + 1, architecture.co_layers)
        # Dissociation: log K = 13.7 - 11.8 (5040 K / T); log P = 3.4 + 0.6 (logg - 2) - 0.3 [Fe/H] in the lowest layer.
        theta = 5040.0 / (share * lower[TEFF] * upper[TEFF])  # times what 1/Teff is in: see `Network`
        slope[N_MAIN] = -11.8 * theta * half[TEFF]
        slope[LOGG], slope[FE_H] = -0.6 * half[LOGG], 0.3 * half[FE_H]
        log_pressure = 3.4 + 0.6 * (middle[LOGG] - 2.0) - 0.3 * middle[FE_H] - 4.0 * (share[-1:] - share)
        self.slope = nn.Parameter(slope)
        self.offset = nn.Parameter(13.7 - 11.8 * theta * middle[TEFF] - log_pressure - LOG_SOLAR_O)

    def forward(self, main: Tensor, carbon: Tensor, oxygen: Tensor) -> Tensor:
        """Main labels and 1/Teff (B, 5), [C/H] and [O/H] (B, 1) in dex to (B, 2 layers)."""
        c, o = SOLAR_C_TO_O * 10**carbon, 10**oxygen  # in units of the Sun's oxygen
        kappa = 1e-3 + 10 ** (self.offset + main @ self.slope).clamp(max=8.0)  # less of a share is not seen
        left, right = o - c + kappa, c - o + kappa
        root = torch.sqrt(left**2 + 4.0 * kappa * c)
        free_c = torch.where(left > 0.0, 2.0 * kappa * c / (left.abs() + root), 0.5 * (root - left))
        free_o = torch.where(right > 0.0, 2.0 * kappa * o / (right.abs() + root), 0.5 * (root - right))
        return torch.log10(torch.cat([kappa / (kappa + free_o), kappa / (kappa + free_c)], dim=1))


class PatchAttention(nn.Module):
    """What each patch gathers from the label tokens: (B, L, width) to (Q, B, width)."""

    def __init__(self, architecture: Architecture, bias: Tensor):
        super().__init__()
        width, self.heads = architecture.width, architecture.heads
        self.query = nn.Parameter(torch.randn(self.heads, architecture.n_patches, width // self.heads))
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        # Heads differ in how strongly they keep to the labels that move the patch.
        # In memory in this order: fused optimisers pair the elements of a parameter and its moments as they lie there.
        self.bias = nn.Parameter((torch.linspace(0.0, 1.5, self.heads)[:, None, None] * bias).contiguous())  # (H, Q, L)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, n_labels, width = tokens.shape
        size = width // self.heads
        key = self.key(tokens).reshape(batch, n_labels, self.heads, size).permute(0, 2, 3, 1)
        value = self.value(tokens).reshape(batch, n_labels, self.heads, size).transpose(1, 2)
        weight = torch.softmax(self.query @ key / size**0.5 + self.bias, dim=-1)  # (B, H, Q, L)
        answer: Tensor = (weight @ value).permute(2, 0, 1, 3).reshape(-1, batch, width)
        return answer


class PatchPerceptrons(nn.Module):
    """A perceptron with weights of its own in every patch: (Q, B, inputs) to (Q, B, K)."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        patches, hidden, second = architecture.n_patches, architecture.hidden, architecture.second_hidden
        inputs = architecture.width + architecture.n_labels + 1 + 2 * architecture.co_layers
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
        co = CarbonMonoxide(architecture, self.lower, self.upper) if architecture.co_layers else None
        self.carbon_monoxide = co
        self.tokens = LabelTokens(architecture)
        self.attention = PatchAttention(architecture, bias - bias.mean(dim=1, keepdim=True))
        self.perceptrons = PatchPerceptrons(architecture)

    def carbon_monoxide_inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Main labels and 1/Teff (B, 5), [C/H] and [O/H] (B, 1) in dex, of scaled labels (B, L)."""
        half = 0.5 * (self.upper - self.lower)
        coolest, hottest = self.lower[TEFF], self.upper[TEFF]
        teff = coolest + half[TEFF] * (x[:, TEFF, None] + 1.0)
        inverse = (coolest * hottest / teff - 0.5 * (coolest + hottest)) / half[TEFF]
        iron = self.lower[FE_H] + half[FE_H] * (x[:, FE_H, None] + 1.0)
        carbon, oxygen = (half[j] * x[:, j, None] + iron for j in (CARBON, OXYGEN))
        return torch.cat([x[:, MAIN], inverse], dim=1), carbon, oxygen

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The labels (B, L) with [X/H], 1/Teff and free carbon and oxygen beside them: (L, B, F) and (B, L + F')."""
        half = 0.5 * (self.upper - self.lower)
        metals = half * x + self.lower[FE_H] + half[FE_H] * (x[:, FE_H, None] + 1.0)
        absolute = torch.cat([x[:, MAIN], metals[:, ABUNDANCES] / METAL_UNIT], dim=1)
        main, carbon, oxygen = self.carbon_monoxide_inputs(x)
        free = main[:, :0] if self.carbon_monoxide is None else self.carbon_monoxide(main, carbon, oxygen)
        own = torch.stack([x.T, absolute.T], dim=-1)  # (L, B, 2)
        every = (len(own), -1, -1)
        tokens = torch.cat([main[None].expand(every), own, free[None].expand(every)], dim=-1)
        return tokens, torch.cat([absolute, main[:, N_MAIN:], free], dim=1)

    def by_patch(self, x: Tensor) -> Tensor:
        """Coefficients (Q, B, K) of scaled labels (B, L)."""
        token_features, plain = self.features(x)
        gathered = self.attention(self.tokens(token_features))
        inputs = torch.cat([gathered, plain[None].expand(gathered.shape[0], -1, -1)], dim=-1)
        answer: Tensor = self.perceptrons(inputs) * self.scale[:, None]
        return answer

    def forward(self, x: Tensor) -> Tensor:
        return self.by_patch(x).transpose(0, 1)
