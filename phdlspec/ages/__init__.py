"""Ages and masses from labels, parallaxes and magnitudes by isochrones. Knows catalogues, nothing of spectra."""

from phdlspec.ages.inference import infer, make_ages
from phdlspec.ages.readers import read_isochrones

__all__ = ["infer", "make_ages", "read_isochrones"]
