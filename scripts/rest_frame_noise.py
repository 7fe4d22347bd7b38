"""What moving a spectrum to rest does to its lines and to its noise: `phdlspec.datadriven.rest_frame.at_rest`.

    python scripts/rest_frame_noise.py

A forest of lines at LAMOST's pixels and R = 1800 is moved by some velocities and back: what interpolation leaves of the
lines, with every pixel good and with one in twenty bad. White noise is moved alike: its variance over the reported one
in a pixel, and in sums over lines of a Gaussian of so many pixels, which is what labels are found from.
"""

from __future__ import annotations

import numpy as np
from harness import table_head
from numpy.typing import NDArray

from phdlspec.datadriven.rest_frame import at_rest
from phdlspec.wavelength import LAMOST_WAVE, SPEED_OF_LIGHT_KM_S

VELOCITIES = (7.0, 17.0, 34.5, 100.0)  # km/s; a pixel is 69 km/s
WIDTHS = (1.0, 2.0, 5.0, 20.0)  # pixels, sigma; 1 is a line no wider than the instrument's
SIGMA = 0.01
INNER = slice(100, -100)

Array = NDArray[np.float64]


def forest(wave: Array, velocity: float) -> Array:
    """Flux of 1,500 random lines."""
    random = np.random.default_rng(0)
    centres, depths = random.uniform(3700, 9100, 1500), random.exponential(0.08, 1500)
    depth = np.zeros_like(wave)
    for centre, strength in zip(centres * (1 + velocity / SPEED_OF_LIGHT_KM_S), depths):
        near = np.abs(wave - centre) < 0.004 * centre
        depth[near] += strength * np.exp(-0.5 * ((wave[near] - centre) / (centre / 1800 / 2.3548)) ** 2)
    return np.exp(-depth)


def left_of_lines(velocity: float, bad: NDArray[np.bool_]) -> tuple[float, float]:
    """Rms and largest difference from the same lines at rest, of good pixels."""
    ivar = np.where(bad, 0.0, SIGMA**-2)
    flux, found = at_rest(LAMOST_WAVE, np.where(bad, 5.0, forest(LAMOST_WAVE, velocity)), ivar, velocity, LAMOST_WAVE)
    left = (flux - forest(LAMOST_WAVE, 0.0))[INNER][found[INNER] > 0]
    return float(np.sqrt(np.mean(left**2))), float(np.abs(left).max())


def noise(velocity: float) -> list[float]:
    """Variance over the reported one: of a pixel, and of sums over lines."""
    random = np.random.default_rng(1)
    moved = [at_rest(LAMOST_WAVE, 1 + SIGMA * random.standard_normal(len(LAMOST_WAVE)),
                     np.full(len(LAMOST_WAVE), SIGMA**-2), velocity, LAMOST_WAVE) for _ in range(200)]  # fmt: skip
    flux = np.array([f for f, _ in moved])[:, INNER] - 1.0
    reported = 1.0 / moved[0][1][INNER].mean()
    found = [float(flux.var() / reported)]
    for width in WIDTHS:
        line = np.exp(-0.5 * (np.arange(-80, 81) / width) ** 2)
        sums = np.array([np.convolve(row, line, "valid") for row in flux])
        found.append(float(sums.var() / reported / np.sum(line**2)))
    return found


def main() -> None:
    none = np.zeros(len(LAMOST_WAVE), dtype=bool)
    some = np.random.default_rng(2).random(len(LAMOST_WAVE)) < 0.05
    print(table_head("velocity, km/s", "rms left of lines", "largest", "rms, 5% bad", "variance of a pixel",
                     *(f"of a line, {w:g} px" for w in WIDTHS)))  # fmt: skip
    for velocity in VELOCITIES:
        rms, largest = left_of_lines(velocity, none)
        cells = [rms, largest, left_of_lines(velocity, some)[0], *noise(velocity)]
        print(f"| {velocity:g} | " + " | ".join(f"{c:.2g}" for c in cells) + " |")


if __name__ == "__main__":
    main()
