"""Plain emulators to be beaten, and one way to train a network within a time.

* `taylor_blend`: first-order expansions from the nearest models, the plainest use of the differential spectra;
* `LabelPerceptron`: labels to all pixels at once, two hidden layers, after The Payne (Ting et al. 2019);
* `PixelTransformer`: labels and one wavelength to one pixel, after TransformerPayne (Różański, Ting & Jabłońska 2025).

The networks are given scaled labels (B, L), -1 to 1 at the bounds, and return fluxes (B, P).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from phdlspec.gridfile import Grid

FLUX_UNIT = 1e-3  # in which the losses are measured
NEIGHBOURS = 8
EVALUATIONS = 15  # of a training, evenly in time
WARM_UP = 100  # steps
AVERAGING = 0.99  # of the weights, every AVERAGE_EVERY steps
AVERAGE_EVERY = 10


def label_widths(grid: Grid, train: np.ndarray) -> np.ndarray:
    """For distances: how much of each label changes the flux by one unit (L,), from the mean size of its derivative."""
    sample = train[:: max(len(train) // 60, 1)]
    size = np.sqrt(np.mean([(grid.jacobian(int(i)) ** 2).mean(1) for i in sample], axis=0))
    return 1.0 / np.maximum(size, 1e-6 * size.max())


def taylor_blend(grid: Grid, train: np.ndarray, theta: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First-order expansions from the nearest training models, weighted by their distance^-4.

    Returns the flux (P,) and the blended derivatives (L, P) at the labels `theta` (L,), label units.
    """
    distance = np.linalg.norm((grid.labels[train] - theta) / width, axis=1)
    nearest = np.argsort(distance)[:NEIGHBOURS]
    weight = np.maximum(distance[nearest], 1e-9) ** -4
    flux, change = np.zeros(len(grid.wave)), np.zeros((len(theta), len(grid.wave)))
    for row, w in zip(train[nearest], weight / weight.sum()):
        jacobian = grid.jacobian(int(row))
        flux += w * (grid.flux(int(row)) + (theta - grid.labels[row]) @ jacobian)
        change += w * jacobian
    return flux, change


class LabelPerceptron(nn.Module):
    """Labels to all pixels: two hidden layers, leaky ReLU, mean absolute error.

    mean_flux : (P,) of the training models, where training starts
    """

    learning_rate = 3e-3
    batch = 64

    def __init__(self, n_labels: int, mean_flux: Tensor, hidden: int = 300):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_labels, hidden), nn.LeakyReLU(),
            nn.Linear(hidden, hidden), nn.LeakyReLU(),
            nn.Linear(hidden, len(mean_flux)),
        )  # fmt: skip
        nn.init.zeros_(cast(nn.Linear, self.layers[-1]).weight)
        self.register_buffer("mean_flux", mean_flux.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.mean_flux + self.layers(x)

    def loss(self, x: Tensor, flux: Tensor, generator: torch.Generator) -> Tensor:
        """Of models (B, L) and (B, P)."""
        return (self(x) - flux).abs().mean() / FLUX_UNIT


class PixelTransformer(nn.Module):
    """One wavelength at a time: its sinusoidal encoding attends to tokens made of the labels, block after block.

    ln_wave, mean_flux : (P,) of the pixels and, in them, of the training models, where training starts
    """

    learning_rate = 2e-3
    batch = 16
    pixels = 256  # drawn at random in each step

    mean_flux: Tensor
    encoding: Tensor

    def __init__(
        self, n_labels: int, ln_wave: Tensor, mean_flux: Tensor, width: int = 64, blocks: int = 3, tokens: int = 16
    ):
        super().__init__()
        self.tokens = nn.Sequential(
            nn.Linear(n_labels, 4 * width), nn.GELU(), nn.Linear(4 * width, tokens * width),
            nn.Unflatten(1, (tokens, width)),
        )  # fmt: skip
        self.blocks = nn.ModuleList(_Block(width, heads=4) for _ in range(blocks))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        nn.init.zeros_(cast(nn.Linear, self.head[-1]).weight)
        self.register_buffer("mean_flux", mean_flux.clone())
        self.register_buffer("encoding", _wavelength_encoding(ln_wave, width))

    def forward(self, x: Tensor, pixels: Tensor | slice = slice(None)) -> Tensor:
        """(B, L) to the fluxes of some pixels, by default all."""
        tokens, state = self.tokens(x), self.encoding[pixels][None]
        for block in self.blocks:
            state = block(state, tokens)
        return self.mean_flux[pixels] + self.head(state)[..., 0]

    def loss(self, x: Tensor, flux: Tensor, generator: torch.Generator) -> Tensor:
        """Of models (B, L) and (B, P), in some pixels."""
        pixels = torch.randperm(flux.shape[1], generator=generator)[: self.pixels].to(flux.device)
        return (self(x, pixels) - flux[:, pixels]).pow(2).mean() / FLUX_UNIT**2


class _Block(nn.Module):
    # Wavelengths (1 or B, P, width) attend to the tokens (B, T, width), then a perceptron.

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm, self.token_norm, self.second_norm = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, P or T, width / H)

    def forward(self, state: Tensor, tokens: Tensor) -> Tensor:
        query = self._split(self.query(self.norm(state)))
        key, value = (self._split(part) for part in self.key_value(self.token_norm(tokens)).chunk(2, dim=-1))
        weight = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, dim=-1)
        state = state + self.out((weight @ value).transpose(1, 2).flatten(2))
        return state + self.perceptron(self.second_norm(state))


