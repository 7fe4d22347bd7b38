"""The basis of the bias: properties that hold for any axis."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.splines import DEGREE, Axis, Basis

_FRACTIONS = np.linspace(0, 1, 41)


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    lower = draw(st.floats(-1e4, 1e4))
    return Axis("X", lower, lower + draw(st.floats(0.1, 1e4)), draw(st.integers(1, 20)))


def _points(axis: Axis) -> np.ndarray:
    return axis.lower + (axis.upper - axis.lower) * _FRACTIONS


@settings(max_examples=50, deadline=None)
@given(axes(), st.floats(0, 1e5))
def test_beyond_the_references_the_last_value_is_kept(axis, beyond):
    for end, outside in ((axis.lower, axis.lower - beyond), (axis.upper, axis.upper + beyond)):
        (line, outer_line), bends = axis.columns(np.array([end, outside]))
        assert abs(line) == 1
        assert line == outer_line
        np.testing.assert_array_equal(bends[0], bends[1])


@settings(max_examples=50, deadline=None)
@given(axes())
def test_any_cubic_is_represented(axis):
    line, bends = axis.columns(_points(axis))
    np.testing.assert_allclose(line, 2 * _FRACTIONS - 1, atol=1e-9)
    columns = np.column_stack([np.ones(len(line)), line, bends])
    assert bends.shape == (len(_FRACTIONS), axis.intervals + 1)
    for power in range(DEGREE + 1):
        found = columns @ np.linalg.lstsq(columns, _FRACTIONS**power, rcond=None)[0]
        np.testing.assert_allclose(found, _FRACTIONS**power, atol=1e-7)


@settings(max_examples=50, deadline=None)
@given(axes(), st.integers(0, 1000))
def test_every_direction_of_bending_costs_the_same(axis, seed):
    """The second differences of the coefficients have the same length for all unit vectors, and none is a line."""
    vector = np.random.default_rng(seed).standard_normal(axis.intervals + 1)
    vector /= np.linalg.norm(vector)
    second = np.diff(axis.bending, n=2, axis=0)
    cost = np.linalg.norm(second @ vector)
    assert cost > 0
    np.testing.assert_allclose(cost, np.linalg.norm(second[:, 0]), rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(axes())
def test_bending_has_unit_variance_over_the_axis(axis):
    _, bends = axis.columns(np.linspace(axis.lower, axis.upper, 200))
    np.testing.assert_allclose((bends**2).sum(axis=1).mean(), 1.0, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(axes(), min_size=1, max_size=3), st.integers(0, 2))
def test_axes_are_additive(parts, moved):
    """A star that moves along one axis changes the columns of this axis only."""
    basis = Basis(tuple(parts))
    moved %= len(parts)
    here = np.array([[(axis.lower + axis.upper) / 2 for axis in parts]])
    there = here.copy()
    there[0, moved] = parts[moved].upper
    one, two = basis.design(here)[0], basis.design(there)[0]
    assert one.shape == basis.axis_of_column.shape == (basis.size,)
    own = basis.axis_of_column == moved
    own[1 + moved] = True
    np.testing.assert_array_equal(one[~own], two[~own])
    assert np.any(one[own] != two[own])
