"""Writing a spectrum in the layout of recent LAMOST low-resolution files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits

from phdlspec.errors import UserError
from phdlspec.files import replacing
from phdlspec.io.lamost import KEYS
from phdlspec.spectrum import Spectrum

LAMOST_STEP = 1e-4  # log10(wave)


def write_lamost(spectrum: Spectrum, path: str | Path) -> None:
    """Write a spectrum as a LAMOST DR10-like file: empty primary HDU, table COADD of one row, float32.

    The wavelengths must be log-uniform with a step of 1e-4 in log10, as LAMOST's are. NORMALIZATION is the
    flux over its median. Masked pixels are set in both masks. Gzipped when the name ends in .gz. The file
    appears under its name only when it is complete.

    >>> phdlspec.write_lamost(spectrum, "again.fits.gz")
    >>> phdlspec.read_spectrum("again.fits.gz").wave.size
    3909
    """
    path = Path(path)
    if not isinstance(spectrum, Spectrum):
        raise UserError(f"{path}: cannot write a {type(spectrum).__name__}, expected a phdlspec.Spectrum")
    log_wave = np.log10(spectrum.wave)
    if np.abs(np.diff(log_wave) - LAMOST_STEP).max() > 1e-3 * LAMOST_STEP:
        raise UserError(f"{path}: a LAMOST file needs wavelengths with a constant step of 1e-4 in log10(wave)")
    count = len(spectrum)
    median = float(np.median(spectrum.flux[spectrum.good]))
    vectors = {
        "FLUX": spectrum.flux,
        "IVAR": spectrum.ivar,
        "WAVELENGTH": spectrum.wave,
        "ANDMASK": spectrum.mask,
        "ORMASK": spectrum.mask,
        "NORMALIZATION": spectrum.flux / median if median else spectrum.flux,
    }
    columns = [
        fits.Column(name=name, format=f"{count}E", array=np.asarray(values, dtype=np.float32)[None])
        for name, values in vectors.items()
    ]
    primary = fits.PrimaryHDU()
    header = primary.header
    header["TELESCOP"] = "LAMOST"
    header["VACUUM"] = (True, "vacuum wavelengths")
    header["HELIO"] = (True, "heliocentric wavelengths")
    header["COEFF0"] = (float(log_wave[0]), "log10(wave) of the first pixel")
    header["COEFF1"] = (LAMOST_STEP, "log10(wave) per pixel")
    for key in KEYS:
        value = spectrum.meta.get(key)
        if isinstance(value, (str, bool, int)) or (isinstance(value, float) and np.isfinite(value)):
            header[key] = value
    table = fits.BinTableHDU.from_columns(columns, name="COADD")
    with replacing(path) as temporary:
        fits.HDUList([primary, table]).writeto(temporary, overwrite=True, checksum=False)