def _wavelength_encoding(ln_wave: Tensor, width: int) -> Tensor:
    # Sines and cosines (P, width) of periods from four pixels to twice the range, evenly in their logarithm.
    step, span = ln_wave[1] - ln_wave[0], ln_wave[-1] - ln_wave[0]
    period = torch.exp(torch.linspace(math.log(4.0 * step), math.log(2.0 * span), width // 2, dtype=torch.float64))
    phase = 2.0 * math.pi * (ln_wave.double() - ln_wave[0])[:, None] / period
    return torch.cat([phase.sin(), phase.cos()], dim=1).float()


def train_for(
    seconds: float,
    clock: Callable[[], float],
    network: nn.Module,
    loss: Callable[[int], Tensor],
    validation_error: Callable[[nn.Module], float],
    learning_rate: float,
    weight_decay: float = 1e-4,
) -> int:
    """Train a network for a time, evaluations included; it ends with the best of its averaged weights.

    AdamW, linear warm-up, cosine decay in time, clipped gradients: as our own networks are trained.

    Parameters
    ----------
    clock : tells the time, seconds
    loss : of a step
    validation_error : of a network; decides which weights are kept

    Returns the number of steps.
    """
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.98), fused=True
    )
    averaged = copy.deepcopy(network)
    best, best_error = copy.deepcopy(network.state_dict()), math.inf
    gradients: list[float] = []
    start, step, evaluations, done = clock(), 0, 0, 0.0
    while done < 1.0:
        warm = min(1.0, (step + 1) / WARM_UP)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * warm * (0.005 + 0.4975 * (1.0 + math.cos(math.pi * done)))
        optimiser.zero_grad(set_to_none=True)
        loss(step).backward()
        limit = 5.0 * float(np.median(gradients)) if len(gradients) > 20 else math.inf
        norm = float(nn.utils.clip_grad_norm_(network.parameters(), limit))
        gradients = [*gradients[-99:], min(norm, limit)]
        optimiser.step()
        step += 1
        if step % AVERAGE_EVERY == 0:
            _average(averaged, network, min(AVERAGING, step / (step + 10.0 * AVERAGE_EVERY)))
        done = (clock() - start) / seconds
        if done * EVALUATIONS > evaluations + 1 or done >= 1.0:
            evaluations = int(done * EVALUATIONS)
            error = validation_error(averaged)
            if error < best_error:
                best, best_error = copy.deepcopy(averaged.state_dict()), error
            done = (clock() - start) / seconds
    network.load_state_dict(best)
    return step


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, keep: float) -> None:
    for mean, now in zip(averaged.parameters(), network.parameters()):
        mean.lerp_(now, 1.0 - keep)
