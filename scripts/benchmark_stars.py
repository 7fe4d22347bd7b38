"""Fit real stars that are known from elsewhere: the Sun (HARPS, UVES) and HD 140283 (MIKE), as LAMOST would see them.

High-resolution spectra are degraded to R = 1800, sampled on LAMOST's pixels and given noise of LAMOST's run with
wavelength. Printed: labels with errors next to the reference values, and for stars with a reference which wavelengths
pull the fit away from it (`calibration.pixel_influence`; they count the noise of pixels as independent, and add up to
the difference as far as it is).

    python scripts/benchmark_stars.py ../shared/data --emulator CKPT
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from calibration.pixel_influence import pixel_influence
from phdlspec import load_emulator
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import FitSettings
from phdlspec.labels import ELEMENTS, LABELS
from phdlspec.lsf import broaden
from phdlspec.mock import relative_snr
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import LAMOST_WAVE, air_to_vacuum

RESOLVING_POWER = 1800.0
BY_WINDOW = ("TEFF", "LOGG", "FE_H", "SI_FE", "TI_FE", "NI_FE")
WINDOW = 100.0  # Å
GAP = 1.0  # Å without flux, above which it is one and not a deep core of a line
BALMER = (
    (6564.6, 60.0),
    (4862.7, 60.0),
    (4341.7, 50.0),
    (4102.9, 40.0),
    (3971.2, 30.0),
    (3890.2, 30.0),
)  # vacuum Å, half widths
REFERENCE = {
    "Sun": {"TEFF": 5772.0, "LOGG": 4.438, "VMIC": 1.0, "FE_H": 0.0} | {f"{e.upper()}_FE": 0.0 for e in ELEMENTS},
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
    scale = np.median(flux[good])
    seen = broaden(wave[good], flux[good] / scale, RESOLVING_POWER, LAMOST_WAVE)
    bad = ~np.isfinite(seen) | (np.nan_to_num(seen) <= 0)
    ends = np.concatenate([[-np.inf], wave[good], [np.inf]])
    for left, right in zip(ends[:-1], ends[1:]):
        if right - left > GAP:
            bad |= (left - 10.0 < LAMOST_WAVE) & (right + 10.0 > LAMOST_WAVE)
    level = np.interp(LAMOST_WAVE, LAMOST_WAVE[~bad], seen[~bad])
    continuum = uniform_filter1d(maximum_filter1d(level, 150), 150)
    sigma = continuum / (relative_snr(teff, LAMOST_WAVE) * snr)
    noisy = level + sigma * np.random.default_rng(seed).normal(size=len(level))
    return Spectrum(LAMOST_WAVE, noisy, sigma**-2, bad, RESOLVING_POWER, {"OBSID": name}, name, ((3700.0, 9100.0),))


def without_balmer(spectrum: Spectrum) -> Spectrum:
    """The spectrum with its Balmer lines masked."""
    bad = spectrum.mask.copy()
    for centre, half in BALMER:
        bad |= np.abs(spectrum.wave - centre) < half
    return replace(spectrum, mask=bad, path=f"{spectrum.path}, no Balmer lines")


def influence_by_window(result: Fitted, reference: dict[str, float]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Where windows begin (W,), Å, and how far the pixels of each pull the labels away from the reference (W,)."""
    s = result.spectrum
    assert s is not None
    with np.errstate(all="ignore"):
        residual = np.where(s.used, s.flux / s.continuum - s.normalised, np.nan)
        ivar = np.where(s.used, (s.continuum / s.sigma) ** 2, 0.0)
    displacement = np.array([v - reference.get(n, v) for n, v in zip(result.names, result.value)])
    # Priors as wide as the ranges keep labels that the spectrum is silent about where they are.
    width = {label.name: label.upper - label.lower for label in LABELS} | {"LN_RESOLUTION": 0.02}
    precision = np.array([12.0 / width.get(n, 1e3) ** 2 for n in result.names])
    by_pixel = pixel_influence(residual, s.jacobian, ivar, displacement, precision)
    edges = np.arange(3700.0, 9100.0, WINDOW)
    sums = np.array([by_pixel[(s.wave >= low) & (s.wave < low + WINDOW)].sum(0) for low in edges])
    return edges, dict(zip(result.names, sums.T))


def strongest_windows(result: Fitted, reference: dict[str, float]) -> list[str]:
    """Lines of text: the windows that pull labels farthest away from the reference."""
    edges, by_label = influence_by_window(result, reference)
    names = [n for n in BY_WINDOW if n in reference]
    scale = result.err[[result.names.index(n) for n in names]]
    table = np.column_stack([by_label[n] for n in names])
    strongest = np.sort(np.argsort(-np.abs(table / scale).max(1))[:10])
    lines = ["  pulls by window (Å)  " + " ".join(f"{n:>9s}" for n in names)]
    for i in strongest:
        lines.append(f"  {edges[i]:8.0f}-{edges[i] + WINDOW:.0f}        " + " ".join(f"{v:9.3f}" for v in table[i]))
    lines.append("  all pixels           " + " ".join(f"{v:9.3f}" for v in table.sum(0)))
    return lines


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
    # Wings of Balmer lines are as wide as the orders of an echelle: a normalised spectrum may have lost them.
    spectra += [without_balmer(s) for s in spectra if s.path.startswith("HD")]
    settings = FitSettings(mode=args.mode, resolution_width=0.02)
    for result in fit_batch(spectra, emulator, settings, keep=True):
        star = result.path.split(",")[0]
        print(f"\n{result.path}: flag {result.flag}, rchi2 {result.rchi2:.2f}, {result.npix} pixels {result.reason}")
        for name, value, err, bound in zip(result.names, result.value, result.err, result.crlb):
            known = REFERENCE.get(star, {}).get(name)
            if name in ("TEFF", "LOGG", "VMIC", "FE_H", "VBROAD", "RV", "LN_RESOLUTION") or bound < 0.08:
                print(f"  {name:14s}{value:10.3f} ± {err:.3f}  bound {bound:.3f}  {'' if known is None else known}")
        if star in REFERENCE and result.spectrum is not None:
            print("\n".join(strongest_windows(result, REFERENCE[star])))


if __name__ == "__main__":
    main()
