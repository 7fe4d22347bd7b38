"""How wrong the emulator is, and for which stars: measured on models that it was not trained on.

It errs in two ways. Pixel by pixel, without much order; and as if the labels were a little off, for a network that is
not quite right in a line of oxygen is right for another abundance of oxygen. The first is noise among noise, the second
goes into the labels at any signal-to-noise ratio. It is told in units of a reference, the Cramer-Rao bounds of a
spectrum with the same S/N of 100 everywhere: what a star's spectrum hardly shows may be off by much.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from phdlspec.continuum import continuum_basis
from phdlspec.likelihood import ErrorFloor

Array = NDArray[np.float64]

MEASURED_AT = 2000.0  # resolving power at which the residuals are taken
_REFERENCE_NOISE, _REFERENCE_PIXEL = 0.01, 2.3e-4  # of normalised flux, in a pixel of LAMOST's width in ln(wave)
_SMOOTHING_PIXELS = 25  # a few stars do not tell the variance of one pixel
_RANK = 16  # directions in label space that are kept

_N_FEATURES = 6  # of the trend
_ORIGIN, _UNIT = np.array([5500.0, 3.0, -0.5]), np.array([1000.0, 1.0, 1.0])
_MIN_MODELS = 20  # for a trend; fewer have one amplitude for all
_RIDGE = 1.0  # models' worth of evidence against a trend


@dataclass(frozen=True)
class ModelError:
    """Covariance of the model error in normalised flux: a(labels)^2 (diag(sigma^2) + J B shifts^T shifts B J^T).

    J are the star's derivatives by label, B its `reference_bounds` on the diagonal.

    Attributes
    ----------
    wave : (P,) vacuum Å of the native grid
    sigma : (P,) independent part
    shifts : (M, L) the directions in which labels are off, in units of the bounds
    span : (L,) ranges of the labels, their units
    trend : (6,) of ln a, the amplitude: constant, Teff, its square, log g, [Fe/H] and its square, from 5500 K, 3, -0.5
        in units of 1000 K and 1 dex; cool stars are emulated far worse than others
    lowest, highest : (3,) Teff, log g, [Fe/H] of the models measured, beyond which the trend is not followed
    """

    wave: Array
    sigma: Array
    shifts: Array
    span: Array
    trend: Array
    lowest: Array
    highest: Array

    @classmethod
    def measure(
        cls,
        wave: Array,
        residuals: ArrayLike,
        stars: ArrayLike,
        spectra: Iterable[tuple[Array, Array]],
        span: ArrayLike,
    ) -> ModelError:
        """From N models that the emulator has not seen, at `MEASURED_AT` on wave (P,), vacuum Å.

        Parameters
        ----------
        residuals : (N, P) emulator minus ab initio, normalised flux
        stars : (N, 3) the models' `STRUCTURE` labels, K and dex
        spectra : ab initio flux (P,) and derivatives (L, P), per label unit, of each model
        span : (L,) ranges of the labels, their units
        """
        r, stars, span = (np.asarray(x, dtype=float) for x in (residuals, stars, span))
        trend = _fit_trend(stars, np.log(np.sqrt((r**2).mean(1))))
        r = r / np.exp(_features(stars) @ trend)[:, None]
        variance = np.convolve(np.pad((r**2).mean(0), _SMOOTHING_PIXELS, mode="edge"), _box(), mode="valid")
        sigma = np.sqrt(np.maximum(variance[: len(wave)], 1e-10))
        basis = continuum_basis(wave)
        pulls = np.array([_pull(one, *spectrum, wave, basis, span) for one, spectrum in zip(r, spectra)])
        _, size, directions = np.linalg.svd(pulls / len(pulls) ** 0.5, full_matrices=False)
        shifts = (size[:, None] * directions)[:_RANK]
        return cls(np.asarray(wave), sigma, shifts, span, trend, stars.min(0), stars.max(0))

    def amplitude(self, stars: ArrayLike) -> Array:
        """The factor (S,) on sigma and shifts for stars of `STRUCTURE` labels (S, 3), K and dex."""
        inside = np.clip(np.asarray(stars, dtype=float), self.lowest, self.highest)
        return np.exp(_features(inside) @ self.trend)

    def floor(self, wave: Tensor, stars: Tensor, flux: Tensor, jacobian: Tensor) -> ErrorFloor:
        """The error of S stars in normalised flux at rest wavelengths (P,) or (S, P), vacuum Å.

        stars (S, 3) are their `STRUCTURE` labels, K and dex; flux (S, Pn) and jacobian (S, L, Pn), per label unit,
        their spectra on the native grid at `MEASURED_AT`.
        """

        def put(x: ArrayLike) -> Tensor:
            return torch.as_tensor(x, dtype=torch.float64, device=flux.device)

        amplitude = put(self.amplitude(stars.cpu().numpy()))
        jacobian, basis = jacobian.double(), put(continuum_basis(self.wave))
        bounds = reference_bounds(flux.double(), jacobian, self.wave, basis, put(self.span))
        rows = amplitude[:, None, None] * (put(self.shifts) * bounds[:, None]) @ jacobian
        pixels = wave.expand(len(flux), -1)
        sigma = interpolated(pixels, put(self.wave), amplitude[:, None, None] * put(self.sigma))
        factor = interpolated(pixels, put(self.wave), rows)
        return ErrorFloor(sigma[:, 0].float(), factor.float())

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], wave: Array) -> ModelError:
        """From a checkpoint's tensors, for its native wavelengths (P,), vacuum Å; `KeyError` where one is missing."""
        stored = {f.name: tensors[f"model_error.{f.name}"].double().numpy() for f in fields(cls) if f.name != "wave"}
        return cls(wave, **stored)

    def tensors(self) -> dict[str, Tensor]:
        """For the checkpoint."""
        names = [f.name for f in fields(self) if f.name != "wave"]
        return {f"model_error.{name}": torch.as_tensor(getattr(self, name), dtype=torch.float32) for name in names}


