"""The three kinds of reference, as small tables that validate themselves.

Minimal schema of a table of each kind (names in any capitals; extra columns are ignored):

=============  =====================================================
               ===========================================
kind           needed                                                 optional
=============  =====================================================
               ===========================================
wide binaries  ID_1 ID_2, or RA_1 DEC_1 RA_2 DEC_2 (deg)              P_PAIR (0-1); D_<LABEL> D_<LABEL>_ERR,
                                                                      the
                                                                      known difference star 1 minus star 2
cluster        ID, or RA DEC (deg)                                    CLUSTER (name), P_MEMBER (0-1)
labels         ID, or RA DEC; <LABEL> <LABEL>_ERR for any label       <LABEL>_FLAG (non-zero: not used)
               of the catalogue; the solar scale, as SOLSCALE in the
               header or on the command line
=============  =====================================================
               ===========================================

<LABEL> is a catalogue column: TEFF, LOGG, VMIC, FE_H, MG_FE ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.scales import check_scale, is_abundance
from phdlspec.errors import UserError

Values = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


@dataclass(frozen=True)
class Stars:
    """Who the stars are: identifiers, positions, or both.

    Attributes
    ----------
    ids : (n,) str, '' where unknown, or None
    ra, dec : (n,) degrees, NaN where unknown, or None

    >>> stars = calibration.Stars(ra=np.array([132.8, 132.9]), dec=np.array([11.8, 11.9]))
    >>> stars.ids is None
    True
    """

    ids: NDArray[np.str_] | None = None
    ra: NDArray[np.float64] | None = None
    dec: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.ids is None and (self.ra is None or self.dec is None):
            raise UserError("a reference table needs identifiers (ID) or positions (RA, DEC)")
        if self.dec is not None and np.any(np.abs(self.dec[np.isfinite(self.dec)]) > 90):
            raise UserError("a reference table has |DEC| > 90, expected degrees")

    def __len__(self) -> int:
        return len(self.ids) if self.ids is not None else len(self.ra)  # type: ignore[arg-type]

    def take(self, index: NDArray[Any]) -> Stars:
        """The stars at an index or mask."""
        return Stars(*(None if x is None else x[index] for x in (self.ids, self.ra, self.dec)))


@dataclass(frozen=True)
class PairTable:
    """Wide binaries. `probability` (n,) is that of a true pair; `difference[label]` the known (value, error),
    1 - 2.

    >>> first, second = calibration.Stars(ids=np.array(["1"])), calibration.Stars(ids=np.array(["2"]))
    >>> calibration.PairTable("wide pairs", first, second, probability=np.array([0.95])).name
    'wide pairs'
    """

    name: str
    first: Stars
    second: Stars
    probability: NDArray[np.float64]
    difference: Values = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.first) != len(self.second):
            raise UserError(f"{self.name}: the two columns of stars differ in length")
        _check_probability(self.name, "P_PAIR", self.probability)


@dataclass(frozen=True)
class ClusterTable:
    """Members of one cluster. `probability` (n,) is that of membership.

    >>> stars = calibration.Stars(ids=np.array(["1", "2"]))
    >>> calibration.ClusterTable("M67", stars, probability=np.array([0.99, 0.8])).name
    'M67'
    """

    name: str
    stars: Stars
    probability: NDArray[np.float64]

    def __post_init__(self) -> None:
        _check_probability(self.name, "P_MEMBER", self.probability)


@dataclass(frozen=True)
class LabelTable:
    """Labels from elsewhere: `values[label] = (value, error)`, each (n,), NaN where missing or flagged.

    `solar_scale` may be None only if there is no abundance among the labels.

    >>> stars = calibration.Stars(ids=np.array(["1", "2"]))
    >>> values = {"FE_H": (np.array([0.02, -0.3]), np.array([0.05, 0.05]))}
    >>> calibration.LabelTable("survey", stars, values, solar_scale="Asplund2009").solar_scale
    'Asplund2009'
    """

    name: str
    stars: Stars
    values: Values
    solar_scale: str | None = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.values:
            raise UserError(f"{self.name}: no label column found, expected TEFF, LOGG, FE_H, MG_FE ... with _ERR")
        abundances = [label for label in self.values if is_abundance(label)]
        if abundances and self.solar_scale is None:
            raise UserError(
                f"{self.name}: the solar scale of {abundances[0]} is not stated; write SOLSCALE into its "
                f"header "
                "or give --solar-scale"
            )
        if self.solar_scale is not None:
            check_scale(self.solar_scale, self.name)
        for label, (value, error) in self.values.items():
            bad = np.isfinite(value) & ~(error > 0)
            if bad.any():
                raise UserError(
                    f"{self.name}: {label} has {bad.sum()} value(s) without a positive error {label}_ERR; "
                    "give errors or leave the value empty"
                )


def _check_probability(name: str, column: str, probability: NDArray[np.float64]) -> None:
    if np.any(~((probability >= 0) & (probability <= 1))):
        raise UserError(f"{name}: {column} must lie between 0 and 1")


def refuse_duplicates(name: str, column: str, ids: NDArray[np.str_]) -> None:
    """Raise `UserError` if an identifier occurs twice."""
    known, counts = np.unique(ids[ids != ""], return_counts=True)
    if (counts > 1).any():
        raise UserError(
            f"{name}: identifier {known[counts > 1][0]} occurs {counts.max()} times in column {column}"
            f" ({(counts > 1).sum()} such); keep one row a star"
        )
