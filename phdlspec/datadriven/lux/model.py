r"""The model: spectrum and labels of a star as two linear outputs of one latent vector.

For star n, latents z_n ~ N(0, 1) of K dimensions, f_n = mean + B z_n + noise, y_n = label mean + A z_n + noise; the
noise of pixel p has the variance sigma^2_np + s^2_p, that of label l sigma^2_nl + t^2_l. A missing pixel or label has
weight 0. Twice the negative logarithm of what is minimised (Horta et al. 2025 give the terms before the last two):

    sum (y - A z)^2 / (sigma_y^2 + t^2) + ln(sigma_y^2 + t^2)
    + sum (f - B z)^2 / (sigma_f^2 + s^2) + ln(sigma_f^2 + s^2)
    + sum z^2  +  sum_n ln |H_n|  +  sum A^2 + sum B^2,      H_n = 1 + B' V_n B + A' W_n A.

Without ln |H_n| the sum has no minimum: z times c and A, B over c leave the data as they are and make sum z^2 as
small as one likes. With it z is integrated out exactly, so that the scale is set, and a noisy star counts with the
uncertainty of its latents instead of as if they were known. The last two terms are a weak prior that only matters for
a pixel or label with hardly any data (labels are scaled to unit variance, spectra to a continuum of one).

Matrices of all stars or pixels come from one product with the packed outer products of the loadings or latents, in
float32; the equations are solved in float64, batched Cholesky, and z is refined once with its own residual.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

CHUNK = 512  # stars at once in training, where sums over chunks of the size of the model are formed
APPLIED_CHUNK = 128  # in application: these spectra stay in a core's cache


@dataclass(frozen=True)
class Parameters:
    """mean (P,), loadings (P, K), ln_scatter (P,) = ln s^2; label_mean (L,), label_loadings (L, K), ln_label_scatter
    (L,).

    float64; labels are in units of their spread.
    """

    mean: Tensor
    loadings: Tensor
    ln_scatter: Tensor
    label_mean: Tensor
    label_loadings: Tensor
    ln_label_scatter: Tensor

    @property
    def latents(self) -> int:
        """K."""
        return self.loadings.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """By name, for a file."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def rotated(self, rotation: Tensor) -> Parameters:
        """The same model with latents z' = rotation' z for an orthogonal matrix (K, K)."""
        return replace(self, loadings=self.loadings @ rotation, label_loadings=self.label_loadings @ rotation)


@dataclass(frozen=True)
class StarArrays:
    """flux, ivar (N, P) float32, 0 where masked; label, label_ivar (N, L) float64, 0 where missing."""

    flux: Tensor
    ivar: Tensor
    label: Tensor
    label_ivar: Tensor

    def __len__(self) -> int:
        return len(self.flux)

    def take(self, rows: Tensor) -> StarArrays:
        """Some of them."""
        return StarArrays(*(getattr(self, f.name)[rows] for f in fields(self)))

    def without_labels(self) -> StarArrays:
        """The same stars with every label missing."""
        return replace(self, label=torch.zeros_like(self.label), label_ivar=torch.zeros_like(self.label_ivar))

    def chunks(self, size: int = CHUNK) -> Iterator[StarArrays]:
        """In pieces."""
        for start in range(0, len(self), size):
            yield StarArrays(*(getattr(self, f.name)[start : start + size] for f in fields(self)))


@dataclass(frozen=True)
class LatentPosterior:
    """Latents of n stars given the parameters: mean z (n, K), their covariance, and what they leave.

    factor (n, K, K): Cholesky factor of the inverse covariance. residual, weight (n, P) of the flux; label_residual,
    label_weight (n, L).
    """

    z: Tensor
    factor: Tensor
    residual: Tensor
    weight: Tensor
    label_residual: Tensor
    label_weight: Tensor

    @property
    def covariance(self) -> Tensor:
        """(n, K, K)."""
        return torch.cholesky_inverse(self.factor)

    @property
    def value(self) -> float:
        """This chunk's part of the objective."""
        return float(
            0.5 * (self.weight * self.residual.square()).sum(dtype=torch.float64)
            + 0.5 * (self.label_weight * self.label_residual.square()).sum()
            + 0.5 * self.z.square().sum()
            + self.factor.diagonal(dim1=1, dim2=2).log().sum()
            - 0.5 * torch.where(self.weight > 0, self.weight, 1.0).log().sum(dtype=torch.float64)
            - 0.5 * torch.where(self.label_weight > 0, self.label_weight, 1.0).log().sum()
        )


