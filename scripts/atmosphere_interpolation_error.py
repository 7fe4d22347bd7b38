"""Error of the interpolated atmospheres: whole planes of the grid are left out and interpolated from the others.

  python scripts/atmosphere_interpolation_error.py ck03_odfnew_grid.npz

The spacing is then twice that of the grid: an upper limit of the error in use. Prints a table in Markdown over
log tau(Rosseland) of -4 to 1.
"""

from __future__ import annotations

import argparse

import numpy as np

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.atmospheres import Atmosphere

STARS = ((5750, 4.5, 0.0), (4500, 2.0, 0.0), (5000, 3.0, -1.5), (6250, 4.0, -1.0))
PLANES = ("teff", "logg", "mh")
LOG_TAU = np.linspace(-4.0, 1.0, 26)


def differences(left_out: Atmosphere, truth: Atmosphere) -> tuple[np.ndarray, np.ndarray]:
    """(26,) temperature (K) and ln gas pressure, interpolated minus computed, at equal optical depth."""

    def at(model: Atmosphere, name: str) -> np.ndarray:
        return np.interp(LOG_TAU, np.log10(model.tau_rosseland), getattr(model, name))

    pressures = at(left_out, "gas_pressure") / at(truth, "gas_pressure")
    return at(left_out, "temperature") - at(truth, "temperature"), np.log(pressures)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("atmospheres")
    grid = AtmosphereGrid.load(parser.parse_args().atmospheres)
    models = [grid.model(i) for i in range(len(grid))]
    print("| model | left out | T: rms, max (K) | ln P: rms, max |\n|---|---|---|---|")
    for star in STARS:
        truth = next(m for m in models if np.allclose((m.teff, m.logg, m.mh), star))
        for plane in PLANES:
            others = [m for m in models if not np.isclose(getattr(m, plane), getattr(truth, plane))]
            dt, dp = differences(AtmosphereGrid.from_atmospheres(others).interpolate(*star), truth)
            print(f"| {star} | {plane} | {np.sqrt(np.mean(dt**2)):.1f}, {np.abs(dt).max():.1f} "
                  f"| {np.sqrt(np.mean(dp**2)):.4f}, {np.abs(dp).max():.4f} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
