"""Fitting stars: velocity, look-up, optimisation, posterior, flags. One star is a batch of one.

Stars that share their pixels go through every stage together; each has its own random numbers, stop reason and flags,
so that its result does not depend on its company. What fails in one star is written into its result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from phdlspec.caller import undisturbed
from phdlspec.cores import CorePriors
from phdlspec.direct_synthesis import DirectSynthesis
from phdlspec.emulator.bridge import bridged
from phdlspec.emulator.emulator import Emulator
from phdlspec.errors import UserError, first_line
from phdlspec.fitting.arms import align_arms
from phdlspec.fitting.cleaning import impossible_pixels, unexplained_pixels, without
from phdlspec.fitting.cmaes import search
from phdlspec.fitting.coordinates import Coordinates, usual_resolution_width
from phdlspec.fitting.cores import Cores
from phdlspec.fitting.disagreement import disagreement
from phdlspec.fitting.double_lines import double_lines
from phdlspec.fitting.error_model import ErrorModel, rest_wave
from phdlspec.fitting.known import KnownPrior, KnownStar, fixed_values
from phdlspec.fitting.levenberg_marquardt import Optimum, levenberg_marquardt
from phdlspec.fitting.posteriors import AT_BOUND, PosteriorSample, sample_posteriors
from phdlspec.fitting.preparation import Prepared, groups, masked_with_the_star, observations, prepare
from phdlspec.fitting.priors import StatedPrior, select_priors
from phdlspec.fitting.problem import Problem
from phdlspec.fitting.progress import portion, tell
from phdlspec.fitting.random import StarRandom
from phdlspec.fitting.refine import Refined, refine
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import FitSettings
from phdlspec.fitting.spectrum_alone import known_stars, spectrum_alone
from phdlspec.fitting.starts import first_coordinates, first_velocities
from phdlspec.fitting.summary import FittedStars
from phdlspec.labels import STRUCTURE
from phdlspec.spectrum import Spectrum

log = logging.getLogger(__name__)

ROUGH = 0.1  # expected gain in lnL at which the fits that tell outliers and arms end
POOR_START = 5.0  # chi2 a pixel beyond which a second start is tried
CORE_ROUNDS = 2  # of cores by labels and labels by cores
CPU_ALLOCATOR = "DefaultCPUAllocator"


@dataclass
class _Clock:
    """Seconds spent in each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        tell(name)
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def share(self, count: int) -> dict[str, float]:
        """Seconds of each stage for one of so many stars."""
        return {name: total / count for name, total in self.seconds.items()}


@undisturbed
def fit_batch(
    spectra: Sequence[Spectrum],
    emulator: Emulator,
    settings: FitSettings,
    keep: bool = False,
    direct: DirectSynthesis | None = None,
    known: Sequence[KnownStar] | None = None,
) -> list[Fitted]:
    """Fit many spectra; one result each, in their order.

    A spectrum that cannot be fitted gives a result with a reason, never an exception. `keep` adds the best model and
    draws from the posterior to the results. With `direct` the best models are verified by direct synthesis and, where
    `settings.refine` says so, refined; `UserError` where it says so without `direct`. `known` : of each star, besides
    what the settings say.
    """
    if settings.refine and direct is None:
        raise UserError("refine needs direct synthesis: give what phdlspec.load_direct_synthesis makes as `direct`")
    emulator = bridged(emulator, settings.bridge)
    results: list[Fitted | None] = [None] * len(spectra)
    prepared: list[Prepared | None] = []
    for i, spectrum in enumerate(spectra):
        try:
            ready = prepare(spectrum, emulator.native, settings.masks)
            prepared.append(ready if known is None else replace(ready, known=known[i]))
        except UserError as error:
            prepared.append(None)
            results[i] = Fitted.failed(spectrum.path, str(error), meta=spectrum.meta)
    fitted = 0
    for group in groups(prepared):
        members = [p for p in (prepared[i] for i in group) if p is not None]
        with portion(fitted / len(spectra), len(members) / len(spectra)):
            for i, result in zip(group, _fit_group(members, emulator, settings, keep, direct)):
                results[i] = result
        fitted += len(members)
    return [result for result in results if result is not None]


