"""LAMOST spectra of low and medium resolution, told apart by their structure.

(a) up to DR7 or so: a primary image (5, P), rows flux, ivar, wave, andmask, ormask.
(b) later: an empty primary HDU and a table of one row with the vector columns FLUX IVAR WAVELENGTH ANDMASK
ORMASK.
(c) of the pilot survey: an image as (a), but with the flux less its continuum in the place of the wavelengths, which
the header tells.
(d) of medium resolution: tables COADD_B and COADD_R, each as (b); R = 7500.

Wavelengths are vacuum and heliocentric. HELIO_RV is the correction that the survey has already applied, never
the star's velocity; it is kept as HELIO_CORRECTION_KM_S.

The wavelength scales of the two arms differ: solar-like stars of DR10 are redder by 5-10 km/s in the red arm
than in the blue one, with a scatter of 6 km/s from fibre to fibre (scripts/measure_lamost_resolution.py).
"""

from __future__ import annotations

import numpy as np
from astropy.io import fits

from phdlspec.errors import UserError
from phdlspec.fits_files import column, column_names, header_values, is_true
from phdlspec.resolution import ResolvingPower, default_resolving_power, resolving_power_at
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S, air_to_vacuum

ARMS = ((3690.0, 5900.0), (5900.0, 9110.0))  # Å; the arms overlap and are joined at about 5700-5900 Å
MEDIUM_ARMS = {"COADD_B": (4900.0, 5400.0), "COADD_R": (6250.0, 6850.0)}  # Å, of medium resolution
MEDIUM_RESOLVING_POWER = 7500.0  # Liu et al. (2020), arXiv:2005.07210
COLUMNS = {"FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK"}
KEYS: tuple[str, ...] = (
    *("OBSID", "DESIG", "RA", "DEC", "LMJD", "PLANID", "SPID", "FIBERID", "DATE-OBS", "DATA_V", "FIBERMAS"),
    *("SNRU", "SNRG", "SNRR", "SNRI", "SNRZ", "Z", "Z_ERR", "CLASS", "SUBCLASS", "OBJNAME", "OBJTYPE", "TFROM"),
)
# Float32 wavelengths scatter about the grid of the header by 0.1 km/s, some files by 1.2 km/s (0.02 pixel).
GRID_TOLERANCE_KM_S = 2.0


def matches(hdus: fits.HDUList) -> bool:
    """Whether the file has one of these layouts."""
    return _is_image(hdus) or _table(hdus) is not None or bool(_medium_tables(hdus))


def _medium_tables(hdus: fits.HDUList) -> list[fits.BinTableHDU]:
    return [hdu for hdu in hdus[1:] if hdu.name in MEDIUM_ARMS]


def _is_image(hdus: fits.HDUList) -> bool:
    header = hdus[0].header
    names = str(header.get("EXTEN0", "")).lower()
    is_lamost = "LAMOST" in str(header.get("TELESCOP", "")).upper() or ("flux" in names and "wavelength" in names)
    return header.get("NAXIS") == 2 and header.get("NAXIS2", 0) >= 5 and is_lamost


def _table(hdus: fits.HDUList) -> fits.BinTableHDU | None:
    for hdu in hdus[1:]:
        if column_names(hdu) >= COLUMNS and hdu.header.get("NAXIS2") == 1:
            return hdu
    return None


def _on_header_grid(wave: np.ndarray, header: fits.Header) -> np.ndarray:
    """The exact grid of the header where it is the one that the rounded wavelengths follow."""
    start, step = header.get("COEFF0"), header.get("COEFF1")
    if not isinstance(start, float) or not isinstance(step, float):
        return wave
    grid = 10.0 ** (start + step * np.arange(len(wave)))
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.abs(np.log(wave / grid)).max() * SPEED_OF_LIGHT_KM_S
    return grid if deviation < GRID_TOLERANCE_KM_S else wave


def _of_table(table: fits.BinTableHDU) -> np.ndarray:
    """Flux, ivar, wave, AND mask, OR mask (5, P)."""
    return np.array([column(table, name) for name in ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK")])


def _pixels(hdus: fits.HDUList, path: str) -> np.ndarray:
    """Flux, ivar, wave, AND mask, OR mask (5, P) of any layout."""
    header, medium = hdus[0].header, _medium_tables(hdus)
    if medium:
        if any(column_names(hdu) < COLUMNS or hdu.header["NAXIS2"] != 1 for hdu in medium):
            raise UserError(
                f"{path}: a LAMOST medium-resolution spectrum of a layout that is not known, expected tables COADD_B "
                "and COADD_R of one row with FLUX IVAR WAVELENGTH ANDMASK ORMASK"
            )
        return np.concatenate([_of_table(hdu) for hdu in sorted(medium, key=lambda hdu: hdu.name)], axis=1)
    table = _table(hdus)
    if table is None and not _is_image(hdus):
        raise UserError(f"{path}: not a LAMOST spectrum, expected an image of 5 rows or a table COADD")
    found = np.array(hdus[0].data[:5], dtype=float) if table is None else _of_table(table)
    if table is None and not np.nanmedian(found[2]) > 1000.0 and {"COEFF0", "COEFF1"} <= set(header):  # the pilot's
        found[2] = 10.0 ** (header["COEFF0"] + header["COEFF1"] * np.arange(found.shape[1]))
    found[2] = _on_header_grid(found[2], header)
    return found


def _power(wave: np.ndarray, medium: bool, given: ResolvingPower | None) -> np.ndarray | float:
    if given is not None:
        return resolving_power_at(given, wave)
    return MEDIUM_RESOLVING_POWER if medium else default_resolving_power("LAMOST", wave)


def read(hdus: fits.HDUList, path: str, resolving_power: ResolvingPower | None = None) -> Spectrum:
    """The spectrum of a LAMOST file. Masked: OR mask (bad in any exposure), ivar not positive, not finite."""
    header = hdus[0].header
    medium = bool(_medium_tables(hdus))
    flux, ivar, wave, and_mask, or_mask = _pixels(hdus, path)

    meta = {"SURVEY": "LAMOST-MRS" if medium else "LAMOST", **header_values(header, KEYS)}
    meta["OBSID"] = str(meta.get("OBSID", ""))
    if str(meta.get("TFROM", "")).strip().upper() == "GAIA":  # OBJNAME is the name in the catalogue of TFROM
        meta["GAIA_ID"] = str(meta.get("OBJNAME", "")).strip()
    warnings = []
    if "HELIO_RV" in header:
        meta["HELIO_CORRECTION_KM_S"] = header["HELIO_RV"]
    if not is_true(header.get("VACUUM", True)):
        wave = air_to_vacuum(wave)
        warnings.append("the header says that the wavelengths were in air, they were converted to vacuum")
    if not is_true(header.get("HELIO", True)):
        warnings.append("the wavelengths are not heliocentric, so the radial velocity is not either")
    if meta.get("CLASS") in ("GALAXY", "QSO"):
        warnings.append(f"the survey classified this spectrum as {meta['CLASS']}, not as a star")
    meta["WARNINGS"] = tuple(warnings)
    arms = tuple(MEDIUM_ARMS[name] for name in sorted(hdu.name for hdu in _medium_tables(hdus))) or ARMS
    power = _power(wave, medium, resolving_power)
    return Spectrum(wave, flux, ivar, (and_mask > 0) | (or_mask > 0), power, meta, path, arms)
