"""phdlspec: about thirty stellar labels from low-resolution spectra, with an emulator that obeys Kurucz derivatives.

The public names are declared in `__init__.pyi` and loaded on first use, so that `import phdlspec` and the label table
cost nothing.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
