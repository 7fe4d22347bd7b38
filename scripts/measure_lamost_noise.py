"""How the signal-to-noise ratio of LAMOST low-resolution spectra runs with wavelength.

For each spectrum the median SNR per pixel in windows, over its median between 4700 and 5500 Å (close to the g band);
medians over the stars in bins of effective temperature. The table is what `phdlspec.mock` draws its noise from.

    python scripts/measure_lamost_noise.py ../shared/data/lamost/dr10 --labels ../shared/data/lamost/dr10_labels.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from astropy.table import Table
from tqdm import tqdm

from phdlspec import UserError, read_spectrum

EDGES = np.array(
    [3700, 3800, 3900, 4000, 4150, 4300, 4500, 4700, 5000, 5300, 5600, 5750, 5850, 5950, 6050, 6200, 6500, 7000,
     7500, 8000, 8400, 8700, 8900, 9100], dtype=float,
)  # fmt: skip
TEFF_EDGES = (4000.0, 5000.0, 5750.0, 6500.0, 8000.0)


def profile(path: Path) -> np.ndarray:
    """Relative SNR in the windows between `EDGES`; NaN where a window has no good pixel."""
    spectrum = read_spectrum(path)
    snr = np.where(spectrum.good, spectrum.flux * np.sqrt(spectrum.ivar), np.nan)
    reference = np.nanmedian(snr[(spectrum.wave > 4700) & (spectrum.wave < 5500)])
    windows = [snr[(spectrum.wave >= a) & (spectrum.wave < b)] for a, b in zip(EDGES[:-1], EDGES[1:])]
    return np.array([np.nanmedian(w) if np.isfinite(w).any() else np.nan for w in windows]) / reference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", type=Path, required=True, help="CSV with the columns file and teff_lasp")
    args = parser.parse_args()
    labels = Table.read(args.labels)
    kelvin, rows = [], []
    for row in tqdm(labels, unit="spectrum"):
        try:
            rows.append(profile(args.folder / Path(str(row["file"])).name))
            kelvin.append(float(row["teff_lasp"]))
        except UserError as error:
            print(error)
    values, teff = np.array(rows), np.array(kelvin)
    centres = 0.5 * (EDGES[1:] + EDGES[:-1])
    for low, high in zip(TEFF_EDGES[:-1], TEFF_EDGES[1:]):
        mine = (teff >= low) & (teff < high)
        print(f"Teff {low:.0f}-{high:.0f} K, {mine.sum()} stars")
        print(", ".join(f"({c:.0f}, {v:.2f})" for c, v in zip(centres, np.nanmedian(values[mine], axis=0))))


if __name__ == "__main__":
    main()