def interpolated(at: Tensor, wave: Tensor, rows: Tensor) -> Tensor:
    """Rows (S, C, Pn) on wave (Pn,) at other wavelengths (S, P): linear, and constant beyond the ends."""
    right = torch.searchsorted(wave, at.contiguous()).clamp(1, len(wave) - 1)
    share = ((at - wave[right - 1]) / (wave[right] - wave[right - 1])).clamp(0.0, 1.0)[:, None]
    left, right = (i[:, None].expand(-1, rows.shape[1], -1) for i in (right - 1, right))
    return torch.gather(rows, 2, left) * (1.0 - share) + torch.gather(rows, 2, right) * share


def _information(flux: Tensor, jacobian: Tensor, wave: Array, basis: Tensor, span: Tensor) -> tuple[Tensor, Tensor]:
    """Fisher matrix (..., L, L) of the labels and their score (..., L, P) for a residual, with the continuum
    marginalised.

    The ranges of the labels are a Gaussian prior of the same variance.
    """
    weight = float(np.mean(np.diff(np.log(wave)))) / _REFERENCE_PIXEL / _REFERENCE_NOISE**2
    continuum = torch.linalg.qr(flux[..., None] * basis.T)[0]  # (..., P, K)
    score = weight * (jacobian - (jacobian @ continuum) @ continuum.mT)
    return score @ jacobian.mT + torch.diag(12.0 / span**2), score


def reference_bounds(flux: Tensor, jacobian: Tensor, wave: Array, basis: Tensor, span: Tensor) -> Tensor:
    """Cramer-Rao bounds (..., L) in label units at a signal-to-noise ratio of 100 in every pixel of LAMOST's width.

    flux (..., P), jacobian (..., L, P) on wave (P,), vacuum Å; basis (K, P) of the continuum, span (L,) of the labels;
    float64.
    """
    fisher, _ = _information(flux, jacobian, wave, basis, span)
    return torch.diagonal(torch.linalg.inv(fisher), dim1=-2, dim2=-1).sqrt()


def _pull(residual: Array, flux: Array, jacobian: Array, wave: Array, basis: Array, span: Array) -> Array:
    """How far the labels of a fit are off (L,), in units of the bounds, where the model errs by residual (P,)."""
    told, changes = (torch.as_tensor(x, dtype=torch.float64) for x in (flux, jacobian))
    information = _information(told, changes, wave, torch.as_tensor(basis), torch.as_tensor(span))
    fisher, score = (x.numpy() for x in information)
    covariance = np.linalg.inv(fisher)
    return np.asarray(covariance @ (score @ residual) / np.sqrt(np.diag(covariance)))


def _features(stars: Array) -> Array:
    """(N, 6)"""
    teff, logg, fe_h = ((stars - _ORIGIN) / _UNIT).T
    return np.column_stack([np.ones(len(stars)), teff, teff**2, logg, fe_h, fe_h**2])


def _fit_trend(stars: Array, ln_rms: Array) -> Array:
    """Ridge regression of ln rms about its mean, which sigma and shifts carry."""
    if len(stars) < _MIN_MODELS:
        return np.zeros(_N_FEATURES)
    x = _features(stars)
    penalty = _RIDGE * np.eye(_N_FEATURES)
    penalty[0, 0] = 0.0
    return np.linalg.solve(x.T @ x + penalty, x.T @ (ln_rms - ln_rms.mean()))


def _box() -> Array:
    return np.full(2 * _SMOOTHING_PIXELS + 1, 1.0 / (2 * _SMOOTHING_PIXELS + 1))
