"""kurucz_grids: synthetic spectra of Kurucz's atmospheres and lines, with their derivatives by every label.

The public names are declared in `__init__.pyi` and loaded on first use.

Kurucz's atmospheres and line lists are not in the package (`phdlspec grid fetch`). In the examples of its docstrings
grey atmospheres and two lines of iron stand for them:

>>> from itertools import product
>>> import numpy as np
>>> import kurucz_grids
>>> from kurucz_grids.atmospheres import Atmosphere
>>> tau = np.logspace(-5.5, 1.5, 50)
>>> opacity = 0.05 + 0.4 * tau**0.5
>>> depth = np.cumsum(np.gradient(tau) / opacity)
>>> def grey(teff, logg, mh):
...     temperature, pressure = teff * (0.75 * (tau + 2 / 3)) ** 0.25, 10**logg * depth
...     electrons = 1e-4 * pressure / (1.380649e-16 * temperature)
...     return Atmosphere(teff, logg, mh, 2.0, depth, temperature, pressure, electrons, opacity, 0 * tau + 1e-3)
>>> nodes = product((4750.0, 5000.0, 5250.0, 5500.0), (3.0, 3.5, 4.0, 4.5), (-0.5, 0.0, 0.5))
>>> atmospheres = kurucz_grids.AtmosphereGrid.from_atmospheres([grey(*node) for node in nodes])
>>> moog = [[5150.839, 26.0, 0.99, -3.07], [5151.911, 26.0, 1.01, -3.32]]  # Å in air, species, eV, log gf
>>> np.savetxt("lines.txt", moog, fmt="%10.3f", header="iron, wavelengths in air", comments="")
>>> lines = kurucz_grids.read_line_list("lines.txt")
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
