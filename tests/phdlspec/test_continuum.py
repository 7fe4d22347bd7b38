"""The continuum basis is smooth, complete, well conditioned and local to its arm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phdlspec.continuum import continuum_basis, spline_basis, terms_of_span
from phdlspec.masks import wavelength_mask
from phdlspec.wavelength import LAMOST_WAVE

ARMS = ((3690.0, 5900.0), (5900.0, 9110.0))


def test_shape_sum_and_condition():
    basis = continuum_basis(LAMOST_WAVE, ARMS)
    assert basis.shape[1] == len(LAMOST_WAVE)
    assert 15 <= len(basis) <= 20
    np.testing.assert_allclose(basis.sum(axis=0), 1.0, atol=1e-12)
    assert np.linalg.cond(basis @ basis.T) < 100


def test_arms_have_splines_of_their_own():
    basis = continuum_basis(LAMOST_WAVE, ARMS)
    blue = LAMOST_WAVE < 5900
    assert not (basis[:, blue].any(axis=1) & basis[:, ~blue].any(axis=1)).any()


def test_it_follows_a_response_curve():
    wave = LAMOST_WAVE
    x = np.log(wave / 5000)
    response = np.exp(-(((wave - 4800) / 900) ** 2)) + 0.3 + 0.2 * x
    response[wave > 5900] = 2 + np.sin(6 * x[wave > 5900])
    basis = continuum_basis(wave, ARMS)
    fit = np.linalg.lstsq(basis.T, response, rcond=None)[0] @ basis
    assert np.abs(fit / response - 1).max() < 0.01


def test_masked_gaps_and_missing_arms_leave_it_well_conditioned():
    good = ~wavelength_mask(LAMOST_WAVE, survey="LAMOST") & ~((LAMOST_WAVE > 4300) & (LAMOST_WAVE < 5400))
    basis = continuum_basis(LAMOST_WAVE, ARMS, good)
    gram = (basis * good) @ basis.T
    assert np.linalg.cond(gram) < 1e5
    only_blue = continuum_basis(LAMOST_WAVE, ARMS, LAMOST_WAVE < 5000)
    assert len(only_blue) == terms_of_span(3700, 5000)
    assert continuum_basis(LAMOST_WAVE, ARMS, LAMOST_WAVE < 0).shape == (0, len(LAMOST_WAVE))


@settings(max_examples=30, deadline=None)
@given(low=st.floats(3000, 8000), span=st.floats(1.02, 2.5), spacing=st.floats(0.03, 0.2))
def test_terms_grow_with_the_span_and_lines_are_not_followed(low, span, spacing):
    terms = terms_of_span(low, low * span, spacing)
    assert terms >= 4
    assert terms_of_span(low, low * span * 1.5, spacing) >= terms
    wave = np.exp(np.linspace(np.log(low), np.log(low * span), 500))
    assert spline_basis(wave, wave[0], wave[-1], terms).sum() == pytest.approx(500)
