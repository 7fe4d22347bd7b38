r"""Gaussian processes in Teff, log g and [Fe/H]: how the spectra of stars change with three labels, and how surely.

K amplitudes, measured in N stars at x = (5040 K / Teff, log g, [Fe/H]), are functions g_k(x) with mean zero and the
covariance

    size_k^2 exp(-|(x - x') / length|^2 / 2);

a star departs from them by more than its own error: by `scatter_k`, of its own. Far from all N stars the functions fade
to zero and their variance grows to size_k^2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

THETA_TEFF = 5040.0  # K, over Teff the first coordinate


def scaled(stars: Tensor) -> Tensor:
    """The coordinates (..., 3), float64, of Teff (K), log g and [Fe/H] (..., 3)."""
    teff, logg, fe_h = stars.double().unbind(-1)
    return torch.stack([THETA_TEFF / teff, logg, fe_h], dim=-1)


@dataclass(frozen=True)
class LabelProcess:
    """Gaussian processes of K amplitudes, conditioned on N stars. All float64; made by `of`.

    Attributes
    ----------
    at : (N, 3) the stars' coordinates
    values, variances : (N, K) amplitudes measured there, with the variance of their errors
    length : (3,); size, scatter : (K,)
    weight : (N, K) of the stars in the mean; whitened : (K, N, N) inverse Cholesky factors of their covariance
    """

    at: Tensor
    values: Tensor
    variances: Tensor
    length: Tensor
    size: Tensor
    scatter: Tensor
    weight: Tensor
    whitened: Tensor

    @classmethod
    def of(
        cls, at: Tensor, values: Tensor, variances: Tensor, length: Tensor, size: Tensor, scatter: Tensor
    ) -> LabelProcess:
        """Conditioned on what was measured."""
        shape = covariance_shape(at, at, length)
        noise = variances.T + scatter[:, None] ** 2  # (K, N)
        cholesky = torch.linalg.cholesky(size[:, None, None] ** 2 * shape + torch.diag_embed(noise))
        one = torch.eye(len(at), dtype=at.dtype, device=at.device).expand_as(cholesky)
        whitened = torch.linalg.solve_triangular(cholesky, one, upper=False)
        weight = (whitened.mT @ (whitened @ values.T[..., None]))[..., 0].T * size**2
        return cls(at, values, variances, length, size, scatter, weight, whitened)

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor]) -> LabelProcess:
        """From what `tensors` gives; `KeyError` where one is missing."""
        return cls.of(*(tensors[f"process.{name}"].double() for name in _STORED))

    def tensors(self) -> dict[str, Tensor]:
        """For a file."""
        return {f"process.{name}": getattr(self, name) for name in _STORED}

    def to(self, device: torch.device) -> LabelProcess:
        """The same on a device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def mean(self, stars: Tensor) -> Tensor:
        """g (B, K) for stars (B, 3), Teff (K), log g, [Fe/H]; differentiable."""
        return covariance_shape(scaled(stars), self.at, self.length) @ self.weight

    def mean_and_slopes(self, stars: Tensor) -> tuple[Tensor, Tensor]:
        """g (B, K) and its derivatives (B, 3, K) per K and dex."""
        x = scaled(stars)
        shape = covariance_shape(x, self.at, self.length)
        off = (self.at - x[:, None]) / self.length**2  # (B, N, 3): d ln(shape) / dx
        slopes = torch.einsum("bn,bnc,nk->bck", shape, off, self.weight)
        by_teff = -THETA_TEFF / stars[:, 0].double() ** 2
        one = torch.ones_like(by_teff)
        return shape @ self.weight, slopes * torch.stack([by_teff, one, one], dim=1)[..., None]

    def variance(self, stars: Tensor) -> Tensor:
        """Variance (B, K) of g for stars (B, 3): grows to size^2 far from all that was measured."""
        shape = covariance_shape(scaled(stars), self.at, self.length)
        known = (torch.einsum("knm,bm->kbn", self.whitened, shape) ** 2).sum(-1).T * self.size**2
        return self.size**2 * (1.0 - known).clamp(min=0.0)

    def support(self, stars: Tensor, importance: Tensor) -> Tensor:
        """How much of the variance of g, each weighted by its importance (K,), is known (B,) for stars (B, 3): 1 all,
        0 nothing."""
        total = (self.size**2) @ importance
        return 1.0 - self.variance(stars) @ importance / total.clamp(min=1e-300)


_STORED = ("at", "values", "variances", "length", "size", "scatter")


def covariance_shape(one: Tensor, other: Tensor, length: Tensor) -> Tensor:
    """exp(-|(x - x') / length|^2 / 2) (B, N) of coordinates (B, 3) and (N, 3)."""
    squared = sum(((a[:, None] - b) / scale) ** 2 for a, b, scale in zip(one.T, other.T, length))
    return torch.exp(-0.5 * torch.as_tensor(squared))
