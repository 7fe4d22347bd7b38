"""Oscillator strengths are lowered for the lines and the values that were compared with the Sun, and for no others."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.linelists.solar_gf import COLUMNS, solar_gf_table, with_solar_gf
from phdlspec.errors import UserError


def lines(wave: list[float], species: list[str], loggf: list[float]) -> LineList:
    n = len(wave)
    return LineList.from_columns(
        np.array(species), wave_vacuum=np.array(wave), elow_ev=np.full(n, 2.0), loggf=np.array(loggf),
        gamma_rad=np.full(n, 1e8), gamma_stark=np.full(n, 1e-6), gamma_vdw=np.full(n, 1e-8),
        vdw_exponent=np.full(n, 0.3), isotope_fraction=np.ones(n),
    )  # fmt: skip


def test_only_the_line_with_the_compared_value_changes():
    table = Table(rows=[(5000.0, "Fe", 2.0, -1.0, -0.5)], names=COLUMNS)
    listed = lines([5000.001, 5000.0, 5000.0, 5000.02], ["Fe", "Ni", "Fe", "Fe"], [-1.0, -1.0, -1.4, -1.0])
    after = with_solar_gf(listed, table)
    changed = np.flatnonzero(after.loggf != listed.loggf)
    assert len(changed) == 1
    assert after.wave_vacuum[changed[0]] == 5000.001
    assert after.loggf[changed[0]] == pytest.approx(-1.5)
    assert after.checksum != listed.checksum


def test_the_shipped_table_lowers_light_atoms_only():
    table = solar_gf_table()
    assert len(table) > 1000
    assert np.max(table["change"]) < 0.0
    assert np.all(table["wave_vacuum"] < 6920.0)
    assert {"CH", "C2", "Nd+", "Eu+"}.isdisjoint(table["species"].tolist())


def test_a_table_without_a_column_is_refused(tmp_path):
    path = tmp_path / "gf.csv"
    path.write_text("wave_vacuum,species,elow_ev,loggf\n5000,Fe,2,-1\n")
    with pytest.raises(UserError, match="column change is missing"):
        solar_gf_table(path)
