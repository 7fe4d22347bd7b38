"""How much deeper the cores of strong lines are in stars than LTE makes them: the prior of the fit's nuisance.

    python scripts/core_depths.py DATA --work DIR [--out phdlspec/data/cores.ecsv]

--work is the folder in which `physics_bench.py` left the spectra of MILES' benchmark stars. The missing equivalent
width of each core is fitted together with all labels (within priors about the fundamental ones), continuum, velocity
and resolution. Over the stars it is a plane in (5040 K / Teff, log g), fitted robustly; the scatter about it, not less
than 0.03 Å, is the width of the prior. For the Ca II triplet, which is beyond MILES, nothing is measured.
"""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import NDArray
from physics_bench import DOUBTFUL, Model, gauss_newton
from reference_spectra import CLASSES, MILES_FWHM, KnownStar, miles, used

from kurucz_grids.synthesis import SYNTHESIS_VERSION
from phdlspec.cores import LOG_G0, CorePriors
from phdlspec.wavelength import air_to_vacuum

Array = NDArray[np.float64]

LINES = {  # air Å
    "H alpha": 6562.80, "H beta": 4861.33, "H gamma": 4340.47, "H delta": 4101.74, "Ca H + H epsilon": 3969.2,
    "Ca K": 3933.66, "Na D2": 5889.95, "Na D1": 5895.92,
}  # fmt: skip
LEAST_WIDTH = 0.03  # Å
ROUNDS = 10  # of the robust plane


def missing(star: KnownStar, model: Model, wave: Array) -> Array:
    """Equivalent widths (M,), Å, that the model lacks in the cores at `wave` (M,)."""
    pixels, flux = used(star)
    priors = CorePriors(torch.as_tensor(wave), torch.zeros(len(wave), 3), torch.ones(len(wave)))
    columns = priors.templates(torch.as_tensor(pixels)[None], torch.as_tensor(pixels / MILES_FWHM))[0].numpy().T
    good = flux > 0
    observed = np.where(good, flux, np.median(flux[good]))
    return gauss_newton(pixels, observed, good, model, columns)[2]


def plane(at: Array, values: Array) -> tuple[Array, float]:
    """Coefficients (3,) of a robust plane through values (N,) at (N, 3), and the scatter about it."""
    weight = np.ones(len(values))
    for _ in range(ROUNDS):
        found = np.linalg.lstsq(at * weight[:, None], values * weight, rcond=None)[0]
        off = np.abs(values - at @ found)
        scatter = 1.4826 * np.median(off)
        weight = np.sqrt(np.minimum(1.0, 1.5 * scatter / np.maximum(off, 1e-9)))
    return np.asarray(found, dtype=float), float(scatter)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    wave = air_to_vacuum(np.array(list(LINES.values())))
    stars = [s for s in miles(args.data) if s.fundamental and s.name not in DOUBTFUL]
    found, rows = [], []
    for star in sorted(stars, key=lambda s: (CLASSES.index(s.kind), s.labels[0])):
        path = args.work / f"{star.name.replace(' ', '_')}.pickle"
        if path.exists():
            found.append(missing(star, pickle.loads(path.read_bytes()), wave))
            rows.append([1.0, 5040.0 / star.labels[0] - 1.0, star.labels[1] - LOG_G0])
            print(f"{star.name:12s} {star.labels.round(2)} " + " ".join(f"{x:+.2f}" for x in found[-1]))
    planes = [plane(np.array(rows), values) for values in np.array(found).T]
    table = Table(
        [list(LINES), wave, *np.array([p for p, _ in planes]).T.round(4), [max(s, LEAST_WIDTH) for _, s in planes]],
        names=("name", "wave_vacuum", "missing", "by_theta", "by_logg", "scatter"),
    )
    table.meta["synthesis_version"] = SYNTHESIS_VERSION
    table.meta["made"] = f"scripts/core_depths.py, {len(found)} benchmark stars of MILES; Å at 5040 K, log g {LOG_G0}"
    table["scatter"] = table["scatter"].round(4)
    print(table)
    if args.out:
        table.write(args.out, format="ascii.ecsv", overwrite=True)


if __name__ == "__main__":
    main()
