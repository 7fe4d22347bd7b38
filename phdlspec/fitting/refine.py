"""The fit's last word by direct synthesis: how wrong was the emulator here, and what are the labels without it?

`verify` synthesises the best model. `refine` goes on with the same optimiser on ab initio spectra and derivatives until
the labels stop moving; the posterior is moved along, its shape is the emulator's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phdlspec.direct_synthesis import DirectSynthesis
from phdlspec.emulator.emulator import Emulator
from phdlspec.errors import UserError, first_line
from phdlspec.fitting.levenberg_marquardt import levenberg_marquardt
from phdlspec.fitting.problem import Problem
from phdlspec.labels import GRID_ROLES, Role
from phdlspec.lsf import project, project_with_derivatives

MAX_STEPS = 5
TOLERANCE = 5e-3  # expected gain in lnL: a step below 0.1 of the errors


class AbInitioModel:
    """Direct synthesis in the place of the emulator: what the fitter asks of a model (`problem.Model`)."""

    def __init__(self, direct: DirectSynthesis, emulator: Emulator):
        self.labels, self._direct, self._native = emulator.labels, direct, emulator.native
        self._of_grid = self.labels.place(*GRID_ROLES)
        self._broadening = self.labels.place(Role.BROADENING).start
        self.syntheses = 0

    def _each(self, theta: Tensor, derivatives: bool) -> Tensor:
        # (B, 1 or 33, Pn)
        rows = []
        for row in theta[:, self._of_grid].double().cpu().numpy():
            self.syntheses += 1
            if derivatives:
                flux, jacobian = self._direct.native_flux_and_jacobian(row, self._native)
                rows.append(torch.cat([flux[None], jacobian]))
            else:
                rows.append(self._direct.native_flux(row, self._native)[None])
        return torch.stack(rows).to(theta.device)

    def observe(self, theta: Tensor, wave: Tensor, resolving_power: Tensor, rv: Tensor) -> Tensor:
        """Normalised flux (B, P) at observed pixels."""
        native, vbroad = self._each(theta, False)[:, 0], theta[:, self._broadening]
        return project(native, self._native, wave, resolving_power, vbroad, rv)

    def observe_and_jacobian(
        self, theta: Tensor, wave: Tensor, resolving_power: Tensor, rv: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Flux (B, P) and derivatives (B, P, L + 2)."""
        both, vbroad = self._each(theta, True), theta[:, self._broadening]
        columns = project(both[:, 1:], self._native, wave, resolving_power, vbroad, rv)
        flux, *rest = project_with_derivatives(both[:, 0], self._native, wave, resolving_power, vbroad, rv)
        return flux, torch.cat([columns, torch.stack(rest, dim=1)], dim=1).transpose(1, 2)


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
            return Refined(rms, unmoved, 0, "not refined")
        best = levenberg_marquardt(ab_initio, z, max_iterations=MAX_STEPS, tolerance=TOLERANCE, keep_hessian=False)
    except UserError as error:
        return Refined(rms, unmoved, 0, first_line(error))
    coordinates = problem.coordinates
    shift = (coordinates.parameters(best.z) - coordinates.parameters(z))[0]
    return Refined(rms, shift, int(best.iterations[0]), best.stop_reason[0].value)
