"""DESA: spectra and light curves of stars in one embedding.

After Kamai, Bronstein & Perets (2025); equations from the paper, code and choices our own (docs/desa.md).
"""

from phdlspec.datadriven.desa.desa import Desa, Settings
from phdlspec.datadriven.desa.flags import DESA_WORDS, DesaFlag
from phdlspec.datadriven.desa.light_curve import LightCurve, read_segment, stitch
from phdlspec.datadriven.desa.light_curve_set import LightCurveSet, read_light_curves
from phdlspec.datadriven.desa.stars import Stars, gather
from phdlspec.datadriven.desa.training import train

__all__ = [
    "DESA_WORDS", "Desa", "DesaFlag", "LightCurve", "LightCurveSet", "Settings", "Stars", "gather", "read_light_curves",
    "read_segment", "stitch", "train",
]  # fmt: skip
