"""How wrong the emulator is, pixel by pixel and together: measured on models that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from phdlspec.likelihood import ErrorFloor

MEASURED_AT = 2000.0  # resolving power at which the residuals are taken
_SMOOTHING_PIXELS = 25  # a few stars do not tell the variance of one pixel
_SHARE = 0.6  # of the variance at most that goes into the low-rank part


@dataclass(frozen=True)
class ModelError:
    """Covariance of the model error in normalised flux: diag(sigma^2) + factor^T factor.

    Attributes
    ----------
    wave : (P,) vacuum Å of the native grid
    sigma : (P,) independent part
    factor : (M, P) the directions in which pixels err together
    """

    wave: NDArray[np.float64]
    sigma: NDArray[np.float64]
    factor: NDArray[np.float64]

    @classmethod
    def measure(cls, wave: NDArray[np.float64], residuals: ArrayLike, rank: int = 8) -> ModelError:
        """From residuals (N, P), emulator minus ab initio at `MEASURED_AT`, of N models.

        With few models only a part of the leading directions is trusted: each is scaled down by what as many models
        of independent noise would have shown.
        """
        r = np.asarray(residuals, dtype=float)
        variance = np.convolve(np.pad((r**2).mean(0), _SMOOTHING_PIXELS, mode="edge"), _box(), mode="valid")
        variance = np.maximum(variance[: len(wave)], 1e-10)
        scaled = r / np.sqrt(variance)
        _, size, directions = np.linalg.svd(scaled, full_matrices=False)
        rank = min(rank, max(len(r) // 4, 0))
        excess = np.sqrt(np.maximum(size[:rank] ** 2 / len(r) - (size**2).mean() / len(r), 0.0))
        factor = excess[:, None] * directions[:rank]
        explained = (factor**2).sum(0)
        factor *= np.sqrt(np.minimum(1.0, _SHARE / np.maximum(explained, 1e-12)))
        left = 1.0 - (factor**2).sum(0)
        return cls(np.asarray(wave), np.sqrt(variance * left), factor * np.sqrt(variance))

    def floor(self, wave: Tensor) -> ErrorFloor:
        """The error at observed pixels: wave (P,), or (S, P) for pixels of S stars."""
        observed = wave.detach().cpu().numpy()

        def at(values: NDArray[np.float64]) -> Tensor:
            found = np.interp(observed, self.wave, values)
            return torch.as_tensor(found, dtype=torch.float32, device=wave.device)

        sigma = torch.atleast_2d(at(self.sigma))
        rows = [torch.atleast_2d(at(row)) for row in self.factor]
        factor = torch.stack(rows, dim=1) if rows else sigma.new_zeros(len(sigma), 0, sigma.shape[1])
        return ErrorFloor(sigma, factor)

    def tensors(self) -> dict[str, Tensor]:
        """For the checkpoint."""
        return {
            "model_error.sigma": torch.as_tensor(self.sigma, dtype=torch.float32),
            "model_error.factor": torch.as_tensor(self.factor, dtype=torch.float32),
        }


def _box() -> NDArray[np.float64]:
    return np.full(2 * _SMOOTHING_PIXELS + 1, 1.0 / (2 * _SMOOTHING_PIXELS + 1))
