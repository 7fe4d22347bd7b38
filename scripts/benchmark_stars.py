"""Fit real stars that are known from elsewhere: the Sun (HARPS, UVES) and HD 140283 (MIKE), as LAMOST would see them.

High-resolution spectra are degraded to R = 1800, sampled on LAMOST's pixels and given noise of LAMOST's run with
wavelength. Printed: labels with errors next to the reference values.

    python scripts/benchmark_stars.py ../shared/data --emulator CKPT
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from astropy.io import fits

from phdlspec import load_emulator
from phdlspec.fitting.driver import FitSettings, fit_batch
from phdlspec.lsf import broaden
from phdlspec.mock import relative_snr
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import LAMOST_WAVE, air_to_vacuum

RESOLVING_POWER = 1800.0
REFERENCE = {
    "Sun": {"TEFF": 5772.0, "LOGG": 4.438, "FE_H": 0.0},
    "HD 140283": {"TEFF": 5788.0, "LOGG": 3.75, "FE_H": -2.36},
}


def harps_sun(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vacuum wavelengths and flux of the HARPS Sun; the gap between its detectors is NaN."""
    with fits.open(folder / "Sun_HARPS.fits") as hdus:
        header, flux = hdus[0].header, np.array(hdus[0].data, dtype=float)
    air = header["CRVAL1"] + header["CDELT1"] * np.arange(len(flux))
    flux[(flux <= 0) | ((air > 5303) & (air < 5339))] = np.nan
    return air_to_vacuum(air), flux


def uves_sun(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vacuum wavelengths and normalised flux of the UVES Sun."""
    air, flux = np.loadtxt(folder / "UVES_Sun-1_cleaned_norm.txt", unpack=True)
    return air_to_vacuum(air), flux


def mike(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Vacuum wavelengths and normalised flux of a MIKE spectrum."""
    with fits.open(folder / name) as hdus:
        header, flux = hdus[0].header, np.array(hdus[0].data, dtype=float).ravel()
    step = header.get("CDELT1", header.get("CD1_1"))
    air = header["CRVAL1"] + step * (np.arange(len(flux)) + 1 - header.get("CRPIX1", 1))
    air = 10.0**air if header["CRVAL1"] < 10.0 else air
    return air_to_vacuum(air), np.where(flux > 0, flux, np.nan)


def as_lamost(wave: np.ndarray, flux: np.ndarray, teff: float, snr: float, seed: int, name: str) -> Spectrum:
    """The spectrum at R = 1800 on LAMOST's pixels with noise; pixels near a gap of the source are masked."""
    good = np.isfinite(flux)
    seen = broaden(wave[good], flux[good], RESOLVING_POWER, LAMOST_WAVE)
    nearest = wave[good][np.clip(np.searchsorted(wave[good], LAMOST_WAVE), 0, good.sum() - 1)]
    bad = ~np.isfinite(seen) | (np.abs(nearest - LAMOST_WAVE) > 1.0) | (np.nan_to_num(seen) <= 0)
    for edge in wave[:-1][np.diff(good.astype(int)) != 0]:
        bad |= np.abs(LAMOST_WAVE - edge) < 10.0
    level = np.where(bad, 1.0, seen)
    from scipy.ndimage import maximum_filter1d, uniform_filter1d

    continuum = uniform_filter1d(maximum_filter1d(level, 150), 150)
    sigma = continuum / (relative_snr(teff, LAMOST_WAVE) * snr)
    noisy = level + sigma * np.random.default_rng(seed).normal(size=len(level))
    return Spectrum(
        LAMOST_WAVE, noisy, sigma**-2, bad, RESOLVING_POWER, {"OBSID": name}, name, ((3700.0, 9100.0),)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with highres/")
    parser.add_argument("--emulator")
    parser.add_argument("--mode", default="fast")
    parser.add_argument("--snr", type=float, default=100.0)
    args = parser.parse_args()
    folder = args.data / "highres"
    emulator = load_emulator(args.emulator)
    sources = {
        "Sun, HARPS": harps_sun(folder), "Sun, UVES": uves_sun(folder),
        "HD 140283, MIKE": mike(folder, "hd140283.fits"), "G 64-12, MIKE": mike(folder, "g64-12.fits"),
    }  # fmt: skip
    spectra = [
        as_lamost(wave, flux, 5800.0, args.snr, i, name) for i, (name, (wave, flux)) in enumerate(sources.items())
    ]
    settings = FitSettings(mode=args.mode, resolution_width=0.02)
    for result in fit_batch(spectra, emulator, settings, keep=True):
        star = result.path.split(",")[0]
        print(f"\n{result.path}: flag {result.flag}, rchi2 {result.rchi2:.2f}, {result.npix} pixels {result.reason}")
        for name, value, err, bound in zip(result.names, result.value, result.err, result.crlb):
            known = REFERENCE.get(star, {}).get(name)
            if name in ("TEFF", "LOGG", "VMIC", "FE_H", "VBROAD", "RV", "LN_RESOLUTION") or bound < 0.08:
                print(f"  {name:14s}{value:10.3f} ± {err:.3f}  bound {bound:.3f}  {'' if known is None else known}")


if __name__ == "__main__":
    main()
