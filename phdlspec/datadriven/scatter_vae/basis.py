"""Principal components of spectra with noise and gaps, and what a spectrum says of their coefficients.

The components maximise the likelihood of the observed pixels (Bailey 2012): alternating weighted least squares. A
spectrum enters everything that follows through two sums over its pixels, B' W B and B' W (f - mean): a masked pixel has
the weight 0 and is neither seen nor scored, and an arm that is missing needs no care.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from phdlspec.datadriven.lux.model import PackedSymmetric

CHUNK = 256  # spectra at once
_RIDGE = 1e-3


def chunks(size: int) -> Iterator[slice]:
    """Slices of `CHUNK`."""
    return (slice(start, start + CHUNK) for start in range(0, size, CHUNK))


def normal_matrices(weight: Tensor, basis: Tensor) -> Tensor:
    """B' W B (n, R, R) of n spectra with weights (n, P) for a basis (P, R)."""
    pairs = PackedSymmetric(basis.shape[1], basis.device)
    return pairs.unpack(weight @ pairs.products(basis))


def principal_components(
    flux: Tensor, weight: Tensor, count: int, iterations: int = 10, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Mean (P,) and orthonormal components (P, R), in order of their variance, of flux and weights (N, P).

    A pixel that no spectrum has keeps the mean 0 and no component.
    """
    torch.manual_seed(seed)  # of the randomised singular value decomposition
    total = weight.sum(0).clamp_min(1e-9)
    mean = (weight * flux).sum(0) / total
    start = torch.where(weight > 0, flux - mean, 0.0)
    basis = torch.svd_lowrank(start, q=min(count + 5, *start.shape))[2][:, :count]
    for _ in range(iterations):
        coefficients = coefficients_of(flux, weight, mean, basis)
        basis, mean = _components(flux, weight, coefficients, mean)
        basis = torch.linalg.qr(basis)[0]
    coefficients = coefficients_of(flux, weight, mean, basis)
    rotation = torch.linalg.svd(coefficients - coefficients.mean(0), full_matrices=False)[2]
    return mean, basis @ rotation.T


def coefficients_of(flux: Tensor, weight: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    """Coefficients (N, R) of spectra (N, P) by weighted least squares."""
    return torch.cat([_coefficients(flux[c], weight[c], mean, basis) for c in chunks(len(flux))])


def _coefficients(flux: Tensor, weight: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    matrix = normal_matrices(weight, basis)
    matrix.diagonal(dim1=1, dim2=2).add_(_RIDGE)
    pull = (weight * (flux - mean)) @ basis
    answer: Tensor = torch.linalg.solve(matrix, pull[..., None])[..., 0]
    return answer


def _components(flux: Tensor, weight: Tensor, coefficients: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    # Each pixel's mean and components by weighted least squares on all spectra.
    ones = torch.ones(len(coefficients), 1, dtype=coefficients.dtype)
    design = torch.cat([ones, coefficients], dim=1)
    pairs = PackedSymmetric(design.shape[1], design.device)
    matrix = pairs.unpack(weight.T @ pairs.products(design))
    matrix.diagonal(dim1=1, dim2=2).add_(_RIDGE)
    solution = torch.linalg.solve(matrix, ((weight * (flux - mean)).T @ design)[..., None])[..., 0]
    return solution[:, 1:], mean + solution[:, 0]


def project_onto(flux: Tensor, weight: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    """The spectra (N, P) that mean and components explain best by weighted least squares: the alternative to beat."""
    return mean + coefficients_of(flux, weight, mean, basis) @ basis.T
