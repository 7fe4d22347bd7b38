r"""One label's bias, fitted to all references at once.

Data: rows d_i with a known variance of ours (own_i) and of the reference (other_i),

    d_i = s_i . b(x_i)  +  N_i . nuisance  +  noise_i,

where b is the bias as a function of x = (Teff, logg, [Fe/H]) in the basis of `calibration.splines`, and

* a star with labels from elsewhere gives d = raw - reference, s.b = b(x) (plus the survey's zero point, except the
  survey that sets the scale),
* a wide pair gives d = raw_1 - raw_2 (minus the known difference), s.b = b(x_1) - b(x_2),
* a cluster member gives d = raw, s.b = b(x) plus the cluster's own value plus its depletion by diffusion.

Every row comes from a mixture: good rows have variance own + other + tau_s^2, discrepant ones (pairs that truly
differ, non-members, wrong matches) T_s^2 more; tau_s, T_s and the fraction belong to each reference set s and are found
by expectation maximisation. Given the responsibilities all is linear with Gaussian priors: the coefficients and
their covariance are those of a weighted ridge regression. The smoothness of each axis is chosen by five-fold
cross-validation; settings that predict almost as well are averaged with weights exp(-D/2), D the excess of their
cross-validated chi^2, so that the covariance contains the uncertainty of the smoothness.

Noise in the coordinates: if the label is itself a coordinate, its noise is in d and in x, and regressing the one on
the other gives a false slope (a pair's [Fe/H] difference would explain itself). So the noise that the references
reveal, resp * own / variance * residual, is taken out of the coordinates before the design is built, iteratively.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from calibration.splines import Basis

FOLDS = 5
BEND_SIGMAS = np.array([0.003, 0.01, 0.03, 0.1, 0.3, 1.0])  # prior sigma of the bending, in units of the label's scale
LINE_SIGMA = 1.0  # of a line from the middle of an axis to its end, in the same units
CONSTANT_SIGMA = 3.0
_EM_STEPS = 12
_TAU_GRID = np.concatenate([[0.0], np.geomspace(0.005, 1.5, 40)])
_WIDE_GRID = np.geomspace(0.15, 6.0, 30)


@dataclass
class Rows:
    """The rows of one label.

    Attributes
    ----------
    d, own, other : (n,) datum and variances.
    first, second : (n,) rows of the catalogue; second = -1 except for pairs.
    set_index : (n,) number of the reference set; set_names its names, set_kinds "pairs", "cluster" or "labels".
    prior_good : (n,) prior probability of a good row.
    nuisance : (n, q) columns; nuisance_mean, nuisance_sigma (q,) their priors; nuisance_names.
    """

    d: NDArray[np.float64]
    own: NDArray[np.float64]
    other: NDArray[np.float64]
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    set_index: NDArray[np.intp]
    set_names: list[str]
    set_kinds: list[str]
    prior_good: NDArray[np.float64]
    nuisance: NDArray[np.float64]
    nuisance_mean: NDArray[np.float64]
    nuisance_sigma: NDArray[np.float64]
    nuisance_names: list[str]

    def __len__(self) -> int:
        return len(self.d)


@dataclass
class SetScatter:
    """What was found of one reference set: intrinsic scatter, that of discrepant rows, their fraction, rows."""

    name: str
    kind: str
    tau: float
    wide: float
    discrepant: float
    rows: int


@dataclass
class BiasFit:
    """The bias of a label.

    Attributes
    ----------
    coefficients (p,), covariance (p, p), centre (p,) : bias(x) = (design(x) - centre) . coefficients, with the
        constant's column left at 1.
    nuisance : name -> (value, error).
    sets : scatter of each reference set.
    scatter : external scatter of one of our stars beyond its quoted error.
    smoothness : weighted mean of log10 of the bending's sigma on each axis.
    held_out : name of the set -> robust scatter of the cross-validated residuals, and without any correction.
    good (n,) : responsibility of each row; predicted (n,) its fitted datum; held_out_residual (n,).
    """

    coefficients: NDArray[np.float64]
    covariance: NDArray[np.float64]
    centre: NDArray[np.float64]
    nuisance: dict[str, tuple[float, float]]
    sets: list[SetScatter]
    scatter: float
    smoothness: list[float]
    held_out: dict[str, tuple[float, float]]
    good: NDArray[np.float64]
    predicted: NDArray[np.float64]
    variance: NDArray[np.float64]
    held_out_residual: NDArray[np.float64]
    coordinates: NDArray[np.float64]


class _Mixture:
    """Scatter and discrepant fraction of each set, updated in turn with the coefficients."""

    def __init__(self, rows: Rows, scale: float):
        self.rows, self.scale = rows, scale
        size = len(rows.set_names)
        self.tau2 = np.full(size, (0.1 * scale) ** 2)
        self.wide2 = np.full(size, scale**2)
        self.fraction = np.full(size, 0.1)
        self.good = rows.prior_good * 0.9

    def variances(self) -> tuple[NDArray, NDArray]:
        s = self.rows.set_index
        good = self.rows.own + self.rows.other + self.tau2[s]
        return good, good + self.wide2[s]

    def weights(self) -> NDArray:
        """Precision (n,) of each row given its responsibility."""
        good, wide = self.variances()
        return self.good / good + (1 - self.good) / wide

    def update(self, residual: NDArray) -> None:
        """One expectation step and a maximisation of tau, T and the fraction of each set."""
        rows = self.rows
        good, wide = self.variances()
        prior = rows.prior_good * (1 - self.fraction[rows.set_index])
        log_good = np.log(np.maximum(prior, 1e-12)) - 0.5 * (np.log(good) + residual**2 / good)
        log_wide = np.log(np.maximum(1 - prior, 1e-12)) - 0.5 * (np.log(wide) + residual**2 / wide)
        self.good = 1 / (1 + np.exp(np.clip(log_wide - log_good, -60, 60)))
        for s in range(len(rows.set_names)):
            at = rows.set_index == s
            if not at.any():
                continue
            base, r2, good_at = rows.own[at] + rows.other[at], residual[at] ** 2, self.good[at]
            tau = self.scale * _TAU_GRID
            total = base[:, None] + tau**2
            log_like = -0.5 * (good_at[:, None] * (np.log(total) + r2[:, None] / total)).sum(axis=0)
            self.tau2[s] = tau[np.argmax(log_like - 0.5 * (tau / (0.3 * self.scale)) ** 2)] ** 2
            broad = base[:, None] + self.tau2[s] + (self.scale * _WIDE_GRID) ** 2
            log_like = -0.5 * ((1 - good_at)[:, None] * (np.log(broad) + r2[:, None] / broad)).sum(axis=0)
            log_like -= 0.5 * (np.log(_WIDE_GRID) / 0.7) ** 2
            self.wide2[s] = (self.scale * _WIDE_GRID[np.argmax(log_like)]) ** 2
            self.fraction[s] = ((1 - good_at).sum() + 0.5) / (at.sum() + 5.0)


class _Regression:
    """Weighted ridge regression of the rows on the basis and the nuisance columns."""

    def __init__(self, design: NDArray, rows: Rows, basis: Basis, scale: float, constant_sigma: float):
        self.x = np.column_stack([design, rows.nuisance])
        self.d, self.basis, self.scale = rows.d, basis, scale
        self.mean = np.concatenate([np.zeros(basis.size), rows.nuisance_mean])
        self.fixed = np.concatenate([[constant_sigma * scale], np.full(len(basis.axes), LINE_SIGMA * scale)])
        self.nuisance_sigma = rows.nuisance_sigma

    def prior_precision(self, bend_sigmas: NDArray) -> NDArray:
        """Diagonal of the prior precision for relative bending sigmas (axes,)."""
        axis = self.basis.axis_of_column[1 + len(self.basis.axes) :]
        return np.concatenate([self.fixed, self.scale * np.asarray(bend_sigmas)[axis], self.nuisance_sigma]) ** -2.0

    def normal(self, weight: NDArray) -> tuple[NDArray, NDArray]:
        weighted = self.x * weight[:, None]
        return weighted.T @ self.x, weighted.T @ (self.d - self.x @ self.mean)

    def solve(self, weight: NDArray, bend_sigmas: NDArray) -> tuple[NDArray, NDArray]:
        """Coefficients and covariance."""
        matrix, vector = self.normal(weight)
        factor = cho_factor(matrix + np.diag(self.prior_precision(bend_sigmas)))
        return self.mean + cho_solve(factor, vector), cho_solve(factor, np.eye(len(vector)))

    def cross_validate(self, weight: NDArray, fold: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """All smoothness settings (m, axes), their held-out chi^2 (m,), held-out residuals (n,) of the best."""
        settings = np.array(list(itertools.product(BEND_SIGMAS, repeat=len(self.basis.axes))))
        matrix, vector = self.normal(weight)
        centred = self.d - self.x @ self.mean
        chi2 = np.zeros(len(settings))
        residuals = np.full((len(settings), len(self.d)), np.nan, dtype=np.float32)
        precision = np.array([self.prior_precision(sigmas) for sigmas in settings])
        diagonal = np.arange(len(vector))
        for k in range(FOLDS):
            out = fold == k
            if not out.any():
                continue
            x, w = self.x[out], weight[out]
            system = np.repeat((matrix - (x * w[:, None]).T @ x)[None], len(settings), axis=0)
            system[:, diagonal, diagonal] += precision
            right = vector - (x * w[:, None]).T @ centred[out]
            beta = np.linalg.solve(system, np.broadcast_to(right[:, None], (len(settings), len(vector), 1)))[..., 0]
            residual = centred[out] - beta @ x.T
            chi2 += (w * residual**2).sum(axis=1)
            residuals[:, out] = residual
        return settings, chi2, residuals[np.argmin(chi2)].astype(float)


def fit_bias(
    rows: Rows,
    coordinates: NDArray,
    basis: Basis,
    scale: float,
    coordinate_axis: int | None = None,
    has_zero_point: bool = True,
    seed: int = 0,
) -> BiasFit:
    """Fit one label.

    Parameters
    ----------
    rows : the data.
    coordinates : (stars, axes) of the catalogue.
    scale : size of a typical trend of this label (0.3 dex, 300 K), the unit of all priors.
    coordinate_axis : number of the axis that this label is, None if it is none.
    has_zero_point : False if no reference states values: the bias is then 0 at the mean of the references.
    seed : of the folds.
    """
    x = coordinates.copy()
    fold = _folds(rows, seed)
    mixture = _Mixture(rows, scale)
    sigmas = np.full(len(basis.axes), 0.1)
    constant_sigma = CONSTANT_SIGMA if has_zero_point else 1e-4
    is_pair = rows.second >= 0
    residual = _first_residual(rows)
    mixture.update(residual)
    weights_of_settings = None
    rounds = 3 if coordinate_axis is None else 6
    for round_number in range(rounds):
        if coordinate_axis is not None:
            x = _cleaned(coordinates, rows, residual, mixture, coordinate_axis)
        raw_design = basis.design(x[rows.first])
        at = np.flatnonzero(~is_pair) if (~is_pair).any() else np.arange(len(rows))
        centre = np.average(raw_design[at], axis=0, weights=mixture.weights()[at])
        centre[0] = 0.0
        design = raw_design - centre
        if is_pair.any():
            design[is_pair] = raw_design[is_pair] - basis.design(x[rows.second[is_pair]])
        regression = _Regression(design, rows, basis, scale, constant_sigma)
        for _ in range(_EM_STEPS):
            beta, _ = regression.solve(mixture.weights(), sigmas)
            residual = rows.d - regression.x @ beta
            mixture.update(residual)
        settings, chi2, held_out = regression.cross_validate(mixture.weights(), fold)
        weights_of_settings = np.exp(-0.5 * (chi2 - chi2.min()))
        weights_of_settings /= weights_of_settings.sum()
        sigmas = settings[np.argmin(chi2)]
    weight = mixture.weights()
    beta, covariance = _average(regression, weight, settings, weights_of_settings)
    size = basis.size
    good, _ = mixture.variances()
    nuisance_error = np.sqrt(np.diag(covariance)[size:])
    return BiasFit(
        coefficients=beta[:size],
        covariance=covariance[:size, :size],
        centre=centre,
        nuisance={n: (float(v), float(e)) for n, v, e in zip(rows.nuisance_names, beta[size:], nuisance_error)},
        sets=_set_scatter(rows, mixture),
        scatter=_own_scatter(rows, mixture),
        smoothness=[float(v) for v in weights_of_settings @ np.log10(settings)],
        held_out=_held_out(rows, mixture.good, held_out),
        good=mixture.good,
        predicted=regression.x @ beta,
        variance=good,
        held_out_residual=held_out,
        coordinates=x,
    )


def _first_residual(rows: Rows) -> NDArray:
    """Residuals before any fit: the datum minus the median of its set (pairs: minus 0)."""
    residual = rows.d.copy()
    for s, kind in enumerate(rows.set_kinds):
        at = rows.set_index == s
        if kind != "pairs" and at.any():
            residual[at] -= np.median(rows.d[at])
    return residual


def _folds(rows: Rows, seed: int) -> NDArray[np.int64]:
    """A fold for each row, the same for all rows that begin with one star; (n,)."""
    stars, inverse = np.unique(rows.first, return_inverse=True)
    return np.random.default_rng(seed).permutation(len(stars))[inverse] % FOLDS


def _cleaned(coordinates: NDArray, rows: Rows, residual: NDArray, mixture: _Mixture, axis: int) -> NDArray:
    """Coordinates without the noise that the residuals reveal in the label that is this axis."""
    good, _ = mixture.variances()
    share = mixture.good * residual / good
    pair = rows.second >= 0
    own_first, own_second = _own_of_each(rows)
    noise, count = np.zeros(len(coordinates)), np.zeros(len(coordinates))
    np.add.at(noise, rows.first, share * own_first)
    np.add.at(count, rows.first, 1)
    np.add.at(noise, rows.second[pair], -(share * own_second)[pair])
    np.add.at(count, rows.second[pair], 1)
    cleaned = coordinates.copy()
    cleaned[:, axis] -= noise / np.maximum(count, 1)
    return cleaned


def _own_of_each(rows: Rows) -> tuple[NDArray, NDArray]:
    """Variance of the first and of the second star; a pair's is shared equally."""
    half = np.where(rows.second >= 0, 0.5, 1.0) * rows.own
    return half, half


