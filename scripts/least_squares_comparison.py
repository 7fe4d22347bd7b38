"""The batched optimiser beside scipy.optimize.least_squares on the same emulator, likelihood and starting points.

    python scripts/least_squares_comparison.py --n 20

Mock stars of the emulator are fitted (a) together by `phdlspec.fitting.levenberg_marquardt`, (b) one after another by
`least_squares` (MINPACK's Levenberg-Marquardt) with the exact Jacobian, (c) the same with forward differences. The
posterior is written as a sum of squares: with W = D^-1/2 (notation of `phdlspec.likelihood`) continuum coefficients c
and amplitudes a of the model's error minimise

    |W (y - A c - V a)|^2 + |a|^2 + c^T Lambda c + ln|M| + |z|^2,

which is -2 ln posterior up to a constant. Times are CPU seconds of one thread, so that other jobs on the machine do not
count. The last row is the whole fast mode: velocity, look-up, two starts, model error, and the posterior.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.optimize import least_squares

from phdlspec import load_emulator
from phdlspec.continuum import continuum_basis
from phdlspec.cores import CorePriors
from phdlspec.emulator.bridge import NONE
from phdlspec.emulator.emulator import Emulator
from phdlspec.fitting.coordinates import Coordinates
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.levenberg_marquardt import levenberg_marquardt
from phdlspec.fitting.lookup import Lookup, velocity_templates
from phdlspec.fitting.preparation import observations, prepare
from phdlspec.fitting.problem import Problem
from phdlspec.fitting.settings import FitSettings
from phdlspec.likelihood import CONTINUUM_PRIOR_WIDTH, Likelihood
from phdlspec.masks import DEFAULT_INTERVALS, wavelength_mask
from phdlspec.mock import mock_lamost
from phdlspec.radial_velocity import VelocityScan
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

STEP = 3e-3  # of the forward differences in z: below it the emulator's float32 shows
FTOL = 1e-6  # of the sum of squares, some 4,000: the same gain of 2e-3 in lnL at which ours stops

Array = NDArray[np.float64]


def mock_stars(emulator: Emulator, count: int, snr: float, seed: int) -> list[Spectrum]:
    """Mock LAMOST spectra of dwarfs and giants of 4700-6800 K with scattered abundances, made from the emulator."""
    random = np.random.default_rng(seed)
    spectra = []
    cores = CorePriors.shipped(emulator.metadata["grid"])
    for i in range(count):
        teff = random.uniform(4700.0, 6800.0)
        logg = random.uniform(2.2, 3.2) if teff < 5100.0 else random.uniform(3.6, 4.6)
        values = {name: random.normal(0.0, 0.1) for name in emulator.labels.names if name.endswith("_FE")}
        values |= {"TEFF": teff, "LOGG": logg, "FE_H": random.uniform(-1.2, 0.3), "VBROAD": 8.0}
        theta = torch.as_tensor(emulator.labels.complete(values)[None], dtype=torch.float32)
        with torch.no_grad():
            native = emulator.native_flux(theta.to(emulator.device))[0].cpu().numpy()
        rv = random.normal(0.0, 60.0)
        mock = mock_lamost(
            native, emulator.native, teff, snr, seed + i, rv=rv, logg=logg, cores=cores, identifier=f"mock {i}"
        )
        spectra.append(mock)
    return spectra


def prepare_problem(spectra: list[Spectrum], emulator: Emulator) -> tuple[Problem, torch.Tensor]:
    """The posterior of the stars with the emulator's error as noise, and the look-up's starting points (S, D)."""
    data = observations([prepare(spectrum, emulator.native) for spectrum in spectra], emulator.device)
    first = spectra[0]
    unmasked = ~wavelength_mask(first.wave, DEFAULT_INTERVALS, "")
    scan = VelocityScan.of(
        first.wave, continuum_basis(first.wave, first.arms, unmasked), velocity_templates(emulator), emulator.native,
        data.resolving_power[0],
    )  # fmt: skip
    rv = scan.measure(data.flux, data.ivar).rv.nan_to_num(nan=0.0)
    labels = Lookup.of(emulator).nearest(data, rv, 1)[:, 0].double()
    coordinates = Coordinates.around(emulator.labels, rv, resolution_width=0.1)
    start = coordinates.coordinates(torch.cat([labels, rv[:, None].double(), torch.zeros_like(labels[:, :1])], dim=1))
    problem = Problem.of(emulator, data, coordinates)
    rough = levenberg_marquardt(problem, start, max_iterations=15, tolerance=0.5).z
    continuum = problem.likelihood.continuum(problem.flux(rough))
    theta, velocity, _ = coordinates.split(coordinates.parameters(rough))
    floor = emulator.error_floor(data.wave / (1.0 + velocity[:, None] / SPEED_OF_LIGHT_KM_S), theta)
    return problem.with_likelihood(Likelihood.of(data, problem.likelihood.blocks, floor, continuum)), start


class StarResiduals:
    """One star's -2 ln posterior as residuals of z (D,), with their Jacobian; continuum and model error solved for."""

    def __init__(self, problem: Problem):
        likelihood = problem.likelihood
        self.problem = problem
        self.good = likelihood.weight[0] > 0
        self.root = likelihood.weight[0, self.good].double().sqrt().numpy()
        self.flux = likelihood.data.flux[0, self.good].double().numpy() * self.root
        self.factor = likelihood.factor[0][:, self.good].double().numpy().T * self.root[:, None]
        basis = likelihood.data.basis[0][:, (likelihood.data.basis[0] != 0).any(0)]
        self.basis = basis[self.good].double().numpy() * self.root[:, None]

    def __call__(self, z: Array) -> Array:
        """Residuals: pixels, amplitudes of the model's error, continuum coefficients, ln|M|, prior."""
        flux = self.problem.flux(torch.as_tensor(z)[None])[0, self.good].double().numpy()
        q, r = self._decompose(flux)
        return np.concatenate([self._project(q), [np.sqrt(self._log_det(r))], z])

    def jacobian(self, z: Array) -> Array:
        """Derivatives from the emulator's exact Jacobian."""
        flux, change = self._emulate(z)
        q, r = self._decompose(flux)
        m = self.factor.shape[1]
        # The projected residual answers to the change of the model at fixed continuum (Kaufman 1975).
        continuum = self.basis @ solve_triangular(r, q.T @ self._data())[m:]
        response = np.concatenate([continuum[:, None] * change, np.zeros((len(q) - len(flux), len(z)))])
        pixels = -(response - q @ (q.T @ response))
        inverse = solve_triangular(r[m:, m:], q[: len(flux), m:].T)
        log_det = 2.0 * ((self.basis * inverse.T).sum(1) @ change)
        return np.concatenate([pixels, [log_det / (2.0 * np.sqrt(self._log_det(r)))], np.eye(len(z))])

    def differences(self, z: Array) -> Array:
        """The same by forward differences."""
        at = self(z)
        return np.stack([(self(z + STEP * unit) - at) / STEP for unit in np.eye(len(z))], axis=1)

    def _emulate(self, z: Array) -> tuple[Array, Array]:
        coordinates, blocks = self.problem.coordinates, self.problem.likelihood.blocks
        point = torch.as_tensor(z)[None]
        with torch.no_grad():
            flux, rows = self.problem.flux_and_jacobian(point)
        change = torch.stack([blocks.scatter(row)[0, self.good] for row in rows.unbind(2)], dim=1)
        change = change.double() * coordinates.scales(point)[0]
        return blocks.scatter(flux)[0, self.good].double().numpy(), change.numpy()

    def _data(self) -> Array:
        return np.concatenate([self.flux, np.zeros(self.factor.shape[1] + self.basis.shape[1])])

    def _decompose(self, flux: Array) -> tuple[Array, Array]:
        # Columns: the model's error first, so that the rest of R is the square root of M.
        m, k = self.factor.shape[1], self.basis.shape[1]
        penalty = np.diag(np.r_[np.ones(m), np.full(k, 1.0 / CONTINUUM_PRIOR_WIDTH)])
        return np.linalg.qr(np.vstack([np.hstack([self.factor, flux[:, None] * self.basis]), penalty]))

    def _project(self, q: Array) -> Array:
        data = self._data()
        return data - q @ (q.T @ data)

    def _log_det(self, r: Array) -> float:
        return float(2.0 * np.log(np.abs(np.diag(r)[self.factor.shape[1] :])).sum())


