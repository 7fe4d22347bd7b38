"""Line data from real stars: the projection onto pixels, groups of lines, and a fit that finds planted changes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.sparse import csr_array

from kurucz_grids.line_calibration import CalibrationStar, Linearised, LineDataFit, projection

FINE = 5000.0 * np.exp(np.arange(6000) / 150_000)
PIXELS = 5000.0 * np.exp(np.arange(200, 5800, 2) / 150_000)


def line(centre: float, wave: np.ndarray, depth: float = 0.3, sigma: float = 0.06) -> np.ndarray:
    return depth * np.exp(-0.5 * ((wave - centre) / sigma) ** 2)


@pytest.mark.parametrize("vsini", [0.0, 25.0])
def test_projection_keeps_equivalent_widths(vsini):
    operator = projection(FINE, PIXELS, np.full(len(PIXELS), 0.12), vsini)
    seen = operator @ (1 - line(5100.0, FINE))
    expected = 0.3 * 0.06 * np.sqrt(2 * np.pi)
    assert trapezoid(1 - seen, PIXELS) == pytest.approx(expected, rel=2e-3)


def test_planted_changes_of_lines_are_found():
    centres = 5010.0 + 8.0 * np.arange(20)
    base = 1.0 - sum(line(c, PIXELS) for c in centres)
    by_gf = csr_array(np.array([-line(c, PIXELS) for c in centres]))
    nothing = csr_array(by_gf.shape)
    planted = np.zeros(20)
    planted[[3, 11]] = 0.4, -0.3
    flux = 7.0 * (base + by_gf.T @ planted)
    star = CalibrationStar(
        "toy", PIXELS, flux, np.full(len(PIXELS), 0.005), np.full(len(PIXELS), 0.12), 0.0,
        np.zeros(32), np.full(32, 0.1), 60.0,
    )  # fmt: skip
    model = Linearised(base, np.ones(len(PIXELS)), np.zeros((len(PIXELS), 32)), by_gf, nothing)
    calibration = LineDataFit(np.full(20, 0.8), np.full(20, 0.2))
    solution = calibration.solve([star], [model], np.zeros(20), np.zeros(20))
    assert solution.gf == pytest.approx(planted, abs=0.02)
    assert np.nanstd(solution.residuals[0]) < 1e-3
    # What was changed already is pulled back to the prior, not to the start.
    tight = LineDataFit(np.full(20, 1e-4), np.full(20, 0.2))
    assert tight.solve([star], [model], planted, np.zeros(20)).gf == pytest.approx(-planted, abs=0.02)
