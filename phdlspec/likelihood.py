r"""The likelihood of observed spectra with their continuum marginalised.

The observed flux of a star is y = A c + n with A = diag(f) Phi: f (P,) is the normalised model flux, Phi (P, K)
the continuum basis (each arm has its own columns) and c its unknown coefficients. The noise n is Gaussian with
covariance

    N = D + V V^T,    D = diag(pixel variance + q^2 s^2),    V = q U,

where s (P,) and U (P, M) are the diagonal and the low-rank part of the model-error floor in normalised flux and q is
the star's approximate continuum, held fixed, so that N does not depend on the labels. With a broad prior
c ~ N(0, Lambda^-1) the coefficients integrate out:

    -2 ln L = r^T N^-1 r + c^T Lambda c + ln|M| - ln|Lambda| + ln|N| + n ln 2 pi,
    M = A^T N^-1 A + Lambda,    c = M^-1 A^T N^-1 y,    r = y - A c.

ln|M| depends on the labels through f and is kept. By the envelope theorem the exact gradient in the flux is

    d lnL / d f_p = (Phi c)_p (N^-1 r)_p - sum_k Phi_pk (N^-1 A M^-1)_pk

and, with J_c = diag(Phi c) df/dtheta, the Fisher matrix of the labels after projecting out the continuum is

    F = J_c^T N^-1 J_c - B^T M^-1 B,    B = A^T N^-1 J_c.

N^-1 follows from Woodbury's identity. Big arrays are float32, normal matrices and sums float64, and c gets one step
of iterative refinement, so that lnL is good to about 1e-3 at any signal-to-noise ratio met in surveys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

CONTINUUM_PRIOR_WIDTH = 10.0  # of the coefficients, in units of the star's median flux
OUTLIER_THRESHOLD = 5.0  # in units of the robust scatter of the residuals
OUTLIER_MAX_FRACTION = 0.04  # a model that misfits more pixels than this is wrong; they are not hidden


@dataclass(frozen=True)
class Observations:
    """Spectra of S stars in one array layout, each divided by its median flux.

    Attributes
    ----------
    wave : (P,) if all share their pixels, else (S, P); vacuum Å
    flux, ivar : (S, P); ivar is 0 for every pixel that is not used
    resolving_power : (P,) or (S, P)
    basis : (1, P, K) or (S, P, K) continuum basis, of order one; unused columns are zero
    scale : (S,) the median flux that was divided out, in the units of the file
    """

    wave: Tensor
    flux: Tensor
    ivar: Tensor
    resolving_power: Tensor
    basis: Tensor
    scale: Tensor

    def __len__(self) -> int:
        return len(self.flux)

    def select(self, index: Tensor) -> Observations:
        """The stars of `index` (may repeat), in that order."""

        def pick(x: Tensor, shared_ndim: int) -> Tensor:
            return x if x.ndim == shared_ndim else x[index]

        return Observations(
            wave=pick(self.wave, 1),
            flux=self.flux[index],
            ivar=self.ivar[index],
            resolving_power=pick(self.resolving_power, 1),
            basis=self.basis if len(self.basis) == 1 else self.basis[index],
            scale=self.scale[index],
        )


@dataclass(frozen=True)
class ErrorFloor:
    """Model error in normalised flux at the observed pixels: independent part (S, P) and factor (S, M, P).

    The first axis may be 1 where all stars share the floor.
    """

    sigma: Tensor
    factor: Tensor

    def select(self, index: Tensor) -> ErrorFloor:
        """The floors of some stars."""

        def pick(x: Tensor) -> Tensor:
            return x if len(x) == 1 else x[index]

        return ErrorFloor(pick(self.sigma), pick(self.factor))


@dataclass(frozen=True)
class Linearisation:
    """Second-order expansion of lnL of S stars in D parameters (the units are those of the Jacobian's columns)."""

    log_likelihood: Tensor  # (S,) float64
    gradient: Tensor  # (S, D) float64
    fisher: Tensor  # (S, D, D) float64, continuum projected out
    chi2: Tensor  # (S,) r^T N^-1 r


@dataclass(frozen=True)
class Likelihood:
    """Marginal likelihood of S stars. Build it with `Likelihood.of`; it holds the noise in the form it is needed.

    Attributes
    ----------
    data : Observations
    weight : (S, P) 1/D, zero for unused pixels
    factor : (S, M, P) the low-rank factor V^T of the noise, zero for unused pixels
    core : (S, M, M) (1 + V^T D^-1 V)^-1
    constant : (S,) float64, the terms of lnL that depend on noise and prior only
    """

    data: Observations
    weight: Tensor
    factor: Tensor
    core: Tensor
    constant: Tensor

    @classmethod
    def of(
        cls, data: Observations, floor: ErrorFloor | None = None, continuum: Tensor | None = None
    ) -> Likelihood:
        """The likelihood for given noise.

        Parameters
        ----------
        data : the observations; pixels with ivar 0 do not count.
        floor : model error in normalised flux, needs `continuum` (S, P), the approximate continuum in the units of
            `data.flux`, by which it is scaled. Without it, pixel noise only.
        """
        good = data.ivar > 0
        variance = 1.0 / torch.where(good, data.ivar, torch.ones_like(data.ivar))
        stars, pixels = data.flux.shape
        factor = data.flux.new_zeros(stars, 0, pixels)
        if floor is not None:
            if continuum is None:
                raise ValueError("a model-error floor needs the approximate continuum")
            variance = variance + (floor.sigma * continuum) ** 2
            factor = floor.factor * (continuum * good)[:, None]
        weight = good / variance
        log_det = -torch.where(good, torch.log(variance.double()), variance.new_zeros(()).double()).sum(-1)
        scaled = factor.double() * weight.double().sqrt()[:, None]
        capacitance = scaled @ scaled.mT + torch.eye(factor.shape[1], dtype=torch.float64, device=factor.device)
        cholesky = torch.linalg.cholesky(capacitance)
        log_det = log_det - 2.0 * torch.log(torch.diagonal(cholesky, dim1=-2, dim2=-1)).sum(-1)
        columns = (data.basis != 0).any(dim=1).sum(-1).double().expand(stars)
        constant = 0.5 * (
            log_det - good.sum(-1) * math.log(2.0 * math.pi) - 2.0 * columns * math.log(CONTINUUM_PRIOR_WIDTH)
        )
        core = torch.cholesky_inverse(cholesky).to(factor.dtype) if factor.shape[1] else capacitance.to(factor.dtype)
        return cls(data, weight.to(data.flux.dtype), factor, core, constant)

    def __len__(self) -> int:
        return len(self.data)

    @property
    def n_pixels(self) -> Tensor:
        """Number of used pixels (S,)."""
        return (self.weight > 0).sum(-1)

    def select(self, index: Tensor) -> Likelihood:
        """The likelihood of some stars (`index` may repeat)."""
        return replace(
            self,
            data=self.data.select(index),
            weight=self.weight[index],
            factor=self.factor[index],
            core=self.core[index],
            constant=self.constant[index],
        )

    def _solve(self, flux: Tensor) -> _Solution:
        """Continuum coefficients for model fluxes (S, m, P)."""
        dtype = torch.float64
        basis, weight, factor = self.data.basis, self.weight, self.factor
        design = flux[..., None] * basis[:, None]  # A (S, m, P, K)
        weighted = design * weight[:, None, :, None]
        design_factor = factor[:, None] @ weighted  # V^T D^-1 A (S, m, M, K)
        core = self.core.to(dtype)[:, None]
        projected = design_factor.to(dtype)
        normal = (design.mT @ weighted).to(dtype) - projected.mT @ (core @ projected)
        # Unused columns of a padded basis get a unit diagonal: their coefficients are zero and ln|M| unchanged.
        unused = (~(basis != 0).any(dim=1)).to(dtype)
        precision = CONTINUUM_PRIOR_WIDTH**-2
        normal = normal + torch.diag_embed(unused + (1.0 - unused) * precision)[:, None]
        cholesky = torch.linalg.cholesky(normal)

        def correlate(residual: Tensor) -> Tensor:
            """A^T N^-1 residual, for (S, m, P)."""
            direct = (weighted.mT @ residual[..., None])[..., 0].to(dtype)
            low = (factor @ (residual * weight[:, None]).mT).mT.to(dtype)  # (S, m, M)
            return direct - (projected.mT @ (core @ low[..., None]))[..., 0]

        def solve(vector: Tensor) -> Tensor:
            return torch.cholesky_solve(vector[..., None], cholesky)[..., 0]

        data = self.data.flux[:, None].expand_as(flux)
        coefficients = solve(correlate(data))
        for _ in range(2):
            residual = data - flux * (coefficients.to(flux.dtype) @ basis.mT)
            coefficients = coefficients + solve(correlate(residual) - precision * coefficients)
        continuum = coefficients.to(flux.dtype) @ basis.mT
        residual = data - flux * continuum
        return _Solution(coefficients, continuum, residual, cholesky, weighted, design_factor)

    def _whiten(self, x: Tensor) -> Tensor:
        """N^-1 x for (S, m, P)."""
        scaled = x * self.weight[:, None]
        low = (self.factor @ scaled.mT).mT
        return scaled - (low @ self.core) @ self.factor * self.weight[:, None]

    def _log_likelihood(self, solution: _Solution) -> tuple[Tensor, Tensor, Tensor]:
        whitened = self._whiten(solution.residual)
        chi2 = (solution.residual.double() * whitened.double()).sum(-1)
        log_det = 2.0 * torch.log(torch.diagonal(solution.cholesky, dim1=-2, dim2=-1)).sum(-1)
        prior = (solution.coefficients**2).sum(-1) * CONTINUUM_PRIOR_WIDTH**-2
        value = self.constant[:, None] - 0.5 * (chi2 + prior + log_det)
        return value, chi2, whitened

    def log_likelihood(self, flux: Tensor) -> Tensor:
        """lnL (S, m), float64, of m normalised model fluxes (S, m, P) for each star."""
        return self._log_likelihood(self._solve(flux))[0]

    def chi2(self, flux: Tensor) -> Tensor:
        """r^T N^-1 r (S, m) at the best continuum."""
        return self._log_likelihood(self._solve(flux))[1]

    def continuum(self, flux: Tensor) -> Tensor:
        """The most probable continuum (S, m, P) for model fluxes (S, m, P), in the units of `data.flux`."""
        return self._solve(flux).continuum

    def standardised_residuals(self, flux: Tensor) -> Tensor:
        """(y - A c) sqrt(1/D) for (S, m, P): in units of the independent noise; 0 for unused pixels."""
        return self._solve(flux).residual * self.weight.sqrt()[:, None]

    def value_and_flux_gradient(self, flux: Tensor) -> tuple[Tensor, Tensor]:
        """lnL (S, m) and its exact derivative (S, m, P) with respect to the model flux (S, m, P)."""
        solution = self._solve(flux)
        value, _, whitened = self._log_likelihood(solution)
        inverse = torch.cholesky_inverse(solution.cholesky).to(flux.dtype)  # M^-1
        # N^-1 A M^-1 (S, m, P, K)
        low = self.core[:, None] @ solution.design_factor  # (S, m, M, K)
        correlated = solution.weighted - (self.factor * self.weight[:, None]).mT[:, None] @ low
        log_det_gradient = ((correlated @ inverse) * self.data.basis[:, None]).sum(-1)
        return value, solution.continuum * whitened - log_det_gradient

    def linearise(self, flux: Tensor, jacobian: Tensor) -> Linearisation:
        """lnL, exact gradient and Fisher matrix for one model per star.

        Parameters
        ----------
        flux : (S, P)
        jacobian : (S, P, D) derivative of the flux; columns in any units, which the result inherits.
        """
        flux = flux[:, None]
        solution = self._solve(flux)
        value, chi2, whitened = self._log_likelihood(solution)
        dtype = torch.float64
        inverse = torch.cholesky_inverse(solution.cholesky)[:, 0]
        low = self.core[:, None] @ solution.design_factor
        correlated = solution.weighted - (self.factor * self.weight[:, None]).mT[:, None] @ low
        log_det_gradient = ((correlated @ inverse.to(flux.dtype)[:, None]) * self.data.basis[:, None]).sum(-1)
        flux_gradient = (solution.continuum * whitened - log_det_gradient)[:, 0]
        gradient = (jacobian.to(dtype).mT @ flux_gradient.to(dtype)[..., None])[..., 0]

        response = jacobian.to(dtype) * solution.continuum[:, 0, :, None].to(dtype)  # J_c (S, P, D)
        weight = self.weight.to(dtype)[..., None]
        response_factor = self.factor.to(dtype) @ (weight * response)  # (S, M, D)
        core = self.core.to(dtype)
        fisher = response.mT @ (weight * response) - response_factor.mT @ core @ response_factor
        cross = correlated[:, 0].to(dtype).mT @ response  # B (S, K, D)
        fisher = fisher - cross.mT @ inverse @ cross
        return Linearisation(value[:, 0], gradient, 0.5 * (fisher + fisher.mT), chi2[:, 0])

    def outliers(self, flux: Tensor) -> Tensor:
        """Pixels (S, P) that no noise explains, for models (S, P): cosmic rays, sky residuals, bad calibration.

        Pixels beyond `OUTLIER_THRESHOLD` robust standard deviations (but never less than that many of the stated
        noise), with both neighbours where these exceed 3. When more than `OUTLIER_MAX_FRACTION` of the pixels
        qualify, the model is wrong rather than the pixels, and only the worst ones are given. The mask is meant to
        be fixed before a posterior is sampled, so that the likelihood stays one function of the labels.
        """
        z = self.standardised_residuals(flux[:, None])[:, 0].abs()
        used = self.weight > 0
        median = torch.where(used, z, torch.full_like(z, torch.nan)).nanmedian(dim=-1, keepdim=True).values
        scale = (1.4826 * median).clamp(min=1.0).nan_to_num(nan=1.0)
        z = torch.where(used, z / scale, torch.zeros_like(z))
        count = (OUTLIER_MAX_FRACTION * used.sum(-1, keepdim=True)).long().clamp(max=z.shape[1] - 1)
        ceiling = torch.sort(z, dim=-1, descending=True).values.gather(-1, count)
        bad = z > ceiling.clamp(min=OUTLIER_THRESHOLD)
        near = torch.zeros_like(bad)
        near[:, 1:] |= bad[:, :-1]
        near[:, :-1] |= bad[:, 1:]
        return bad | (near & (z > 3.0))


@dataclass(frozen=True)
class _Solution:
    """What `_solve` finds for model fluxes (S, m, P)."""

    coefficients: Tensor  # (S, m, K) float64
    continuum: Tensor  # (S, m, P)
    residual: Tensor  # (S, m, P)
    cholesky: Tensor  # (S, m, K, K) float64, of M
    weighted: Tensor  # (S, m, P, K) D^-1 A
    design_factor: Tensor  # (S, m, M, K) V^T D^-1 A
