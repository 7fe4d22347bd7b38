"""Models learned from data: one data set for all of them, one sub-package for each."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["desa", "lux", "scatter_vae"])