def one_after_another(
    problem: Problem, start: torch.Tensor, derivative: Callable[[StarResiduals], Callable[[Array], Array]]
) -> tuple[torch.Tensor, list[Any]]:
    """Optima (S, D) of `least_squares` for each star, and what it says of each."""
    found = []
    for s in range(len(problem)):
        star = StarResiduals(problem.select(torch.tensor([s])))
        found.append(least_squares(star, start[s].numpy(), jac=derivative(star), method="lm", ftol=FTOL))
    return torch.as_tensor(np.stack([f.x for f in found])), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--snr", type=float, default=100.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--emulator")
    args = parser.parse_args()
    torch.set_num_threads(1)
    emulator = load_emulator(args.emulator, "cpu")
    spectra = mock_stars(emulator, args.n, args.snr, args.seed)
    problem, start = prepare_problem(spectra, emulator)

    began = time.process_time()
    ours = levenberg_marquardt(problem, start)
    own_seconds = time.process_time() - began
    reference = ours.expansion.log_posterior.numpy()
    print(
        f"| optimiser, {args.n} stars, S/N {args.snr:g} | CPU s a star | stars/s | rate of ours over it | steps "
        "| 2 lnP below ours: median, 16-84%, worst | within 0.1 |"
    )
    print("|---|---|---|---|---|---|---|")
    print(
        f"| batched, exact Jacobian | {own_seconds / args.n:.2f} | {args.n / own_seconds:.3g} | 1 "
        f"| {ours.iterations.double().mean():.1f} | 0 | {args.n} |"
    )
    ways = (("exact Jacobian", lambda star: star.jacobian), ("forward differences", lambda star: star.differences))
    for name, derivative in ways:
        began = time.process_time()
        z, found = one_after_another(problem, start, derivative)
        seconds = time.process_time() - began
        below = 2.0 * (reference - problem.expand(z).log_posterior.numpy())
        low, middle, high = np.quantile(below, (0.16, 0.5, 0.84))
        worst = below[np.abs(below).argmax()]
        print(
            f"| least_squares, {name} | {seconds / args.n:.2f} | {args.n / seconds:.3g} | {seconds / own_seconds:.1f} "
            f"| {np.mean([f.njev for f in found]):.1f} "
            f"| {middle:+.3f}, {low:+.3f} to {high:+.3f}, {worst:+.2f} | {(np.abs(below) < 0.1).sum()} |"
        )
    began = time.process_time()
    results = fit_batch(spectra, emulator, FitSettings(mode="fast", bridge=NONE))
    seconds = time.process_time() - began
    print(f"| whole fast mode with posterior | {seconds / args.n:.2f} | {args.n / seconds:.3g} | | | | |")
    share = {stage: sum(r.seconds[stage] for r in results) for stage in results[0].seconds}
    total = sum(share.values())
    print("\nstages of the fast mode: " + ", ".join(f"{k} {100 * v / total:.0f}%" for k, v in share.items()))
    print(f"sum of squares and -2 lnP differ by at most {_agreement(problem, start, ours.z):.4f} from start to optimum")


def _agreement(problem: Problem, start: torch.Tensor, end: torch.Tensor) -> float:
    # Largest difference between the two objectives' changes from start to optimum.
    errors = []
    for s in range(len(problem)):
        star = StarResiduals(problem.select(torch.tensor([s])))
        squares = [float((star(z[s].numpy()) ** 2).sum()) for z in (start, end)]
        posterior = np.array([float(star.problem.expand(x[s : s + 1]).log_posterior) for x in (start, end)])
        errors.append(abs((squares[1] - squares[0]) + 2.0 * (posterior[1] - posterior[0])))
    return max(errors)


if __name__ == "__main__":
    main()
