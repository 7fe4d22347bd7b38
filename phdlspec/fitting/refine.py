"""The fit's last word by direct synthesis: how wrong was the emulator here, and what are the labels without it?

`verify` synthesises the best model. `refine` goes on with the same optimiser on ab initio spectra and derivatives until
the labels stop moving; the posterior is moved along, its shape is the emulator's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phdlspec.direct_synthesis import DirectSynthesis
from phdlspec.emulator.bridge import BridgedEmulator
from phdlspec.emulator.emulator import Emulator
from phdlspec.errors import UserError, first_line
from phdlspec.fitting.levenberg_marquardt import levenberg_marquardt
from phdlspec.fitting.problem import Problem
from phdlspec.labels import GRID_ROLES

MAX_STEPS = 5
TOLERANCE = 5e-3  # expected gain in lnL: a step below 0.1 of the errors


class AbInitioModel:
    """Direct synthesis in the place of the emulator: what the fitter asks of a model (`problem.Model`).

    With the emulator's bridge, where it has one.
    """

    def __init__(self, direct: DirectSynthesis, emulator: Emulator):
        self.labels, self.native, self._direct = emulator.labels, emulator.native, direct
        self.patch_width = emulator.patch_width
        self._bridge = emulator if isinstance(emulator, BridgedEmulator) else None
        self._of_grid = self.labels.place(*GRID_ROLES)

    def _cut(self, rows: list[Tensor], theta: Tensor) -> Tensor:
        # Rows (..., Pn) of each star, in patches (Q, B, ..., W).
        every = torch.stack(rows).to(theta)
        missing = -self.native.size % self.patch_width
        padded = torch.nn.functional.pad(every, (0, missing))
        return padded.reshape(*padded.shape[:-1], -1, self.patch_width).movedim(-2, 0)

    def _each(self, theta: Tensor) -> Iterator[NDArray[np.float64]]:
        yield from theta[:, self._of_grid].double().cpu().numpy()

    def patches(self, theta: Tensor) -> Tensor:
        """Normalised flux (Q, B, W) for labels (B, L)."""
        flux = self._cut([self._direct.native_flux(row, self.native) for row in self._each(theta)], theta)
        return flux if self._bridge is None else self._bridge.crossed(flux, theta)

    def patches_and_jacobian(self, theta: Tensor) -> Tensor:
        """Flux and derivatives by all labels but the broadening, (Q, B, L, W)."""
        both = (self._direct.native_flux_and_jacobian(row, self.native) for row in self._each(theta))
        rows = self._cut([torch.cat([flux[None], jacobian]) for flux, jacobian in both], theta)
        return rows if self._bridge is None else self._bridge.crossed_with_slopes(rows, theta)


@dataclass(frozen=True)
class Refined:
    """What direct synthesis says about one star.

    emulator_rms : of emulator minus ab initio at the fitted labels, over the used pixels (NaN where these have no
    atmosphere); shift (D,) of the parameters from the emulator's optimum to the ab initio one (zero if not refined);
    steps taken; stop_reason
    """

    emulator_rms: float
    shift: Tensor
    steps: int
    stop_reason: str


def refine(problem: Problem, z: Tensor, emulator: Emulator, direct: DirectSynthesis, move: bool) -> Refined:
    """Verify and, with `move`, refine the optimum z (1, D) of a problem of one star.

    Where labels on the way have no atmosphere the fit stays as the emulator made it.
    """
    ab_initio = replace(problem, model=AbInitioModel(direct, emulator))
    used = problem.likelihood.weight[0] > 0
    rms, unmoved = math.nan, torch.zeros_like(z[0])
    try:
        rms = float((problem.flux(z) - ab_initio.flux(z))[0, used].pow(2).mean().sqrt())
        if not move:
            return Refined(rms, unmoved, 0, "verified")
        best = levenberg_marquardt(ab_initio, z, max_iterations=MAX_STEPS, tolerance=TOLERANCE)
    except UserError as error:
        return Refined(rms, unmoved, 0, first_line(error))
    coordinates = problem.coordinates
    shift = (coordinates.parameters(best.z) - coordinates.parameters(z))[0]
    return Refined(rms, shift, int(best.iterations[0]), best.stop_reason[0].value)
