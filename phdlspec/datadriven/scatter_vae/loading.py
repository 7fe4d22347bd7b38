"""Reading a trained model of either form, or the shipped one by its name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from phdlspec.datadriven.scatter_vae.spectrum_model import FORM as SPECTRUM
from phdlspec.datadriven.scatter_vae.spectrum_model import SpectrumModel
from phdlspec.datadriven.scatter_vae.storage import read_model
from phdlspec.datadriven.scatter_vae.xp_model import XPModel
from phdlspec.errors import UserError, first_line

SHIPPED = {"lamost": "vae_lamost.safetensors"}


def model_path(name: str | Path) -> Path:
    """The file of a model: that of a shipped one for its name, where no file is called so."""
    if str(name) in SHIPPED and not Path(name).exists():
        return Path(str(resources.files("phdlspec") / "data" / SHIPPED[str(name)]))
    return Path(name)


def load_model(path: str | Path) -> SpectrumModel | XPModel:
    """Read a model; "lamost" is the shipped one of LAMOST's low-resolution spectra.

    Raises `UserError` for a file that is missing, damaged or something else.
    """
    header, state, arrays = read_model(model_path(path))
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
