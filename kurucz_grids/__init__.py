"""kurucz_grids: synthetic spectra of Kurucz's atmospheres and lines, with their derivatives by every label.

The public names are declared in `__init__.pyi` and loaded on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
