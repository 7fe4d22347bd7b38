"""Readers of model atmospheres and interpolation in the ragged grid, on the published models where at hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.atmospheres import read_atmospheres
from phdlspec.errors import UserError


@pytest.fixture(scope="module")
def folder(shared_data):
    return shared_data / "atmospheres"


@pytest.mark.parametrize(
    ("name", "teff", "logg"),
    [("p00_5750_4.5.dat", 5750, 4.5), ("m25_4750_1.5.dat", 4750, 1.5), ("asunodfnew.dat", 5777, 4.4377),
     ("at12_aaaaa_t05770g4.44.atm", 5770, 4.44)],
)  # fmt: skip
def test_single_models(folder, name, teff, logg):
    (model,) = read_atmospheres(folder / "native" / name)
    assert (model.teff, model.logg) == pytest.approx((teff, logg), abs=0.01)
    assert len(model.rhox) >= 64
    assert (np.diff(model.rhox) > 0).all()


def test_a_multi_model_file_holds_many(folder):
    models = read_atmospheres(folder / "native" / "am10ak1nover.dat")
    assert len(models) > 10
    assert len({(m.teff, m.logg) for m in models}) == len(models)


def test_a_model_short_of_a_layer_is_left_out_among_others(folder, tmp_path):
    lines = (folder / "native" / "am10ak1nover.dat").read_text().splitlines()
    whole = read_atmospheres(folder / "native" / "am10ak1nover.dat")
    deck = [i for i, line in enumerate(lines) if line.startswith("READ DECK")]
    path = tmp_path / "short.dat"
    path.write_text("\n".join(lines[: deck[3] + 5] + lines[deck[3] + 6 :]))
    models = read_atmospheres(path)
    assert [(m.teff, m.logg) for m in models] == [(m.teff, m.logg) for i, m in enumerate(whole) if i != 3]
    # The last model of a file that was cut off is no such model.
    path.write_text("\n".join(lines[:-5]))
    with pytest.raises(UserError, match="truncated"):
        read_atmospheres(path)


def test_a_truncated_model_is_refused(folder, tmp_path):
    lines = (folder / "native" / "p00_5750_4.5.dat").read_text().splitlines()
    path = tmp_path / "cut.dat"
    path.write_text("\n".join(lines[:60]))
    with pytest.raises(UserError, match="truncated"):
        read_atmospheres(path)


def test_what_is_no_model_is_refused(tmp_path):
    path = tmp_path / "no.dat"
    path.write_text("nothing of the kind\n")
    with pytest.raises(UserError, match=str(path)):
        read_atmospheres(path)


def test_layers_that_are_not_numbers_are_refused(folder):
    (model,) = read_atmospheres(folder / "native" / "p00_5750_4.5.dat")
    broken = model.temperature.copy()
    broken[5] = np.nan
    with pytest.raises(UserError, match="number"):
        dataclasses.replace(model, temperature=broken)


def test_nodes_are_met_and_nothing_is_extrapolated(folder):
    grid = AtmosphereGrid.load(folder / "ck03_odfnew_grid.npz")
    (model,) = read_atmospheres(folder / "native" / "p00_5750_4.5.dat")
    node = grid.interpolate(5750, 4.5, 0.0)
    tau = np.log(node.tau_rosseland)
    expected = np.interp(tau, np.log(model.tau_rosseland), model.temperature)
    inner = slice(3, -3)
    np.testing.assert_allclose(node.temperature[inner], expected[inner], rtol=2e-3)
    for teff, logg, mh in ((3000, 4.0, 0.0), (5750, 6.0, 0.0), (5750, 4.5, -4.0), (8500, 0.5, 0.0)):
        assert not grid.contains(teff, logg, mh)
        with pytest.raises(UserError):
            grid.interpolate(teff, logg, mh)


def test_a_damaged_grid_file_is_refused(tmp_path):
    path = tmp_path / "grid.npz"
    path.write_bytes(b"PK\x03\x04 half of it")
    with pytest.raises(UserError, match="damaged"):
        AtmosphereGrid.load(path)
