"""SDSS, SEGUE and BOSS `spec-*.fits`: table COADD with flux, loglam (vacuum), ivar, and_mask, wdisp."""

from __future__ import annotations

import numpy as np
from astropy.io import fits

from phdlspec.fits_files import column, column_names, header_values
from phdlspec.resolution import ResolvingPower, default_resolving_power, resolving_power_at
from phdlspec.spectrum import SIGMA_TO_FWHM, Spectrum, stem_of

ARMS = ((3500.0, 6000.0), (6000.0, 10500.0))  # Å; the dichroic
PIXEL_LN_WAVE = 1e-4 * np.log(10.0)  # wdisp is a sigma in these pixels
# Bits of SPPIXMASK that spoil a coadded pixel: FULLREJECT, NOSKY, BRIGHTSKY, NODATA.
BAD_BITS = (1 << 18) | (1 << 22) | (1 << 23) | (1 << 24)
NAMED = (("PLATEID", "MJD", "FIBERID"), ("FIELD", "MJD", "CATALOGID"), ("FIELDID", "MJD", "CATALOGID"), ("SDSS_ID",))
POSITIONS = ("PLUG_", "FIBER_")  # RA and DEC of the header are the telescope's
OBJECT_KEYS = ["CLASS", "SUBCLASS", "Z", "Z_ERR", "FIELD", "CATALOGID", "SDSS_ID"]
OBJECT_KEYS += [before + key for before in POSITIONS for key in ("RA", "DEC")]
KEYS = [*dict.fromkeys(key for keys in NAMED for key in keys), "PLUG_RA", "PLUG_DEC", "DATE-OBS"]


def matches(hdus: fits.HDUList) -> bool:
    """Whether the first table has one pixel a row with flux, loglam and ivar."""
    return len(hdus) > 1 and column_names(hdus[1]) >= {"FLUX", "LOGLAM", "IVAR"} and hdus[1].header["NAXIS2"] > 1


def _resolving_power(table: fits.BinTableHDU, wave: np.ndarray) -> np.ndarray:
    """wave / FWHM from the dispersion of each pixel, bridging pixels that have none."""
    if "WDISP" in column_names(table):
        dispersion = column(table, "wdisp")
        known = np.isfinite(dispersion) & (dispersion > 0)
        if known.sum() > 10:
            dispersion = np.interp(wave, wave[known], dispersion[known])
            answer: np.ndarray = 1.0 / (SIGMA_TO_FWHM * PIXEL_LN_WAVE * dispersion)
            return answer
    return default_resolving_power("SDSS", wave)


def _of_star(hdus: fits.HDUList) -> dict[str, object]:
    """What the table of the star (SPECOBJ, SPALL) says; nothing where it has no row."""
    found: dict[str, object] = {}
    if len(hdus) > 2 and hdus[2].header.get("NAXIS2"):
        names = column_names(hdus[2])
        for key in OBJECT_KEYS:
            if key in names:
                value = hdus[2].data[key][0]
                whole = isinstance(value, np.integer)
                found[key] = value.strip() if isinstance(value, str) else int(value) if whole else float(value)
    return found


def read(hdus: fits.HDUList, path: str, resolving_power: ResolvingPower | None = None) -> Spectrum:
    """The coadded spectrum of an SDSS file."""
    table = hdus[1]
    wave = 10.0 ** column(table, "loglam")
    flux, ivar = column(table, "flux"), column(table, "ivar")
    bad = np.zeros(len(wave), dtype=bool)
    if "AND_MASK" in column_names(table):
        bad = (column(table, "and_mask", np.int64) & BAD_BITS) != 0

    meta = {"SURVEY": "SDSS", **header_values(hdus[0].header, tuple(KEYS))}
    meta |= _of_star(hdus)
    keys = next((keys for keys in NAMED if all(key in meta for key in keys)), ())
    meta["OBSID"] = "-".join(str(meta[key]) for key in keys) or stem_of(path)
    for key in ("RA", "DEC"):
        for before in POSITIONS:
            if before + key in meta:
                meta[key] = meta.pop(before + key)
    if "HELIO_RV" in hdus[0].header:
        meta["HELIO_CORRECTION_KM_S"] = hdus[0].header["HELIO_RV"]
    if meta.get("CLASS") in ("GALAXY", "QSO"):
        meta["WARNINGS"] = (f"the survey classified this spectrum as {meta['CLASS']}, not as a star",)
    power = _resolving_power(table, wave) if resolving_power is None else resolving_power_at(resolving_power, wave)
    return Spectrum(wave, flux, ivar, bad, power, meta, path, ARMS)
