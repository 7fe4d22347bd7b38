"""Widths that a list does not give: radiation by levels, Stark by effective quantum number."""

from __future__ import annotations

import numpy as np
import pytest

from kurucz_grids.linelists.damping import classical_radiative, radiative, stark

HC_EV_ANGSTROM = 12398.41984


def of_levels(lower: list[float], upper: list[float]) -> tuple[np.ndarray, np.ndarray]:
    low, up = np.array(lower), np.array(upper)
    return HC_EV_ANGSTROM / (up - low), low


def test_lines_that_share_an_upper_level_share_its_width():
    wave, low = of_levels([0.9, 0.0, 1.5, 0.9], [3.2, 3.2002, 3.2, 4.0])
    given = np.array([1.4e7, np.nan, np.nan, 2e8])
    z = np.full(4, 26)
    width = radiative(z, np.zeros(4, dtype=int), wave, low, given)
    assert width[[0, 3]] == pytest.approx(given[[0, 3]])
    assert width[[1, 2]] == pytest.approx(1.4e7)


def test_other_levels_get_the_median_of_the_nearest_known_ones():
    known = 30
    upper = np.linspace(3.0, 6.0, known)
    wave, low = of_levels([1.0] * (known + 1), [*upper, 4.53])
    given = np.append(1e7 * 10 ** ((upper - 3.0) / 3.0), np.nan)
    width = radiative(np.full(known + 1, 26), np.zeros(known + 1, dtype=int), wave, low, given)
    assert width[-1] == pytest.approx(1e7 * 10**0.5, rel=0.1)
    other = radiative(np.append(np.full(known, 26), 24), np.zeros(known + 1, dtype=int), wave, low, given)
    assert other[-1] == pytest.approx(np.median(given[:-1]), rel=0.1)


def test_without_any_known_width_the_classical_one_is_used():
    wave, low = of_levels([0.0, 1.0], [3.0, 4.5])
    width = radiative(np.array([26, 26]), np.zeros(2, dtype=int), wave, low, np.full(2, np.nan))
    assert width == pytest.approx(classical_radiative(wave))


def test_stark_widths_grow_with_the_upper_level_and_are_smaller_for_ions():
    atoms = stark(np.full(3, 26), np.zeros(3, dtype=int), np.array([3.0, 5.0, 7.0]))
    assert (np.diff(np.log(atoms)) > 0.5).all()
    assert stark(np.array([26]), np.array([1]), np.array([8.0]))[0] < atoms[1]
