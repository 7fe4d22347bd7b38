r"""One label's bias, fitted to all references at once.

Data: rows d_i with a known variance of ours (own_i) and of the reference (other_i),

    d_i = s_i . b(x_i)  +  N_i . nuisance  +  noise_i,

where b is the bias as a function of x = (Teff, logg, [Fe/H]) in the basis of `calibration.splines`, and

* a star with labels from elsewhere gives d = raw - reference, s.b = b(x) (plus the survey's zero point,
except the
  survey that sets the scale),
* a wide pair gives d = raw_1 - raw_2 (minus the known difference), s.b = b(x_1) - b(x_2),
* a cluster member gives d = raw, s.b = b(x) plus the cluster's own value plus its depletion by diffusion.

Every row comes from a mixture: good rows have variance own + other + tau_s^2, discrepant ones (pairs that
truly differ, non-members, wrong matches) T_s^2 more; tau_s, T_s and the fraction belong to each reference set
s and are found by expectation maximisation. Given the responsibilities all is linear with Gaussian priors:
the coefficients and their covariance are those of a weighted ridge regression. The smoothness of each axis is
chosen by five-fold cross-validation; settings that predict almost as well are averaged with weights
exp(-D/2), D the excess of their cross-validated chi^2, averaged over Bayesian bootstraps of the rows
(pseudo-BMA+, Yao et al. 2018, Bayesian Analysis 13, 917), so that the covariance contains the uncertainty of
the smoothness.

Coordinates: b is a function of the *calibrated* Teff, logg and [Fe/H]; raw ones would turn their own biases
into interactions. If the label is itself a coordinate, its bias is taken out as it becomes known.

Noise in the coordinates: if the label is itself a coordinate, its noise is in d and in x, and regressing the
one on the other gives a false slope (a pair's [Fe/H] difference would explain itself). So the noise that the
references reveal, resp * own / variance * residual, is taken out of the coordinates before the design is
built, iteratively.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from calibration.comparisons import Comparisons
from calibration.splines import Basis

Floats = NDArray[np.float64]

FOLDS = 5
BOOTSTRAPS = 60
BEND_SIGMAS = np.array([0.003, 0.01, 0.03, 0.1, 0.3, 1.0])  # prior sigma of the bending, in units of the label's scale
LINE_SIGMA = 1.0  # of a line from the middle of an axis to its end, in the same units
CONSTANT_SIGMA = 3.0
_EM_STEPS = 12
_NOTHING = 1e-4  # prior sigma of what the references cannot tell, in units of the scale
_TAU_GRID = np.concatenate([[0.0], np.geomspace(0.005, 1.5, 40)])
_WIDE_GRID = np.geomspace(0.3, 6.0, 25)  # of the discrepant rows; 5 x 0.3 = 1.5 sigma of the good ones at least


@dataclass
class SetScatter:
    """What was found of one reference set: intrinsic scatter, that of discrepant rows, their fraction,
    rows."""

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
    coefficients (p,), covariance (p, p), centre (p,) : bias(x) = (design(x) - centre) . coefficients, with
    the
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

    def __init__(self, rows: Comparisons, scale: float):
        self.rows, self.scale = rows, scale
        size = len(rows.set_names)
        self.tau2 = np.full(size, (0.1 * scale) ** 2)
        self.wide2 = np.full(size, scale**2)
        self.fraction = np.full(size, 0.1)
        self.good = rows.prior_good * 0.9

    def variances(self) -> tuple[Floats, Floats]:
        s = self.rows.set_index
        good = self.rows.own + self.rows.other + self.tau2[s]
        return good, good + self.wide2[s]

    def weights(self) -> Floats:
        """Precision (n,) of each row given its responsibility."""
        good, wide = self.variances()
        return np.asarray(self.good / good + (1 - self.good) / wide)

    def update(self, residual: Floats) -> None:
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
            wide_grid = _WIDE_GRID * max(self.scale, 5 * np.sqrt(np.median(base + self.tau2[s])))
            broad = base[:, None] + self.tau2[s] + wide_grid**2
            log_like = -0.5 * ((1 - good_at)[:, None] * (np.log(broad) + r2[:, None] / broad)).sum(axis=0)
            log_like -= 0.5 * (np.log(wide_grid / self.scale) / 0.7) ** 2
            self.wide2[s] = wide_grid[np.argmax(log_like)] ** 2
            given = rows.prior_good[at]  # bad rows that the prior expects are not counted twice
            excused = (1 - given) * (1 - self.fraction[s]) / (1 - given * (1 - self.fraction[s]))
            self.fraction[s] = (((1 - good_at) * (1 - excused)).sum() + 0.5) / (at.sum() + 10.0)


class _Regression:
    """Weighted ridge regression of the rows on the basis and the nuisance columns."""

    def __init__(
        self,
        design: Floats,
        rows: Comparisons,
        basis: Basis,
        scale: float,
        constant_sigma: float,
        blind_axis: int | None,
    ):
        self.x = np.column_stack([design, rows.nuisance])
        self.d, self.basis, self.scale = rows.d, basis, scale
        self.mean = np.concatenate([np.zeros(basis.size), rows.nuisance_mean])
        self.fixed = np.concatenate([[constant_sigma * scale], np.full(len(basis.axes), LINE_SIGMA * scale)])
        if blind_axis is not None:
            self.fixed[1 + blind_axis] = _NOTHING * scale
        self.blind_axis = blind_axis
        self.nuisance_sigma = rows.nuisance_sigma

    def prior_precision(self, bend_sigmas: Floats) -> Floats:
        """Diagonal of the prior precision for relative bending sigmas (axes,)."""
        axis = self.basis.axis_of_column[1 + len(self.basis.axes) :]
        return np.concatenate([self.fixed, self.scale * np.asarray(bend_sigmas)[axis], self.nuisance_sigma]) ** -2.0

    def normal(self, weight: Floats) -> tuple[Floats, Floats]:
        weighted = self.x * weight[:, None]
        return weighted.T @ self.x, weighted.T @ (self.d - self.x @ self.mean)

    def solve(self, weight: Floats, bend_sigmas: Floats) -> tuple[Floats, Floats]:
        """Coefficients and covariance."""
        matrix, vector = self.normal(weight)
        factor = cho_factor(matrix + np.diag(self.prior_precision(bend_sigmas)))
        return self.mean + cho_solve(factor, vector), cho_solve(factor, np.eye(len(vector)))

    def cross_validate(
        self, weight: Floats, fold: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """All smoothness settings (m, axes), held-out chi^2 (m,), shares (m,), held-out residuals (n,) of the
        best.

        The shares are the mean over Bayesian bootstraps of the rows of exp(-D/2), D the excess of the chi^2.
        """
        settings = np.array(list(itertools.product(BEND_SIGMAS, repeat=len(self.basis.axes))))
        matrix, vector = self.normal(weight)
        centred = self.d - self.x @ self.mean
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
            residuals[:, out] = residual
        loss = residuals**2 * weight.astype(np.float32)
        chi2 = loss.sum(axis=1)
        draws = rng.standard_exponential((len(self.d), BOOTSTRAPS)).astype(np.float32)
        excess = loss @ (draws / draws.mean(axis=0))
        share = np.exp(-0.5 * (excess - excess.min(axis=0)))
        share = (share / share.sum(axis=0)).mean(axis=1)
        return settings, chi2, share, residuals[np.argmin(chi2)].astype(float)


def fit_bias(
    rows: Comparisons,
    coordinates: Floats,
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
    coordinates : (stars, axes) of the catalogue, calibrated as far as known; raw on the axis of this label.
    scale : size of a typical trend of this label (0.3 dex, 300 K), the unit of all priors.
    coordinate_axis : number of the axis that this label is, None if it is none.
    has_zero_point : False if no reference states values: the bias is then 0 at the mean of the references.
    seed : of the folds.
    """
    fit = _Fit(rows, coordinates, basis, scale, coordinate_axis, has_zero_point, seed)
    rounds = 3 if coordinate_axis is None else 6
    for number in range(rounds):
        fit.iterate(choose_smoothness=number in (0, rounds - 1))
    return fit.result()


