"""Fitting stars: velocity, look-up, optimisation, posterior, flags. One star is a batch of one.

Stars that share their pixels go through every stage together; each has its own random numbers, stop reason and flags,
so that its result does not depend on its company. What fails in one star is written into its result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phdlspec.continuum import continuum_basis
from phdlspec.direct_synthesis import DirectSynthesis
from phdlspec.emulator.emulator import Emulator
from phdlspec.errors import UserError, first_line
from phdlspec.fitting.cmaes import search
from phdlspec.fitting.coordinates import Coordinates
from phdlspec.fitting.hmc import sample_hmc
from phdlspec.fitting.laplace import WeightedSample, importance_sample
from phdlspec.fitting.lookup import Lookup, velocity_templates
from phdlspec.fitting.mcmc import sample_emcee
from phdlspec.fitting.misfit import with_misfit
from phdlspec.fitting.polish import Polished, polish
from phdlspec.fitting.preparation import Prepared, groups, observations, prepare
from phdlspec.fitting.priors import select_priors
from phdlspec.fitting.problem import Expansion, Problem
from phdlspec.fitting.random import StarRandom
from phdlspec.fitting.refine import Refined, refine
from phdlspec.fitting.result import FitResult
from phdlspec.fitting.summary import AT_BOUND, ArmShift, Found, Posterior
from phdlspec.flags import StarFlag
from phdlspec.labels import STRUCTURE
from phdlspec.likelihood import Likelihood, Observations
from phdlspec.masks import DEFAULT_INTERVALS, MaskInterval, wavelength_mask
from phdlspec.radial_velocity import Velocities, measure_velocities
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

log = logging.getLogger(__name__)

MODES = ("full", "fast")
SAMPLERS = ("emcee", "hmc")
MAX_ARM_SHIFT = 40.0  # km/s
STARTS = 2  # entries of the look-up that are climbed from
DRAWS = 512
AT_ONCE = {"cpu": 64, "cuda": 2048}  # model spectra
FULL_ESS, FALLBACK_ESS = 400.0, 100.0
FULL_DRAWS, FALLBACK_DRAWS = 600, 80  # of each chain at most


@dataclass(frozen=True)
class FitSettings:
    """How to fit.

    mode : "full" (CMA-ES, then MCMC) or "fast" (look-up, exact-Jacobian optimiser, importance-corrected Laplace
        posterior that falls back to HMC where its diagnostic fails). sampler : of the full mode. seed : of everything
        random. priors : names of `phdlspec.fitting.priors`. masks : wavelengths left out. resolution_width : standard
        deviation of the logarithm of the factor on the resolving power; 0 trusts the spectrum's own.
    robust : leave out pixels that no noise explains, and add noise where the model misfits. refine : end with
        ab initio spectra, where they are at hand. max_steps : of the samplers.
    """

    mode: str = "full"
    sampler: str = "emcee"
    seed: int = 1
    priors: tuple[str, ...] = ()
    masks: tuple[MaskInterval, ...] = DEFAULT_INTERVALS
    resolution_width: float = 0.1
    robust: bool = True
    refine: bool = False
    max_steps: int = 4000

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"unknown mode {self.mode!r}, expected full or fast")
        if self.sampler not in SAMPLERS:
            raise UserError(f"unknown sampler {self.sampler!r}, expected emcee or hmc")
        if not 0.0 <= self.resolution_width < np.inf:
            raise UserError(
                f"the width of the prior on the resolving power is {self.resolution_width:g}, expected a number that "
                "is not negative; 0 trusts the file"
            )
        select_priors(self.priors)


@dataclass
class _Clock:
    """Seconds spent in each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def fit(spectrum: Spectrum, emulator: Emulator, mode: str = "full", seed: int = 1, **settings: Any) -> FitResult:
    """Fit one spectrum; `settings` are those of `FitSettings`. Raises `UserError` where that is impossible."""
    result = fit_batch([spectrum], emulator, FitSettings(mode=mode, seed=seed, **settings), keep=True)[0]
    if result.flag & StarFlag.FAILED:
        raise UserError(result.reason)
    return result


