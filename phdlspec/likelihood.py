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

ln|M| depends on the labels through f and is kept. With J_c = diag(Phi c) df/dtheta, the Fisher matrix of the labels
after projecting out the continuum is

    F = J_c^T N^-1 J_c - B^T M^-1 B,    B = A^T N^-1 J_c.

N^-1 follows from Woodbury's identity. A nuisance that adds to the normalised flux with a Gaussian amplitude (a line
core, a correction learned from stars) is a column of V beside the others; its mean belongs into the model.

Everything is worked out about a reference continuum c0, which must be near: with r the residual about c0 and
b = A^T N^-1 r - Lambda c0, the best continuum is c0 + M^-1 b, and what is summed in float32 is small. Pixels stand in
`Blocks`: a spline or a window of V is zero in most patches, so that A^T D^-1 A and V^T D^-1 A are, in each patch, a
matrix of products of the few that are not, times f^2 or f. Big arrays are float32, sums over patches, normal matrices
and what follows from them float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from phdlspec.lsf.blocks import Blocks

CONTINUUM_PRIOR_WIDTH = 10.0  # of the coefficients, in units of the star's median flux
OUTLIER_THRESHOLD = 5.0  # in units of the robust scatter of the residuals
OUTLIER_MAX_FRACTION = 0.04  # a model that misfits more pixels than this is wrong; they are not hidden
_PRECISION = CONTINUUM_PRIOR_WIDTH**-2
_REFINEMENTS = 3  # of a continuum that is looked for from nothing


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
class _Products:
    """Products of two sets of columns, weighted, in each patch only of those that are not zero there.

    columns (Q, S, N, C); target (Q, S, C) the place of each in a matrix of `shape`, flattened.
    """

    columns: Tensor
    target: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, weight: Tensor, left: Tensor, right: Tensor) -> _Products:
        """All products of columns left (Q, S, N, A) and right (Q, S, N, B)."""
        (rows, left_values), (columns, right_values) = _local(left), _local(right)
        products = (left_values * weight[..., None])[..., :, None] * right_values[..., None, :]
        target = rows[..., :, None] * right.shape[-1] + columns[..., None, :]
        return cls(products.flatten(-2), target.flatten(-2), (left.shape[-1], right.shape[-1]))

    @classmethod
    def symmetric(cls, weight: Tensor, columns: Tensor) -> _Products:
        """The products of columns (Q, S, N, K) with each other, each once: those on and above the diagonal."""
        place, values = _local(columns)
        first, second = torch.triu_indices(values.shape[-1], values.shape[-1], device=values.device)
        products = values[..., first] * values[..., second] * weight[..., None]
        target = place[..., first] * columns.shape[-1] + place[..., second]
        return cls(products, target, (columns.shape[-1], columns.shape[-1]))

    def select(self, index: Tensor) -> _Products:
        return replace(self, columns=self.columns[:, index], target=self.target[:, index])

    def total(self, x: Tensor) -> Tensor:
        """Sums over the pixels (S, m, *shape), float64, of the products times x (Q, S, m, N)."""
        patches, stars, m, _ = x.shape
        size = self.shape[0] * self.shape[1]
        of_patch = (x @ self.columns).transpose(2, 3).reshape(self.target.numel(), m).to(torch.float64)
        target = (self.target + size * torch.arange(stars, device=x.device)[:, None]).reshape(-1)
        summed = of_patch.new_zeros(stars * size, m).index_add(0, target, of_patch)
        return summed.reshape(stars, size, m).transpose(1, 2).reshape(stars, m, *self.shape)


