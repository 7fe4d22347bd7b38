"""DESI spectra: coadd or spectra files (B_FLUX, B_IVAR, B_WAVELENGTH ...) and single-arm frames (FLUX, IVAR
...).

Wavelengths are vacuum and barycentric, on a linear grid an arm. RESOLUTION holds, for each spectrum, the
bands of the matrix that takes a spectrum at infinite resolution to the pixels; its width gives the resolving
power. The arms are joined in the middle of their overlaps and keep a continuum of their own.
"""

from __future__ import annotations

import numpy as np
from astropy.io import fits

from phdlspec.errors import UserError
from phdlspec.fits_files import column_names
from phdlspec.resolution import ResolvingPower, default_resolving_power, resolving_power_at
from phdlspec.spectrum import SIGMA_TO_FWHM, Spectrum

FIBER_COLUMNS = {
    "TARGET_RA": "RA",
    "TARGET_DEC": "DEC",
    "TARGETID": "OBSID",
    "FIBER": "FIBERID",
    "OBJTYPE": "OBJTYPE",
    "REF_ID": "REF_ID",
    "REF_CAT": "REF_CAT",
}


def _prefixes(hdus: fits.HDUList) -> list[str]:
    """Prefixes of the arms in the file: 'B_', 'R_', 'Z_', or '' for a single frame."""
    names = {hdu.name.upper() for hdu in hdus}
    prefixes = ("B_", "R_", "Z_", "BRZ_", "")
    return [p for p in prefixes if {p + "FLUX", p + "IVAR", p + "WAVELENGTH"} <= names]


def matches(hdus: fits.HDUList) -> bool:
    """Whether the file has at least one arm's FLUX, IVAR and WAVELENGTH."""
    return bool(_prefixes(hdus))


def resolving_power_of_bands(bands: np.ndarray, wave: np.ndarray) -> np.ndarray:
    """wave / FWHM (P,) from the bands (D, P) of a resolution matrix.

    Row k of `bands` is the diagonal at offset D // 2 - k in scipy's storage: element j of it belongs to
    matrix row j - offset, column j. The FWHM is that of the Gaussian with the variance of each matrix row.
    Rows that are empty are bridged from their neighbours.
    """
    count, size = bands.shape
    rows = np.zeros((count, size))
    offsets = count // 2 - np.arange(count)
    for k, offset in enumerate(offsets):
        inside = slice(max(0, -offset), min(size, size - offset))
        rows[k, inside] = bands[k, slice(inside.start + offset, inside.stop + offset)]
    rows = np.where(np.isfinite(rows), rows, 0.0)
    total = rows.sum(axis=0)
    safe = np.where(total > 0, total, 1.0)
    mean = (offsets[:, None] * rows).sum(axis=0) / safe
    variance = (offsets[:, None] ** 2 * rows).sum(axis=0) / safe - mean**2
    edge = np.minimum(np.arange(size), size - 1 - np.arange(size)) < count // 2
    known = (total > 0.5) & (variance > 0.05) & ~edge
    if known.sum() < 10:
        return default_resolving_power("DESI", wave)
    sigma = np.interp(wave, wave[known], np.sqrt(variance[known])) * np.gradient(wave)
    answer: np.ndarray = wave / (SIGMA_TO_FWHM * sigma)
    return answer


def _row(hdus: fits.HDUList, prefix: str, row: int | None, path: str) -> int:
    count = hdus[prefix + "FLUX"].shape[0]
    if row is None:
        if count > 1:
            raise UserError(f"{path}: the file holds {count} spectra, name one by its row, as in '{path}[0]'")
        return 0
    if not 0 <= row < count:
        raise UserError(f"{path}: there is no row {row}, the file holds rows 0 to {count - 1}")
    return row


def _meta(hdus: fits.HDUList, row: int) -> dict[str, object]:
    meta: dict[str, object] = {"SURVEY": "DESI", "OBSID": f"row {row}"}
    names = {hdu.name.upper() for hdu in hdus}
    for table in ("FIBERMAP", "REDSHIFTS"):
        if table not in names:
            continue
        columns = column_names(hdus[table])
        wanted = {**FIBER_COLUMNS, "Z": "Z", "ZERR": "Z_ERR", "SPECTYPE": "CLASS", "SUBTYPE": "SUBCLASS"}
        for source, key in wanted.items():
            if source in columns and len(hdus[table].data) > row:
                value = hdus[table].data[source][row]
                meta[key] = value.strip() if isinstance(value, str) else value.item()
    if str(meta.pop("REF_CAT", "")).startswith("G"):  # G2 is Gaia DR2; others are no catalogues of Gaia
        meta["GAIA_ID"] = str(meta.get("REF_ID", ""))
    meta.pop("REF_ID", None)
    meta["OBSID"] = str(meta["OBSID"])
    if meta.get("CLASS") in ("GALAXY", "QSO"):
        meta["WARNINGS"] = (f"the survey classified this spectrum as {meta['CLASS']}, not as a star",)
    return meta


def read(
    hdus: fits.HDUList, path: str, resolving_power: ResolvingPower | None = None, row: int | None = None
) -> Spectrum:
    """One spectrum of a DESI file, its arms joined."""
    names = {hdu.name.upper() for hdu in hdus}
    arms = []
    for prefix in _prefixes(hdus):
        row = _row(hdus, prefix, row, path)
        wave = np.array(hdus[prefix + "WAVELENGTH"].data, dtype=float)
        flux, ivar = (np.array(hdus[prefix + name].data[row], dtype=float) for name in ("FLUX", "IVAR"))
        mask = np.zeros(len(wave), dtype=bool)
        if prefix + "MASK" in names:
            mask = np.array(hdus[prefix + "MASK"].data[row]) != 0
        if resolving_power is not None:
            power = np.broadcast_to(resolving_power_at(resolving_power, wave), wave.shape)
        elif prefix + "RESOLUTION" in names:
            power = resolving_power_of_bands(np.array(hdus[prefix + "RESOLUTION"].data[row], dtype=float), wave)
        else:
            power = default_resolving_power("DESI", wave)
        arms.append(np.array([wave, flux, ivar, mask, power]))
    arms.sort(key=lambda arm: arm[0, 0])
    starts = [arms[0][0, 0]] + [0.5 * (a[0, -1] + b[0, 0]) for a, b in zip(arms, arms[1:])]
    ends = [*starts[1:], float(np.nextafter(arms[-1][0, -1], np.inf))]
    parts = [arm[:, (arm[0] >= low) & (arm[0] < high)] for arm, low, high in zip(arms, starts, ends)]
    wave, flux, ivar, mask, power = np.concatenate(parts, axis=1)
    return Spectrum(wave, flux, ivar, mask > 0, power, _meta(hdus, row or 0), path, tuple(zip(starts, ends)))
