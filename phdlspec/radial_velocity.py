"""A blind first radial velocity: a chi-square scan over velocity and templates, continuum marginalised.

At each velocity v and for each template f the model is f(wave; v) times a linear continuum, whose
coefficients are solved for:

    chi2(v) = sum w d^2 - b^T G^-1 b,   G_kl = sum w f^2 Phi_k Phi_l,   b_k = sum w f Phi_k d,

with d the flux and w its inverse variance (zero at bad pixels). Unlike a cross-correlation of a flattened
spectrum this weighs pixels by their noise, knows gaps, and does not need the continuum first; where the noise
is white and the continuum flat, both have their peak at the same place. The sum over pixels of products of
splines is one matrix product for all velocities and templates. Everything is in float64: chi2 differences of
order one stand on sums of 1e9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phdlspec.continuum import continuum_basis
from phdlspec.errors import UserError
from phdlspec.lsf import NativeGrid, kernel_half_width, project
from phdlspec.masks import DEFAULT_INTERVALS, MaskInterval, wavelength_mask
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

SCAN_STEP_KM_S = 30.0  # less than half the sigma of a resolution element at R = 1800
FINE_STEPS_KM_S = (5.0, 2.0)  # of the parabolas that refine the scan's minimum
PEAK_WIDTH_KM_S = 300.0  # a second minimum counts as another one from this distance on
CLIP_SIGMA = 6.0
STARS_AT_ONCE = {"cpu": 4, "cuda": 64}  # compared with all models together
RELIABLE_SIGNIFICANCE = 4.0
AIR_SHIFT_KM_S = -83.0  # velocity of a star whose air wavelengths are taken for vacuum, 3700-9100 Å: -86 to -82


@dataclass(frozen=True)
class Velocities:
    """Velocities of B spectra.

    Attributes
    ----------
    rv : (B,) km/s, in the frame of the wavelengths; NaN where no pixel was usable.
    rv_err : (B,) km/s, from the curvature of chi2, times sqrt(rchi2) where that exceeds one.
    template : (B,) index of the best template.
    chi2, rchi2 : (B,) at the minimum; rchi2 is per degree of freedom.
    significance : (B,) sqrt of the chi2 by which the best velocity beats the best one more than 300 km/s
        away, divided by rchi2 where that exceeds one: how many sigma the peak stands above the others.
    """

    rv: Tensor
    rv_err: Tensor
    template: Tensor
    chi2: Tensor
    rchi2: Tensor
    significance: Tensor

    @property
    def reliable(self) -> Tensor:
        """(B,) True where one peak stands out by at least 4 sigma."""
        return self.significance > RELIABLE_SIGNIFICANCE


class ContinuumChi2:
    """chi2 of models f times a linear continuum with the basis (K, P)."""

    def __init__(self, basis: Tensor):
        self.basis = basis
        first, second = torch.triu_indices(len(basis), len(basis), device=basis.device)
        products = basis[first] * basis[second]
        overlap = products.abs().amax(dim=1) > 0  # splines overlap with their neighbours only
        self.first, self.second, self.products = first[overlap], second[overlap], products[overlap]

    def _normal_equations(self, weight: Tensor, data: Tensor, model: Tensor) -> tuple[Tensor, Tensor]:
        """Cholesky factor of G (N, K, K) and b (N, K, 1) for weights, data and models (N, P) or (P,)."""
        return self._factor((weight * model**2) @ self.products.T), ((weight * data * model) @ self.basis.T)[..., None]

    def _factor(self, packed: Tensor) -> Tensor:
        # Cholesky factors (..., K, K) from the sums (..., pairs) of the products that overlap.
        count = len(self.basis)
        gram = packed.new_zeros(*packed.shape[:-1], count, count)
        gram[..., self.first, self.second] = packed
        gram[..., self.second, self.first] = packed
        diagonal = gram.diagonal(dim1=-2, dim2=-1)
        diagonal += 1e-9 * diagonal.amax(dim=-1, keepdim=True) + torch.finfo(gram.dtype).tiny
        factor: Tensor = torch.linalg.cholesky(gram)
        return factor

    def gain(self, weight: Tensor, data: Tensor, model: Tensor) -> Tensor:
        """(N,) what the model explains of sum w d^2."""
        factor, b = self._normal_equations(weight, data, model)
        answer: Tensor = torch.linalg.solve_triangular(factor, b, upper=False).square().sum(dim=(-2, -1))
        return answer

    def gains(self, weight: Tensor, data: Tensor, models: Tensor) -> Tensor:
        """(S, N) what each of N models (N, P) explains of each of S spectra, (S, P)."""
        squares, parts = models**2, []
        step = STARS_AT_ONCE.get(models.device.type, 4)
        for w, d in zip(weight.split(step), data.split(step)):  # type: ignore[no-untyped-call]
            factor = self._factor(squares @ (w[:, None] * self.products).mT)
            b = models @ ((w * d)[:, None] * self.basis).mT
            solved = torch.linalg.solve_triangular(factor, b[..., None], upper=False)
            parts.append(solved.square().sum(dim=(-2, -1)))
        return torch.cat(parts)

    def fitted(self, weight: Tensor, data: Tensor, model: Tensor) -> Tensor:
        """(N, P) the model times its best continuum."""
        factor, b = self._normal_equations(weight, data, model)
        return model * (torch.cholesky_solve(b, factor)[..., 0] @ self.basis)


def _parabola(offset: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares parabola through value (B, n) at offset (n,): place of the minimum (B,) and second
    derivative."""
    scale = offset.abs().max()
    x = offset / scale
    design = torch.stack([torch.ones_like(x), x, x**2], dim=1)
    shifted = value - value.amin(dim=1, keepdim=True)
    coefficients = torch.linalg.lstsq(design, shifted.T).solution
    curvature = coefficients[2].clamp_min(1e-12)
    place = (-0.5 * coefficients[1] / curvature).clamp(-1.0, 1.0)
    return place * scale, 2.0 * curvature / scale**2


