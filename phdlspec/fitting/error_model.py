"""All that is known of the errors of a batch: outlying pixels, the emulator's error, and what the model misfits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phdlspec.emulator.emulator import Emulator
from phdlspec.fitting.cores import Cores
from phdlspec.fitting.misfit import with_misfit
from phdlspec.fitting.problem import Problem
from phdlspec.likelihood import Likelihood, Observations
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S


@dataclass(frozen=True)
class ErrorModel:
    """The errors of S stars.

    problem : with all that is known of them, and without outlying pixels. stated : likelihood with the stated noise and
    the emulator's error alone, by which a fit is judged. outliers (S, P) bool. missing (S, P): change of the normalised
    flux by cores that LTE cannot make, where something is known of them.
    """

    problem: Problem
    stated: Likelihood
    outliers: Tensor
    missing: Tensor | None

    @classmethod
    def of(
        cls, problem: Problem, z: Tensor, data: Observations, spectrum: Spectrum, emulator: Emulator, robust: bool,
        cores: Cores | None = None,
    ) -> ErrorModel:  # fmt: skip
        """From the optima z (S, D) of a problem with the stated noise, which may leave out pixels of `data`.

        spectrum : one of those that share the pixels. robust : leave out pixels that no noise explains, and add noise
        where the model misfits. cores : what `data` were corrected for.
        """
        flux = problem.flux(z)
        fitted = 0.0 if cores is None else cores.fitted(problem.likelihood, flux)
        outliers = torch.zeros_like(data.ivar, dtype=torch.bool)
        if robust:
            outliers = problem.likelihood.outliers(flux + fitted, data) & (data.ivar > 0)
            data = replace(data, ivar=torch.where(outliers, torch.zeros_like(data.ivar), data.ivar))
        continuum = problem.likelihood.continuum(flux)
        parameters = problem.coordinates.parameters(z)
        floor = emulator.error_floor(rest_wave(problem, z, spectrum), parameters)
        if cores is not None:
            floor = cores.added_to(floor)
        blocks = problem.likelihood.blocks
        stated = Likelihood.of(data, blocks, floor, continuum)
        if robust:
            pixels = torch.tensor(spectrum.wave, dtype=torch.float64, device=problem.device)  # its array is read-only
            floor = with_misfit(floor, stated, flux, pixels, problem.n_dim)
        missing = None if cores is None else cores.expected + fitted
        return cls(problem.with_likelihood(Likelihood.of(data, blocks, floor, continuum)), stated, outliers, missing)


def rest_wave(problem: Problem, z: Tensor, spectrum: Spectrum) -> Tensor:
    """Rest wavelengths (S, P) of the pixels that stars share, at parameters z (S, D)."""
    rv = problem.coordinates.parameters(z)[:, problem.coordinates.names.index("RV")]
    at_rest = spectrum.wave / (1.0 + rv.cpu().numpy()[:, None] / SPEED_OF_LIGHT_KM_S)
    return torch.as_tensor(at_rest, device=problem.device)
