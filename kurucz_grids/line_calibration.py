"""Line data from real stars: oscillator strengths and widths of all lines at once, by the adjoint of the transfer.

The flux of a reference star answers to every single line linearly for small changes (`Synthesizer.line_responses`).
Spectra of several stars with known labels are fitted together: unknown are ln gf (and for strong lines the logarithm of
the van der Waals width) of each line, common to all stars, and for each star its continuum, velocity, broadening and,
within the errors of what is known, its labels. What is unknown has a Gaussian prior: of the lines by the quality of the
source, of the labels by their errors. The sum of squares, made robust by weights (Huber's), is solved by LSMR; then the
stars are synthesized again with the new lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.sparse import block_array, coo_array, csr_array, diags_array, hstack, vstack
from scipy.sparse.linalg import lsmr

from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.synthesis import Synthesizer
from phdlspec.lsf.native_grid import FWHM_VARIANCE
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

FWHM = FWHM_VARIANCE**0.5  # of a Gaussian over its standard deviation
HUBER = 2.0  # residuals beyond so many sigma count linearly
VELOCITY_KNOTS = 400.0  # Å between knots of the velocity's spline
WIDTH_ERROR = 0.3  # relative, of the line spread function's FWHM: how well it is known beforehand
LEAST_RESPONSE = 0.002  # of the flux to a factor e in gf, anywhere in any star, for a line to be free
LEAST_KEPT = 3e-5  # of the flux to a factor e in gf, in a pixel


@dataclass(frozen=True)
class CalibrationStar:
    """A star with known labels and its spectrum.

    Attributes
    ----------
    wave : (M,) vacuum Å at rest. flux : (M,) in any unit, NaN where bad; sigma : (M,) of flux over continuum
    gaussian : (M,) FWHM of the line spread function, Å; vsini : km/s of a rotation profile besides
    labels, label_errors : (32,) in the order of `GRID_LABELS`
    continuum_step : Å between knots of the continuum
    continuum_error : relative, of an absolute flux: how far its continuum may be from a straight line; infinite where
        nothing is known
    velocity_error : km/s, how well the velocity is known beforehand
    """

    name: str
    wave: Array
    flux: Array
    sigma: Array
    gaussian: Array
    vsini: float
    labels: Array
    label_errors: Array
    continuum_step: float
    velocity_error: float = 3.0
    continuum_error: float = np.inf


@dataclass(frozen=True)
class Linearised:
    """A star's model at M pixels and its derivatives.

    flux, continuum (erg/cm2/s/Å) : (M,); by_labels : (M, 32); by_gf, by_vdw : (G, M) by ln gf and ln vdW of the groups
    """

    flux: Array
    continuum: Array
    by_labels: Array
    by_gf: csr_array
    by_vdw: csr_array


def projection(fine: Array, wave: Array, gaussian: Array, vsini: float) -> csr_array:
    """Operator (M, P) from a fine grid (P,) to pixels (M,): a Gaussian of given FWHM (Å), a rotation profile besides.

    The profile of rotation is Gray's (2005, eq. 18.14) with limb darkening 0.6; narrow ones count by their variance.
    """
    sigma = gaussian / FWHM
    turn = wave * vsini / SPEED_OF_LIGHT_KM_S
    half = 4.5 * sigma + turn
    low, high = np.searchsorted(fine, wave - half), np.searchsorted(fine, wave + half)
    step = np.gradient(fine)
    rows, columns, values = [], [], []
    for i in np.flatnonzero((high - low > 3) & (low > 0) & (high < len(fine))):
        x = fine[low[i] : high[i]] - wave[i]
        kernel = _kernel(x, sigma[i], turn[i]) * step[low[i] : high[i]]
        rows.append(np.full(len(x), i))
        columns.append(np.arange(low[i], high[i]))
        values.append(kernel / kernel.sum())
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return csr_array(coo_array(entries, shape=(len(wave), len(fine))))


def _kernel(x: Array, sigma: float, turn: float) -> Array:
    if turn < 2.0 * sigma:  # too narrow to be seen in shape
        return np.exp(-0.5 * x**2 / (sigma**2 + 0.225 * turn**2))
    nodes, weights = np.polynomial.legendre.leggauss(15)
    rotation = 0.4 * 2.0 * np.sqrt(1.0 - nodes**2) / np.pi + 0.6 * 0.5 * (1.0 - nodes**2)
    shifted = (x[:, None] - turn * nodes) / sigma
    return np.exp(-0.5 * shifted**2) @ (weights * rotation)


def group_lines(lines: LineList, gap: float = 0.15) -> Indices:
    """Number of the group (N,) of each line: components of one line (hyperfine, isotopes) change together.

    They have one species, one lower level (0.01 eV) and follow each other within `gap` Å.
    """
    level = np.round(lines.elow_ev.astype(float), 2)
    order = np.lexsort((lines.wave_vacuum, level, lines.species_index))
    wave, species, level = lines.wave_vacuum[order], lines.species_index[order], level[order]
    new = (np.diff(species) != 0) | (np.diff(level) != 0) | (np.diff(wave) > gap)
    member = np.empty(len(order), dtype=np.intp)
    member[order] = np.concatenate([[0], np.cumsum(new)])
    return member


def grouping(member: Indices) -> csr_array:
    """Operator (G, N) that adds up what belongs to one group, from the group of each line (N,)."""
    shape = int(member.max()) + 1, len(member)
    return csr_array(coo_array((np.ones(len(member), dtype=np.float32), (member, np.arange(len(member)))), shape=shape))


def linearise(synthesizer: Synthesizer, star: CalibrationStar, groups: csr_array) -> Linearised:
    """The model of a star at its labels with all derivatives; `groups` (G, N) as of `grouping`."""
    operator = projection(synthesizer.wave.numpy(), star.wave, star.gaussian, star.vsini)
    spectrum = synthesizer.synthesize(star.labels, derivatives=True)
    assert spectrum.jacobian is not None
    responses = synthesizer.line_responses(synthesizer.prepare(star.labels, derivatives=False), operator)
    by_gf, by_vdw = (_without_small(groups @ response.astype(np.float32)) for response in responses)
    flux, continuum = (operator @ x.double().numpy() for x in (spectrum.flux, spectrum.continuum))
    return Linearised(flux, continuum, operator @ spectrum.jacobian.double().numpy().T, by_gf, by_vdw)


def _without_small(response: csr_array) -> csr_array:
    response.data[np.abs(response.data) < LEAST_KEPT] = 0.0
    response.eliminate_zeros()
    return response


@dataclass(frozen=True)
class Solution:
    """What a fit of all stars says.

    Attributes
    ----------
    gf, vdw : (G,) changes of ln gf and ln vdW of the groups; gf_error : (G,) their errors, lines taken one by one
    labels : one (32,) change for each star; velocity (km/s, mean), broadening (relative change of the FWHM) : by star
    residuals : one (M,) for each star, observed over continuum minus model, NaN where not used
    """

    gf: Array
    vdw: Array
    gf_error: Array
    labels: list[Array]
    velocity: list[float]
    broadening: list[float]
    continuum: list[Array]
    residuals: list[Array]


class LineDataFit:
    """The least squares of all stars together.

    Parameters
    ----------
    gf_prior, vdw_prior : (G,) standard deviations in ln of the groups of lines
    """

    def __init__(self, gf_prior: Array, vdw_prior: Array):
        self._gf_prior, self._vdw_prior = gf_prior, vdw_prior

    def solve(
        self, stars: Sequence[CalibrationStar], models: Sequence[Linearised], gf: Array, vdw: Array, rounds: int = 4
    ) -> Solution:
        """Changes that fit all stars best, where the lines have been changed by `gf` and `vdw` (G,) already."""
        responses = [m.by_gf for m in models], [m.by_vdw for m in models]
        free = [np.flatnonzero(_largest(r) > LEAST_RESPONSE) for r in responses]
        parts = [_StarSystem(star, model) for star, model in zip(stars, models)]
        solution = np.zeros(0)
        for _ in range(rounds):
            rows, targets = [], []
            for i, part in enumerate(parts):
                lines = [csr_array(r[i][f].T) for r, f in zip(responses, free)]
                shared = hstack(lines)
                rows.append(_blocks(part.weighted(shared), part.weighted(part.own), i, len(parts)))
                targets.append(part.weighted_target())
            matrix, target = self._with_priors(rows, targets, parts, free, gf, vdw)
            scale = 1.0 / np.sqrt(np.maximum((matrix.multiply(matrix)).sum(axis=0), 1e-12))
            solution = scale * lsmr(matrix @ diags_array(scale), target, atol=1e-7, btol=1e-7, maxiter=600)[0]
            begin = len(free[0]) + len(free[1])
            for i, part in enumerate(parts):
                shifts = [r[i][f].T @ x for r, f, x in zip(responses, free, self._shared(solution, free))]
                part.update(shifts[0] + shifts[1], solution[begin : begin + part.own.shape[1]])
                begin += part.own.shape[1]
        return self._result(solution, free, parts, matrix)

    @staticmethod
    def _shared(solution: Array, free: list[Indices]) -> tuple[Array, Array]:
        first = len(free[0])
        return solution[:first], solution[first : first + len(free[1])]

    def _with_priors(
        self, rows: list[list[csr_array | None]], targets: list[Array], parts: list[_StarSystem], free: list[Indices],
        gf: Array, vdw: Array,
    ) -> tuple[csr_array, Array]:  # fmt: skip
        pull = [self._gf_prior[free[0]], self._vdw_prior[free[1]]]
        already = [gf[free[0]], vdw[free[1]]]
        widths = np.concatenate([*pull, *(part.prior for part in parts)])
        offsets = np.concatenate([*(-a for a in already), *(-part.already() for part in parts)])
        bound = np.isfinite(widths)
        prior = diags_array(np.where(bound, 1.0 / np.where(bound, widths, 1.0), 0.0))
        matrix = vstack([block_array(rows), prior])
        return csr_array(matrix), np.concatenate([*targets, np.where(bound, offsets / widths, 0.0)])

    def _result(self, solution: Array, free: list[Indices], parts: list[_StarSystem], matrix: csr_array) -> Solution:
        gf, vdw = np.zeros(len(self._gf_prior)), np.zeros(len(self._gf_prior))
        gf[free[0]], vdw[free[1]] = self._shared(solution, free)
        error = self._gf_prior.copy()
        curvature = np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel()
        error[free[0]] = curvature[: len(free[0])] ** -0.5
        return Solution(
            gf, vdw, error, [p.labels for p in parts], [p.velocity for p in parts], [p.broadening for p in parts],
            [p.continuum for p in parts], [p.residual for p in parts],
        )  # fmt: skip


def _largest(responses: list[csr_array]) -> Array:
    return np.asarray(np.max([np.asarray(abs(r).max(axis=1).todense()).ravel() for r in responses], axis=0))


def _blocks(shared: csr_array, own: csr_array, star: int, count: int) -> list[csr_array | None]:
    row: list[csr_array | None] = [shared, *([None] * count)]
    row[1 + star] = own
    return row


def _spline(wave: Array, step: float) -> csr_array:
    count = max(4, int((wave[-1] - wave[0]) / step) + 1)
    knots = np.linspace(wave[0], wave[-1], count)
    padded = np.concatenate([[wave[0]] * 3, knots, [wave[-1]] * 3])
    return csr_array(BSpline.design_matrix(wave, padded, 3))


class _StarSystem:
    """The equations of one star: its own unknowns are labels, velocity, broadening and continuum."""

    def __init__(self, star: CalibrationStar, model: Linearised):
        self._star, self._model = star, model
        self._good = np.isfinite(star.flux) & (model.flux > 0)
        self._velocities = _spline(star.wave, VELOCITY_KNOTS)
        self._basis = _spline(star.wave, star.continuum_step)
        self._continuum_prior = np.full(self._basis.shape[1], star.continuum_error)
        if np.isfinite(star.continuum_error):
            line = np.column_stack([np.ones(len(star.wave)), (star.wave - star.wave.mean()) / np.ptp(star.wave)])
            self._basis = csr_array(hstack([csr_array(line), self._basis]))
            self._continuum_prior = np.concatenate([[np.inf, np.inf], self._continuum_prior])
        self.labels = np.zeros(len(star.labels))
        self._flux = model.flux
        self.continuum = np.ones(len(star.wave))
        self._robust = np.ones(len(star.wave))
        self._fit_continuum()
        slope = np.gradient(model.flux, np.log(star.wave))
        curvature = np.gradient(np.gradient(model.flux, star.wave), star.wave)
        self._by_velocity = csr_array(diags_array(-slope / SPEED_OF_LIGHT_KM_S) @ self._velocities)
        self._by_width = (star.gaussian / FWHM) ** 2 * curvature  # by d ln FWHM
        velocities = self._velocities.shape[1]
        self.prior: Array = np.concatenate(
            [star.label_errors, np.full(velocities, star.velocity_error), [WIDTH_ERROR], self._continuum_prior]
        )
        self._build()

    def _build(self) -> None:
        # Unknown are changes of the continuum's coefficients: d (model x continuum) / continuum.
        relative = diags_array(self._flux * self._scale / self.continuum) @ self._basis
        self.own = csr_array(
            hstack([csr_array(self._model.by_labels), self._by_velocity, csr_array(self._by_width[:, None]), relative])
        )

    def _fit_continuum(self) -> None:
        flux = np.where(self._good, self._star.flux, 0.0)
        scale = self._scale = float(np.nanmedian(self._star.flux))
        prior_precision = diags_array(1.0 / self._continuum_prior**2)
        for _ in range(3):
            weight = np.where(self._good, self._robust, 0.0) / self._star.sigma**2
            matrix = diags_array(self._flux) @ self._basis
            normal = (matrix.T @ diags_array(weight) @ matrix + prior_precision).toarray()
            normal += 1e-9 * np.trace(normal) / len(normal) * np.eye(len(normal))
            right = matrix.T @ (weight * flux / scale)
            self._coefficients = np.linalg.solve(normal, right)
            self.continuum = scale * np.maximum(self._basis @ self._coefficients, 1e-3)
            self.residual = np.where(self._good, flux / self.continuum - self._flux, np.nan)
            pull = np.abs(np.nan_to_num(self.residual)) / self._star.sigma
            self._robust = np.where(pull > HUBER, HUBER / np.maximum(pull, HUBER), 1.0)

    def already(self) -> Array:
        """What the unknowns are at the point of expansion: changes of labels and the rest none, the continuum's."""
        known = np.zeros(len(self.prior))
        known[len(known) - len(self._coefficients) :] = self._coefficients
        return known

    def _root_weight(self) -> Array:
        return np.where(self._good, np.sqrt(self._robust), 0.0) / self._star.sigma

    def weighted(self, matrix: csr_array) -> csr_array:
        """Rows (M, K) over their errors."""
        return csr_array(diags_array(self._root_weight()) @ matrix)

    def weighted_target(self) -> Array:
        """Observed over continuum minus the model of the beginning (M,), over the errors."""
        target = np.where(self._good, np.nan_to_num(self._star.flux) / self.continuum - self._model.flux, 0.0)
        return self._root_weight() * target

    def update(self, line_change: Array, own: Array) -> None:
        """Take a solution: the change of the flux by the lines (M,) and this star's own unknowns."""
        labels, velocities = len(self.labels), self._velocities.shape[1]
        self.labels = own[:labels]
        self.velocity = float((self._velocities @ own[labels : labels + velocities]).mean())
        self.broadening = float(own[labels + velocities])
        known = labels + velocities + 1
        self._flux = self._model.flux + line_change + self.own[:, :known] @ own[:known]
        self._fit_continuum()
        self._build()
