from __future__ import annotations

import numpy as np
import pytest

from kurucz_grids.hydrogen import hydrogen_lines, interpolation_weights, oscillator_strength, sampling_nodes


@pytest.mark.parametrize(
    ("lower", "upper", "value"), [(1, 2, 0.4162), (2, 3, 0.6407), (2, 4, 0.1193), (2, 7, 0.01270), (3, 4, 0.8421)]
)
def test_oscillator_strengths_are_those_of_the_tables(lower, upper, value):
    assert oscillator_strength(lower, upper) == pytest.approx(value, rel=5e-4)


def test_h_alpha_and_the_series():
    lines = hydrogen_lines(3600.0, 9400.0)
    h_alpha = next(line for line in lines if (line.lower, line.upper) == (2, 3))
    assert h_alpha.wave_vacuum == pytest.approx(6564.6, abs=0.1)
    assert [line.wave_vacuum for line in lines] == sorted(line.wave_vacuum for line in lines)


def test_nodes_are_dense_at_the_cores():
    nodes = sampling_nodes(hydrogen_lines(3600.0, 9400.0), 3690.0, 9110.0)
    assert (np.diff(nodes) > 0).all()
    near = np.abs(nodes - 6564.6) < 1.0
    assert near.sum() >= 5


def test_a_power_law_wing_is_interpolated_exactly_enough():
    lines = hydrogen_lines(3600.0, 9400.0)
    nodes = sampling_nodes(lines, 3690.0, 9100.0)
    centre = next(line.wave_vacuum for line in lines if (line.lower, line.upper) == (2, 3))
    wave = centre + np.linspace(-90.0, 90.0, 1801)

    def wing(x):
        return -2.5 * np.log(np.hypot(x - centre, 0.2))

    left, weight = interpolation_weights(lines, nodes, wave)
    found = wing(nodes[left]) * (1.0 - weight) + wing(nodes[left + 1]) * weight
    assert np.abs(found - wing(wave)).max() < 0.03
    assert np.abs(np.interp(wave, nodes, wing(nodes)) - wing(wave)).max() > 0.1
