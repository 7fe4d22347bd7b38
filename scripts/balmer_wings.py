"""Equivalent widths of the Balmer lines of HD 140283 in two spectra: did its high-resolution one keep their wings?

    python scripts/balmer_wings.py DATA

Both at R of about 2000; the continuum is the 90% quantile within 100 Å, the width is taken within 20 Å of the line.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from benchmark_stars import BALMER
from numpy.typing import NDArray
from real_stars import highres, miles

from phdlspec.spectrum import Spectrum

Array = NDArray[np.float64]

NAMES = ("HD 140283", "HD140283")  # in the high-resolution set, in MILES
REACH, CONTINUUM, STEP, QUANTILE = 20.0, 100.0, 2.0, 0.9  # Å


def equivalent_width(spectrum: Spectrum, centre: float) -> float:
    """Equivalent width (Å) about a vacuum wavelength (Å)."""
    wave = np.arange(centre - CONTINUUM - REACH, centre + CONTINUUM + REACH, STEP)
    good = spectrum.good
    flux = np.interp(wave, spectrum.wave[good], spectrum.flux[good])
    near = wave[np.abs(wave - centre) < REACH]
    level = np.array([np.quantile(flux[np.abs(wave - x) < CONTINUUM], QUANTILE) for x in near])
    return float(STEP * np.sum(1.0 - flux[np.abs(wave - centre) < REACH] / level))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    found = [star.spectrum for star in highres(data) if star.name == NAMES[0]]
    found += [star.spectrum for star in miles(data, False) if star.name == NAMES[1]]
    print("| line (Å) | high resolution (Å) | MILES (Å) | ratio |\n|---|---|---|---|")
    for centre, _ in BALMER:
        sharp, known = (equivalent_width(spectrum, centre) for spectrum in found)
        print(f"| {centre:.1f} | {sharp:.2f} | {known:.2f} | {sharp / known:.2f} |")


if __name__ == "__main__":
    main()