@dataclass(frozen=True)
class VelocityScan:
    """What measures the velocities of spectra that share their pixels and resolving power; made by `of`.

    Attributes
    ----------
    seen : (P,) pixels that see the native grid at every velocity: all are to be judged by the same ones
    wave, resolving_power : of these pixels
    chi2 : fits continua to models
    velocities : (V,) km/s of the scan; models : (T, V, P') the templates at them
    """

    seen: Tensor
    wave: Tensor
    resolving_power: Tensor
    chi2: ContinuumChi2
    velocities: Tensor
    models: Tensor
    templates: Tensor
    grid: NativeGrid
    half_width: int

    @classmethod
    def of(
        cls,
        wave: Tensor | NDArray[np.float64],
        basis: Tensor | NDArray[np.float64],
        templates: Tensor,
        grid: NativeGrid,
        resolving_power: float | Tensor | NDArray[np.float64],
        velocity_range: float = 1000.0,
    ) -> VelocityScan:
        """
        Parameters
        ----------
        wave : (P,) vacuum Å; basis : (K, P) continuum basis, as from `continuum_basis`.
        templates : (T, Pn) normalised flux on `grid`, at rest.
        resolving_power : number or (P,); it need not be exact here.
        velocity_range : km/s on either side of zero.
        """
        device = templates.device
        wave = torch.tensor(wave, dtype=torch.float64, device=device)  # a spectrum's arrays are read-only
        basis = torch.as_tensor(basis, dtype=torch.float64, device=device)
        templates = templates.to(torch.float64)
        power = torch.tensor(resolving_power, dtype=torch.float64, device=device).expand(wave.shape)
        half = kernel_half_width(grid, power, 0.0)
        seen = _always_seen(wave, grid, half, velocity_range)
        basis = basis[:, seen]
        chi2 = ContinuumChi2(basis[basis.abs().amax(dim=1) > 0])
        steps = int(np.ceil(velocity_range / SCAN_STEP_KM_S))
        velocities = SCAN_STEP_KM_S * torch.arange(-steps, steps + 1, dtype=torch.float64, device=device)
        models = project(
            templates.expand(len(velocities), -1, -1), grid, wave[seen], power[seen], rv=velocities, half_width=half
        ).transpose(0, 1)
        return cls(seen, wave[seen], power[seen], chi2, velocities, models, templates, grid, half)

    def measure(self, flux: Tensor, ivar: Tensor) -> Velocities:
        """Velocities of B spectra: flux, ivar (B, P); ivar is zero at bad pixels."""
        chi2, velocities = self.chi2, self.velocities
        flux, ivar = _of_order_one(flux[:, self.seen].to(torch.float64), ivar[:, self.seen].to(torch.float64))
        # The first scan finds pixels that no template explains (cosmic rays, emission); the second does without them.
        best = _scan(chi2, flux, ivar, self.models).flatten(1).argmax(dim=1)
        ivar = _clipped(flux, ivar, chi2.fitted(ivar, flux, self.models.flatten(0, 1)[best]))
        by_velocity, by_template = _scan(chi2, flux, ivar, self.models).max(dim=1)
        place = by_velocity.argmax(dim=1)
        template = by_template.gather(1, place[:, None])[:, 0]
        far = (velocities - velocities[place][:, None]).abs() > PEAK_WIDTH_KM_S
        rival = torch.where(far, by_velocity, -torch.inf).amax(dim=1)

        def gain(rv: Tensor) -> Tensor:
            model = project(
                self.templates[template], self.grid, self.wave, self.resolving_power, rv=rv,
                half_width=self.half_width,
            )  # fmt: skip
            return chi2.gain(ivar, flux, model)

        near = place[:, None].clamp(1, len(velocities) - 2) + torch.arange(-1, 2, device=place.device)
        shift, _ = _parabola(velocities[:3] - velocities[1], -by_velocity.gather(1, near))
        rv, curvature, explained = _minimum(gain, velocities[near[:, 1]] + shift)
        total = (ivar * flux**2).sum(dim=1) - explained
        degrees = (ivar > 0).sum(dim=1) - len(chi2.basis) - 1
        return _judged(rv, curvature, template, total, degrees, explained - rival)


