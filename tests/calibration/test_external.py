"""External error by signal-to-noise: a known one is found again, from surveys and from pairs."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.external import external_errors


def _evidence(kind: str, snr: np.ndarray, ours: np.ndarray, reference: float, seed: int = 0) -> Table:
    """Evidence rows whose held-out residuals have the errors `ours` (n,) of one star and `reference`."""
    n, stars = len(snr), 2 if kind == "pairs" else 1
    noise = np.random.default_rng(seed).standard_normal(n) * np.hypot(ours * stars**0.5, reference)
    return Table(
        {
            "SET": np.full(n, "set"),
            "KIND": np.full(n, kind),
            "SNR": snr,
            "GOOD": np.ones(n),
            "HELD_OUT": noise,
            "ERR_OURS": ours * stars**0.5 / 2,  # the fit claims half of the true error
            "ERR_REFERENCE": np.full(n, reference),
        }
    )


@pytest.mark.parametrize("kind", ["labels", "cluster", "pairs"])
def test_the_error_of_one_star_is_found(kind):
    snr = np.repeat([15.0, 40.0, 150.0], 4000)
    bins = external_errors(_evidence(kind, snr, 3.0 / snr, 0.0 if kind == "cluster" else 0.04))
    assert [b.rows for b in bins] == [4000, 4000, 4000]
    for one in bins:
        assert one.external == pytest.approx(3.0 / one.snr, rel=0.12)
        assert one.external_range[0] < one.external < one.external_range[1]
        assert one.claimed == pytest.approx(1.5 / one.snr)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.005, 0.5), st.floats(0.0, 0.5), st.integers(0, 1000))
def test_range_holds_the_external_error_and_is_never_negative(ours, reference, seed):
    snr = np.full(400, 60.0)
    (one,) = external_errors(_evidence("labels", snr, np.full(400, ours), reference, seed))
    low, high = one.external_range
    assert 0 <= low <= one.external <= high
    assert one.external <= one.scatter


def test_few_flagged_or_unknown_rows_are_left_out():
    rows = _evidence("labels", np.full(30, 60.0), np.full(30, 0.1), 0.0)
    rows["SNR"][:11] = np.nan
    rows["GOOD"][11:21] = 0.1
    assert external_errors(rows) == []


def test_a_simulated_survey_gives_its_errors(survey, calibration):
    """Quoted errors are too small by 0.02 dex in quadrature; the bins of the survey find the larger ones."""
    evidence = calibration.evidence
    rows = evidence[np.asarray(evidence["LABEL"]).astype(str) == "FE_H"]
    bins = [b for b in external_errors(rows) if b.set_name == "survey1" and b.rows >= 40]
    assert bins
    for one in bins:
        assert one.external == pytest.approx(np.hypot(one.claimed, 0.02), rel=0.35)
