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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phdlspec.abinitio import DirectSynthesis
from phdlspec.continuum import continuum_basis
from phdlspec.emulator.emulator import Emulator
from phdlspec.errors import UserError, first_line
from phdlspec.fitting.cmaes import search
from phdlspec.fitting.coordinates import Coordinates
from phdlspec.fitting.hmc import sample_hmc
from phdlspec.fitting.laplace import importance_sample
from phdlspec.fitting.lookup import Lookup, velocity_templates
from phdlspec.fitting.mcmc import sample_emcee
from phdlspec.fitting.misfit import with_misfit
from phdlspec.fitting.polish import Polished, polish
from phdlspec.fitting.preparation import Prepared, groups, observations, prepare
from phdlspec.fitting.problem import Expansion, Problem
from phdlspec.fitting.random import StarRandom
from phdlspec.fitting.refine import Refined, refine
from phdlspec.fitting.result import FitResult, ModelSpectrum
from phdlspec.flags import LabelFlag, StarFlag
from phdlspec.likelihood import Likelihood, Observations
from phdlspec.masks import DEFAULT_INTERVALS, MaskInterval, wavelength_mask
from phdlspec.priors import select_priors
from phdlspec.radial_velocity import Velocities, air_wavelengths_suspected, measure_velocities
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

log = logging.getLogger(__name__)

MODES = ("full", "fast")
SAMPLERS = ("emcee", "hmc")
MAIN_LABELS = "TEFF", "LOGG", "FE_H"
AT_BOUND = 0.02  # of a label's range
LOW_SNR = 10.0
POOR_RCHI2 = 3.0
MANY_OUTLIERS = 0.03
MAX_ARM_SHIFT = 40.0  # km/s
STARTS = 2  # entries of the look-up that are climbed from
DRAWS = 512
AT_ONCE = {"cpu": 64, "cuda": 2048}  # model spectra
KEPT_DRAWS = 400
FULL_ESS, FALLBACK_ESS = 400.0, 100.0
FULL_DRAWS, FALLBACK_DRAWS = 600, 80  # of each chain at most


