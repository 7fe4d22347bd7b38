"""Absolute magnitudes of isochrones: their own, or by bolometric corrections where a set brings none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from phdlspec.ages.isochrones import Isochrones
from phdlspec.bolometric import BANDS, SOLAR_MBOL, corrections
from phdlspec.errors import UserError

OF_THE_SET = "magnitudes of the set"
BY_POLYNOMIAL = "polynomial bolometric corrections (phdlspec.bolometric)"


def with_magnitudes(isochrones: Isochrones) -> tuple[Isochrones, dict[str, float], str]:
    """The set with absolute magnitudes in all its bands, their own errors (mag), and where they come from.

    Sets without photometry get M = 4.74 - 2.5 log L - BC(Teff, log g, [M/H]) from the polynomials of
    `phdlspec.bolometric`, with the scatter about them as an error; a set's own magnitudes are taken as exact.
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