def _judged(rv: Tensor, curvature: Tensor, template: Tensor, chi2: Tensor, degrees: Tensor, lead: Tensor) -> Velocities:
    """Errors and significance (B,) from the curvature of chi2 and the lead over the best rival; NaN without degrees of
    freedom."""
    rchi2 = chi2 / degrees.clamp_min(1)
    inflation = rchi2.clamp_min(1.0)

    def known(x: Tensor, otherwise: float = float("nan")) -> Tensor:
        return torch.where(degrees <= 0, torch.full_like(x, otherwise), x)

    return Velocities(
        known(rv),
        known(torch.sqrt(2.0 * inflation / curvature)),
        template,
        known(chi2),
        known(rchi2),
        known(torch.sqrt(lead.clamp_min(0.0) / inflation), 0.0),
    )


def _always_seen(wave: Tensor, grid: NativeGrid, half_width: int, velocity_range: float) -> Tensor:
    """(P,) True for pixels that see the native grid at every velocity: all are to be judged by the same ones."""
    edge = 1.0 + (velocity_range + PEAK_WIDTH_KM_S) / SPEED_OF_LIGHT_KM_S
    margin = np.exp(half_width * grid.dlnlam) * edge
    answer: Tensor = (wave > grid.wave[0] * margin) & (wave < grid.wave[-1] / margin)
    return answer


def _of_order_one(flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
    """Flux over its mean, zero at bad pixels, and inverse variances to match: chi2 is as it was."""
    good = ivar > 0
    scale = (flux.abs() * good).sum(dim=1) / good.sum(dim=1).clamp_min(1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))[:, None]
    return torch.where(good, flux, 0.0) / scale, ivar * scale**2


def _scan(chi2: ContinuumChi2, flux: Tensor, ivar: Tensor, models: Tensor) -> Tensor:
    """(B, T, V) what models (T, V, P) explain of each spectrum."""
    return chi2.gains(ivar, flux, models.flatten(0, 1)).reshape(len(flux), *models.shape[:2])


def _clipped(flux: Tensor, ivar: Tensor, fitted: Tensor) -> Tensor:
    """Inverse variances, zero where the flux deviates by more than `CLIP_SIGMA` of its own scatter."""
    deviation = (flux - fitted).abs() * ivar.sqrt()
    spread = 1.4826 * torch.where(ivar > 0, deviation, torch.nan).nanmedian(dim=1, keepdim=True).values
    return torch.where(deviation > CLIP_SIGMA * spread.clamp_min(1.0), 0.0, ivar)


def _minimum(gain: Callable[[Tensor], Tensor], rv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Place (B,) of the minimum of chi2 near rv, its second derivative there, and the gain."""
    curvature = torch.ones_like(rv)
    for step in FINE_STEPS_KM_S:
        offset = step * torch.arange(-2, 3, dtype=torch.float64, device=rv.device)
        shift, curvature = _parabola(offset, torch.stack([-gain(rv + o) for o in offset], dim=1))
        rv = rv + shift
    return rv, curvature, gain(rv)


def radial_velocity(
    spectrum: Spectrum,
    templates: Tensor,
    grid: NativeGrid,
    intervals: tuple[MaskInterval, ...] = DEFAULT_INTERVALS,
    velocity_range: float = 1000.0,
) -> Velocities:
    """The velocity of one spectrum (B = 1), with its own masks, arms and resolving power."""
    bad = spectrum.mask | wavelength_mask(spectrum.wave, intervals, str(spectrum.meta.get("SURVEY", "")))
    basis = continuum_basis(spectrum.wave, spectrum.arms, ~bad)
    if len(basis) == 0:
        raise UserError(f"{spectrum.path or 'spectrum'}: the masks leave no pixels for a radial velocity")
    power = spectrum.resolving_power_by_pixel.copy()
    scan = VelocityScan.of(spectrum.wave, basis, templates, grid, power, velocity_range)
    flux, ivar = (torch.as_tensor(x, device=templates.device) for x in (spectrum.flux.copy(), spectrum.ivar.copy()))
    return scan.measure(flux[None], torch.where(torch.as_tensor(bad, device=ivar.device), 0.0, ivar)[None])


def air_wavelengths_suspected(rv_km_s: float, rv_err_km_s: float, spectrum: Spectrum) -> str | None:
    """A sentence when the velocity betrays air wavelengths that were declared as vacuum; `None` otherwise.

    Air wavelengths taken for vacuum shift a star by -83 km/s, almost the same at all wavelengths, which a
    spectrum alone cannot tell from a true velocity. Where the header has a redshift Z of its own, a
    difference of just that amount gives it away.
    """
    z = spectrum.meta.get("Z")
    if not isinstance(z, (int, float)) or not np.isfinite(z):
        return None
    difference = rv_km_s - SPEED_OF_LIGHT_KM_S * z
    if abs(difference - AIR_SHIFT_KM_S) > 15.0 + 3.0 * rv_err_km_s or abs(difference) < 5.0 * rv_err_km_s:
        return None
    return (
        f"the velocity differs from the header's by {difference:.0f} km/s, as if the wavelengths were in air "
        "although they are declared as vacuum"
    )
