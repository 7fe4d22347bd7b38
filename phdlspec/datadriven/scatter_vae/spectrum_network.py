r"""The network of the spectrum form: latents of a spectrum with noise and gaps, and back to flux and scatter.

A pixel p of a star with latents z ~ N(0, 1) has the flux

    f_p = m_p + B_p h(z) + noise,   variance  v_p = n_p sigma_p^2 + c_p s_p^2(z),   ln s_p^2(z) = a_p + A_p q(z)

with h, q small networks (h with a linear path beside), B a basis of R components, n_p a factor on the given variance
(rest frame and pipeline both change it) and c_p one on the scatter that is learned from stars which training has not
seen. The encoder sees a spectrum through the Wiener filter of fixed components F,

    y = (F' W F + S^-1)^-1 F' W (f - m),    W = 1 / (sigma^2 + s_0^2),

and the logarithms of the errors of y: exact for any noise and any mask, at the cost of two matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phdlspec.datadriven.scatter_vae.basis import chunks, normal_matrices
from phdlspec.datadriven.scatter_vae.xp_network import divergence, draw

LEAST_SCATTER, MOST_SCATTER = 1e-3, 0.3  # of the continuum
FRONT_SCATTER = 0.01  # s_0
_SCATTER_TERMS = 8
_FIRST_LN_SCATTER = -9.2  # 1% of the continuum


@dataclass(frozen=True)
class NetworkShape:
    """P pixels, R components, K latents, width of the hidden layers."""

    pixels: int
    components: int
    latents: int
    hidden: int = 192


class SpectrumNetwork(nn.Module):
    """See the module. Fluxes are normalised, at rest; ivar is 0 where masked."""

    front: Tensor
    front_mean: Tensor
    front_scale: Tensor
    ln_calibration: Tensor

    def __init__(self, shape: NetworkShape):
        super().__init__()
        self.shape = shape
        p, r, k, h = shape.pixels, shape.components, shape.latents, shape.hidden
        self.register_buffer("front", torch.zeros(p, r))
        self.register_buffer("front_mean", torch.zeros(p))
        self.register_buffer("front_scale", torch.ones(r))
        self.register_buffer("ln_calibration", torch.zeros(p))
        self.inner = nn.Sequential(nn.Linear(2 * r, h), nn.GELU(), nn.Linear(h, h), nn.GELU())
        self.mu, self.straight, self.log_var = nn.Linear(h, k), nn.Linear(r, k, bias=False), nn.Linear(h, k)
        self.curved = nn.Sequential(nn.Linear(k, h), nn.GELU(), nn.Linear(h, h), nn.GELU(), nn.Linear(h, r))
        self.linear = nn.Linear(k, r, bias=False)
        self.spread = nn.Sequential(nn.Linear(k, 64), nn.GELU(), nn.Linear(64, _SCATTER_TERMS))
        self.spread_basis = nn.Parameter(0.01 * torch.randn(p, _SCATTER_TERMS))
        self.ln_scatter = nn.Parameter(torch.full((p,), _FIRST_LN_SCATTER))
        self.ln_noise = nn.Parameter(torch.zeros(p))
        self.basis = nn.Parameter(torch.zeros(p, r))
        self.mean = nn.Parameter(torch.zeros(p))

    def begin(self, mean: Tensor, components: Tensor, scale: Tensor) -> None:
        """Set front and basis to principal components (P, R) with this spread (R,) of their coefficients."""
        with torch.no_grad():
            for target in (self.front_mean, self.mean):
                target.copy_(mean)
            self.front.copy_(components)
            self.front_scale.copy_(scale)
            self.basis.copy_(components * scale)

    def filtered(self, flux: Tensor, ivar: Tensor) -> Tensor:
        """What the encoder sees (N, 2 R) of spectra (N, P)."""
        parts = [self._filtered(flux[c], ivar[c]) for c in chunks(len(flux))]
        return torch.cat(parts) if parts else torch.zeros(0, 2 * self.shape.components)

    def _filtered(self, flux: Tensor, ivar: Tensor) -> Tensor:
        weight = ivar / (1.0 + ivar * FRONT_SCATTER**2)
        matrix = normal_matrices(weight, self.front)
        matrix.diagonal(dim1=1, dim2=2).add_(self.front_scale**-2)
        inverse = torch.linalg.inv(matrix.double())
        pull = (weight * (flux - self.front_mean)) @ self.front
        y = (inverse @ pull.double()[..., None])[..., 0].float() / self.front_scale
        error = inverse.diagonal(dim1=1, dim2=2).sqrt().float() / self.front_scale
        return torch.cat([y, error.log()], dim=1)

    def encode(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B, K) of the latents, of what `filtered` gives (B, 2 R)."""
        inner = self.inner(seen)
        return self.mu(inner) + self.straight(seen[:, : self.shape.components]), self.log_var(inner) - 2.0

    def coefficients(self, z: Tensor) -> Tensor:
        """h (B, R) of latents (B, K)."""
        answer: Tensor = self.curved(z) + self.linear(z)
        return answer

    def scatter(self, z: Tensor) -> Tensor:
        """Scatter s (B, P) of latents, calibrated, between its floor and its ceiling."""
        ln = self.ln_scatter + self.spread(z) @ self.spread_basis.T
        answer: Tensor = (0.5 * (ln + self.ln_calibration)).exp().clamp(LEAST_SCATTER, MOST_SCATTER)
        return answer

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Flux and scatter (B, P) of latents (B, K)."""
        return self.mean + self.coefficients(z) @ self.basis.T, self.scatter(z)

    def variance(self, ivar: Tensor, scatter: Tensor) -> Tensor:
        """v (B, P); 1 where the pixel is masked."""
        noise = self.ln_noise.exp() / torch.where(ivar > 0, ivar, 1.0)
        return torch.where(ivar > 0, noise + scatter.square(), 1.0)

    def loss(self, flux: Tensor, ivar: Tensor, seen: Tensor, kl_weight: float) -> Tensor:
        """Negative evidence lower bound per pixel (B,): one draw of the latents; masked pixels do not enter."""
        mean, log_var = self.encode(seen)
        model, scatter = self.decode(draw(mean, log_var))
        variance = self.variance(ivar, scatter)
        misfit = torch.where(ivar > 0, (flux - model).square() / variance + variance.log(), 0.0)
        return (0.5 * misfit.sum(1) + kl_weight * divergence(mean, log_var)) / self.shape.pixels
