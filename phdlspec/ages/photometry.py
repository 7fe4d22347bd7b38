"""Bands, extinction, and bolometric corrections for sets that bring no magnitudes.

Extinction in a band is A_band = k A_V with constant k (Wang & Chen 2019, ApJ 877, 116, Table 3, a red clump star).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from phdlspec.ages.bolometric import corrections
from phdlspec.ages.isochrones import Isochrones
from phdlspec.errors import UserError

SOLAR_MBOL = 4.74  # IAU 2015 Resolution B2
OF_THE_SET = "magnitudes of the set"
BY_POLYNOMIAL = "polynomial bolometric corrections (phdlspec.ages.bolometric)"


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


def with_magnitudes(isochrones: Isochrones) -> tuple[Isochrones, dict[str, float], str]:
    """The set with absolute magnitudes in all its bands, their own errors (mag), and where they come from.

    Sets without photometry get M = 4.74 - 2.5 log L - BC(Teff, log g, [M/H]) from the polynomials of
    `phdlspec.ages.bolometric`, with the scatter about them as an error; a set's own magnitudes are taken as exact.
    """
    if isochrones.magnitudes:
        return isochrones, dict.fromkeys(isochrones.magnitudes, 0.0), OF_THE_SET
    q, table = isochrones.quantities, corrections()
    mh = np.broadcast_to(isochrones.mh[:, None, None], isochrones.shape)
    made = {
        band: SOLAR_MBOL - 2.5 * q["log_l"] - table.correction(band, q["log_teff"], q["logg"], mh) for band in BANDS
    }
    return replace(isochrones, magnitudes=made), dict(table.scatter), BY_POLYNOMIAL


def common_bands(wanted: list[str], isochrones: Isochrones) -> list[str]:
    """The bands of the data that the set has too. Raises `UserError` where the two share none."""
    bands = [band for band in wanted if band in isochrones.magnitudes]
    if wanted and not bands:
        have = ", ".join(isochrones.magnitudes) or "none"
        raise UserError(
            f"{isochrones.facts.name}: the photometry is in {', '.join(wanted)}, the isochrones have {have}; download "
            "them in Gaia EDR3 or 2MASS magnitudes (MIST: UBV(RI)c + 2MASS + Gaia; PARSEC: Gaia EDR3, 2MASS)"
        )
    return bands