class _Fit:
    """The fit of one label on its way: coordinates, mixture and coefficients are updated in turn."""

    def __init__(
        self,
        rows: Comparisons,
        coordinates: Floats,
        basis: Basis,
        scale: float,
        coordinate_axis: int | None,
        has_zero_point: bool,
        seed: int,
    ):
        self.rows, self.coordinates, self.basis, self.scale = rows, coordinates, basis, scale
        self.coordinate_axis = coordinate_axis
        self.rng = np.random.default_rng(seed)
        self.fold = _folds(rows, self.rng)
        self.constant_sigma = CONSTANT_SIGMA if has_zero_point else _NOTHING
        self.blind_axis = None if has_zero_point else coordinate_axis
        self.mixture = _Mixture(rows, scale)
        self.residual = _first_residual(rows)
        self.mixture.update(self.residual)
        self.sigmas = np.full(len(basis.axes), 0.1)
        self.x = coordinates.copy()
        self.own_bias = np.zeros(len(coordinates))

    def iterate(self, choose_smoothness: bool) -> None:
        """Clean the coordinates, build the design, and find coefficients and mixture for it."""
        axis = self.coordinate_axis
        if axis is not None:
            self.x = _cleaned(self.coordinates, self.rows, self.residual, self.mixture, axis)
            self.x[:, axis] -= self.own_bias
        design, self.centre = self._design()
        self.regression = _Regression(design, self.rows, self.basis, self.scale, self.constant_sigma, self.blind_axis)
        for _ in range(_EM_STEPS):
            beta, _ = self.regression.solve(self.mixture.weights(), self.sigmas)
            self.residual = self.rows.d - self.regression.x @ beta
            self.mixture.update(self.residual)
        if choose_smoothness:
            self.settings, chi2, self.shares, self.held_out = self.regression.cross_validate(
                self.mixture.weights(), self.fold, self.rng
            )
            self.sigmas = self.settings[np.argmin(chi2)]
        if axis is not None:
            self.own_bias = _bias_everywhere(self.basis, self.x, self.centre, beta)

    def _design(self) -> tuple[Floats, Floats]:
        """Columns (n, p) of the rows about the mean of the single stars, and that mean (p,)."""
        place, partner = _places(self.basis, self.x, self.rows, self.mixture.good)
        columns, is_pair = self.basis.design(place), self.rows.second >= 0
        at = np.flatnonzero(~is_pair) if (~is_pair).any() else np.arange(len(self.rows))
        centre = np.average(columns[at], axis=0, weights=self.mixture.weights()[at])
        centre[0] = 0.0
        design = columns - centre
        if is_pair.any():
            design[is_pair] = columns[is_pair] - self.basis.design(partner[is_pair])
        return design, centre

    def result(self) -> BiasFit:
        """Coefficients averaged over the smoothness settings that matter, and what was found of the sets."""
        rows, mixture, size = self.rows, self.mixture, self.basis.size
        beta, covariance = _average(self.regression, mixture.weights(), self.settings, self.shares)
        if self.blind_axis is not None:  # not fitted, but not known either
            covariance[1 + self.blind_axis, 1 + self.blind_axis] = (LINE_SIGMA * self.scale) ** 2
        variance, _ = mixture.variances()
        errors = np.sqrt(np.diag(covariance)[size:])
        return BiasFit(
            coefficients=beta[:size],
            covariance=covariance[:size, :size],
            centre=self.centre,
            nuisance={n: (float(v), float(e)) for n, v, e in zip(rows.nuisance_names, beta[size:], errors)},
            sets=_set_scatter(rows, mixture),
            scatter=_own_scatter(rows, mixture),
            smoothness=[float(v) for v in self.shares @ np.log10(self.settings)],
            held_out=_held_out(rows, mixture.good, self.held_out),
            good=mixture.good,
            predicted=self.regression.x @ beta,
            variance=variance,
            held_out_residual=self.held_out,
            coordinates=self.x,
        )


