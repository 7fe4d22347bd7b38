"""Resolution: Gaussian line spread functions on log-uniform grids."""

from phdlspec.lsf.degrading import broaden, degrade
from phdlspec.lsf.native_grid import NativeGrid
from phdlspec.lsf.projection import (
    at_resolving_power,
    kernel_half_width,
    pixel_weights,
    project,
    project_with_derivatives,
    valid_pixels,
)

__all__ = [
    "NativeGrid",
    "at_resolving_power",
    "broaden",
    "degrade",
    "kernel_half_width",
    "pixel_weights",
    "project",
    "project_with_derivatives",
    "valid_pixels",
]
