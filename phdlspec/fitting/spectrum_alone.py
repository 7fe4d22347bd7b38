"""What the spectrum alone would have said, where labels were given from elsewhere.

From the optimum of the fit the same optimiser goes on without what was given, with the same noise: where it ends, and
how certain that is, says whether the two agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phdlspec.fitting.bounds import cramer_rao
from phdlspec.fitting.coordinates import Coordinates
from phdlspec.fitting.disagreement import disagreement, widened
from phdlspec.fitting.known import KnownStar
from phdlspec.fitting.known_table import read_known
from phdlspec.fitting.levenberg_marquardt import Optimum, levenberg_marquardt
from phdlspec.fitting.priors import StatedPrior
from phdlspec.fitting.problem import Problem
from phdlspec.fitting.result import Given
from phdlspec.fitting.settings import FitSettings
from phdlspec.labels import STRUCTURE
from phdlspec.spectrum import Spectrum

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SpectrumAlone:
    """Of one star: what was given, and value and err (D,) of the spectrum alone; crlb (D,) at the fitted labels."""

    names: tuple[str, ...]
    known: KnownStar
    value: Array
    err: Array
    crlb: Array

    def given(self, fitted: Array) -> tuple[Given, ...]:
        """What was given beside what the spectrum alone says, for the fitted values (D,)."""
        told = [(name, "fixed", value, 0.0) for name, value in self.known.fixed.items()]
        told += [(name, "gaussian", *both) for name, both in self.known.gaussian.items()]
        if self.known.logg is not None:
            star = [float(fitted[self.names.index(name)]) for name in STRUCTURE]
            told.append(("LOGG", "parallax", self.known.logg.value(*star), self.known.logg.error))
        place = {name: self.names.index(name) for name, *_ in told}
        return tuple(
            Given(name, source, value, err, *(float(x[place[name]]) for x in (self.value, self.err, self.crlb)))
            for name, source, value, err in told
        )


def known_stars(spectra: Sequence[Spectrum], settings: FitSettings) -> list[KnownStar]:
    """What is known of the stars: the same of all, and what the table says of each."""
    of_all = KnownStar.of(settings.known)
    table = None if settings.known_table is None else read_known(settings.known_table)
    return [of_all if table is None else of_all.updated(table.of(spectrum)) for spectrum in spectra]


def spectrum_alone(
    problem: Problem,
    best: Optimum,
    stars: Sequence[KnownStar],
    coordinates: Coordinates,
    priors: tuple[StatedPrior, ...],
    wave: Tensor | None = None,
) -> list[SpectrumAlone | None]:
    """For each star of which something was given: the optimum without it.

    problem, best : of the fit with what was given; coordinates, priors : as they are without; wave : (P,) pixels, if
    errors shall be widened where windows of the spectrum disagree.
    """
    found: list[SpectrumAlone | None] = [None] * len(stars)
    which = [s for s, star in enumerate(stars) if star]
    if not which:
        return found
    index = torch.tensor(which, device=problem.device)
    free = replace(problem, coordinates=coordinates, priors=priors).select(index)
    start = free.coordinates.coordinates(problem.coordinates.parameters(best.z)[index])
    alone = levenberg_marquardt(free, start)
    ratio = torch.ones_like(alone.z) if wave is None else disagreement(free, alone.z, wave)
    value, err = (x.cpu().numpy() for x in _moments(free.coordinates, alone, ratio))
    # At the same place as those with what was given, so that the two tell what it brought.
    crlb = cramer_rao(best.expansion.select(index), free.coordinates).cpu().numpy()
    for i, s in enumerate(which):
        found[s] = SpectrumAlone(coordinates.names, stars[s], value[i], err[i], crlb[i])
    return found


def _moments(coordinates: Coordinates, optimum: Optimum, ratio: Tensor) -> tuple[Tensor, Tensor]:
    covariance = torch.linalg.inv(optimum.expansion.hessian)
    spread = widened(torch.diagonal(covariance, dim1=1, dim2=2), ratio).sqrt()
    return coordinates.parameters(optimum.z), spread * coordinates.scales(optimum.z)