def _fit_group(
    members: list[Prepared],
    emulator: Emulator,
    settings: FitSettings,
    keep: bool,
    direct: DirectSynthesis | None,
) -> list[Fitted]:
    try:
        return _fit_together(members, emulator, settings, direct).results(keep)
    except Exception as error:  # whatever it is, it is one star's, and the others go on
        if out_of_memory(error):
            raise
        if device_is_lost(error):
            raise UserError(f"the GPU failed ({first_line(error)}); begin again, on another if it lasts") from error
        if len(members) == 1:
            log.debug("fit failed", exc_info=True)
            spectrum = members[0].spectrum
            what = first_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
            reason = f"{spectrum.path or 'spectrum'}: the fit failed ({what})"
            return [Fitted.failed(spectrum.path, reason, meta=spectrum.meta)]
        # One bad star spoils a batched factorisation: find it by fitting the stars one by one.
        return [result for member in members for result in _fit_group([member], emulator, settings, keep, direct)]


def out_of_memory(error: Exception) -> bool:
    """True where a smaller batch may succeed."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # On a CPU torch raises a plain RuntimeError; that its allocator speaks is all there is to tell it by. Other errors
    # of memory, as an illegal access on a GPU, are none of a batch's size.
    return type(error) is RuntimeError and CPU_ALLOCATOR in str(error)


def device_is_lost(error: Exception) -> bool:
    """True where a GPU failed (an illegal access, a fault of the machine): nothing can be computed on it any more."""
    kind = getattr(torch, "AcceleratorError", ())  # torch 2.8 and later
    return isinstance(error, kind) or (isinstance(error, RuntimeError) and str(error).startswith("CUDA error"))


def _fit_together(
    members: list[Prepared], emulator: Emulator, settings: FitSettings, direct: DirectSynthesis | None
) -> FittedStars:
    """All stages for stars that share their pixels."""
    clock, first = _Clock(), members[0].spectrum
    data = observations(members, emulator.device)
    random = StarRandom(settings.seed, [member.name for member in members], emulator.device)
    clean = without(data, impossible_pixels(data)) if settings.robust else data
    with clock.stage("velocity"):
        velocities = first_velocities(clean, first, settings.masks, emulator)
    rv = velocities.rv.nan_to_num(nan=0.0)
    data, clean = (without(one, masked_with_the_star(first, settings.masks, rv)) for one in (data, clean))
    stars = _told_of(members, settings)
    free = Coordinates.around(emulator.labels, rv, _resolution_width(first, settings))
    coordinates = free.closed_on(fixed_values(stars, emulator.labels))
    with clock.stage("look-up"):
        starts = first_coordinates(clean, velocities, coordinates, emulator)
    asked: tuple[StatedPrior, ...] = select_priors(settings.priors)
    priors = (*asked, *filter(None, [KnownPrior.of(stars, emulator.labels, emulator.device)]))
    problem = Problem.of(emulator, data, coordinates, priors).without(clean)
    with clock.stage("optimise"):
        if settings.robust:
            clean = without(clean, unexplained_pixels(problem, starts[0], clean))
            problem = problem.without(clean)
        tell("optimise", 0.2)
        rough = _first_optimum(problem, starts)
        tell("optimise", 0.4)
        data, arms = align_arms(problem, rough.z, data, first)
        if len(first.arms) == 2:  # what was out of line is no misfit of the model
            problem = Problem.of(emulator, data, coordinates, priors).without(replace(clean, wave=data.wave))
            rough = _roughly(problem, rough.z)
        problem, rough, cores = _with_cores(problem, rough, first, emulator)
        data = replace(data, flux=problem.likelihood.data.flux)
        errors = ErrorModel.of(problem, rough.z, data, first, emulator, settings.robust, cores)
        tell("optimise", 0.6)
        best = _best(errors.problem, rough.z, random, settings.mode)
        pixels = torch.tensor(first.wave, dtype=torch.float64, device=emulator.device)  # its array is read-only
        alone = spectrum_alone(errors.problem, best, stars, free, asked, pixels if settings.robust else None)
    with clock.stage("second star"):
        second = double_lines(errors.problem, best.z)
    with clock.stage("posterior"):
        posteriors = _posteriors(errors.problem, best, random, settings, pixels)
    refined: list[Refined | None] = [None] * len(best.z)
    if direct is not None:
        with clock.stage("direct synthesis"):
            refined = _refined(errors.problem, best, emulator, direct, settings.refine)
    return FittedStars(
        members, emulator, random, errors, best, posteriors, velocities, arms, second, refined, alone,
        clock.share(len(members)),
    )  # fmt: skip


def _told_of(members: list[Prepared], settings: FitSettings) -> list[KnownStar]:
    """What is known of each star from elsewhere."""
    told = known_stars([member.spectrum for member in members], settings)
    return [star.updated(member.known) for star, member in zip(told, members)]


def _resolution_width(spectrum: Spectrum, settings: FitSettings) -> float:
    survey = str(spectrum.meta.get("SURVEY", ""))
    return usual_resolution_width(survey) if settings.resolution_width is None else settings.resolution_width


def _roughly(problem: Problem, start: Tensor) -> Optimum:
    return levenberg_marquardt(problem, start, max_iterations=15, tolerance=ROUGH)


def _with_cores(
    problem: Problem, found: Optimum, spectrum: Spectrum, emulator: Emulator
) -> tuple[Problem, Optimum, Cores | None]:
    """The problem with cores of strong lines free about what is expected at the labels, which depend on it in turn."""
    priors = CorePriors.shipped(emulator.metadata["grid"], problem.device)
    if priors is None:
        return problem, found, None
    stated = problem.likelihood
    teff, logg = (problem.coordinates.names.index(name) for name in ("TEFF", "LOGG"))
    for _ in range(CORE_ROUNDS):
        parameters = problem.coordinates.parameters(found.z)
        wave = rest_wave(problem, found.z, spectrum)
        cores = Cores.of(priors, parameters[:, teff], parameters[:, logg], wave, stated.data.resolving_power)
        continuum = problem.likelihood.continuum(problem.flux(found.z))
        problem = problem.with_likelihood(cores.likelihood(stated, continuum))
        found = _roughly(problem, found.z)
    return problem, found, cores


def _first_optimum(problem: Problem, starts: list[Tensor]) -> Optimum:
    """From the first start; where that ends badly or at an edge of the models, from the best one of all."""
    found = _roughly(problem, starts[0])
    doubtful = torch.nonzero(_doubtful(problem, found))[:, 0]
    if len(doubtful) == 0:
        return found
    part = problem.select(doubtful)
    tries = [found.select(doubtful), *(_roughly(part, start[doubtful]) for start in starts[1:])]
    return found.with_stars(doubtful, Optimum.best_of(tries))


def _doubtful(problem: Problem, found: Optimum) -> Tensor:
    """(S,) True where another start may lead elsewhere."""
    labels = problem.coordinates.labels
    theta = problem.coordinates.parameters(found.z)[:, [labels.index(name) for name in STRUCTURE]]
    lower, upper = (
        torch.as_tensor([getattr(labels[name], bound) for name in STRUCTURE], dtype=theta.dtype, device=theta.device)
        for bound in ("lower", "upper")
    )
    at_edge = (((theta - lower) / (upper - lower) - 0.5).abs() > 0.5 - AT_BOUND).any(1)
    poor = found.expansion.chi2 > POOR_START * problem.likelihood.n_pixels
    return at_edge | poor | ~found.converged


def _best(problem: Problem, start: Tensor, random: StarRandom, mode: str) -> Optimum:
    local = levenberg_marquardt(problem, start)
    if mode != "full":
        return local
    found = search(problem, local, random)
    return Optimum.best_of([local, levenberg_marquardt(problem, found.z)])


def _posteriors(
    problem: Problem, best: Optimum, random: StarRandom, settings: FitSettings, wave: Tensor
) -> list[PosteriorSample]:
    samples = sample_posteriors(problem, best, random, settings)
    if not settings.robust:
        return samples
    return [sample.widened(ratio) for sample, ratio in zip(samples, disagreement(problem, best.z, wave))]


def _refined(
    problem: Problem, best: Optimum, emulator: Emulator, direct: DirectSynthesis, move: bool
) -> list[Refined | None]:
    found: list[Refined | None] = []
    for star in range(len(problem)):
        one = problem.select(torch.tensor([star], device=problem.device))
        found.append(refine(one, best.z[star : star + 1], emulator, direct, move))
    return found
