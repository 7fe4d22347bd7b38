"""The labels of a star: one table declares name, unit, bounds and meaning; everything else is made from it.

Radial velocity and resolving power belong to the observation, not to the star's model, and are not in this table.

`LABELS` is the table:

>>> [label.name for label in phdlspec.LABELS[:4]], len(phdlspec.LABELS)
(['TEFF', 'LOGG', 'VMIC', 'FE_H'], 33)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phdlspec.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor  # the label table itself costs no torch

Values = TypeVar("Values", NDArray[np.float64], "Tensor")


_SYMBOLS = {"TEFF": "Teff", "LOGG": "log g", "VMIC": "vmic", "FE_H": "[Fe/H]", "VBROAD": "vbroad"}


class Role(Enum):
    """What a label does: a main parameter of the atmosphere; changes one element's abundance; broadens the spectrum."""

    MAIN = "main"
    ABUNDANCE = "abundance"
    BROADENING = "broadening"


@dataclass(frozen=True)
class Label:
    """One label: its catalogue column, unit, bounds, role and one-line description."""

    name: str
    unit: str
    lower: float
    upper: float
    role: Role
    description: str

    @property
    def element(self) -> str | None:
        """Chemical symbol of an [X/Fe] label (`"Mg"` for `MG_FE`), `None` for the others."""
        return self.name[:-3].capitalize() if self.role is Role.ABUNDANCE else None

    @property
    def symbol(self) -> str:
        """As people write it: Teff, log g, [Mg/Fe]."""
        return f"[{self.element}/Fe]" if self.element else _SYMBOLS[self.name]


ELEMENTS: tuple[str, ...] = tuple(
    "C N O Na Mg Al Si S K Ca Sc Ti V Cr Mn Co Ni Cu Zn Sr Y Zr Ba La Ce Nd Sm Eu".split()
)


def abundance_name(element: str) -> str:
    """Name of the label [X/Fe] of an element: `"MG_FE"` for `"Mg"`."""
    return f"{element.upper()}_FE"


def _abundance_label(element: str) -> Label:
    half_range = 0.7 if element in ("C", "N") else 0.5
    description = f"abundance ratio [{element}/Fe], solar scale of Asplund et al. (2009)"
    return Label(abundance_name(element), "dex", -half_range, half_range, Role.ABUNDANCE, description)


LABELS: tuple[Label, ...] = (
    Label("TEFF", "K", 3600.0, 8000.0, Role.MAIN, "effective temperature"),
    Label("LOGG", "dex", 0.0, 5.2, Role.MAIN, "logarithm of the surface gravity in cm/s2"),
    Label("VMIC", "km/s", 0.5, 3.0, Role.MAIN, "microturbulence velocity"),
    Label("FE_H", "dex", -4.0, 0.5, Role.MAIN, "metallicity [Fe/H], solar scale of Asplund et al. (2009)"),
    *(_abundance_label(element) for element in ELEMENTS),
    Label("VBROAD", "km/s", 0.0, 60.0, Role.BROADENING, "rotation and macroturbulence together, as a rotation profile"),
)


def squashed(name: str) -> str:
    """A name as it is compared: capitals and digits alone, so that `[Fe/H]`, `Fe_H` and `feh` are one."""
    return re.sub(r"[^A-Z0-9]", "", name.upper())


_ALIASES: dict[str, str] = {
    **{squashed(label.name): label.name for label in LABELS},
    **dict.fromkeys(("TEFFK", "TEMPERATURE", "EFFECTIVETEMPERATURE"), "TEFF"),
    **dict.fromkeys(("LOGGRAV", "SURFACEGRAVITY", "LOGGCGS"), "LOGG"),
    **dict.fromkeys(("VTURB", "VTUR", "VMICRO", "XI", "XITURB", "MICROTURBULENCE"), "VMIC"),
    **dict.fromkeys(("IRON", "FEHDEX"), "FE_H"),
}


def label_of(name: str) -> str | None:
    """The label that a name as people write it means (`[Fe/H]`, `feh`, `MgFe`, `Teff`), None where it is none."""
    return _ALIASES.get(squashed(name))


