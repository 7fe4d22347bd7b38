r"""What a fit leaves of a spectrum, and how a correction on the native grid would be seen there.

A correction is a spline in ln(wavelength), coefficients c (Q,) on knots that are closer than what a spectrum of
R = 2000 resolves. A star's pixels see A c: A (P, Q) holds its own line spread function, rotation, velocity and
pixels. All that its pixels say of c is in A^T W A, a banded matrix, and A^T W r. So spectra of any resolving power and
coverage are told in one place, and what a spectrum does not cover is simply not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.sparse import csr_array

from phdlspec.bridge.references import ReferenceStar
from phdlspec.errors import UserError
from phdlspec.fitting.preparation import highest_fitted_power
from phdlspec.fitting.result import Fitted
from phdlspec.labels import STRUCTURE
from phdlspec.lsf import NativeGrid, pixel_weights

Array = NDArray[np.float64]

KNOT_PIXELS = 3  # native pixels from knot to knot
BAND = 18  # of A^T W A: splines that a pixel of the lowest resolving power sees together
LEAST_LEVEL = 0.05  # of the median continuum, below which a quotient is noise
LEAST_PIXELS = 300
EDGE = 80.0  # Å at either end of a spectrum, where its continuum is free to bend: a correction would end in a step
# Å from knot to knot of what is each spectrum's own: flux calibration, normalisation and scattered light are as smooth
# as that, differ from instrument to instrument, and would be learned. What is narrower is common to instruments
# (`scripts/bridge_study.py instruments`).
BROAD = 80.0
BROAD_ERROR = 0.01  # of the continuum, beyond the noise, in the fit of what is broad


def spline_basis(grid: NativeGrid) -> csr_array:
    """Cubic B-splines (Pn, Q) in ln(wavelength) on the native grid."""
    inner = np.arange(0.0, grid.size - 1 + KNOT_PIXELS, KNOT_PIXELS)
    knots = np.concatenate([inner[0] - KNOT_PIXELS * np.arange(3, 0, -1), inner,
                            inner[-1] + KNOT_PIXELS * np.arange(1, 4)])  # fmt: skip
    return csr_array(BSpline.design_matrix(np.arange(grid.size, dtype=float), knots, 3))


@dataclass(frozen=True)
class Residual:
    """One spectrum minus its model, in units of the continuum.

    Attributes
    ----------
    name : of the star. labels : (3,) of `STRUCTURE`, at which the model is; covariance : (3, 3) of their errors
    value, sigma : (P,) of the used pixels; sigma is the stated noise. noise : how large that really is, at most
    seen : (P, Q) what the pixels see of the splines
    by_label : (P, 3) what a step of each label changes in a fit in which all else is as free as it was here
    """

    name: str
    labels: Array
    covariance: Array
    value: Array
    sigma: Array
    noise: Array
    seen: csr_array
    by_label: Array

    @classmethod
    def of(cls, star: ReferenceStar, fitted: Fitted, splines: csr_array, grid: NativeGrid, held: bool) -> Residual:
        """Of a fit with its best model. `held` : the labels were held close to what is known, whose errors count.

        Raises `UserError` for a star that says nothing.
        """
        s = fitted.spectrum
        if s is None or not np.isfinite(fitted.value).all():
            raise UserError(fitted.reason or f"{fitted.path}: the fit did not converge")
        seen_as = star.spectrum.degraded_to(highest_fitted_power(grid))
        level = s.continuum
        inside = (s.wave > s.wave[0] + EDGE) & (s.wave < s.wave[-1] - EDGE)
        used = (s.used | s.outlier) & inside & (seen_as.ivar > 0) & (level > LEAST_LEVEL * np.median(level[s.used]))
        if used.sum() < LEAST_PIXELS:
            raise UserError(f"{fitted.path}: only {used.sum()} pixels overlap with the models, expected {LEAST_PIXELS}")
        at = {name: fitted.names.index(name) for name in (*STRUCTURE, "RV", "VBROAD")}
        factor = np.exp(fitted["LN_RESOLUTION"]) if "LN_RESOLUTION" in fitted.names else 1.0
        power = (seen_as.resolving_power_by_pixel * factor)[used]
        index, weight = pixel_weights(
            grid, torch.tensor(s.wave[used]), torch.tensor(power), float(fitted["VBROAD"]), float(fitted["RV"])
        )
        rows = np.arange(used.sum())[:, None].repeat(index.shape[1], 1)
        entries = (weight.numpy().ravel(), (rows.ravel(), index.numpy().ravel()))
        operator = csr_array(entries, shape=(int(used.sum()), grid.size))
        model = s.normalised if s.plain is None else s.plain
        value = (s.flux / np.where(used, level, 1.0) - model)[used]
        sigma = (seen_as.ivar[used] ** -0.5) / level[used]
        main = [at[name] for name in STRUCTURE]
        jacobian, weight_of = s.jacobian[used].astype(float), 1.0 / (sigma**2 + BROAD_ERROR**2)
        narrow = without_broad(s.wave[used], np.column_stack([value, jacobian]), weight_of)
        value, jacobian = narrow[:, 0], narrow[:, 1:]
        expected = star.expected()
        errors = np.array([expected[name][1] if name in expected else np.inf for name in fitted.names])
        by_label = adapted(jacobian, main, weight_of, errors)
        covariance = np.diag(star.errors**2) if held else fitted.cov[np.ix_(main, main)]
        return cls(
            star.name, fitted.value[main], covariance, value, sigma, np.minimum(sigma, _rough_noise(value)),
            csr_array(operator @ splines), by_label,
        )  # fmt: skip

    def told(self, left: Array) -> SplineEquations:
        """What its pixels say of the splines, where an independent rest of the size `left` (Q,) remains at each."""
        rest = self.seen @ left
        weight = 1.0 / (self.sigma**2 + rest**2)
        return SplineEquations.of(self.seen, weight, self.value)

    def without_wild(self, model: Array, left: Array, threshold: float) -> Residual:
        """The same with infinite noise where it is far from a model (Q,) of the splines: a cosmic ray, a bad pixel."""
        off = np.abs(self.value - self.seen @ model)
        wild = off > threshold * np.hypot(self.sigma, self.seen @ left)
        return replace(self, sigma=np.where(wild, np.inf, self.sigma))

    def shift(self, left: float) -> tuple[Array, Array]:
        """Change of the labels (3,) that this star alone would want, and its covariance (3, 3): a rest of the size
        `left` remains in each pixel, labels have the errors that they are known with."""
        weight = 1.0 / (self.sigma**2 + left**2)
        precision = self.by_label.T @ (weight[:, None] * self.by_label)
        covariance = np.linalg.inv(precision + np.linalg.inv(self.covariance))
        return covariance @ (self.by_label.T @ (weight * self.value)), covariance

    def shifted(self, change: Array, covariance: Array) -> Residual:
        """The same at labels that are changed by `change` (3,), of which `covariance` (3, 3) is the error."""
        value = self.value - self.by_label @ change
        return replace(self, value=value, labels=self.labels + change, covariance=covariance)


def without_broad(wave: Array, columns: Array, weight: Array) -> Array:
    """Columns (P, C) minus the splines with knots each `BROAD` Å that fit them best; wave (P,) in Å, weight (P,)."""
    knots = np.linspace(wave[0], wave[-1], max(2, round((wave[-1] - wave[0]) / BROAD) + 1))
    knots = np.concatenate([[wave[0]] * 3, knots, [wave[-1]] * 3])
    basis = BSpline.design_matrix(wave, knots, 3).toarray()
    root = np.sqrt(weight)[:, None]
    return np.asarray(columns - basis @ np.linalg.lstsq(root * basis, root * columns, rcond=None)[0])


def adapted(jacobian: Array, main: Sequence[int], weight: Array, errors: Array) -> Array:
    """Derivatives (P, 3) by the labels `main` where all others follow, as far as they are free: least squares.

    jacobian : (P, D) by all labels and nuisances; weight : (P,) inverse variances; errors : (D,) of what is known of
    each, in its own unit, inf where nothing is.
    """
    others = np.setdiff1d(np.arange(jacobian.shape[1]), main)
    columns, held = jacobian[:, others], jacobian[:, main]
    scale = np.maximum(np.sqrt((columns**2).mean(0)), 1e-12)  # an unused column stays an unused one
    normal = (columns / scale).T @ (weight[:, None] * columns / scale) + np.diag((errors[others] * scale) ** -2)
    normal[np.diag_indices_from(normal)] += 1e-9 * np.trace(normal) / len(others)
    follow = np.linalg.solve(normal, (columns / scale).T @ (weight[:, None] * held))
    return np.asarray(held - columns / scale @ follow)


def _rough_noise(value: Array) -> float:
    # Of neighbouring pixels (Stoehr et al. 2008, DER_SNR): structure counts too, so that it is an upper bound.
    third = 2.0 * value[2:-2] - value[:-4] - value[4:]
    return float(1.482602 / np.sqrt(6.0) * np.median(np.abs(third)))


@dataclass(frozen=True)
class SplineEquations:
    """A^T W A by its diagonals, (BAND, Q): entry (d, q) is that of q and q + d; A^T W r (Q,)."""

    gram: NDArray[np.float32]
    score: Array

    @classmethod
    def of(cls, seen: csr_array, weight: Array, value: Array) -> SplineEquations:
        """Of pixels that see the splines (P, Q), with weights and values (P,)."""
        weighted = csr_array(seen.multiply(weight[:, None]))
        full = csr_array(seen.T @ weighted).tocoo()
        off = full.col - full.row
        keep = (off >= 0) & (off < BAND)
        gram = np.zeros((BAND, seen.shape[1]), dtype=np.float32)
        gram[off[keep], full.row[keep]] = full.data[keep]
        return cls(gram, weighted.T @ value)

    def times(self, columns: Array) -> Array:
        """A^T W A V (Q, K) for columns V (Q, K)."""
        result = self.gram[0][:, None] * columns
        for d in range(1, BAND):
            entries = self.gram[d, :-d, None]
            result[:-d] += entries * columns[d:]
            result[d:] += entries * columns[:-d]
        return np.asarray(result, dtype=float)