def fit_batch(
    spectra: Sequence[Spectrum],
    emulator: Emulator,
    settings: FitSettings,
    keep: bool = False,
    direct: DirectSynthesis | None = None,
) -> list[FitResult]:
    """Fit many spectra; one result each, in their order.

    A spectrum that cannot be fitted gives a result with a reason, never an exception. `keep` adds the best model and
    draws from the posterior to the results. With `direct` the best models are verified by direct synthesis and, where
    `settings.refine` says so, refined.
    """
    results: list[FitResult | None] = [None] * len(spectra)
    prepared: list[Prepared | None] = []
    for i, spectrum in enumerate(spectra):
        try:
            prepared.append(prepare(spectrum, emulator.native, settings.masks))
        except UserError as error:
            prepared.append(None)
            results[i] = FitResult.failed(spectrum.path, str(error), meta=spectrum.meta)
    for group in groups(prepared):
        members = [p for p in (prepared[i] for i in group) if p is not None]
        for i, result in zip(group, _fit_group(members, emulator, settings, keep, direct)):
            results[i] = result
    return [result for result in results if result is not None]


def _fit_group(
    members: list[Prepared],
    emulator: Emulator,
    settings: FitSettings,
    keep: bool,
    direct: DirectSynthesis | None,
) -> list[FitResult]:
    try:
        return _Batch(members, emulator, settings, direct).run(keep)
    except Exception as error:  # whatever it is, it is one star's, and the others go on
        if out_of_memory(error):
            raise
        if len(members) == 1:
            log.debug("fit failed", exc_info=True)
            spectrum = members[0].spectrum
            what = first_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
            reason = f"{spectrum.path or 'spectrum'}: the fit failed ({what})"
            return [FitResult.failed(spectrum.path, reason, meta=spectrum.meta)]
        # One bad star spoils a batched factorisation: find it by fitting the stars one by one.
        return [result for member in members for result in _fit_group([member], emulator, settings, keep, direct)]


def out_of_memory(error: Exception) -> bool:
    """True where a smaller batch may succeed: torch has an exception of its own for GPUs only."""
    lacks = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return lacks or (isinstance(error, RuntimeError) and "memory" in str(error))