def _local(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of columns (Q, S, N, K), which are not zero in a patch (Q, S, k), ascending, and these (Q, S, N, k)."""
    on = (x != 0).any(dim=2)
    count = max(int(on.sum(-1).max()), 1) if x.shape[-1] else 0
    place = torch.sort(torch.argsort(on.long(), dim=-1, descending=True, stable=True)[..., :count], dim=-1).values
    return place, torch.gather(x, 3, place[:, :, None].expand(-1, -1, x.shape[2], -1))


@dataclass(frozen=True)
class _InBlocks:
    """Data, 1/D and the columns of Phi and V in blocks (Q, S, N[, K or M]), and the products A^T D^-1 A and
    V^T D^-1 A need."""

    flux: Tensor
    weight: Tensor
    basis: Tensor
    factor: Tensor
    gram: _Products
    cross: _Products

    def select(self, index: Tensor) -> _InBlocks:
        tensors = {f.name: getattr(self, f.name)[:, index] for f in fields(self) if f.name not in ("gram", "cross")}
        return _InBlocks(**tensors, gram=self.gram.select(index), cross=self.cross.select(index))


@dataclass(frozen=True)
class Likelihood:
    """Marginal likelihood of S stars. Build it with `Likelihood.of`; it holds the noise in the form it is needed.

    Attributes
    ----------
    data : Observations
    blocks : where the used pixels stand
    weight : (S, P) 1/D, zero for unused pixels
    factor : (S, M, P) the low-rank factor V^T of the noise, zero for unused pixels
    core : (S, M, M) float64, (1 + V^T D^-1 V)^-1
    constant : (S,) float64, the terms of lnL that depend on noise and prior only
    reference : (S, K) float64, the continuum about which lnL is worked out (`about`)
    """

    data: Observations
    blocks: Blocks
    weight: Tensor
    factor: Tensor
    core: Tensor
    constant: Tensor
    reference: Tensor
    _used: _InBlocks

    @classmethod
    def of(
        cls,
        data: Observations,
        blocks: Blocks,
        floor: ErrorFloor | None = None,
        continuum: Tensor | None = None,
    ) -> Likelihood:
        """The likelihood for given noise.

        Parameters
        ----------
        data : the observations; pixels with ivar 0 do not count.
        blocks : all pixels that count stand in them.
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
        core, log_det = _woodbury(weight, factor)
        log_det = log_det - torch.where(good, torch.log(variance.double()), 0.0).sum(-1)
        columns = (data.basis != 0).any(dim=1).sum(-1).double().expand(stars)
        constant = 0.5 * (
            log_det - good.sum(-1) * math.log(2.0 * math.pi) - 2.0 * columns * math.log(CONTINUUM_PRIOR_WIDTH)
        )
        weight = weight.to(data.flux.dtype)
        reference = constant.new_zeros(stars, data.basis.shape[-1])
        return cls(data, blocks, weight, factor, core, constant, reference, _in_blocks(data, blocks, weight, factor))

    def __len__(self) -> int:
        return len(self.data)

    @property
    def n_pixels(self) -> Tensor:
        """Number of used pixels (S,)."""
        return (self.weight > 0).sum(-1)

    def select(self, index: Tensor) -> Likelihood:
        """The likelihood of some stars (`index` may repeat)."""
        return Likelihood(
            self.data.select(index), self.blocks.select(index), self.weight[index], self.factor[index],
            self.core[index], self.constant[index], self.reference[index], self._used.select(index),
        )  # fmt: skip

    def about(self, flux: Tensor) -> Likelihood:
        """The same likelihood, worked out about the continuum of the models (Q, S, N)."""
        return replace(self, reference=self.coefficients(flux))

    # --- of models in blocks -----------------------------------------------------------------------------------

    def _normal(self, flux: Tensor) -> tuple[Tensor, Tensor]:
        """Cholesky factor of M (S, m, K, K) and V^T D^-1 A (S, m, M, K) for models (Q, S, m, N)."""
        upper = self._used.gram.total(flux**2)
        cross = self._used.cross.total(flux)
        normal = torch.triu(upper) + torch.triu(upper, 1).mT - cross.mT @ self.core[:, None] @ cross
        # Unused columns of a padded basis get a unit diagonal: their coefficients are zero and ln|M| unchanged.
        unused = (~(self.data.basis != 0).any(dim=1)).to(normal.dtype)
        diagonal = torch.diag_embed(unused + (1.0 - unused) * _PRECISION)[:, None]
        return torch.linalg.cholesky(normal + diagonal), cross

    def _correlate(self, residual: Tensor, flux: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
        """A^T N^-1 r (S, m, K) and V^T D^-1 r (S, m, M) for residuals r and models, (Q, S, m, N)."""
        weighted = residual * self._used.weight[:, :, None]
        low = (weighted @ self._used.factor).sum(0, dtype=torch.float64)
        direct = ((weighted * flux) @ self._used.basis).sum(0, dtype=torch.float64)
        return direct - (cross.mT @ (low @ self.core)[..., None])[..., 0], low

    def coefficients(self, flux: Tensor) -> Tensor:
        """The most probable coefficients of the continuum (S, K), float64, for models (Q, S, N)."""
        flux = flux[:, :, None]
        cholesky, cross = self._normal(flux)
        found = self.reference
        for _ in range(_REFINEMENTS):
            residual = self._residual(flux, found)
            b = self._correlate(residual, flux, cross)[0] - _PRECISION * found[:, None]
            found = found + torch.cholesky_solve(b[..., None], cholesky)[:, 0, :, 0]
        return found

    def _residual(self, flux: Tensor, coefficients: Tensor) -> Tensor:
        continuum = (self._used.basis @ coefficients.to(flux.dtype)[..., None])[..., 0]
        return torch.addcmul(self._used.flux[:, :, None], flux, continuum[:, :, None], value=-1.0)

    def log_likelihood(self, flux: Tensor) -> Tensor:
        """lnL (S, m), float64, of m normalised models (Q, S, m, N) for each star; differentiable."""
        residual = self._residual(flux, self.reference)
        cholesky, cross = self._normal(flux)
        b, low = self._correlate(residual, flux, cross)
        b = b - _PRECISION * self.reference[:, None]
        quadratic = (residual**2 * self._used.weight[:, :, None]).sum(-1).sum(0, dtype=torch.float64)
        quadratic = quadratic - ((low @ self.core) * low).sum(-1) + _PRECISION * (self.reference**2).sum(-1)[:, None]
        solved = torch.linalg.solve_triangular(cholesky, b[..., None], upper=False)[..., 0]
        log_det = 2.0 * torch.log(torch.diagonal(cholesky, dim1=-2, dim2=-1)).sum(-1)
        answer: Tensor = self.constant[:, None] - 0.5 * (quadratic - (solved**2).sum(-1) + log_det)
        return answer

    def linearise(self, flux: Tensor, jacobian: Tensor) -> Linearisation:
        """lnL, exact gradient and Fisher matrix for one model per star.

        Parameters
        ----------
        flux : (Q, S, N)
        jacobian : (Q, S, D, N) derivative of the flux; rows in any units, which the result inherits.
        """
        near = self.about(flux)
        with torch.enable_grad():
            leaf = flux.detach()[:, :, None].requires_grad_(True)
            value = near.log_likelihood(leaf)[:, 0]
            (flux_gradient,) = torch.autograd.grad(value.sum(), leaf)
        gradient = (jacobian @ flux_gradient[:, :, 0, :, None])[..., 0].sum(0, dtype=torch.float64)
        used, core = self._used, self.core
        cholesky, cross = self._normal(flux[:, :, None])
        continuum = (used.basis @ near.reference.to(flux.dtype)[..., None])[..., 0]
        response = jacobian * continuum[:, :, None]  # J_c
        weighted = response * used.weight[:, :, None]
        low = (weighted @ used.factor).sum(0, dtype=torch.float64)  # J_c^T D^-1 V (S, D, M)
        direct = ((weighted * flux[:, :, None]) @ used.basis).sum(0, dtype=torch.float64)
        across = direct - low @ core @ cross[:, 0]  # B^T (S, D, K)
        half = torch.linalg.solve_triangular(cholesky[:, 0], across.mT, upper=False)
        fisher = (weighted @ response.mT).sum(0, dtype=torch.float64) - low @ core @ low.mT - half.mT @ half
        return Linearisation(value.detach(), gradient, 0.5 * (fisher + fisher.mT), near._chi2(flux))

    def _chi2(self, flux: Tensor) -> Tensor:
        # r^T N^-1 r (S,) at the reference.
        residual = self._residual(flux[:, :, None], self.reference)
        weighted = residual * self._used.weight[:, :, None]
        low = (weighted @ self._used.factor).sum(0, dtype=torch.float64)
        total = (residual * weighted).sum(-1).sum(0, dtype=torch.float64) - ((low @ self.core) * low).sum(-1)
        return total[:, 0]

    # --- of models in the order of the pixels ------------------------------------------------------------------

    def chi2(self, flux: Tensor) -> Tensor:
        """r^T N^-1 r (S,) at the best continuum of models (S, P)."""
        blocks = self.blocks.gather(flux)
        return self.about(blocks)._chi2(blocks)

    def continuum(self, flux: Tensor) -> Tensor:
        """The most probable continuum (S, P) for models (S, P), in the units of `data.flux`."""
        coefficients = self.coefficients(self.blocks.gather(flux))
        return (self.data.basis @ coefficients.to(flux.dtype)[..., None])[..., 0]

    def standardised_residuals(self, flux: Tensor) -> Tensor:
        """(y - A c) sqrt(1/D) for models (S, P): in units of the independent noise; 0 for unused pixels."""
        return (self.data.flux - flux * self.continuum(flux)) * self.weight.sqrt()

    def outliers(self, flux: Tensor, data: Observations) -> Tensor:
        """Pixels (S, P) that no noise explains, for models (S, P): cosmic rays, sky residuals, bad calibration.

        Pixels beyond `OUTLIER_THRESHOLD` robust standard deviations (but never less than that many of the stated
        noise), with both neighbours where these exceed 3. When more than `OUTLIER_MAX_FRACTION` of the pixels
        qualify, the model is wrong rather than the pixels, and only the worst ones are given. The mask is meant to
        be fixed before a posterior is sampled, so that the likelihood stays one function of the labels.
        """
        used = data.ivar > 0
        z = ((data.flux - flux * self.continuum(flux)) * data.ivar.sqrt()).abs()
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


def _woodbury(weight: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """(1 + V^T D^-1 V)^-1 (S, M, M) and minus its part of ln|N| (S,), for 1/D (S, P) and V^T (S, M, P)."""
    scaled = factor.double() * weight.double().sqrt()[:, None]
    capacitance = scaled @ scaled.mT + torch.eye(factor.shape[1], dtype=torch.float64, device=factor.device)
    cholesky = torch.linalg.cholesky(capacitance)
    log_det = -2.0 * torch.log(torch.diagonal(cholesky, dim1=-2, dim2=-1)).sum(-1)
    return (torch.cholesky_inverse(cholesky) if factor.shape[1] else capacitance), log_det


def _in_blocks(data: Observations, blocks: Blocks, weight: Tensor, factor: Tensor) -> _InBlocks:
    in_blocks, basis = blocks.gather(weight), blocks.gather(data.basis)
    columns = blocks.gather(factor.mT)
    return _InBlocks(
        blocks.gather(data.flux), in_blocks, basis, columns,
        _Products.symmetric(in_blocks, basis), _Products.of(in_blocks, columns, basis),
    )  # fmt: skip