def _average(regression: _Regression, weight: NDArray, settings: NDArray, share: NDArray) -> tuple[NDArray, NDArray]:
    """Mean and covariance over the smoothness settings that matter."""
    matrix, vector = regression.normal(weight)
    keep = np.flatnonzero(share > 0.002 * share.max())
    share = share[keep] / share[keep].sum()
    means, covariances = [], []
    for setting in settings[keep]:
        factor = cho_factor(matrix + np.diag(regression.prior_precision(setting)))
        means.append(cho_solve(factor, vector))
        covariances.append(cho_solve(factor, np.eye(len(vector))))
    mean = share @ np.array(means)
    spread = np.array(means) - mean
    covariance = np.tensordot(share, np.array(covariances), axes=1) + (spread * share[:, None]).T @ spread
    return regression.mean + mean, covariance


def _set_scatter(rows: Rows, mixture: _Mixture) -> list[SetScatter]:
    return [
        SetScatter(
            name,
            kind,
            float(np.sqrt(mixture.tau2[s])),
            float(np.sqrt(mixture.wide2[s])),
            float(1 - mixture.good[rows.set_index == s].mean()),
            int((rows.set_index == s).sum()),
        )
        for s, (name, kind) in enumerate(zip(rows.set_names, rows.set_kinds))
        if (rows.set_index == s).any()
    ]


def _own_scatter(rows: Rows, mixture: _Mixture) -> float:
    """External scatter of one star: no more than any well-filled set allows (the rest is the reference's own)."""
    found = []
    for s, kind in enumerate(rows.set_kinds):
        count = mixture.good[rows.set_index == s].sum()
        if count > 0:
            found.append((count, np.sqrt(mixture.tau2[s] / (2 if kind == "pairs" else 1))))
    filled = [tau for count, tau in found if count >= 30]
    return float(min(filled or [tau for _, tau in found]))


def robust_scatter(values: NDArray) -> float:
    """1.4826 times the median absolute deviation from the median; NaN for no value."""
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if len(values) else float("nan")


def _held_out(rows: Rows, good: NDArray, held_out: NDArray) -> dict[str, tuple[float, float]]:
    found = {}
    for s, name in enumerate(rows.set_names):
        at = (rows.set_index == s) & (good > 0.5)
        if at.any():
            found[name] = (robust_scatter(held_out[at]), robust_scatter(rows.d[at]))
    return found
