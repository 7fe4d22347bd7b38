"""Forests of lines absorb the same in fewer lines."""

from __future__ import annotations

import numpy as np
import pytest

from kurucz_grids.linelists import LineList, read_line_list
from kurucz_grids.linelists.forest import forests_thinned

EV_OVER_BOLTZMANN = 11604.518
COLUMNS = 1200  # of 1 km/s, from 5400 Å; those of the forest are wider


def lines_of(species: str, number: int, seed: int = 3) -> LineList:
    """Random lines over `COLUMNS` columns: levels of 0-2 eV, strengths over three decades."""
    rng = np.random.default_rng(seed)
    wave = 5400.0 * np.exp(rng.uniform(0.0, COLUMNS / 299792.458, number))
    return LineList.from_columns(
        np.full(number, species), wave_vacuum=wave, elow_ev=rng.uniform(0.0, 2.0, number),
        loggf=rng.uniform(-3.0, 0.0, number), gamma_rad=np.full(number, 7e7), gamma_stark=np.full(number, 1e-5),
        gamma_vdw=np.full(number, 1e-8), vdw_exponent=np.full(number, 0.3), isotope_fraction=np.full(number, 0.07),
    )  # fmt: skip


def absorption(lines: LineList, temperature: float, width: float = 1.8) -> np.ndarray:
    """Sum of Doppler profiles at points 1 km/s apart."""
    velocity = np.log(lines.wave_vacuum / 5400.0) * 299792.458
    weight = 10.0 ** lines.loggf.astype(float) * np.exp(-lines.elow_ev * EV_OVER_BOLTZMANN / temperature)
    return np.exp(-(((np.arange(COLUMNS)[:, None] - velocity) / width) ** 2)) @ weight


@pytest.mark.parametrize("temperature", [2500.0, 3500.0, 5000.0])
def test_a_forest_absorbs_the_same(temperature):
    lines = lines_of("TiO", 12 * COLUMNS)
    thin = forests_thinned(lines)
    assert len(thin) <= 2 * (COLUMNS + 1)
    before, after = absorption(lines, temperature), absorption(thin, temperature)
    assert abs(after.sum() / before.sum() - 1.0) < 1e-3
    for depth in (0.3, 1.0, 3.0):
        flux = np.exp(-depth * np.stack([before, after]) / before.mean()).mean(axis=1)
        assert abs(flux[1] - flux[0]) < 3e-3


def test_shares_and_range_stay_and_wings_go():
    lines = lines_of("TiO", 12 * COLUMNS)
    thin = forests_thinned(lines)
    assert (thin.gamma_vdw + thin.gamma_stark).max() == 0.0
    assert 0.0 < thin.gamma_rad.max() < 1e7
    for name in ("vdw_exponent", "isotope_fraction"):
        np.testing.assert_allclose(getattr(thin, name), getattr(lines, name)[0], rtol=1e-5)
    assert thin.elow_ev.min() >= lines.elow_ev.min()
    assert thin.elow_ev.max() <= lines.elow_ev.max()
    assert (np.diff(thin.wave_vacuum) >= 0).all()


def test_what_is_no_forest_is_left_alone():
    few, atoms, forest = lines_of("CN", COLUMNS), lines_of("Fe", 12 * COLUMNS), lines_of("TiO", 12 * COLUMNS)
    assert forests_thinned(few) is few
    assert forests_thinned(atoms) is atoms
    both = forests_thinned(LineList.joined([few, atoms, forest], "all"))
    assert ((both.species == "CN").sum(), (both.species == "Fe").sum()) == (len(few), len(atoms))
    assert (both.species == "TiO").sum() <= 2 * (COLUMNS + 1)
    assert both.path == "all"


def test_lists_are_thinned_as_they_are_read(tmp_path):
    rows = "\n".join(f"{5400.0 + 0.001 * k:10.3f} 822.01648 {0.1 * (k % 7):9.3f} {-1.0 - 0.1 * (k % 5):9.3f}"
                     for k in range(2400))  # fmt: skip
    (tmp_path / "t.moog").write_text(f"titanium oxide, air\n{rows}\n")
    assert len(read_line_list(tmp_path / "t.moog", thin_forests=False)) == 2400
    assert len(read_line_list(tmp_path / "t.moog")) < 400
