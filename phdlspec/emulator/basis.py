r"""Patches of wavelength, and in each a basis made of what the labels do there.

The native grid is cut into patches. In each, the training fluxes and their derivatives with respect to every label span
a space of few dimensions; its principal axes are the basis in which the network speaks. Each label's derivatives are
divided by their own size beforehand, so that barium shapes the basis as much as iron does. What the labels never do,
the network cannot do either.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FLUX_WEIGHT = 30.0


@dataclass(frozen=True)
class PatchBasis:
    """Orthonormal bases of the patches.

    Attributes
    ----------
    mean : (Q, W) mean flux of the training models, Q patches of W pixels; zero beyond the last pixel
    vectors : (Q, K, W) orthonormal rows, by falling weight
    size : pixels of the native grid, at most Q W
    """

    mean: Tensor
    vectors: Tensor
    size: int

    @property
    def n_patches(self) -> int:
        """Q"""
        return self.vectors.shape[0]

    @property
    def n_vectors(self) -> int:
        """K"""
        return self.vectors.shape[1]

    @property
    def width(self) -> int:
        """W, pixels"""
        return self.vectors.shape[2]

    def to(self, device: torch.device | str) -> PatchBasis:
        """The same basis on another device."""
        return PatchBasis(self.mean.to(device), self.vectors.to(device), self.size)

    def cut(self, spectra: Tensor) -> Tensor:
        """(..., P) to (..., Q, W), zeros after the last pixel."""
        missing = self.n_patches * self.width - self.size
        padded = torch.nn.functional.pad(spectra, (0, missing))
        return padded.reshape(*spectra.shape[:-1], self.n_patches, self.width)

    def encode(self, flux: Tensor) -> Tensor:
        """Coefficients (..., Q, K) of normalised fluxes (..., P)."""
        return self.encode_change(flux) - torch.einsum("qw,qkw->qk", self.mean, self.vectors)

    def encode_change(self, change: Tensor) -> Tensor:
        """Coefficients (..., Q, K) of differences or derivatives (..., P): no mean is taken off."""
        return torch.einsum("...qw,qkw->...qk", self.cut(change), self.vectors)

    def decode(self, coefficients: Tensor) -> Tensor:
        """Fluxes (..., P) of coefficients (..., Q, K)."""
        return self.decode_change(coefficients) + self.mean.reshape(-1)[: self.size]

    def decode_change(self, coefficients: Tensor) -> Tensor:
        """Derivatives (..., P) of derivatives of coefficients (..., Q, K)."""
        *lead, patches, n_vectors = coefficients.shape
        by_patch = coefficients.reshape(-1, patches, n_vectors).transpose(0, 1)  # (Q, B, K)
        pixels = torch.bmm(by_patch, self.vectors).transpose(0, 1)
        return pixels.reshape(*lead, -1)[..., : self.size]


def fit_basis(
    models: Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]],
    derivative_size: NDArray[np.float64],
    mean_flux: NDArray[np.float64],
    n_patches: int,
    n_vectors: int,
    flux_weight: float = FLUX_WEIGHT,
) -> PatchBasis:
    """Principal axes of the training models in each patch.

    Parameters
    ----------
    models : (flux (P,), derivatives (L, P)) of each training model, derivatives in scaled labels
    derivative_size : (L,) rms of each label's derivative over models and pixels
    mean_flux : (P,)
    n_patches, n_vectors : Q and K
    flux_weight : weight of a flux against the derivatives of the same model, all in units of their own size; infinite
        for bases made of fluxes alone
    """
    size = len(mean_flux)
    width = -(-size // n_patches)
    padding = n_patches * width - size

    def patches(spectra: NDArray[Any]) -> Tensor:
        padded = np.pad(spectra, ((0, 0), (0, padding)))
        return torch.as_tensor(padded, dtype=torch.float32).reshape(len(spectra), n_patches, width).transpose(0, 1)

    of_flux = torch.zeros(n_patches, width, width)
    of_change = torch.zeros(n_patches, width, width)
    weight = (1.0 / derivative_size)[:, None]
    for flux, jacobian in models:
        difference, change = patches((flux - mean_flux)[None]), patches(jacobian * weight)
        of_flux += difference.transpose(1, 2) @ difference
        of_change += change.transpose(1, 2) @ change
    total = of_flux / torch.einsum("qii->", of_flux)
    if math.isfinite(flux_weight):
        total = of_change / torch.einsum("qii->", of_change) + flux_weight / len(derivative_size) * total
    _, axes = torch.linalg.eigh(total.double())
    vectors = axes.flip(-1)[..., :n_vectors].transpose(1, 2).float().contiguous()
    mean = torch.as_tensor(np.pad(mean_flux, (0, padding)), dtype=torch.float32).reshape(n_patches, width)
    return PatchBasis(mean, vectors, size)