def _places(basis: Basis, x: Floats, rows: Comparisons, good: Floats) -> tuple[Floats, Floats]:
    """Coordinates of the first and second star of each row (n, axes), with one [Fe/H] for all that share it.

    Both stars of a pair get their mean, every good member of a cluster the median of the good ones: what is
    left of a difference in [Fe/H] is noise or bias and must not explain itself.
    """
    first, second = x[rows.first], x[np.where(rows.second >= 0, rows.second, rows.first)]
    axis = [axis.name for axis in basis.axes].index("FE_H")
    mean = (first[:, axis] + second[:, axis]) / 2
    for s, kind in enumerate(rows.set_kinds):
        members = (rows.set_index == s) & (good > 0.5)
        if kind == "cluster" and members.any():
            mean[members] = np.median(mean[members])
    first[:, axis] = second[:, axis] = mean
    return first, second


def _bias_everywhere(basis: Basis, x: Floats, centre: Floats, beta: Floats) -> Floats:
    """The bias at every star's coordinates (n,), 0 where these are missing."""
    bias = np.zeros(len(x))
    known = np.isfinite(x).all(axis=1)
    bias[known] = (basis.design(x[known]) - centre) @ beta[: basis.size]
    return bias


def _first_residual(rows: Comparisons) -> Floats:
    """Residuals before any fit: the datum minus the median of its set (pairs: minus 0)."""
    residual = rows.d.copy()
    for s, kind in enumerate(rows.set_kinds):
        at = rows.set_index == s
        if kind != "pairs" and at.any():
            residual[at] -= np.median(rows.d[at])
    return residual


