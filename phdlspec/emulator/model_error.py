"""How wrong the emulator is, pixel by pixel and together, for which stars: measured on models it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from phdlspec.likelihood import ErrorFloor

MEASURED_AT = 2000.0  # resolving power at which the residuals are taken
_SMOOTHING_PIXELS = 25  # a few stars do not tell the variance of one pixel
_SHARE = 0.6  # of the variance at most that goes into the low-rank part

TREND_IN = ("TEFF", "LOGG", "FE_H")
_N_FEATURES = 6  # of the trend
_ORIGIN, _UNIT = np.array([5500.0, 3.0, -0.5]), np.array([1000.0, 1.0, 1.0])
_MIN_MODELS = 20  # for a trend; fewer have one amplitude for all
_RIDGE = 1.0  # models' worth of evidence against a trend


@dataclass(frozen=True)
class ModelError:
    """Covariance of the model error in normalised flux: a(labels)^2 (diag(sigma^2) + factor^T factor).

    Attributes
    ----------
    wave : (P,) vacuum Å of the native grid
    sigma : (P,) independent part
    factor : (M, P) the directions in which pixels err together
    trend : (6,) of ln a, the amplitude: constant, Teff, its square, log g, [Fe/H] and its square, from 5500 K, 3, -0.5
        in units of 1000 K and 1 dex; cool stars are emulated far worse than others
    lowest, highest : (3,) Teff, log g, [Fe/H] of the models measured, beyond which the trend is not followed
    """

    wave: NDArray[np.float64]
    sigma: NDArray[np.float64]
    factor: NDArray[np.float64]
    trend: NDArray[np.float64]
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]

    @classmethod
    def measure(cls, wave: NDArray[np.float64], residuals: ArrayLike, stars: ArrayLike, rank: int = 8) -> ModelError:
        """From residuals (N, P), emulator minus ab initio in normalised flux at `MEASURED_AT`, on wave (P,), vacuum Å.

        stars (N, 3) are the models' `TREND_IN`, in K and dex.

        With few models only a part of the leading directions is trusted: each is scaled down by what as many models
        of independent noise would have shown.
        """
        r, stars = np.asarray(residuals, dtype=float), np.asarray(stars, dtype=float)
        trend = _fit_trend(stars, np.log(np.sqrt((r**2).mean(1))))
        r = r / np.exp(_features(stars) @ trend)[:, None]
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
        sigma, factor = np.sqrt(variance * left), factor * np.sqrt(variance)
        return cls(np.asarray(wave), sigma, factor, trend, stars.min(0), stars.max(0))

    def amplitude(self, stars: ArrayLike) -> NDArray[np.float64]:
        """The factor (S,) on sigma and factor for stars of `TREND_IN` (S, 3), K and dex."""
        inside = np.clip(np.asarray(stars, dtype=float), self.lowest, self.highest)
        return np.exp(_features(inside) @ self.trend)

    def floor(self, wave: Tensor, stars: ArrayLike) -> ErrorFloor:
        """The error at rest wavelengths (P,) or (S, P), vacuum Å, for S stars of `TREND_IN` (S, 3), K and dex."""
        observed = wave.detach().cpu().numpy()
        amplitude = self.amplitude(stars)[:, None]

        def at(values: NDArray[np.float64]) -> Tensor:
            found = amplitude * np.atleast_2d(np.interp(observed, self.wave, values))
            return torch.as_tensor(found, dtype=torch.float32, device=wave.device)

        sigma = at(self.sigma)
        rows = [at(row) for row in self.factor]
        factor = torch.stack(rows, dim=1) if rows else sigma.new_zeros(len(sigma), 0, sigma.shape[1])
        return ErrorFloor(sigma, factor)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], wave: NDArray[np.float64]) -> ModelError:
        """From a checkpoint's tensors, for its native wavelengths (P,), vacuum Å. Those of version 1 know no trend.

        Raises `KeyError` where sigma or factor is missing.
        """
        stored = {name: tensors[f"model_error.{name}"].double().numpy() for name in ("sigma", "factor")}
        none = {"trend": np.zeros(_N_FEATURES), "lowest": np.full(3, -np.inf), "highest": np.full(3, np.inf)}
        for name, value in none.items():
            tensor = tensors.get(f"model_error.{name}")
            stored[name] = value if tensor is None else tensor.double().numpy()
        return cls(wave, **stored)

    def tensors(self) -> dict[str, Tensor]:
        """For the checkpoint."""
        return {
            f"model_error.{name}": torch.as_tensor(getattr(self, name), dtype=torch.float32)
            for name in ("sigma", "factor", "trend", "lowest", "highest")
        }


def _features(stars: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 6)"""
    teff, logg, fe_h = ((stars - _ORIGIN) / _UNIT).T
    return np.column_stack([np.ones(len(stars)), teff, teff**2, logg, fe_h, fe_h**2])


def _fit_trend(stars: NDArray[np.float64], ln_rms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ridge regression of ln rms about its mean, which sigma and factor carry."""
    if len(stars) < _MIN_MODELS:
        return np.zeros(_N_FEATURES)
    x = _features(stars)
    penalty = _RIDGE * np.eye(_N_FEATURES)
    penalty[0, 0] = 0.0
    return np.linalg.solve(x.T @ x + penalty, x.T @ (ln_rms - ln_rms.mean()))


def _box() -> NDArray[np.float64]:
    return np.full(2 * _SMOOTHING_PIXELS + 1, 1.0 / (2 * _SMOOTHING_PIXELS + 1))