class PackedSymmetric:
    """Symmetric matrices (..., K, K) packed as (..., K (K + 1) / 2), and back."""

    def __init__(self, size: int, device: torch.device):
        self.first, self.second = torch.triu_indices(size, size, device=device)
        self.size = size
        self.index = torch.zeros(size, size, dtype=torch.int64, device=device)
        order = torch.arange(len(self.first), device=device)
        self.index[self.first, self.second] = order
        self.index[self.second, self.first] = order
        self.double = torch.where(self.first == self.second, 1.0, 2.0)

    def products(self, vectors: Tensor) -> Tensor:
        """Outer products of vectors (n, K), packed."""
        return vectors[:, self.first] * vectors[:, self.second]

    def pack(self, matrices: Tensor) -> Tensor:
        """(n, K, K) packed."""
        return matrices.flatten(1)[:, self.first * self.size + self.second]

    def unpack(self, packed: Tensor) -> Tensor:
        """(n, K, K)."""
        return packed[:, self.index.flatten()].reshape(-1, self.size, self.size)


class Evaluator:
    """Posteriors of the latents of chunks of stars for fixed parameters."""

    def __init__(self, parameters: Parameters):
        self.parameters = parameters
        self.pairs = PackedSymmetric(parameters.latents, parameters.loadings.device)
        self.loadings = parameters.loadings.float()
        self.mean = parameters.mean.float()
        self.scatter = parameters.ln_scatter.exp().float()
        self.label_scatter = parameters.ln_label_scatter.exp()
        self.products = self.pairs.products(self.loadings)
        self.label_products = self.pairs.products(parameters.label_loadings)

    def prior(self) -> float:
        """The part of the objective that no star enters."""
        p = self.parameters
        return float(0.5 * (p.loadings.square().sum() + p.label_loadings.square().sum()))

    def posterior(self, stars: StarArrays) -> LatentPosterior:
        """See `LatentPosterior`."""
        p = self.parameters
        weight = stars.ivar / (1.0 + stars.ivar * self.scatter)
        label_weight = stars.label_ivar / (1.0 + stars.label_ivar * self.label_scatter)
        packed = (weight @ self.products.to(weight.dtype)).double() + label_weight @ self.label_products
        precision = self.pairs.unpack(packed)
        precision.diagonal(dim1=1, dim2=2).add_(1.0)
        factor = torch.linalg.cholesky(precision)
        residual = stars.flux - self.mean
        label_residual = stars.label - p.label_mean
        z = torch.zeros(len(stars), p.latents, dtype=torch.float64, device=stars.flux.device)
        for _ in range(2):  # the second time with the residual itself: float32 products leave no error of first order
            pull = (
                ((weight * residual) @ self.loadings).double() + (label_weight * label_residual) @ p.label_loadings - z
            )
            z = z + torch.cholesky_solve(pull[..., None], factor)[..., 0]
            residual = stars.flux - self.mean - z.float() @ self.loadings.T
            label_residual = stars.label - p.label_mean - z @ p.label_loadings.T
        return LatentPosterior(z, factor, residual, weight, label_residual, label_weight)

    def spread(self, covariance: Tensor) -> Tensor:
        """What the latents' uncertainty (n, K, K) adds to the squared residuals of the flux, (n, P)."""
        packed = (self.pairs.pack(covariance) * self.pairs.double).float()
        return packed @ self.products.T

    def label_spread(self, covariance: Tensor) -> Tensor:
        """The same for labels, (n, L)."""
        return (self.pairs.pack(covariance) * self.pairs.double) @ self.label_products.T


def objective(parameters: Parameters, stars: StarArrays) -> float:
    """What training minimises."""
    evaluator = Evaluator(parameters)
    return evaluator.prior() + sum(evaluator.posterior(chunk).value for chunk in stars.chunks())


def infer(parameters: Parameters, stars: StarArrays) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (N, K), their covariance (N, K, K) and chi2 (N,) of the flux, with what labels `stars` have."""
    evaluator = Evaluator(parameters)
    parts = []
    for chunk in stars.chunks(APPLIED_CHUNK):
        found = evaluator.posterior(chunk)
        parts.append((found.z, found.covariance, (found.weight * found.residual.square()).sum(1).double()))
    z, covariance, chi2 = (torch.cat(part) for part in zip(*parts))
    return z, covariance, chi2
