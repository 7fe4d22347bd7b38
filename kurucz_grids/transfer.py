"""Emergent flux of a plane-parallel atmosphere with continuum scattering, and its adjoint.

The source function is S = eps B + (1 - eps) J; J comes from the moment equation in the Eddington approximation,
which is a symmetric tridiagonal system in depth for every wavelength (eps counts lines as absorption). The flux is
the integral of S along three rays, S linear in optical depth between layers. One backward sweep, written out by hand,
gives the derivative of the flux at each wavelength with respect to what that wavelength sees in every layer.

Inside this module depth is the first axis, so that every step along it runs over contiguous wavelengths.
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
_SERIES = 0.03  # optical depth below which differences of exponentials are expanded
_DARK = -60.0  # exponent beyond which nothing is seen; further down floats would be denormal, which is slow


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


class _OpticalSteps(NamedTuple):
    """Optical depth between layers (D, N), the first entry that above the first layer, and what made it."""

    steps: Tensor
    columns: Tensor  # (D, 1) column mass between layers
    slope: Tensor  # (D - 4, 1) change of column mass per layer
    smooth: Tensor  # where the cubic was used, of the inner steps

    @property
    def inner(self) -> slice:
        return slice(4, len(self.steps) - 3)  # step i leads from layer i - 1 to layer i

    def by_opacity(self, by_steps: Tensor) -> Tensor:
        """Derivative with respect to the opacity from that with respect to the steps, both (D, N)."""
        cubic = torch.where(self.smooth, by_steps[self.inner], 0.0) / 24.0
        plain = 0.5 * self.columns * by_steps
        plain[self.inner] *= ~self.smooth
        answer = plain.clone()
        answer[:-1] += plain[1:]
        answer[0] += plain[0]
        g = torch.zeros_like(answer[2:-2])
        g[1:-2] += 13.0 * cubic
        g[2:-1] += 13.0 * cubic
        g[:-3] -= cubic
        g[3:] -= cubic
        answer[2:-2] += g * self.slope
        return answer


def _optical_steps(opacity: Tensor, rhox: Tensor) -> _OpticalSteps:
    # Opacity (D, N) and column mass change by a fifth from layer to layer, where the trapezoidal rule makes lines too
    # weak by half a per cent of their depth. With g = opacity dm/di, the integral of a cubic through four layers i is
    # (13 (g_i + g_i+1) - g_i-1 - g_i+2) / 24; the outermost steps keep the trapezoidal rule.
    columns = torch.cat([rhox[:1], torch.diff(rhox)])[:, None]
    steps = torch.cat([opacity[:1], 0.5 * (opacity[1:] + opacity[:-1])]) * columns
    slope = ((8.0 * (rhox[3:-1] - rhox[1:-3]) - (rhox[4:] - rhox[:-4])) / 12.0)[:, None]
    g = opacity[2:-2] * slope
    cubic = (13.0 * (g[1:-2] + g[2:-1]) - g[:-3] - g[3:]) / 24.0
    plain = steps[4:-3]
    # Where layers are so uneven that a cubic overshoots, the plain rule is the better one.
    smooth = (cubic - plain).abs() < 0.5 * plain
    steps[4:-3] = torch.where(smooth, cubic, plain)
    return _OpticalSteps(steps, columns, slope, smooth)


class _Moments(NamedTuple):
    """The moment equation, a symmetric tridiagonal system in J with layers along the first axis.

    Row i: -C[i-1] J[i-1] + (C[i-1] + C[i] + H[i]) J[i] - C[i] J[i+1] = H[i] B[i]; the last layer has J = B. The
    elimination follows Rybicki & Hummer (1991, A&A 245, 171, appendix A), which loses no digits where H is tiny.
    """

    cell: Tensor  # (D - 1, N) optical depth of the cell around a layer
    coupling: Tensor  # (D - 1, N)
    loss: Tensor  # (D - 1, N) optical depth of absorption in the cell
    inverse: Tensor  # (D - 1, N) of the elimination: share of J that the layer below hands on
    scaled: Tensor

    def solve(self, source: Tensor, last: Tensor) -> Tensor:
        """Answer (D, N) for a right-hand side (D - 1, N) and a given last layer (N,)."""
        rows = len(source)
        partial = source * self.scaled
        gain = self.coupling[:-1] * self.scaled[1:]
        for i in range(1, rows):
            partial[i].addcmul_(partial[i - 1], gain[i - 1])
        answer = torch.cat([partial, last[None]])
        for i in range(rows - 1, -1, -1):
            answer[i].addcmul_(answer[i + 1], self.inverse[i])
        return answer


def _moments(steps: Tensor, thermal: Tensor) -> _Moments:
    coupling = 1.0 / (3.0 * steps)
    cell = 0.5 * torch.cat([steps[:1], steps[1:] + steps[:-1]])
    loss = cell * thermal[:-1]
    factors = loss.clone()
    factors[0] += 3.0**-0.5  # H(0) = J(0) / sqrt(3): no light from above
    inverse = torch.empty_like(factors)
    for i in range(len(factors)):
        if i:
            factors[i].addcmul_(coupling[i - 1] * factors[i - 1], inverse[i - 1])
        factors[i] /= coupling[i]
        torch.reciprocal(factors[i] + 1.0, out=inverse[i])
    return _Moments(cell, coupling, loss, inverse, inverse / coupling)


def _weights(tau: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How the rise of S across a step of optical depth counts in the flux, at `tau` above it.

    Returns that weight and its derivatives with respect to a shift of the whole step and to its lower end.
    """
    total = torch.zeros_like(tau), torch.zeros_like(tau), torch.zeros_like(tau)
    for mu, weight in RAYS:
        delta = (step / mu).clamp(min=1e-12)
        lost = -torch.expm1(-delta)
        fraction = lost / delta
        small = -0.5 + delta * (1.0 / 3.0 - delta * (0.125 - delta / 30.0))
        stretch = torch.where(delta > _SERIES, (1.0 - lost - fraction) / delta, small)
        seen = (2 * np.pi * weight) * torch.exp((tau / -mu).clamp(min=_DARK))
        total[0].addcmul_(seen, fraction, value=mu)
        total[1].addcmul_(seen, fraction, value=-1.0)
        total[2].addcmul_(seen, stretch)
    return total


