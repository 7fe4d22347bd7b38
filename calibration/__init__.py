"""calibration: the systematic errors of a catalogue, learned from stars that are known better, and taken out.

The public names are declared in `__init__.pyi` and loaded on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