def _folds(rows: Comparisons, rng: np.random.Generator) -> NDArray[np.int64]:
    """A fold for each row, the same for all rows that begin with one star; (n,)."""
    stars, inverse = np.unique(rows.first, return_inverse=True)
    return rng.permutation(len(stars))[inverse] % FOLDS


def _cleaned(coordinates: Floats, rows: Comparisons, residual: Floats, mixture: _Mixture, axis: int) -> Floats:
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


def _own_of_each(rows: Comparisons) -> tuple[Floats, Floats]:
    """Variance of the first and of the second star; a pair's is shared equally."""
    half = np.where(rows.second >= 0, 0.5, 1.0) * rows.own
    return half, half


def _average(regression: _Regression, weight: Floats, settings: Floats, share: Floats) -> tuple[Floats, Floats]:
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


def _set_scatter(rows: Comparisons, mixture: _Mixture) -> list[SetScatter]:
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


def _own_scatter(rows: Comparisons, mixture: _Mixture) -> float:
    """External scatter of one star: what the set that limits it best allows (more is that reference's own).

    Of each set the excess variance a star, and its statistical error; the set with the lowest sum counts.
    """
    found = []
    variance, _ = mixture.variances()
    for s, kind in enumerate(rows.set_kinds):
        at = rows.set_index == s
        information = (mixture.good[at] / (2 * variance[at] ** 2)).sum()
        if information > 0:
            stars = 2 if kind == "pairs" else 1
            found.append(((mixture.tau2[s] + information**-0.5) / stars, mixture.tau2[s] / stars))
    return float(np.sqrt(min(found)[1]))


def robust_scatter(values: Floats) -> float:
    """1.4826 times the median absolute deviation from the median; NaN for no value."""
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if len(values) else float("nan")


def _held_out(rows: Comparisons, good: Floats, held_out: Floats) -> dict[str, tuple[float, float]]:
    found = {}
    for s, name in enumerate(rows.set_names):
        at = (rows.set_index == s) & (good > 0.5)
        if at.any():
            found[name] = (robust_scatter(held_out[at]), robust_scatter(rows.d[at]))
    return found
