"""Direct synthesis for the fitting side: spectra and derivatives of labels, brought to the emulator's native grid."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.linelists import read_line_list
from kurucz_grids.linelists.solar_gf import with_solar_gf
from kurucz_grids.synthesis import Synthesizer
from phdlspec.lsf import NativeGrid, degrade

log = logging.getLogger(__name__)

PHYSICS = {
    "line_list_checksum": "line list",
    "atmospheres_checksum": "atmospheres",
    "synthesis_version": "version of the synthesis",
}


class NativeSynthesis:
    """Normalised fluxes and derivatives (per label unit) of 32 labels: the `DirectSynthesis` that phdlspec asks for."""

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


def provide(atmospheres: str, line_list: Sequence[str], made_with: Mapping[str, Any]) -> NativeSynthesis:
    """Direct synthesis from files.

    Warns where they are not what the emulator was made with, the grid attributes `made_with`: their differences would
    pass for its errors.
    """
    synthesizer = Synthesizer(AtmosphereGrid.load(atmospheres), with_solar_gf(read_line_list(line_list)))
    other = [what for name, what in PHYSICS.items() if synthesizer.provenance[name] != made_with.get(name)]
    if other:
        log.warning(
            "direct synthesis differs from what the emulator was made with in its %s: not all of the difference "
            "between them is the emulator's error",
            " and ".join(other),
        )
    return NativeSynthesis(synthesizer)
