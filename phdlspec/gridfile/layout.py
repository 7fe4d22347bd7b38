"""The grid file: normalised spectra with all their differential spectra.

```
/                       attrs: format="phdlspec-grid", version=1, form, solar_scale, code_version, created,
│                       seed, resolving_power, dlnlam, medium="vacuum", checksums of line list and
│                       atmospheres, settings
├── wave                (P,) float64            vacuum Å, log-uniform
├── label_names         (L,) str ; label_units  (L,) str
├── labels              (N, L) float64
├── flux                (N, P) float32          flux over continuum
├── continuum           (N, Pc) float32         erg/cm2/s/Å at the stellar surface, NaN where unknown
├── continuum_wave      (Pc,) float64           vacuum Å
├── jacobian            (N, L, P) int16         d flux / d label = jacobian_scale * jacobian, label units
├── jacobian_scale      (N, L) float32          (both are absent in imported grids without derivatives)
├── done                (N,) uint8              1: the row is complete
├── reason              (N,) str                why a row is not
└── split               (N,) uint8              0 train, 1 validation, 2 test
```
L = 32: the label table without VBROAD, which is a convolution. Two forms share the layout: *full*
(R = 12,000, 1/30,000 in ln wave) can be convolved to R = 1300-6000; *survey* (R = 3500, 1/8750, P = 7909) to
R up to 2800.

The file is only ever replaced as a whole. While a grid is being made its rows lie in `grid.h5.parts/` (see
`phdlspec.gridfile.parts`), where `phdlspec.gridfile.Grid` reads them as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import h5py
import numpy as np
from numpy.typing import NDArray

FORMAT, VERSION = "phdlspec-grid", 1
WAVE_MIN, WAVE_MAX = 3690.0, 9110.0  # vacuum Å
CONTINUUM_WAVE: NDArray[np.float64] = np.geomspace(WAVE_MIN, WAVE_MAX, 272)
SPLITS = {"train": 0, "validation": 1, "test": 2}
# Letters of the drawing above by dataset, kinds of numpy, and the most that is believed of each letter.
_ARRAYS = {
    "wave": ("P", "f"), "label_names": ("L", "SO"), "label_units": ("L", "SO"), "labels": ("NL", "f"),
    "flux": ("NP", "f"), "continuum": ("NC", "f"), "continuum_wave": ("C", "f"), "done": ("N", "ui"),
    "reason": ("N", "SO"), "split": ("N", "ui"),
}  # fmt: skip
_DERIVATIVES = {"jacobian": ("NLP", "i"), "jacobian_scale": ("NL", "f")}
_MOST = {"N": 1_000_000, "P": 200_000, "C": 10_000, "L": 200}
_MOST_CHUNK = 1 << 28  # bytes that are unpacked at once


@dataclass(frozen=True)
class SpectrumForm:
    """Resolution and sampling at which spectra are stored."""

    name: str
    resolving_power: float
    dlnlam: float

    @property
    def wave(self) -> NDArray[np.float64]:
        """Wavelengths (P,) from `WAVE_MIN` to at least `WAVE_MAX`, vacuum Å."""
        steps = math.ceil(math.log(WAVE_MAX / WAVE_MIN) / self.dlnlam)
        return np.asarray(WAVE_MIN * np.exp(self.dlnlam * np.arange(steps + 1)))


FORMS: dict[str, SpectrumForm] = {
    "full": SpectrumForm("full", 12_000.0, 1 / 30_000),
    "survey": SpectrumForm("survey", 3_500.0, 1 / 8_750),
}


def check_layout(file: h5py.File) -> None:
    """Raise `ValueError` where an array of a grid is of another kind or shape, or tells of more than can be, before any
    of it is read."""
    sizes: dict[str, int] = {}
    for name, (letters, kinds) in (_ARRAYS | (_DERIVATIVES if "jacobian" in file else {})).items():
        item = file[name]
        if not isinstance(item, h5py.Dataset) or item.ndim != len(letters) or item.dtype.kind not in kinds:
            raise ValueError(f"{name} is of another kind")
        for letter, size in zip(letters, item.shape):
            if sizes.setdefault(letter, size) != size:
                raise ValueError("arrays differ in length")
            if size > _MOST[letter]:
                raise ValueError(f"{name} tells of {size}, expected at most {_MOST[letter]}")
        if item.chunks and math.prod(item.chunks) * item.dtype.itemsize > _MOST_CHUNK:
            raise ValueError(f"{name} is stored in too large pieces")
