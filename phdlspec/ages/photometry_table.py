"""Parallaxes, magnitudes and extinctions of a user's table, matched to the stars of a catalogue.

Columns are known by the names of Gaia's archive, 2MASS, VizieR and our own: PARALLAX (mas), G, BP, RP, KS with errors,
AV or EBV with errors. Stars are found by an identifier that both tables have, else by position within 2 arcsec.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.ages.catalogue import AgeCatalogue
from phdlspec.ages.distance import usable_parallax
from phdlspec.ages.flags import AgeFlag
from phdlspec.ages.stars import Photometry
from phdlspec.bolometric import BANDS, Band
from phdlspec.errors import UserError
from phdlspec.tables import find_column, number_column, read_any_table, text_column

Array = NDArray[np.float64]

FLOOR = 0.01  # mag, added to the errors of magnitudes: zero points and synthetic colours are no better
PER_REDDENING = 3.1  # A_V / E(B-V)
RADIUS_ARCSEC = 2.0
_PARALLAX = ("PARALLAX", "PLX", "PARALLAX_MAS")
_PARALLAX_ERR = ("PARALLAX_ERR", "PARALLAX_ERROR", "E_PLX", "E_PARALLAX", "PLX_ERR")
_AV, _AV_ERR = ("AV", "A_V"), ("AV_ERR", "E_AV", "A_V_ERR")
_EBV, _EBV_ERR = ("EBV", "E_B_V", "E(B-V)"), ("EBV_ERR", "E_EBV", "E_B_V_ERR")


def photometry_of(catalogue: AgeCatalogue, table: str | Path | None = None) -> Photometry:
    """Photometry of all stars of a catalogue, from a table or, without one, from columns of the catalogue itself.

    Raises `UserError` where the table has no known band or parallax, or none of its stars is in the catalogue.
    """
    if table is None:
        return _read(catalogue.table, catalogue.path, None)
    source = read_any_table(table)
    path = Path(table)
    found = _read(source, path, "a photometric table")
    rows = _match(catalogue, source, path)
    if not (rows >= 0).any():
        raise UserError(
            f"{path}: none of its stars is in {catalogue.path}; expected a common column of identifiers (OBSID, "
            "SOURCE_ID, APOGEE_ID, FILE ...) or RA and DEC in both"
        )
    return _placed(found, rows)


def known_before(photometry: Photometry) -> NDArray[np.int64]:
    """Bits of `AgeFlag` (n,) that photometry alone earns: a useless parallax, no luminosity."""
    stated = np.isfinite(photometry.parallax)
    usable = usable_parallax(photometry)
    bands = np.isfinite(photometry.magnitudes) & np.isfinite(photometry.errors)
    bad = np.where(stated & ~usable, int(AgeFlag.BAD_PARALLAX), 0)
    return np.asarray(bad | np.where(usable & bands.any(axis=1), 0, int(AgeFlag.NO_LUMINOSITY)), dtype=np.int64)


def _read(table: Table, path: Path, wanted: str | None) -> Photometry:
    """The photometry of a table's rows. `wanted` : what the table must be; None where it may have none of it."""
    bands = [band for band, what in BANDS.items() if find_column(table, *what.columns)]
    if wanted and not bands:
        told = ", ".join(name for name in table.colnames[:12])
        raise UserError(
            f"{path}: no magnitude of a known system; expected any of G, BP, RP (Gaia DR3) and KS (2MASS), "
            f"it has {told}"
        )
    parallax = _column(table, _PARALLAX, path, u.mas)
    parallax_err = _column(table, _PARALLAX_ERR, path, u.mas)
    if np.isfinite(parallax).any() and not np.isfinite(parallax_err).any():
        raise UserError(f"{path}: parallaxes without errors; expected a column PARALLAX_ERR (mas) beside PARALLAX")
    magnitudes = [_column(table, BANDS[band].columns, path) for band in bands]
    errors = [np.hypot(_error(table, band, BANDS[band], path), FLOOR) for band in bands]
    av, av_err = _column(table, _AV, path), _column(table, _AV_ERR, path)
    if find_column(table, *_AV) is None:
        av, av_err = (PER_REDDENING * _column(table, names, path) for names in (_EBV, _EBV_ERR))
    if np.isfinite(av).any() and not np.isfinite(av_err).any():
        raise UserError(f"{path}: extinctions without errors; expected AV_ERR (mag) beside AV, or EBV_ERR beside EBV")
    stack = np.column_stack if bands else (lambda parts: np.empty((len(table), 0)))
    return Photometry(tuple(bands), parallax, parallax_err, stack(magnitudes), stack(errors), av, av_err)