class _Batch:
    """Stars that share their pixels, on their way through the stages."""

    def __init__(
        self, members: list[Prepared], emulator: Emulator, settings: FitSettings, direct: DirectSynthesis | None
    ):
        self.members, self.emulator, self.settings, self.direct = members, emulator, settings, direct
        self.data: Observations = observations(members, emulator.device)
        self.random = StarRandom(settings.seed, [m.name for m in members], emulator.device)
        self.priors = select_priors(settings.priors)
        self.clock = _Clock()

    def run(self, keep: bool) -> list[FitResult]:
        with self.clock.stage("velocity"):
            velocities = self._velocities()
        coordinates = Coordinates.around(
            self.emulator.labels, velocities.rv.nan_to_num(nan=0.0), self.settings.resolution_width
        )
        with self.clock.stage("look-up"):
            starts = self._starts(velocities, coordinates)
        chunk = AT_ONCE.get(self.emulator.device.type, 64)
        problem = Problem(self.emulator, Likelihood.of(self.data), coordinates, self.priors, chunk)
        with self.clock.stage("optimise"):
            first = _best_of([polish(problem, start, max_iterations=15, tolerance=0.5) for start in starts])
            arms = self._align_arms(problem, first)
            if len(self.members[0].spectrum.arms) == 2:  # what was out of line is no misfit of the model
                problem = problem.with_likelihood(Likelihood.of(self.data))
                first = polish(problem, first.z, max_iterations=15, tolerance=0.5)
            problem, stated, outliers = self._with_model_error(problem, first)
            best = self._search(problem, first)
        with self.clock.stage("posterior"):
            posteriors = self._posteriors(problem, best)
        with self.clock.stage("direct synthesis"):
            refined = self._refined(problem, best)
        share = {name: seconds / len(self.members) for name, seconds in self.clock.seconds.items()}
        return Found(
            self.members, self.emulator, self.random, problem, stated, best, posteriors, velocities, outliers, arms,
            refined, share,
        ).results(keep)  # fmt: skip

    # --- stages ------------------------------------------------------------------------------------------------

    def _velocities(self) -> Velocities:
        # One basis for all: it must not depend on which stars happen to be fitted together.
        data, first = self.data, self.members[0].spectrum
        masked = wavelength_mask(first.wave, self.settings.masks, str(first.meta.get("SURVEY", "")))
        basis = continuum_basis(first.wave, first.arms, ~masked)
        power = data.resolving_power[0]
        templates = velocity_templates(self.emulator)
        return measure_velocities(data.flux, data.ivar, first.wave, basis, templates, self.emulator.native, power)

    def _starts(self, velocities: Velocities, coordinates: Coordinates) -> list[Tensor]:
        rv = velocities.rv.nan_to_num(nan=0.0)
        labels = Lookup.of(self.emulator).nearest(self.data, rv, 12).double()  # (S, 12, L)
        # The second start is the best entry that is a different star.
        scale = torch.tensor([300.0, 0.5, 0.4], dtype=torch.float64, device=labels.device)
        main = [self.emulator.labels.index(n) for n in STRUCTURE]
        distance = ((labels[..., main] - labels[:, :1, main]) / scale).norm(dim=-1)
        far = torch.where(distance > 1.0, 1.0, 0.0)
        second = torch.where(far.any(1), far.argmax(1), torch.ones_like(far.argmax(1)))
        starts = []
        for choice in (torch.zeros_like(second), second)[:STARTS]:
            chosen = labels[torch.arange(len(labels)), choice]
            extra = chosen.new_zeros(len(labels), len(coordinates.names))
            extra[:, : chosen.shape[1]] = chosen
            extra[:, chosen.shape[1]] = rv
            starts.append(coordinates.coordinates(extra))
        return starts

    def _align_arms(self, problem: Problem, best: Polished) -> ArmShift:
        """Takes the shift of the last arm's wavelengths against the first's out of `self.data`."""
        arms = self.members[0].spectrum.arms
        shift = torch.zeros(len(self.members), dtype=torch.float64, device=problem.device)
        if len(arms) != 2:
            return ArmShift(shift, shift)
        likelihood = problem.likelihood
        red = torch.as_tensor(self.members[0].spectrum.arm_index() == 1, device=problem.device)
        parameters = problem.coordinates.parameters(best.z)
        labels, rv, scale = problem.coordinates.split(parameters)
        wave, power = self.data.wave, self.data.resolving_power
        if scale is not None:
            power = power * scale[:, None].to(power.dtype)
        step = 20.0
        ends = [
            self.emulator.observe(labels.float(), wave, power, (rv + offset).float()) for offset in (-step, 0.0, step)
        ]
        continuum = likelihood.continuum(ends[1][:, None])[:, 0]
        change = (ends[2] - ends[0]) / (2.0 * step) * continuum
        residual = self.data.flux - ends[1] * continuum
        sums = []
        for part in (red, ~red):
            weight = likelihood.weight * part
            top, bottom = (weight * change * residual).sum(1).double(), (weight * change**2).sum(1).double()
            sums.append((top / bottom.clamp(min=1e-12), bottom))
        (red_shift, red_information), (blue_shift, blue_information) = sums
        shift = (red_shift - blue_shift).clamp(-MAX_ARM_SHIFT, MAX_ARM_SHIFT)
        # A shift that is not measured is not applied.
        measured = torch.minimum(red_information, blue_information) > 1.0 / 10.0**2
        shift = torch.where(measured, shift, torch.zeros_like(shift))
        lost = 1.0 / blue_information.clamp(min=1e-4) - 1.0 / (blue_information + red_information).clamp(min=1e-4)
        factor = torch.where(red, 1.0 / (1.0 + shift[:, None] / SPEED_OF_LIGHT_KM_S), torch.ones_like(shift)[:, None])
        self.data = replace(self.data, wave=wave * factor)
        return ArmShift(shift, torch.where(measured, lost, torch.zeros_like(shift)))

    def _with_model_error(self, problem: Problem, best: Polished) -> tuple[Problem, Likelihood, Tensor]:
        """The problem with all that is known of the errors and without outlying pixels; those (S, P) bool.

        Between them the likelihood with the stated noise and the emulator's error alone, by which a fit is judged.
        """
        flux = problem.flux(best.z)
        outliers = torch.zeros_like(self.data.ivar, dtype=torch.bool)
        if self.settings.robust:
            outliers = problem.likelihood.outliers(flux) & (self.data.ivar > 0)
            self.data = replace(self.data, ivar=torch.where(outliers, torch.zeros_like(self.data.ivar), self.data.ivar))
        continuum = problem.likelihood.continuum(flux[:, None])[:, 0]
        parameters = problem.coordinates.parameters(best.z)
        rv = parameters[:, len(self.emulator.labels)]
        wave = self.members[0].spectrum.wave
        at_rest = wave / (1.0 + rv.cpu().numpy()[:, None] / SPEED_OF_LIGHT_KM_S)
        floor = self.emulator.error_floor(torch.as_tensor(at_rest, device=problem.device), parameters)
        stated = Likelihood.of(self.data, floor, continuum)
        if self.settings.robust:
            pixels = torch.tensor(wave, dtype=torch.float64, device=problem.device)  # its array is read-only
            floor = with_misfit(floor, stated, flux, pixels, problem.n_dim)
        return problem.with_likelihood(Likelihood.of(self.data, floor, continuum)), stated, outliers

    def _search(self, problem: Problem, first: Polished) -> Polished:
        local = polish(problem, first.z)
        if self.settings.mode != "full":
            return local
        found = search(problem, local, self.random)
        return _best_of([local, polish(problem, found.z)])

    def _posteriors(self, problem: Problem, best: Polished) -> list[Posterior]:
        sample = importance_sample(problem, best, self.random, DRAWS)
        found = [
            Posterior(
                sample.z[s], sample.weight[s], "fast", bool(sample.reliable[s]),
                {"pareto_k": float(sample.pareto_k[s]), "ess": float(sample.ess[s])},
            ) for s in range(len(problem))
        ]  # fmt: skip
        if self.settings.mode == "full":
            todo = list(range(len(problem)))
        else:  # a star outside the models is flagged; its posterior is a corner that is not worth a sampler's price
            inside = self._inside(problem, best)
            todo = [s for s in range(len(problem)) if not found[s].reliable and inside[s]]
        if todo and self.settings.mode == "full" and self.settings.sampler == "emcee":
            sampled = [self._by_emcee(problem, sample, s) for s in todo]
        else:
            sampled = self._by_hmc(problem, best, todo) if todo else []
        for s, chain in zip(todo, sampled):
            found[s] = replace(chain, diagnostics=found[s].diagnostics | chain.diagnostics)
        return found

    def _by_emcee(self, problem: Problem, sample: WeightedSample, star: int) -> Posterior:
        one = problem.select(torch.tensor([star], device=problem.device))
        start = sample.resample(self.random, 1000)[star]
        chain = sample_emcee(one, start, self.random.seed(star), max_steps=self.settings.max_steps)
        diagnostics = {
            "ess": chain.ess, "rhat": chain.rhat, "acceptance": chain.acceptance,
            "autocorrelation_time": float(chain.autocorrelation_time.max()), "steps": float(chain.steps),
        }  # fmt: skip
        return Posterior(chain.z.to(problem.device), None, "emcee", chain.converged, diagnostics)

    def _by_hmc(self, problem: Problem, best: Polished, stars: list[int]) -> list[Posterior]:
        full = self.settings.mode == "full"
        these = torch.tensor(stars, device=problem.device)
        chains = sample_hmc(
            problem.select(these), best.z[these], best.expansion.hessian[these], self.random.select(these),
            FULL_ESS if full else FALLBACK_ESS, FULL_DRAWS if full else FALLBACK_DRAWS,
        )  # fmt: skip
        diagnostics = [
            {
                "ess": float(chains.ess[i]), "rhat": float(chains.rhat[i]),
                "acceptance": float(chains.acceptance[i]), "steps": float(chains.steps[i]),
            } for i in range(len(stars))
        ]  # fmt: skip
        return [
            Posterior(chains.z[i], None, "hmc", bool(chains.converged[i]), diagnostics[i], fell_back=not full)
            for i in range(len(stars))
        ]

    def _inside(self, problem: Problem, best: Polished) -> Tensor:
        """(S,) True where no main label of the optimum is at its bound."""
        labels = problem.coordinates.parameters(best.z)[:, : len(self.emulator.labels)].cpu().numpy()
        unit = self.emulator.labels.to_unit(labels)[:, [self.emulator.labels.index(n) for n in STRUCTURE]]
        return torch.as_tensor((np.abs(unit - 0.5) < 0.5 - AT_BOUND).all(axis=1), device=problem.device)

    def _refined(self, problem: Problem, best: Polished) -> list[Refined | None]:
        if self.direct is None:
            return [None] * len(problem)
        found: list[Refined | None] = []
        for s in range(len(problem)):
            one = problem.select(torch.tensor([s], device=problem.device))
            found.append(refine(one, best.z[s : s + 1], self.emulator, self.direct, self.settings.refine))
        return found


def _best_of(candidates: list[Polished]) -> Polished:
    # For each star the optimum with the highest posterior.
    if len(candidates) == 1:
        return candidates[0]
    values = torch.stack([c.expansion.log_posterior for c in candidates])
    winner = values.nan_to_num(nan=-torch.inf).argmax(dim=0)

    def pick(get: Callable[[Polished], Tensor]) -> Tensor:
        stacked = torch.stack([get(c) for c in candidates])
        return stacked[winner, torch.arange(stacked.shape[1], device=stacked.device)]

    fields = ("log_posterior", "gradient", "hessian", "fisher", "chi2")
    expansion = Expansion(*(pick(lambda c, n=name: getattr(c.expansion, n)) for name in fields))  # type: ignore[misc]
    reasons = tuple(candidates[int(w)].stop_reason[s] for s, w in enumerate(winner))
    return Polished(pick(lambda c: c.z), expansion, reasons, pick(lambda c: c.iterations))
