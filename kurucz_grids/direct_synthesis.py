"""Direct synthesis from files: one spectrum with its derivatives, and what the fitting side asks for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.linelists import LineList, read_line_list
from kurucz_grids.linelists.star_calibration import calibrated
from kurucz_grids.synthesis import SynthesisSettings, Synthesizer
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


class Synthesized(NamedTuple):
    """A spectrum on the fine grid: wave (P,) vacuum Å, flux (P,) over continuum, jacobian (32, P) of the flux by each
    label of `phdlspec.labels.GRID_LABELS`, per label unit.

    >>> star = kurucz_grids.Synthesized(np.array([5000.0]), np.ones(1), np.zeros((32, 1)))
    >>> wave, flux, jacobian = star
    """

    wave: NDArray[np.float64]
    flux: NDArray[np.float32]
    jacobian: NDArray[np.float32]


def synthesize(
    labels: Mapping[str, float] | ArrayLike,
    *,
    atmospheres: AtmosphereGrid | Path | str,
    line_list: LineList | Path | str | Sequence[str | Path],
    settings: SynthesisSettings = SynthesisSettings(),  # noqa: B008 (frozen)
    device: str = "cpu",
) -> Synthesized:
    """Synthesise a star's normalised spectrum and its derivatives by every label.

    Parameters
    ----------
    labels : by name (what is missing is scaled solar, with a typical VMIC), or (32,) in the order of `GRID_LABELS`.
    atmospheres : a grid of model atmospheres, or its file or folder.
    line_list : a line list, or its files and folders; what is read from files is corrected as real stars want it
        (`linelists.star_calibration`).
    settings : wavelength range, sampling and cuts, see `synthesis.SynthesisSettings`.
    device : "cpu" or "cuda", for lines and transfer.

    The last files that were given stay in memory, so that further spectra of them cost the synthesis alone.
    Raises `UserError` for labels without an atmosphere, for files that cannot be read, and without the extra [grids].

    >>> from kurucz_grids.synthesis import SynthesisSettings
    >>> settings = SynthesisSettings(wave_min=5150.0, wave_max=5156.0, compiled=False)
    >>> star = kurucz_grids.synthesize(
    ...     {"TEFF": 5000.0, "LOGG": 3.4}, atmospheres=atmospheres, line_list=lines, settings=settings
    ... )
    >>> star.jacobian.shape == (32, star.wave.size)
    True
    """
    if isinstance(atmospheres, (str, Path)) and not isinstance(line_list, LineList):
        files = (line_list,) if isinstance(line_list, (str, Path)) else tuple(line_list)
        synthesizer = _of_files(atmospheres, files, settings, device)
    else:
        grid = atmospheres if isinstance(atmospheres, AtmosphereGrid) else AtmosphereGrid.load(atmospheres)
        lines = line_list if isinstance(line_list, LineList) else calibrated(read_line_list(line_list))
        synthesizer = Synthesizer(grid, lines, settings, device)
    model = synthesizer.synthesize(labels)
    assert model.jacobian is not None
    wave, flux, jacobian = (x.cpu().numpy() for x in (model.wave, model.flux, model.jacobian))
    return Synthesized(wave, flux, jacobian)


@lru_cache(maxsize=1)
def _of_files(
    atmospheres: str | Path, line_list: tuple[str | Path, ...], settings: SynthesisSettings, device: str
) -> Synthesizer:
    lines = calibrated(read_line_list(line_list))
    return Synthesizer(AtmosphereGrid.load(atmospheres), lines, settings, device)


def provide(atmospheres: str, line_list: Sequence[str], made_with: Mapping[str, Any]) -> NativeSynthesis:
    """Direct synthesis from files.

    Warns where they are not what the emulator was made with, the grid attributes `made_with`: their differences would
    pass for its errors.
    """
    synthesizer = _of_files(atmospheres, tuple(line_list), SynthesisSettings(), "cpu")
    other = [what for name, what in PHYSICS.items() if synthesizer.provenance[name] != made_with.get(name)]
    if other:
        log.warning(
            "direct synthesis differs from what the emulator was made with in its %s: not all of the difference "
            "between them is the emulator's error",
            " and ".join(other),
        )
    return NativeSynthesis(synthesizer)
