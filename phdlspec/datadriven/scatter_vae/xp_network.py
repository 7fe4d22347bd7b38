"""The network of Laroche & Speagle (2025): Gaia XP coefficients to six latents, and back to coefficients and a scatter.

Encoder 110-90-70-50-30-10 of linear layer, batch norm and GELU, to means and log variances; a mirrored decoder; a
second decoder of the same form that ends in a sigmoid, the scatter s in units of the standardised coefficients. The
names of the parameters are those of the authors' published weights, so that these load as they are.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from phdlspec.errors import UserError, first_line

COEFFICIENTS = 110
LATENTS = 6
LAYERS = (90, 70, 50, 30, 10)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.GELU())


def _decoder(latents: int, layers: tuple[int, ...], outputs: int, *last: nn.Module) -> nn.Sequential:
    widths = layers[::-1]
    blocks = [_block(a, b) for a, b in zip(widths, widths[1:])]
    return nn.Sequential(
        nn.Linear(latents, widths[0]), *blocks, nn.Sequential(nn.Linear(widths[-1], outputs), *last)
    )  # the first layer has no activation


class XPNetwork(nn.Module):
    """Latents (K) of standardised coefficients (110), and the coefficients with their scatter of latents."""

    def __init__(self, latents: int = LATENTS, layers: tuple[int, ...] = LAYERS, inputs: int = COEFFICIENTS):
        super().__init__()
        self.encoder = nn.Sequential(*(_block(a, b) for a, b in zip((inputs, *layers), layers)))
        self.mu = nn.Linear(layers[-1], latents)
        self.log_var = nn.Linear(layers[-1], latents)
        self.decoder = _decoder(latents, layers, inputs)
        self.scatter = _decoder(latents, layers, inputs, nn.Sigmoid())

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B, K) of the latents of coefficients (B, 110)."""
        inner = self.encoder(x)
        return self.mu(inner), self.log_var(inner)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients and scatter s (B, 110) of latents (B, K)."""
        return self.decoder(z), self.scatter(z)

    def loss(self, x: Tensor, error: Tensor, kl_weight: float) -> Tensor:
        """Negative evidence lower bound (B,): one draw of the latents, without the constant ½ ln 2π per coefficient."""
        mean, log_var = self.encode(x)
        flux, scatter = self.decode(draw(mean, log_var))
        variance = error.square() + scatter.square()
        misfit = 0.5 * ((x - flux).square() / variance + variance.log()).sum(1)
        return misfit + kl_weight * divergence(mean, log_var)


def draw(mean: Tensor, log_var: Tensor) -> Tensor:
    """A draw of the latents, differentiable in both. For training alone."""
    return mean + (0.5 * log_var).exp() * torch.randn_like(mean)


def divergence(mean: Tensor, log_var: Tensor) -> Tensor:
    """Kullback-Leibler divergence (B,) of the latents from the standard normal."""
    return 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var).sum(1)


def read_published(path: str | Path) -> XPNetwork:
    """The authors' published weights (`weight.pt`), read without running any code of the file.

    Raises `UserError` where names or shapes are not those of this architecture.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file, expected the authors' weight.pt")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        state = stored["model_state_dict"]
        network = XPNetwork(latents=len(state["mu.bias"]))
        network.load_state_dict(state)
    except (OSError, KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: not the weights of the ScatterVAE of Laroche & Speagle ({first_line(error)})"
        ) from error
    return network.eval()
