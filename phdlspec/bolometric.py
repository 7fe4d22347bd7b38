"""Photometric bands: extinction, and bolometric corrections as polynomials in Teff, log g and [M/H].

Extinction in a band is A_band = k A_V with constant k (Wang & Chen 2019, ApJ 877, 116, Table 3, a red clump star).

BC = sum_ijk c_ijk x^i y^j z^k with x = (5040 K / Teff - 0.9) / 0.2, y = (log g - 3.5) / 1.5, z = [M/H] + 0.5, fitted by
`scripts/bolometric_corrections.py` to the tables of C3K model spectra that MIST uses (Choi et al. 2016), without
extinction, at 4000-8000 K, log g 0.5-5, [M/H] -2.5 to 0.5. The zero point is M_bol = 4.74 for the Sun. The scatter
about the polynomial counts as an error of the magnitude.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float64]
Values = TypeVar("Values", NDArray[np.float64], "Tensor")

SOLAR_MBOL = 4.74  # IAU 2015 Resolution B2
FILE = "bolometric_corrections.json"
TEFF_RANGE, LOGG_RANGE, MH_RANGE = (4000.0, 8000.0), (0.5, 5.0), (-2.5, 0.5)
_MARGIN = 0.02  # in the scaled variables, so that the edges themselves count as inside


@dataclass(frozen=True)
class Band:
    """A photometric band: names of its column in sets and in users' tables, and A_band / A_V."""

    description: str
    extinction: float
    mist: tuple[str, ...]
    parsec: tuple[str, ...]
    columns: tuple[str, ...]
    errors: tuple[str, ...]


BANDS: dict[str, Band] = {
    "G": Band(
        "Gaia DR3 G", 0.789, ("Gaia_G_EDR3",), ("Gmag", "G_fSBmag"), ("G", "GMAG", "PHOT_G_MEAN_MAG"),
        ("G_ERR", "E_GMAG", "PHOT_G_MEAN_MAG_ERROR"),
    ),
    "BP": Band(
        "Gaia DR3 BP", 1.002, ("Gaia_BP_EDR3",), ("G_BPmag", "G_BP_fSBmag"), ("BP", "BPMAG", "PHOT_BP_MEAN_MAG"),
        ("BP_ERR", "E_BPMAG", "PHOT_BP_MEAN_MAG_ERROR"),
    ),
    "RP": Band(
        "Gaia DR3 RP", 0.589, ("Gaia_RP_EDR3",), ("G_RPmag", "G_RP_fSBmag"), ("RP", "RPMAG", "PHOT_RP_MEAN_MAG"),
        ("RP_ERR", "E_RPMAG", "PHOT_RP_MEAN_MAG_ERROR"),
    ),
    "KS": Band(
        "2MASS Ks", 0.078, ("2MASS_Ks",), ("Ksmag",), ("KS", "K", "KSMAG", "KMAG", "KS_M", "K_M"),
        ("KS_ERR", "K_ERR", "E_KSMAG", "E_KMAG", "KS_MSIGCOM", "K_MSIGCOM"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Corrections:
    """Exponents (T, 3) of the terms, coefficients (T,) by band, and the scatter (mag) about them by band."""

    exponents: NDArray[np.int64]
    coefficients: dict[str, Array]
    scatter: dict[str, float]

    def correction(self, band: str, log_teff: ArrayLike, logg: ArrayLike, mh: ArrayLike) -> Array:
        """BC (mag) of a band; NaN outside the range of the tables."""
        log_teff, logg, mh = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (log_teff, logg, mh)))
        total = self.polynomial(band, *scaled(log_teff, logg, mh))
        return np.where(_inside(log_teff, logg, mh), total, np.nan)

    def polynomial(self, band: str, x: Values, y: Values, z: Values) -> Values:
        """BC (mag) at the scaled variables, arrays or tensors, wherever they lie."""
        powers = [_powers(v, int(self.exponents[:, k].max())) for k, v in enumerate((x, y, z))]
        total = 0.0 * x
        for (i, j, k), c in zip(self.exponents, self.coefficients[band]):
            total = total + float(c) * powers[0][i] * powers[1][j] * powers[2][k]
        return total


def scaled(log_teff: Values, logg: Values, mh: Values) -> tuple[Values, Values, Values]:
    """The variables x, y, z of the polynomial."""
    return (5040.0 / 10.0**log_teff - 0.9) / 0.2, (logg - 3.5) / 1.5, mh + 0.5


def _powers(values: Values, highest: int) -> list[Values]:
    return [values**i for i in range(highest + 1)]


def _inside(log_teff: Array, logg: Array, mh: Array) -> NDArray[np.bool_]:
    teff = 10.0**log_teff
    return np.asarray(
        (teff >= TEFF_RANGE[0] * (1 - _MARGIN)) & (teff <= TEFF_RANGE[1] * (1 + _MARGIN))
        & (logg >= LOGG_RANGE[0] - _MARGIN) & (logg <= LOGG_RANGE[1] + 0.3)
        & (mh >= MH_RANGE[0] - _MARGIN) & (mh <= MH_RANGE[1] + 0.1)
    )  # fmt: skip


@lru_cache(maxsize=1)
def corrections() -> Corrections:
    """The corrections that are shipped."""
    content = json.loads(files("phdlspec").joinpath("data", FILE).read_text(encoding="utf-8"))
    return Corrections(
        np.array(content["exponents"], dtype=np.int64),
        {band: np.array(values, dtype=float) for band, values in content["coefficients"].items()},
        {band: float(value) for band, value in content["scatter"].items()},
    )
