"""One grid from several sets: on grids made by hand, whose truth is known, and on the published ones where at hand."""

from __future__ import annotations

import numpy as np
import pytest

from kurucz_grids.atmosphere_extension import extended, with_fewer_metals, with_higher_gravity, with_one_microturbulence
from kurucz_grids.atmosphere_grid import AtmosphereGrid
from phdlspec.errors import UserError

DEPTH = np.linspace(-6.875, 2.0, 72)
TEFF, LOGG = np.arange(4000.0, 7001.0, 500.0), np.arange(2.0, 5.1, 0.5)


def structure(teff: float, logg: float, mh: float, t: np.ndarray | float = 0.0) -> np.ndarray:
    """(D, 7) of a grey atmosphere, ln T changed by `t`, whose columns are parabolas in [M/H] and log g."""
    tau = 10.0**DEPTH
    temperature = teff * (0.75 * (tau + 2 / 3)) ** 0.25 * np.exp(t + 0.01 * mh**2 + 0.02 * mh)
    opacity = 0.05 * (1.0 + tau**0.5) * 10 ** (0.3 * mh)
    rhox = np.cumsum(np.diff(tau, prepend=0.0) / opacity) * 10 ** (0.02 * (logg - 4.0) ** 2)
    opacity = opacity / 10 ** (0.02 * (logg - 4.0) ** 2)
    pressure = 10**logg * rhox
    one = np.ones_like(tau)
    return np.column_stack([rhox, temperature, pressure, 1e-4 * pressure, opacity, -one, 2e5 * one])


def grid_of(metals, change=lambda mh: 0.0, vturb=lambda mh: 2.0, logg=LOGG, source="made") -> AtmosphereGrid:
    nodes = [(t, g, m) for t in TEFF for g in logg for m in metals]
    params = np.array([(*node, vturb(node[2])) for node in nodes])
    return AtmosphereGrid(params, np.stack([structure(*node, change(node[2])) for node in nodes]), source=source)


def temperature(grid: AtmosphereGrid, *labels: float) -> np.ndarray:
    return grid.interpolate(*labels).temperature


def test_a_step_in_microturbulence_is_taken_out():
    metals = (-1.0, -0.5, 0.0, 0.2, 0.5)
    stepped = grid_of(metals, lambda mh: -0.004 * (mh == 0.0), lambda mh: 2.0 * (mh != 0.0))
    even, truth = with_one_microturbulence(stepped), grid_of(metals)
    assert np.ptp(even.params[:, 3]) == 0.0
    expected = temperature(truth, 5500, 4.0, 0.0)
    off, left = (np.abs(temperature(grid, 5500, 4.0, 0.0) / expected - 1) for grid in (stepped, even))
    assert off.max() > 0.0035
    assert left.max() < 1e-4
    np.testing.assert_allclose(temperature(even, 5500, 4.0, 0.2), temperature(stepped, 5500, 4.0, 0.2))


def test_a_microturbulence_at_the_edge_stays(caplog):
    stepped = grid_of((-1.0, -0.5, 0.0), vturb=lambda mh: 2.0 * (mh != 0.0))
    assert with_one_microturbulence(stepped).checksum == stepped.checksum
    assert "the models of [M/H] 0 have a microturbulence of their own" in caplog.text


def test_fewer_metals_by_differences_not_by_structures():
    rich, truth = grid_of((-2.5, -2.0, -1.5)), grid_of((-4.0, -3.5, -3.0, -2.5, -2.0, -1.5))
    zone = np.exp(-0.5 * ((DEPTH - 0.1) / 0.3) ** 2)
    others = grid_of((-4.0, -3.5, -3.0, -2.5, -2.0), lambda mh: 0.03 + (0.08 + 0.02 * (mh == -3.5)) * zone)
    poor = with_fewer_metals(rich, others)
    assert poor.axes[2][0] == -4.0
    for mh in (-4.0, -3.5, -3.2):  # overshooting comes and goes with metallicity: it is bridged
        error = np.abs(temperature(poor, 5000, 3.5, mh) / temperature(truth, 5000, 3.5, mh) - 1)
        assert error[DEPTH < -1.0].max() < 2e-4
        # the change of T that was made here, unlike a real one, does not fade towards optical depth one
        assert error.max() < 0.75 * abs(0.01 * (mh**2 - 2.5**2) + 0.02 * (mh + 2.5)) < 0.06
    column = poor.interpolate(5000, 3.5, -4.0).rhox / truth.interpolate(5000, 3.5, -4.0).rhox
    np.testing.assert_allclose(column, 1.0, rtol=1e-6)


def test_sets_that_do_not_fit_together_are_refused():
    rich = grid_of((-2.5, -2.0))
    with pytest.raises(UserError, match=r"poor: it has no models of \[M/H\] -2.5, the lowest of made"):
        with_fewer_metals(rich, grid_of((-4.0, -3.5), source="poor"))
    other = AtmosphereGrid(rich.params, np.delete(rich.structure, 0, axis=1), source="poor")
    with pytest.raises(UserError, match="poor: its layers are not those of made"):
        with_fewer_metals(rich, other)


def test_gravity_beyond_the_end_follows_a_parabola():
    cut, truth = grid_of((-0.5, 0.0, 0.5), logg=LOGG[:-1]), grid_of((-0.5, 0.0, 0.5))
    higher = with_higher_gravity(cut, 5.0)
    np.testing.assert_allclose(
        higher.interpolate(5000, 5.0, 0.0).gas_pressure, truth.interpolate(5000, 5.0, 0.0).gas_pressure, rtol=1e-6
    )
    assert with_higher_gravity(cut, 4.0) is cut


def test_a_grid_is_the_same_after_saving(tmp_path):
    grid = with_higher_gravity(grid_of((-0.5, 0.0, 0.5)))
    grid.save(tmp_path / "grid.npz")
    assert AtmosphereGrid.load(tmp_path / "grid.npz").checksum == grid.checksum


@pytest.fixture(scope="module")
def published(shared_data) -> AtmosphereGrid:
    folder = shared_data / "atmospheres"
    return extended(*(AtmosphereGrid.load(folder / f"{n}.npz") for n in ("ck03_odfnew_grid", "kurucz1993_metal_poor")))


def test_the_published_sets_cover_the_range(published):
    for labels in ((3650, 1.0, -3.5), (5800, 5.2, -4.0), (8000, 4.0, -4.0), (4500, 0.0, 0.5), (3600, 5.1, -1.0)):
        model = published.interpolate(*labels)
        assert (np.diff(model.temperature)[:64] > -200).all()
    for labels in ((7900, 0.3, 0.0), (3600, 4.9, -4.0), (5000, 5.3, 0.0)):
        assert not published.contains(*labels)
        with pytest.raises(UserError, match="never extrapolated; choose labels inside"):
            published.interpolate(*labels)


def test_differences_of_the_published_sets_agree_where_they_overlap(published, shared_data):
    folder = shared_data / "atmospheres"
    grid = AtmosphereGrid.load(folder / "ck03_odfnew_grid.npz")
    above = grid.params[:, 2] > -2.5
    cut = AtmosphereGrid(grid.params[above], grid.structure[above], grid.titles[above], "cut")
    again = with_fewer_metals(cut, AtmosphereGrid.load(folder / "kurucz1993_metal_poor.npz"))
    forming = (DEPTH > -3.5) & (DEPTH < 0.0)
    for labels in ((5000, 2.5), (5750, 4.5), (6500, 4.0)):
        error = temperature(again, *labels, -2.5) - temperature(grid, *labels, -2.5)
        assert np.sqrt(np.mean(error[forming] ** 2)) < 8.0
