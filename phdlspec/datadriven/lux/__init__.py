"""Lux: labels from spectra by a latent vector that explains both, with missing labels and errors on both sides.

After Horta et al. (2025); equations from the paper, code and choices our own (docs/lux.md).
"""

from phdlspec.datadriven.lux.flags import LUX_WORDS, LuxFlag
from phdlspec.datadriven.lux.lux import Lux, Prediction
from phdlspec.datadriven.lux.training import train

__all__ = ["LUX_WORDS", "Lux", "LuxFlag", "Prediction", "train"]
