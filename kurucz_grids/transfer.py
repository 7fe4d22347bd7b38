"""Emergent flux of a plane-parallel atmosphere with continuum scattering, and its adjoint.

The source function is S = eps B + (1 - eps) J; J comes from the moment equation in the Eddington approximation,
which is a symmetric tridiagonal system in depth for every wavelength (eps counts lines as absorption). The flux is
the integral of S along three rays, S linear in optical depth between layers. One backward sweep gives the derivative
of the flux at each wavelength with respect to what that wavelength sees in every layer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

PLANCK_CM_S = 6.62607015e-27
LIGHT_CM_S = 2.99792458e10
BOLTZMANN = 1.380649e-16
_MU, _WEIGHT = np.polynomial.legendre.leggauss(3)
RAYS = tuple((float((m + 1) / 2), float(w / 2)) for m, w in zip(_MU, _WEIGHT))


class Adjoint(NamedTuple):
    """Derivatives of the flux F (N,), each (N, D): with respect to absorption, scattering and Planck function,
    and to the logarithm of the column mass between layers (the first entry: above the first layer)."""

    absorption: Tensor
    scattering: Tensor
    planck: Tensor
    log_column: Tensor


def planck(wave: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """B_lambda (N, D) in erg/cm2/s/Å/sr at `wave` (N,) Å and `temperature` (D,) K, and d ln B/d ln T."""
    cm = wave[:, None] * 1e-8
    x = (PLANCK_CM_S * LIGHT_CM_S / BOLTZMANN) / (cm * temperature[None])
    scale = 2 * PLANCK_CM_S * LIGHT_CM_S**2 * 1e-8
    b = scale / cm**5 / torch.expm1(x)
    return b.float(), (x / -torch.expm1(-x)).float()


class _Diffusion(torch.autograd.Function):
    """Solve the symmetric tridiagonal system of the moment equation, layers along the first axis.

    Row i: -C[i-1] J[i-1] + (C[i-1] + C[i] + H[i]) J[i] - C[i] J[i+1] = L[i]; the last layer is given. The elimination
    follows Rybicki & Hummer (1991, A&A 245, 171, appendix A), which loses no digits where H is tiny. As the matrix is
    symmetric, the backward sweep solves the same system.
    """

    @staticmethod
    def forward(ctx, coupling: Tensor, loss: Tensor, source: Tensor, last: Tensor) -> Tensor:  # type: ignore[override]
        mean, factors = _eliminate(coupling, loss, source, last)
        ctx.save_for_backward(coupling, mean, factors)
        return mean

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        coupling, mean, factors = ctx.saved_tensors
        dual = _substitute(coupling, factors, gradient[:-1], torch.zeros_like(gradient[-1]))
        d_coupling = -(dual[:-1] - dual[1:]) * (mean[:-1] - mean[1:])
        return d_coupling, -dual[:-1] * mean[:-1], dual[:-1], gradient[-1] + coupling[-1] * dual[-2]


def _eliminate(coupling: Tensor, loss: Tensor, source: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    rows = coupling.shape[0]
    factors = torch.empty_like(coupling)
    factors[0] = loss[0] / coupling[0]
    for i in range(1, rows):
        previous = factors[i - 1]
        factors[i] = (loss[i] + coupling[i - 1] * previous / (1 + previous)) / coupling[i]
    return _substitute(coupling, factors, source, last), factors


def _substitute(coupling: Tensor, factors: Tensor, source: Tensor, last: Tensor) -> Tensor:
    rows = coupling.shape[0]
    mean = torch.empty((rows + 1, *last.shape), dtype=last.dtype, device=last.device)
    inverse = 1.0 / (1.0 + factors)
    scaled = inverse / coupling
    partial = torch.empty_like(source)
    partial[0] = source[0] * scaled[0]
    for i in range(1, rows):
        partial[i] = (source[i] + coupling[i - 1] * partial[i - 1]) * scaled[i]
    mean[rows] = last
    for i in range(rows - 1, -1, -1):
        mean[i] = mean[i + 1] * inverse[i] + partial[i]
    return mean


def mean_intensity(dtau: Tensor, thermal: Tensor, b: Tensor) -> Tensor:
    """J (N, D) from optical-depth steps (N, D - 1), thermal fraction eps (N, D) and Planck function (N, D)."""
    step = dtau.T.clamp(min=1e-12)
    eps, b = thermal.T, b.T
    coupling = 1.0 / (3.0 * step)
    cell = 0.5 * torch.cat([step[:1], step[1:] + step[:-1]])
    loss = cell * eps[:-1]
    source = loss * b[:-1]
    surface = torch.zeros_like(loss)
    surface[0] = 3.0**-0.5  # H(0) = J(0) / sqrt(3): no light from above
    mean = _Diffusion.apply(coupling.contiguous(), loss + surface, source, b[-1].contiguous())
    return mean.T


def _formal(tau: Tensor, source: Tensor) -> Tensor:
    # Emergent flux from S (N, D), linear in tau between layers, B gradient below the last layer.
    flux = torch.zeros_like(tau[:, 0])
    for mu, weight in RAYS:
        step = torch.diff(tau, dim=1) / mu
        decay = torch.exp(-tau / mu)
        transmitted = torch.exp(-step)
        safe = step.clamp(min=1e-3)
        mean_fraction = torch.where(step > 1e-3, (1 - transmitted) / safe, 1 - step / 2 + step * step / 6)
        upper = 1 - mean_fraction
        lower = mean_fraction - transmitted
        rays = (decay[:, :-1] * (source[:, :-1] * upper + source[:, 1:] * lower)).sum(1)
        top = source[:, 0] * (1 - decay[:, 0])
        flux = flux + weight * mu * (rays + top + source[:, -1] * decay[:, -1])
    return 2 * np.pi * flux


def _column_steps(rhox: Tensor) -> Tensor:
    return torch.cat([rhox[:1], torch.diff(rhox)])


def emergent_flux(absorption: Tensor, scattering: Tensor, b: Tensor, rhox: Tensor) -> Tensor:
    """Flux at the surface (N,), in units of pi times those of `b`.

    Parameters
    ----------
    absorption, scattering : (N, D) cm2/g. b : (N, D) Planck function. rhox : (D,) g/cm2.
    """
    return _flux_of(absorption, scattering, b, _optical_steps(absorption, scattering, rhox))


def _optical_steps(absorption: Tensor, scattering: Tensor, rhox: Tensor) -> Tensor:
    """Optical depth between layers (N, D), the first entry that above the first layer.

    Opacity and column mass change by a fifth from layer to layer, where the trapezoidal rule makes lines too weak by
    half a per cent of their depth. With g = opacity dm/di, the integral of a cubic through four layers i is
    (13 (g_i + g_i+1) - g_i-1 - g_i+2) / 24; the outermost steps keep the trapezoidal rule.
    """
    total = absorption + scattering
    middle = torch.cat([total[:, :1], 0.5 * (total[:, 1:] + total[:, :-1])], dim=1)
    steps = middle * _column_steps(rhox)
    slope = (8.0 * (rhox[3:-1] - rhox[1:-3]) - (rhox[4:] - rhox[:-4])) / 12.0  # dm/di of layers 2 to D - 3
    g = total[:, 2:-2] * slope
    cubic = (13.0 * (g[:, 1:-2] + g[:, 2:-1]) - g[:, :-3] - g[:, 3:]) / 24.0
    inner = slice(4, rhox.shape[0] - 3)  # step i leads from layer i - 1 to layer i
    # Where layers are so uneven that a cubic overshoots, the plain rule is the better one.
    smooth = (cubic / steps[:, inner] - 1.0).abs() < 0.5
    return torch.cat([steps[:, :4], torch.where(smooth, cubic, steps[:, inner]), steps[:, inner.stop :]], dim=1)


def _flux_of(absorption: Tensor, scattering: Tensor, b: Tensor, steps: Tensor) -> Tensor:
    thermal = absorption / (absorption + scattering)
    mean = mean_intensity(steps[:, 1:], thermal, b)
    source = b + (1 - thermal) * (mean - b)
    return _formal(torch.cumsum(steps, dim=1), source)


def flux_and_adjoint(absorption: Tensor, scattering: Tensor, b: Tensor, rhox: Tensor) -> tuple[Tensor, Adjoint]:
    """As `emergent_flux`, with the derivatives of the flux at each wavelength."""
    leaves = [x.detach().requires_grad_(True) for x in (absorption, scattering, b)]
    with torch.enable_grad():
        steps = _optical_steps(leaves[0], leaves[1], rhox)
        flux = _flux_of(leaves[0], leaves[1], leaves[2], steps)
        gradients = torch.autograd.grad(flux.sum(), [*leaves, steps])
    absorbed, scattered, thermal, by_steps = gradients
    return flux.detach(), Adjoint(absorbed, scattered, thermal, by_steps * steps.detach())
