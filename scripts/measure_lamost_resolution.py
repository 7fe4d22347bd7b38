"""Measure LAMOST's resolving power: the HARPS Sun, broadened, against solar-like stars of LAMOST.

    python scripts/measure_lamost_resolution.py [SHARED_DATA]

For each star and window the resolving power and the velocity with the least chi2 are taken from a grid, with
a polynomial continuum of degree 4 and 1% of model error. Prints the 16th, 50th and 84th percentile over the
stars of the resolving power, and of the velocity minus that of the survey's redshift.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits

from phdlspec.io import read_spectrum
from phdlspec.lsf import NativeGrid, degrade, project
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S, air_to_vacuum

WINDOWS = (
    *((3850, 4000), (4000, 4150), (4150, 4300), (4380, 4600), (4600, 4800), (4900, 5100), (5100, 5280)),
    *((5350, 5500), (5500, 5700), (6010, 6270), (6320, 6500), (6600, 6850)),  # HARPS has a gap at 5304-5338 Å
)
POWERS = np.arange(1000.0, 3001.0, 100.0)
VELOCITIES = np.arange(-40.0, 41.0, 10.0)
FINE_STEP = 1 / 300_000
HARPS_RESOLVING_POWER = 115_000.0


def harps_sun(folder: Path) -> tuple[torch.Tensor, NativeGrid]:
    """The Sun at R = 20,000 on a log grid, (1, Pn)."""
    with fits.open(folder / "highres" / "Sun_HARPS.fits") as hdus:
        header, flux = hdus[0].header, np.array(hdus[0].data, dtype=float)
    wave = air_to_vacuum(header["CRVAL1"] + header["CDELT1"] * np.arange(len(flux)))
    fine = np.exp(np.arange(np.log(3790.0), np.log(6910.0), FINE_STEP))
    grid = NativeGrid(3800.0, 1 / 30_000, int(np.log(6900 / 3800) * 30_000), 20_000.0)
    on_fine = torch.as_tensor(np.interp(fine, wave, flux))[None]
    return degrade(on_fine, FINE_STEP, fine[0], HARPS_RESOLVING_POWER, grid), grid


def solar_like(folder: Path) -> list[Path]:
    """Files of bright dwarfs near the Sun in the labels of the survey's own pipeline."""
    with open(folder / "lamost" / "dr10_labels.csv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["teff_lasp"]]
    return [
        folder / "lamost" / row["file"]
        for row in rows
        if 5550 < float(row["teff_lasp"]) < 5950
        and float(row["logg_lasp"]) > 4.1
        and abs(float(row["feh_lasp"])) < 0.2
        and float(row["snrg"]) > 80
    ]


def vertex(x: np.ndarray, y: np.ndarray) -> float:
    """Place of the minimum by the parabola through the least value and its neighbours."""
    i = int(np.argmin(y))
    if i in (0, len(x) - 1):
        return float(x[i])
    a, b, c = y[i - 1 : i + 2]
    return float(x[i] + (x[1] - x[0]) * 0.5 * (a - c) / (a - 2 * b + c))


def measure(path: Path, sun: torch.Tensor, grid: NativeGrid) -> np.ndarray:
    """Resolving power and velocity difference in each window, (W, 2)."""
    spectrum = read_spectrum(path)
    redshift = spectrum.meta["Z"] * SPEED_OF_LIGHT_KM_S
    results = np.full((len(WINDOWS), 2), np.nan)
    for k, (low, high) in enumerate(WINDOWS):
        use = spectrum.good & (spectrum.wave > low) & (spectrum.wave < high)
        if use.sum() < 30:
            continue
        wave, flux = spectrum.wave[use], spectrum.flux[use]
        root_weight = (1 / spectrum.ivar[use] + (0.01 * np.median(flux)) ** 2) ** -0.5
        polynomials = np.polynomial.legendre.legvander(np.linspace(-1, 1, len(wave)), 4)
        chi2 = np.empty((len(POWERS), len(VELOCITIES)))
        for i, power in enumerate(POWERS):
            rv = torch.as_tensor(redshift + VELOCITIES)
            for j, model in enumerate(project(sun.expand(len(rv), -1), grid, wave, power, rv=rv).numpy()):
                design = polynomials * (model * root_weight)[:, None]
                coefficients = np.linalg.lstsq(design, flux * root_weight, rcond=None)[0]
                chi2[i, j] = np.sum((flux * root_weight - design @ coefficients) ** 2)
        best_power, best_velocity = np.unravel_index(chi2.argmin(), chi2.shape)
        results[k] = vertex(POWERS, chi2[:, best_velocity]), vertex(VELOCITIES, chi2[best_power])
    return results


def main(argv: list[str]) -> int:
    folder = Path(argv[0]) if argv else Path(__file__).resolve().parents[2] / "shared" / "data"
    sun, grid = harps_sun(folder)
    stars = solar_like(folder)
    results = np.array([measure(path, sun, grid) for path in stars])
    print(f"{len(stars)} stars; window (Å), R and velocity (km/s): 16th, 50th and 84th percentile")
    for k, (low, high) in enumerate(WINDOWS):
        power, velocity = np.nanpercentile(results[:, k], [16, 50, 84], axis=0).T
        fwhm = 0.5 * (low + high) / power[1]
        print(f"{low}-{high}  R {power.round(0)}  FWHM {fwhm:.2f} Å  dv {velocity.round(1)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
