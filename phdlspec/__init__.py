"""phdlspec: about thirty stellar labels from low-resolution spectra, with an emulator that obeys Kurucz derivatives.

The public names are declared in `__init__.pyi` and loaded on first use, so that `import phdlspec` and the label table
cost nothing.

Examples in the docstrings of this package begin with a K giant that is in it, and its fit:

>>> from importlib import resources
>>> import numpy as np
>>> import torch
>>> import phdlspec
>>> path = resources.files("phdlspec") / "data" / "example.fits.gz"
>>> spectrum = phdlspec.read_spectrum(path)
>>> emulator = phdlspec.load_emulator(device="cpu")
>>> result = phdlspec.fit(spectrum, emulator, mode="fast")
>>> 4700 < result["TEFF"] < 4900
True
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
