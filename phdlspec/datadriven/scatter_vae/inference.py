"""Latents of spectra: the encoder's mean, then the maximum of the posterior by a few damped Gauss-Newton steps.

The steps see the spectrum with its own noise, mask and scatter, and a pixel that is far off counts less (Huber), so
that a cosmic-ray hit or an emission line does not bend what the rest of the spectrum says. No draw is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from phdlspec.datadriven.scatter_vae.basis import chunks, normal_matrices
from phdlspec.datadriven.scatter_vae.spectrum_network import SpectrumNetwork

STEPS = 4
HUBER_SIGMA = 6.0


@dataclass(frozen=True)
class Explained:
    """Latents (N, K), the flux (N, P) that they give, variance (N, P) of a pixel about it, scatter s (N, P)."""

    latents: Tensor
    model: Tensor
    variance: Tensor
    scatter: Tensor


def explain(network: SpectrumNetwork, flux: Tensor, ivar: Tensor, hidden: Tensor | None = None) -> Explained:
    """What the network makes of spectra (N, P); hidden : (P,) pixels that it is not to look at, but to predict."""
    seen = ivar if hidden is None else torch.where(hidden, 0.0, ivar)
    with torch.no_grad():
        parts = [_explain(network, flux[c], ivar[c], seen[c]) for c in chunks(len(flux))]
        return Explained(*(torch.cat([getattr(p, n) for p in parts]) for n in Explained.__dataclass_fields__))


def _explain(network: SpectrumNetwork, flux: Tensor, ivar: Tensor, seen: Tensor) -> Explained:
    z = network.encode(network.filtered(flux, seen))[0]
    best = _LatentSearch(network, flux, seen, z)
    damping = torch.full((len(z),), 1e-2)
    for _ in range(STEPS):
        tried = _LatentSearch(network, flux, seen, best.step(damping))
        better = tried.value < best.value
        damping = torch.where(better, damping * 0.1, damping * 10.0)
        best = (
            best
            if not better.any()
            else _LatentSearch(network, flux, seen, torch.where(better[:, None], tried.z, best.z))
        )
    return Explained(best.z, best.model, network.variance(ivar, best.scatter), best.scatter)


class _LatentSearch:
    # Where the search for the latents of some spectra stands.

    def __init__(self, network: SpectrumNetwork, flux: Tensor, ivar: Tensor, z: Tensor):
        self.network, self.z = network, z
        self.model, self.scatter = network.decode(z)
        self.variance = network.variance(ivar, self.scatter)
        self.residual = torch.where(ivar > 0, flux - self.model, 0.0)
        self.inside = ivar > 0
        size = self.residual.abs() / self.variance.sqrt()
        self.huber = torch.where(size > HUBER_SIGMA, HUBER_SIGMA / size.clamp_min(1e-9), 1.0)
        misfit = torch.where(size > HUBER_SIGMA, HUBER_SIGMA * (2.0 * size - HUBER_SIGMA), size.square())
        self.value = (misfit + self.variance.log()).sum(1) + z.square().sum(1)

    def step(self, damping: Tensor) -> Tensor:
        weight = torch.where(self.inside, self.huber / self.variance, 0.0)
        slope = latent_slopes(self.network, self.z)
        matrix = slope.mT @ normal_matrices(weight, self.network.basis) @ slope
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        diagonal += 1.0 + damping[:, None] * diagonal
        pull = (slope.mT @ ((weight * self.residual) @ self.network.basis)[..., None])[..., 0] - self.z
        answer: Tensor = self.z + torch.linalg.solve(matrix, pull[..., None])[..., 0]
        return answer


def latent_slopes(network: SpectrumNetwork, z: Tensor) -> Tensor:
    """Derivatives (B, R, K) of h with the latents (B, K), one tangent for each."""
    unit = torch.eye(z.shape[1]).expand(len(z), -1, -1).flatten(0, 1)
    repeated = z.repeat_interleave(z.shape[1], 0)
    change = torch.func.jvp(network.coefficients, (repeated,), (unit,))[1]
    answer: Tensor = change.unflatten(0, (len(z), -1)).mT
    return answer
