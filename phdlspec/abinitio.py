"""Spectra by direct synthesis, on the emulator's native grid: the truth that the emulator imitates.

This is the only place where the fitting side touches `kurucz_grids`; it needs the extra [grids], model atmospheres and
a line list.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phdlspec.errors import UserError
from phdlspec.lsf import NativeGrid, degrade

if TYPE_CHECKING:
    from kurucz_grids.synthesis import Synthesizer
    from phdlspec.emulator.emulator import Emulator

log = logging.getLogger(__name__)

PHYSICS = {
    "line_list_checksum": "line list",
    "atmospheres_checksum": "atmospheres",
    "synthesis_version": "version of the synthesis",
}


class DirectSynthesis:
    """Normalised fluxes and derivatives (per label unit) of 32 labels, brought to a native grid."""

    def __init__(self, synthesizer: Synthesizer):
        self._synthesizer = synthesizer

    def native_flux(self, theta: NDArray[np.float64], native: NativeGrid) -> Tensor:
        """Flux (Pn,) of labels (32,)."""
        return self._degraded(theta, native, derivatives=False)[0]

    def native_flux_and_jacobian(self, theta: NDArray[np.float64], native: NativeGrid) -> tuple[Tensor, Tensor]:
        """Flux (Pn,) and derivatives (32, Pn)."""
        both = self._degraded(theta, native, derivatives=True)
        return both[0], both[1:]

    def _degraded(self, theta: NDArray[np.float64], native: NativeGrid, derivatives: bool) -> Tensor:
        model = self._synthesizer.synthesize(theta, derivatives)
        spectra = model.flux[None]
        if model.jacobian is not None:
            spectra = torch.cat([spectra, model.jacobian])
        step = 1.0 / self._synthesizer.settings.points
        return degrade(spectra.cpu(), step, float(model.wave[0]), float("inf"), native)


def synthesizer_of(atmospheres: str | None, line_list: str | None, emulator: Emulator) -> DirectSynthesis:
    """Direct synthesis from files. Raises `UserError` where something is missing.

    Warns where they are not what the emulator was made with: their differences would pass for its errors.
    """
    if not atmospheres or not line_list:
        raise UserError(
            "direct synthesis needs --atmospheres and --line-list (see `phdlspec grid build --help`), and [grids]"
        )
    from kurucz_grids.atmosphere_grid import AtmosphereGrid
    from kurucz_grids.linelists import read_line_list
    from kurucz_grids.linelists.solar_gf import with_solar_gf
    from kurucz_grids.synthesis import Synthesizer

    synthesizer = Synthesizer(AtmosphereGrid.load(atmospheres), with_solar_gf(read_line_list(line_list)))
    made = emulator.metadata["grid"]
    other = [what for name, what in PHYSICS.items() if synthesizer.provenance[name] != made.get(name)]
    if other:
        log.warning(
            "direct synthesis differs from what the emulator was made with in its %s: not all of the difference "
            "between them is the emulator's error",
            " and ".join(other),
        )
    return DirectSynthesis(synthesizer)
