"""phdlspec: about thirty stellar labels from low-resolution spectra, with an emulator that obeys Kurucz derivatives.

The public names are loaded on first use, so that `import phdlspec` and the label table cost nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "LabelSet": "phdlspec.labels",
    "Emulator": "phdlspec.emulator.emulator",
    "load_emulator": "phdlspec.default_emulator",
    "Spectrum": "phdlspec.spectrum",
    "read_spectrum": "phdlspec.io",
    "UserError": "phdlspec.errors",
    "fit": "phdlspec.fitting.driver",
    "fit_many": "phdlspec.catalog",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'phdlspec' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
