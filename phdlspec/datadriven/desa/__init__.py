"""DESA: spectra and light curves of stars in one embedding.

After Kamai, Bronstein & Perets (2025); equations from the paper, code and choices our own (docs/desa.md).
"""

from phdlspec.datadriven.desa.desa import Desa, DesaSettings
from phdlspec.datadriven.desa.flags import DESA_WORDS, DesaFlag
from phdlspec.datadriven.desa.light_curve import LightCurve, read_segment, stitch
from phdlspec.datadriven.desa.light_curve_set import LightCurveSet, read_light_curves
from phdlspec.datadriven.desa.stars import DesaStars, gather
from phdlspec.datadriven.desa.training import train

__all__ = [
    "DESA_WORDS", "Desa", "DesaFlag", "DesaSettings", "DesaStars", "LightCurve", "LightCurveSet", "gather",
    "read_light_curves", "read_segment", "stitch", "train",
]  # fmt: skip