@dataclass(frozen=True)
class FitSettings:
    """How to fit.

    mode : "full" (CMA-ES, then MCMC) or "fast" (look-up, exact-Jacobian optimiser, importance-corrected Laplace
        posterior that falls back to HMC where its diagnostic fails). sampler : of the full mode. seed : of everything
        random. priors : names of `phdlspec.priors`. masks : wavelengths left out. resolution_width : standard
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


@dataclass(frozen=True)
class _Draws:
    """Draws of one star in coordinates z (N, D); weight (N,), or None for equal ones."""

    z: Tensor
    weight: Tensor | None


@dataclass(frozen=True)
class Posterior:
    """Draws of S stars and how well they were made: reliable (S,) bool."""

    draws: list[_Draws]
    reliable: Tensor
    diagnostics: list[dict[str, float]]


@dataclass
class _Clock:
    """Seconds spent in each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def fit(spectrum: Spectrum, emulator: Emulator, mode: str = "full", seed: int = 1, **settings) -> FitResult:
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
            arm_shift, velocity_variance = self._align_arms(problem, first)
            if len(self.members[0].spectrum.arms) == 2:  # what was out of line is no misfit of the model
                problem = problem.with_likelihood(Likelihood.of(self.data))
                first = polish(problem, first.z, max_iterations=15, tolerance=0.5)
            problem, stated, outliers = self._with_model_error(problem, first)
            best = self._search(problem, first)
        with self.clock.stage("posterior"):
            posterior, mode = self._posterior(problem, best)
        with self.clock.stage("direct synthesis"):
            refined = self._refined(problem, best)
        with self.clock.stage("results"):
            return self._results(
                problem, stated, best, posterior, velocities, outliers, arm_shift, velocity_variance, mode, refined,
                keep,
            )  # fmt: skip

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
        main = [self.emulator.labels.index(n) for n in MAIN_LABELS]
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

    def _align_arms(self, problem: Problem, best: Polished) -> tuple[Tensor, Tensor]:
        """Shift of the last arm's wavelengths against the first's, (S,) km/s, taken out of `self.data`.

        Second, the variance (S,) by which this makes the velocity less certain: the last arm has lost its say in it.
        """
        arms = self.members[0].spectrum.arms
        shift = torch.zeros(len(self.members), dtype=torch.float64, device=problem.device)
        if len(arms) != 2:
            return shift, shift
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
        return shift, torch.where(measured, lost, torch.zeros_like(shift))

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

    def _posterior(self, problem: Problem, best: Polished) -> tuple[Posterior, list[str]]:
        sample = importance_sample(problem, best, self.random, DRAWS)
        draws = [_Draws(sample.z[s], sample.weight[s]) for s in range(len(problem))]
        diagnostics = [{"pareto_k": float(k), "ess": float(e)} for k, e in zip(sample.pareto_k, sample.ess)]
        reliable = sample.reliable.clone()
        mode = ["fast"] * len(problem)
        full = self.settings.mode == "full"
        # A star outside the models is flagged; its posterior is a corner that is not worth a sampler's price.
        todo = torch.nonzero(reliable.new_ones(len(problem)) if full else ~reliable & self._inside(problem, best))[:, 0]
        if full and self.settings.sampler == "emcee":
            for s in todo.tolist():
                one = problem.select(torch.tensor([s], device=problem.device))
                start = sample.resample(self.random, 1000)[s]
                seed = self.random.seed(s)
                ensemble = sample_emcee(one, start, seed, max_steps=self.settings.max_steps)
                draws[s] = _Draws(ensemble.z.to(problem.device), None)
                reliable[s] = ensemble.converged
                mode[s] = "emcee"
                diagnostics[s] |= {
                    "ess": ensemble.ess, "rhat": ensemble.rhat, "acceptance": ensemble.acceptance,
                    "autocorrelation_time": float(ensemble.autocorrelation_time.max()), "steps": float(ensemble.steps),
                }  # fmt: skip
        elif len(todo):
            target = FULL_ESS if full else FALLBACK_ESS
            chains = sample_hmc(
                problem.select(todo), best.z[todo], best.expansion.hessian[todo], self.random.select(todo), target,
                FULL_DRAWS if full else FALLBACK_DRAWS,
            )  # fmt: skip
            for i, s in enumerate(todo.tolist()):
                draws[s] = _Draws(chains.z[i], None)
                reliable[s] = chains.converged[i]
                mode[s] = "hmc"
                diagnostics[s] |= {
                    "ess": float(chains.ess[i]), "rhat": float(chains.rhat[i]),
                    "acceptance": float(chains.acceptance[i]), "steps": float(chains.steps[i]),
                }  # fmt: skip
        return Posterior(draws, reliable, diagnostics), mode

    def _inside(self, problem: Problem, best: Polished) -> Tensor:
        """(S,) True where no main label of the optimum is at its bound."""
        labels = problem.coordinates.parameters(best.z)[:, : len(self.emulator.labels)].cpu().numpy()
        unit = self.emulator.labels.to_unit(labels)[:, [self.emulator.labels.index(n) for n in MAIN_LABELS]]
        return torch.as_tensor((np.abs(unit - 0.5) < 0.5 - AT_BOUND).all(axis=1), device=problem.device)

    def _refined(self, problem: Problem, best: Polished) -> list[Refined | None]:
        if self.direct is None:
            return [None] * len(problem)
        found: list[Refined | None] = []
        for s in range(len(problem)):
            one = problem.select(torch.tensor([s], device=problem.device))
            found.append(refine(one, best.z[s : s + 1], self.emulator, self.direct, self.settings.refine))
        return found

    # --- what comes out ----------------------------------------------------------------------------------------

    def _results(
        self,
        problem: Problem,
        stated: Likelihood,
        best: Polished,
        posterior: Posterior,
        velocities: Velocities,
        outliers: Tensor,
        arm_shift: Tensor,
        velocity_variance: Tensor,
        mode: list[str],
        refined: list[Refined | None],
        keep: bool,
    ) -> list[FitResult]:
        coordinates = problem.coordinates
        crlb = cramer_rao(best.expansion, coordinates)
        flux = problem.flux(best.z)
        chi2 = stated.chi2(flux[:, None])[:, 0]
        npix = problem.likelihood.n_pixels
        models = self._models(problem, best, outliers) if keep else [None] * len(self.members)
        share = {name: seconds / len(self.members) for name, seconds in self.clock.seconds.items()}
        rv = coordinates.names.index("RV")
        results = []
        for s, member in enumerate(self.members):
            parameters, weight = self._labels_of(problem, posterior.draws[s], s, velocity_variance)
            checked, stop_reason, extra = refined[s], best.stop_reason[s], {}
            if checked is not None:
                parameters = parameters + checked.shift
                stop_reason += f"; direct synthesis: {checked.stop_reason}"
                own_error = (weight[:, None] * (parameters - weight @ parameters) ** 2).sum(0).sqrt()
                extra = {
                    "emulator_rms": checked.emulator_rms, "refine_steps": float(checked.steps),
                    "refine_shift": float((checked.shift.abs() / own_error).max()),
                }  # fmt: skip
            mean = weight @ parameters
            offset = parameters - mean
            cov = ((weight[:, None] * offset).mT @ offset).cpu().numpy()
            values = mean.cpu().numpy()
            percentiles = weighted_quantiles(parameters[None], weight[None], (0.16, 0.5, 0.84))[0]
            p16, p50, p84 = percentiles.cpu().numpy().T
            err = np.sqrt(np.maximum(np.diag(cov), 0.0))
            fell_back = self.settings.mode == "fast" and mode[s] != "fast"
            bound = crlb[s].cpu().numpy()
            bound[rv] = np.hypot(bound[rv], float(velocity_variance[s]) ** 0.5)
            converged = bool(best.converged[s]) and bool(posterior.reliable[s])
            trusted = bool(self.emulator.trusted(values[None, : len(self.emulator.labels)])[0])
            spectrum = member.spectrum
            in_air = air_wavelengths_suspected(values[rv], err[rv], spectrum)
            warnings = (*spectrum.warnings, *([in_air] if in_air else []))
            label_flag = _label_flags(coordinates, s, p16, p50, p84, err, bound, trusted, converged)
            draws = None
            if keep:
                generator = torch.Generator().manual_seed(self.random.seed(s))
                order = torch.multinomial(weight.cpu(), KEPT_DRAWS, replacement=True, generator=generator)
                draws = parameters.cpu()[order].numpy()
            results.append(
                FitResult(
                    names=coordinates.names, value=values, err=err, p16=p16, p50=p50, p84=p84, crlb=bound,
                    label_flag=label_flag, covariance=cov,
                    flag=_star_flag(
                        spectrum, label_flag, coordinates.names, float(chi2[s]), int(npix[s]),
                        bool(velocities.reliable[s]) and not in_air,
                        float(outliers[s].sum()) / max(int(npix[s]), 1), converged, trusted,
                    ) | (int(StarFlag.FELL_BACK) if fell_back else 0),
                    mode=mode[s], stop_reason=stop_reason, chi2=float(chi2[s]), npix=int(npix[s]),
                    snr=spectrum.snr, path=spectrum.path, meta={**spectrum.meta, "WARNINGS": warnings},
                    diagnostics={
                        **posterior.diagnostics[s], "iterations": float(best.iterations[s]),
                        "velocity_significance": float(velocities.significance[s]),
                        "outliers": float(outliers[s].sum()), "red_arm_km_s": float(arm_shift[s]), **extra,
                    },
                    seconds=share, spectrum=models[s], draws=draws,
                )
            )  # fmt: skip
        return results

    def _labels_of(
        self, problem: Problem, drawn: _Draws, star: int, velocity_variance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Parameters (N, D) of one star's draws, the velocity as uncertain as the arms leave it, and weights (N,)."""
        own = problem.coordinates.select(torch.tensor([star], device=problem.device))
        parameters = own.parameters(drawn.z[None])[0]
        size = len(parameters)
        weight = drawn.weight if drawn.weight is not None else parameters.new_full((size,), 1.0 / size)
        jitter = self.random.select([star]).normal(size)[0]
        rv = problem.coordinates.names.index("RV")
        parameters[:, rv] += (jitter - weight @ jitter) * velocity_variance[star].sqrt()
        return parameters, weight

    def _models(self, problem: Problem, best: Polished, outliers: Tensor) -> list[ModelSpectrum]:
        found = []
        for s, member in enumerate(self.members):
            one = problem.select(torch.tensor([s], device=problem.device))
            labels, rv, scale = one.coordinates.split(one.coordinates.parameters(best.z[s : s + 1]))
            data = one.likelihood.data
            power = data.resolving_power if scale is None else data.resolving_power * scale[:, None].float()
            flux, jacobian = self.emulator.observe_and_jacobian(labels.float(), data.wave, power, rv.float())
            continuum = one.likelihood.continuum(flux[:, None])[0, 0]
            weight = one.likelihood.weight[0]
            size, used = member.scale, weight > 0
            sigma = torch.where(used, weight.clamp(min=1e-30) ** -0.5, torch.full_like(weight, torch.nan)) * size
            arrays = [continuum * flux[0] * size, continuum * size, flux[0]]
            model, level, normalised = (a.double().cpu().numpy() for a in arrays)
            found.append(
                ModelSpectrum(
                    wave=member.spectrum.wave, flux=member.spectrum.flux, sigma=sigma.double().cpu().numpy(),
                    model=model, continuum=level, used=used.cpu().numpy(), outlier=outliers[s].cpu().numpy(),
                    normalised=normalised, jacobian=jacobian[0, :, : one.n_dim].cpu().numpy(),
                )
            )  # fmt: skip
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


def weighted_quantiles(x: Tensor, weight: Tensor, q: tuple[float, ...]) -> Tensor:
    """Quantiles (S, D, Q) of x (S, N, D) with weights (S, N)."""
    ordered, order = torch.sort(x, dim=1)
    sorted_weight = torch.gather(weight[..., None].expand_as(x), 1, order)
    cumulative = torch.cumsum(sorted_weight, dim=1) - 0.5 * sorted_weight
    target = torch.tensor(q, dtype=x.dtype, device=x.device)
    place = torch.searchsorted(
        cumulative.mT.contiguous(), target.expand(x.shape[0], x.shape[2], len(q)).contiguous()
    ).clamp(1, x.shape[1] - 1)
    values, levels = ordered.mT, cumulative.mT
    low, high = torch.gather(values, 2, place - 1), torch.gather(values, 2, place)
    c0, c1 = torch.gather(levels, 2, place - 1), torch.gather(levels, 2, place)
    fraction = ((target - c0) / (c1 - c0).clamp(min=1e-300)).clamp(0.0, 1.0)
    return low + fraction * (high - low)


def cramer_rao(expansion: Expansion, coordinates: Coordinates) -> Tensor:
    """Bounds (S, D) in label units: the likelihood alone, all else marginalised; inf without information.

    Only the resolving power keeps its prior: it is knowledge about the instrument, not about the star.
    """
    fisher = expansion.fisher.clone()
    n = coordinates.lower.shape[1]
    width = torch.ones(fisher.shape[-1], dtype=fisher.dtype, device=fisher.device)
    width[:n] = (coordinates.upper - coordinates.lower)[0]
    if coordinates.resolution_width > 0:
        fisher[:, n, n] += coordinates.resolution_width**-2
    # In units of the ranges, with a trace of a prior a thousand ranges wide, so that the matrix can be inverted.
    scaled = fisher * width[:, None] * width + 1e-6 * torch.eye(len(width), dtype=fisher.dtype, device=fisher.device)
    bound = torch.diagonal(torch.linalg.inv(scaled), dim1=1, dim2=2).clamp(min=0.0).sqrt()
    return torch.where(bound > 100.0, torch.full_like(bound, torch.inf), bound) * width


def _label_flags(
    coordinates: Coordinates,
    star: int,
    p16: NDArray,
    p50: NDArray,
    p84: NDArray,
    err: NDArray,
    crlb: NDArray,
    trusted: bool,
    converged: bool,
) -> NDArray[np.int64]:
    n = coordinates.lower.shape[1]
    lower, upper = (b[star].cpu().numpy() for b in (coordinates.lower, coordinates.upper))
    flag = np.zeros(len(p50), dtype=np.int64)
    width = upper - lower
    prior_sigma = np.full(len(p50), coordinates.resolution_width)
    prior_sigma[:n] = width / np.sqrt(12.0)
    informed = err < 0.75 * prior_sigma
    at_bound = (p16[:n] - lower < AT_BOUND * width) | (upper - p84[:n] < AT_BOUND * width)
    flag[:n] |= np.where(at_bound & informed[:n], int(LabelFlag.AT_BOUND), 0)
    flag |= np.where(informed, 0, int(LabelFlag.PRIOR_DOMINATED))
    flag |= np.where(err < 0.8 * crlb, int(LabelFlag.BELOW_BOUND), 0)
    if not trusted:
        flag |= int(LabelFlag.UNTRUSTED_REGION)
    if not converged:
        flag |= int(LabelFlag.NOT_CONVERGED)
    return flag


def _star_flag(
    spectrum: Spectrum,
    label_flag: NDArray[np.int64],
    names: tuple[str, ...],
    chi2: float,
    npix: int,
    velocity_reliable: bool,
    outlier_share: float,
    converged: bool,
    trusted: bool,
) -> int:
    main = [names.index(n) for n in MAIN_LABELS]
    star_class = str(spectrum.meta.get("CLASS", "STAR")).upper() or "STAR"
    conditions = {
        StarFlag.LOW_SNR: not spectrum.snr >= LOW_SNR,
        StarFlag.POOR_FIT: not chi2 / max(npix - len(names), 1) < POOR_RCHI2,
        StarFlag.VELOCITY_UNSURE: not velocity_reliable,
        StarFlag.NOT_CONVERGED: not converged,
        StarFlag.OUTSIDE_GRID: bool((label_flag[main] & int(LabelFlag.AT_BOUND)).any()),
        StarFlag.UNTRUSTED_REGION: not trusted,
        StarFlag.MANY_OUTLIERS: outlier_share > MANY_OUTLIERS,
        StarFlag.NO_STAR: star_class not in ("STAR", "UNKNOWN"),
    }
    return int(sum(int(bit) for bit, holds in conditions.items() if holds))
