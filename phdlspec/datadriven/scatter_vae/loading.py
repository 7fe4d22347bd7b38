"""Reading a trained model of either form."""

from __future__ import annotations

from pathlib import Path

from phdlspec.datadriven.scatter_vae.spectrum_model import FORM as SPECTRUM
from phdlspec.datadriven.scatter_vae.spectrum_model import SpectrumModel
from phdlspec.datadriven.scatter_vae.storage import read_model
from phdlspec.datadriven.scatter_vae.xp_model import XPModel
from phdlspec.errors import UserError, first_line


def load_model(path: str | Path) -> SpectrumModel | XPModel:
    """Read a model. Raises `UserError` for a file that is missing, damaged or something else."""
    header, state, arrays = read_model(path)
    try:
        kind = SpectrumModel if header["form"] == SPECTRUM else XPModel
        return kind.of_parts(header, state, arrays)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: a damaged model ({first_line(error)}); train or copy it again") from error


def load_spectrum_model(path: str | Path) -> SpectrumModel:
    """Read a model of spectra. Raises `UserError` for one of XP coefficients too."""
    model = load_model(path)
    if not isinstance(model, SpectrumModel):
        raise UserError(f"{path}: a model of XP coefficients, expected one of spectra (vae train --form spectrum)")
    return model
