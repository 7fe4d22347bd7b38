"""ScatterVAE: spectra explained without labels, with a scatter for every pixel of every star.

After Laroche & Speagle (2025): the form for Gaia XP coefficients is theirs, that for spectra our own
(docs/scatter_vae.md).
"""

from phdlspec.datadriven.scatter_vae.flags import VAE_WORDS, VaeFlag
from phdlspec.datadriven.scatter_vae.loading import load_model, load_spectrum_model
from phdlspec.datadriven.scatter_vae.spectrum_model import SpectrumModel
from phdlspec.datadriven.scatter_vae.spectrum_training import SpectrumSettings, train_spectra
from phdlspec.datadriven.scatter_vae.xp_model import XPModel
from phdlspec.datadriven.scatter_vae.xp_network import read_published
from phdlspec.datadriven.scatter_vae.xp_table import read_xp
from phdlspec.datadriven.scatter_vae.xp_training import XPSettings, train_xp

__all__ = [
    "VAE_WORDS", "SpectrumModel", "SpectrumSettings", "VaeFlag", "XPModel", "XPSettings", "load_model",
    "load_spectrum_model", "read_published", "read_xp", "train_spectra", "train_xp",
]  # fmt: skip