def _column(table: Table, names: tuple[str, ...], path: Path, unit: u.UnitBase | None = None) -> Array:
    name = find_column(table, *names)
    if name is None:
        return np.full(len(table), np.nan)
    values = number_column(table, name, path)
    own = table[name].unit
    if unit is not None and own is not None:
        try:
            values = values * u.Unit(own).to(unit)
        except (u.UnitConversionError, ValueError) as error:
            raise UserError(f"{path}: column {name} is in {own}, expected {unit}") from error
    return values


def _error(table: Table, band: str, what: Band, path: Path) -> Array:
    if find_column(table, *what.errors):
        return _column(table, what.errors, path)
    ratio = find_column(table, f"PHOT_{band}_MEAN_FLUX_OVER_ERROR")  # as Gaia's archive tells of errors
    if ratio:
        with np.errstate(all="ignore"):
            return np.asarray(2.5 / np.log(10.0) / number_column(table, ratio, path))
    flux, flux_error = find_column(table, f"PHOT_{band}_MEAN_FLUX"), find_column(table, f"PHOT_{band}_MEAN_FLUX_ERROR")
    if flux and flux_error:
        with np.errstate(all="ignore"):
            share = number_column(table, flux_error, path) / number_column(table, flux, path)
        return np.asarray(2.5 / np.log(10.0) * share)
    raise UserError(f"{path}: magnitudes {band} without errors; expected a column {band}_ERR (mag)")


def _match(catalogue: AgeCatalogue, source: Table, path: Path) -> NDArray[np.intp]:
    """Row of `source` for each star of the catalogue, -1 where there is none."""
    best = np.full(len(catalogue), -1, dtype=np.intp)
    for name, ids in catalogue.identifiers().items():
        column = find_column(source, name)
        if column is None:
            continue
        rows = _look_up(ids, text_column(source, column), name, path)
        if (rows >= 0).sum() > (best >= 0).sum():
            best = rows
    if (best >= 0).any():
        return best
    return _by_position(catalogue.table, source, catalogue.path, path)


def _look_up(wanted: NDArray[np.str_], known: NDArray[np.str_], name: str, path: Path) -> NDArray[np.intp]:
    order = np.argsort(known, kind="stable")
    ranked = known[order]
    place = np.clip(np.searchsorted(ranked, wanted), 0, max(len(known) - 1, 0))
    if not len(known):
        return np.full(len(wanted), -1, dtype=np.intp)
    hit = (ranked[place] == wanted) & (wanted != "")
    twice = hit & (place + 1 < len(known)) & (ranked[np.minimum(place + 1, len(known) - 1)] == wanted)
    if twice.any():
        raise UserError(f"{path}: has {name} {wanted[twice][0]} more than once; keep one row a star")
    return np.where(hit, order[place], -1)


def _by_position(table: Table, source: Table, own: Path, path: Path) -> NDArray[np.intp]:
    rows = np.full(len(table), -1, dtype=np.intp)
    places = []
    for part, where in ((table, own), (source, path)):
        ra, dec = find_column(part, "RA", "RA_ICRS", "RAJ2000"), find_column(part, "DEC", "DE_ICRS", "DEJ2000")
        if ra is None or dec is None:
            return rows
        places.append((number_column(part, ra, where), number_column(part, dec, where)))
    known = [np.flatnonzero(np.isfinite(ra) & np.isfinite(dec)) for ra, dec in places]
    if not len(known[0]) or not len(known[1]):
        return rows
    sky = [SkyCoord(ra[k] * u.deg, dec[k] * u.deg) for (ra, dec), k in zip(places, known)]
    nearest, separation, _ = sky[0].match_to_catalog_sky(sky[1])
    close = separation.arcsec <= RADIUS_ARCSEC
    rows[known[0][close]] = known[1][nearest[close]]
    return rows


def _placed(photometry: Photometry, rows: NDArray[np.intp]) -> Photometry:
    taken = photometry.take(np.maximum(rows, 0))
    missing = rows < 0
    for values in (taken.parallax, taken.parallax_err, taken.magnitudes, taken.errors, taken.av, taken.av_err):
        values[missing] = np.nan
    return taken
