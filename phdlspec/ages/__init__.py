"""Ages and masses from labels, parallaxes and magnitudes by isochrones. Knows catalogues, nothing of spectra.

>>> from astropy.table import Table
>>> Table({"OBSID": ["a"], "TEFF": [5600.0], "TEFF_ERR": [30.0], "LOGG": [3.95], "LOGG_ERR": [0.05],
...        "FE_H": [-0.3], "FE_H_ERR": [0.03]}).write("subgiants.ecsv")
>>> ages = phdlspec.ages.infer("subgiants.ecsv", "mist")
>>> bool(6 < ages["AGE"][0] < 14), ages["AGE"].unit == "Gyr"
(True, True)
"""

from phdlspec.ages.inference import infer, make_ages
from phdlspec.ages.readers import read_isochrones

__all__ = ["infer", "make_ages", "read_isochrones"]
