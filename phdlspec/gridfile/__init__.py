"""The grid file, which `kurucz_grids` writes and the emulator learns from: its layout and its reader."""

from phdlspec.gridfile.grid import Grid
from phdlspec.gridfile.layout import (
    CONTINUUM_WAVE,
    FORMAT,
    FORMS,
    SPLITS,
    VERSION,
    WAVE_MAX,
    WAVE_MIN,
    SpectrumForm,
)

__all__ = ["CONTINUUM_WAVE", "FORMAT", "FORMS", "SPLITS", "VERSION", "WAVE_MAX", "WAVE_MIN", "SpectrumForm", "Grid"]