class LabelSet:
    """An ordered set of labels with their bounds as arrays, and conversions between dictionaries and vectors.

    Parameters
    ----------
    labels : sequence of Label; the default is the full table.

    Attributes
    ----------
    names : tuple of str
    lower, upper : ndarray (L,)

    >>> labels = phdlspec.LabelSet()
    >>> labels["[Mg/Fe]"].upper
    0.5
    >>> labels.complete({"Teff": 5777, "log g": 4.44}).shape  # the others scaled solar
    (33,)
    """

    def __init__(self, labels: tuple[Label, ...] = LABELS):
        self.labels = tuple(labels)
        self.names = tuple(label.name for label in self.labels)
        self.lower = np.array([label.lower for label in self.labels])
        self.upper = np.array([label.upper for label in self.labels])
        self._index = {name: i for i, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __getitem__(self, name: str) -> Label:
        return self.labels[self.index(name)]

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelSet) and self.labels == other.labels

    def __hash__(self) -> int:
        return hash(self.labels)

    def index(self, name: str) -> int:
        """Position of a label, also by another usual name (`label_of`); an unknown one is refused with the nearest."""
        known = name if name in self._index else label_of(name)
        if known in self._index:
            return self._index[known]
        near = get_close_matches(name.upper(), self.names, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]}?" if near else f"; known labels are {' '.join(self.names)}"
        raise UserError(f"unknown label {name!r}{hint}")

    def place(self, *roles: Role) -> slice:
        """Where the labels of these roles stand: together, as the table has them."""
        at = [i for i, label in enumerate(self.labels) if label.role in roles]
        if at != list(range(at[0], at[0] + len(at))):
            raise ValueError(f"the labels of the roles {' '.join(role.value for role in roles)} do not stand together")
        return slice(at[0], at[0] + len(at))

    def to_unit(self, theta: ArrayLike) -> NDArray[np.float64]:
        """Scale labels (..., L) so that the bounds become 0 and 1."""
        return np.asarray((np.asarray(theta, dtype=float) - self.lower) / (self.upper - self.lower))

    def from_unit(self, unit: ArrayLike) -> NDArray[np.float64]:
        """Inverse of `to_unit`."""
        return np.asarray(self.lower + np.asarray(unit, dtype=float) * (self.upper - self.lower))

    def inside(self, theta: ArrayLike) -> NDArray[np.bool_]:
        """True for each label vector (..., L) that lies within all bounds."""
        theta = np.asarray(theta, dtype=float)
        return np.asarray(((theta >= self.lower) & (theta <= self.upper)).all(axis=-1))

    def complete(self, values: Mapping[str, float]) -> NDArray[np.float64]:
        """A label vector (L,) from a few named values: the rest is scaled solar with a typical VMIC.

        TEFF and LOGG default to the Sun's. Raises `UserError` for an unknown name or a value that is not finite.
        """
        theta = np.zeros(len(self))
        given: dict[str, float] = {"TEFF": 5772.0, "LOGG": 4.438}
        for name, value in values.items():
            known = self.names[self.index(name)]
            try:
                given[known] = float(value)
            except (TypeError, ValueError) as error:
                raise UserError(f"label {name} is {value!r}, expected a number") from error
            if not np.isfinite(given[known]):
                raise UserError(f"label {name} is {value}, expected a finite number")
        for name, value in given.items():
            theta[self.index(name)] = value
        if "VMIC" not in given and "VMIC" in self:
            teff, logg, fe_h = (theta[self.index(name)] for name in STRUCTURE)
            theta[self.index("VMIC")] = typical_vmic(teff, logg, fe_h)
        return theta


STRUCTURE = ("TEFF", "LOGG", "FE_H")  # the main labels that set the structure of an atmosphere
# What a grid is made of: the labels that change the emergent spectrum itself; broadening is a convolution of it.
GRID_ROLES = (Role.MAIN, Role.ABUNDANCE)
GRID_LABELS = LabelSet(LABELS[LabelSet().place(*GRID_ROLES)])


def typical_vmic(teff: Values, logg: Values, fe_h: Values) -> Values:
    """Typical microturbulence in km/s (Ramirez, Allende Prieto & Lambert 2013, ApJ 764, 78), kept within 0.7-2.5.

    For arrays and tensors of Teff (K), log g and [Fe/H] alike. The relation was made for dwarfs and subgiants; for
    giants it is extrapolated in logg and reaches the 2 km/s that is seen there.
    """
    vmic = 1.163 + 7.808e-4 * (teff - 5800.0) - 0.494 * (logg - 4.30) - 0.050 * fe_h
    return vmic.clip(0.7, 2.5)
