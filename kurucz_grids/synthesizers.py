"""What a build asks of a synthesizer, and how workers make the one of this package from file names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.linelists import read_line_list
from kurucz_grids.linelists.star_calibration import calibrated
from kurucz_grids.synthesis import SynthesisSettings, Synthesizer


class FineSpectrum(Protocol):
    """What a synthesizer returns: see `kurucz_grids.synthesis.SyntheticSpectrum`.

    wave (P,) vacuum Å, log-uniform, unbroadened; flux (P,) over continuum; continuum (P,) erg/cm2/s/Å;
    jacobian (32, P) of the flux over continuum. Arrays or tensors.
    """

    @property
    def wave(self) -> Any: ...
    @property
    def flux(self) -> Any: ...
    @property
    def continuum(self) -> Any: ...
    @property
    def jacobian(self) -> Any: ...


class ModelSynthesizer(Protocol):
    """Spectra of labels, with `provenance`: what determines them (checksums, settings)."""

    @property
    def provenance(self) -> Mapping[str, Any]: ...

    def synthesize(self, labels: NDArray[np.float64], /) -> FineSpectrum:
        """The spectrum of labels (32,)."""
        ...


SynthesizerFactory = Callable[[], ModelSynthesizer]


@dataclass(frozen=True)
class KuruczFactory:
    """Makes the synthesizer of this package from file names: picklable, as worker processes need it.

    line_list : one file or folder, or several. medium : "air" or "vacuum" where the line list does not say it, else
    None. calibrated : line data as real stars want them (`linelists.star_calibration`).
    """

    atmospheres: str
    line_list: str | tuple[str, ...]
    device: str = "cpu"
    settings: Mapping[str, Any] = field(default_factory=dict)
    medium: str | None = None
    calibrated: bool = True

    def __call__(self) -> ModelSynthesizer:
        lines = read_line_list(self.line_list, self.medium)
        return Synthesizer(
            AtmosphereGrid.load(self.atmospheres),
            calibrated(lines) if self.calibrated else lines,
            SynthesisSettings(**self.settings),
            device=self.device,
        )