class _Forward(NamedTuple):
    thermal: Tensor
    optical: _OpticalSteps
    moments: _Moments
    mean: Tensor
    source: Tensor


def _solve(opacity: Tensor, absorption: Tensor, b: Tensor, rhox: Tensor) -> _Forward:
    thermal = absorption / opacity
    optical = _optical_steps(opacity, rhox)
    moments = _moments(optical.steps[1:].clamp(min=1e-12), thermal)
    mean = moments.solve(moments.loss * b[:-1], b[-1])
    return _Forward(thermal, optical, moments, mean, b + (1.0 - thermal) * (mean - b))


def emergent_flux(absorption: Tensor, scattering: Tensor, b: Tensor, rhox: Tensor) -> Tensor:
    """Flux at the surface (N,), in units of pi times those of `b`.

    Parameters
    ----------
    absorption, scattering : (N, D) cm2/g. b : (N, D) Planck function. rhox : (D,) g/cm2.
    """
    absorbed, b = absorption.T.contiguous(), b.T.contiguous()
    forward = _solve(absorbed + scattering.T, absorbed, b, rhox)
    steps, source = forward.optical.steps, forward.source
    weight, _, _ = _weights(torch.cumsum(steps, 0)[:-1], steps[1:])
    return np.pi * source[0] + (weight * torch.diff(source, dim=0)).sum(0)


def flux_and_adjoint(absorption: Tensor, scattering: Tensor, b: Tensor, rhox: Tensor) -> tuple[Tensor, Adjoint]:
    """As `emergent_flux`, with the derivatives of the flux at each wavelength."""
    absorbed, b = absorption.T.contiguous(), b.T.contiguous()
    opacity = absorbed + scattering.T
    thermal, optical, moments, mean, source = _solve(opacity, absorbed, b, rhox)
    steps = optical.steps
    weight, by_shift, by_stretch = _weights(torch.cumsum(steps, 0)[:-1], steps[1:])
    rise = torch.diff(source, dim=0)
    flux = np.pi * source[0] + (weight * rise).sum(0)

    # The rays: S enters through its rises, a step moves everything below it and its own lower end.
    by_source = torch.cat([np.pi - weight[:1], weight[:-1] - weight[1:], weight[-1:]])
    below = (by_shift * rise).flip(0).cumsum(0).flip(0)
    by_steps = torch.cat([below, torch.zeros_like(below[:1])])
    by_steps[1:].addcmul_(by_stretch, rise)

    # The moment equation: as its matrix is symmetric, the same system is solved once more.
    by_mean = (1.0 - thermal) * by_source
    dual = moments.solve(by_mean[:-1], torch.zeros_like(flux))
    by_loss = dual[:-1] * (b - mean)[:-1]
    by_cell = by_loss * thermal[:-1]
    by_coupling = torch.diff(dual, dim=0) * torch.diff(mean, dim=0)  # minus this
    by_steps[1:] += 0.5 * by_cell + by_coupling * moments.coupling / steps[1:].clamp(min=1e-12)
    by_steps[1:-1] += 0.5 * by_cell[1:]
    by_thermal = by_source * (b - mean)
    by_thermal[:-1].addcmul_(by_loss, moments.cell)
    by_planck = by_source * thermal
    by_planck[:-1].addcmul_(dual[:-1], moments.loss)
    by_planck[-1] += by_mean[-1] + moments.coupling[-1] * dual[-2]

    by_opacity = optical.by_opacity(by_steps)
    share = by_thermal / opacity
    by_scattering = by_opacity - share * thermal
    answer = by_scattering + share, by_scattering, by_planck, by_steps * steps
    return flux, Adjoint(*(x.T.contiguous() for x in answer))
