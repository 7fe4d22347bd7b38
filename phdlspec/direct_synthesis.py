"""What phdlspec asks of direct synthesis, the truth that the emulator imitates, and the package that provides it.

The physics lives in `kurucz_grids`, which phdlspec does not import: it is named here and found when it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from phdlspec.errors import UserError
from phdlspec.lsf import NativeGrid

PROVIDER = "kurucz_grids.direct_synthesis"  # its function `provide(atmospheres, line_list, made_with)`


class DirectSynthesis(Protocol):
    """Normalised ab initio spectra of labels (32,), those of a grid, without broadening, on a native grid."""

    def native_flux(self, theta: NDArray[np.float64], native: NativeGrid) -> Tensor:
        """Flux (Pn,)."""
        ...

    def native_flux_and_jacobian(self, theta: NDArray[np.float64], native: NativeGrid) -> tuple[Tensor, Tensor]:
        """Flux (Pn,) and derivatives (32, Pn), per label unit."""
        ...


def load_direct_synthesis(
    atmospheres: str | None, line_list: Sequence[str] | None, made_with: Mapping[str, Any]
) -> DirectSynthesis:
    """Direct synthesis from files of model atmospheres and of one or more line lists.

    `made_with` are the attributes of the grid that the emulator learned from: a warning tells where these files are
    others. Raises `UserError` where something is missing.

    With model atmospheres and a line list (those of the examples of `kurucz_grids`):

    >>> atmospheres.save("atmospheres.npz")
    >>> direct = phdlspec.load_direct_synthesis("atmospheres.npz", ["lines.txt"], {})
    >>> callable(direct.native_flux)
    True
    """
    if not atmospheres or not line_list:
        raise UserError(
            "direct synthesis needs --atmospheres and --line-list (see `phdlspec grid build --help`), and [grids]"
        )
    found: DirectSynthesis = importlib.import_module(PROVIDER).provide(atmospheres, line_list, made_with)
    return found
