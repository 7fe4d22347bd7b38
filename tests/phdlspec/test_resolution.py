"""Default resolving powers."""

from __future__ import annotations

import numpy as np
import pytest

from phdlspec.errors import UserError
from phdlspec.resolution import DEFAULT_RESOLVING_POWER, default_resolving_power, resolving_power_at


@pytest.mark.parametrize("survey", sorted(DEFAULT_RESOLVING_POWER))
def test_defaults_are_plausible(survey):
    power = default_resolving_power(survey, np.linspace(3700, 9100, 200))
    assert ((power > 1000) & (power < 5100)).all()


def test_lamost_has_1800_near_5500_and_a_jump_between_its_arms():
    power = default_resolving_power("LAMOST", np.array([5500.0, 5899.0, 5901.0]))
    assert power[0] == pytest.approx(1800, abs=50)
    assert power[1] > power[2] + 300


def test_unknown_survey_and_bad_tables():
    with pytest.raises(UserError, match="no default resolving power"):
        default_resolving_power("GAIA", np.array([5000.0]))
    with pytest.raises(UserError, match="increasing wavelengths"):
        resolving_power_at((np.array([2.0, 1.0]), np.array([1.0, 1.0])), np.array([5000.0]))
    assert resolving_power_at(1500, np.array([5000.0])) == 1500.0
