"""Readers of model atmospheres and interpolation in the ragged grid, on the published models where at hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

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


def deck(scale: float = 1.0, iron: float = -4.54, magnesium: float = -4.46, table: str = "") -> str:
    """An ATLAS9 deck of thirty layers; abundances of Fe and Mg as log10 of number fractions, before the scale."""
    layers = [
        f"{1e-3 * 1.5**i:.8E} {4000 + 150 * i:8.1f} {10 * 1.5**i:.3E} {1e9 * 1.5**i:.3E} {1e-3 * 1.2**i:.3E} "
        "-3.843E-02 2.000E+05"
        for i in range(30)
    ]
    head = [
        "TEFF   5000.  GRAVITY 4.00000 LTE",
        "TITLE  by hand",
        f"ABUNDANCE SCALE   {scale:.5f} ABUNDANCE CHANGE 1 0.92040 2 0.07834",
        f"ABUNDANCE CHANGE  8  -3.21 12  {magnesium:.2f} 26  {iron:.2f}",
    ]
    return "\n".join(
        [
            *head,
            *([table] if table else []),
            "READ DECK6 30 RHOX,T,P,XNE,ABROSS,ACCRAD,VTURB",
            *layers,
            "PRADK 1.4604E+00",
            "BEGIN                    ITERATION  15 COMPLETED",
        ]
    )


TABLE = " ABUNDANCE TABLE\n    1H   0.920400       2He  0.078340\n   12Mg -4.460-0.500   26Fe -4.540-0.500"


@pytest.mark.parametrize(
    ("text", "mh"),
    [(deck(), 0.0), (deck(0.03162), -1.5), (deck(0.1, iron=-4.53), -1.0), (deck(iron=-5.54, magnesium=-5.46), -1.0),
     (deck(iron=-4.37), 0.17), (deck(table=TABLE), -0.5), (deck(table=TABLE.replace("-0.500", " 0.000")), 0.0)],
)  # fmt: skip
def test_metallicity_is_that_of_iron(tmp_path, text, mh):
    path = tmp_path / "deck.dat"
    path.write_text(text)
    (model,) = read_atmospheres(path)
    assert model.mh == mh


def test_a_mixture_that_is_not_scaled_solar_is_told(tmp_path, caplog):
    path = tmp_path / "deck.dat"
    path.write_text(deck(0.1) + "\n" + deck(0.1, iron=-4.53))
    read_atmospheres(path)
    assert caplog.text == ""
    path.write_text(deck(0.1) + "\n" + deck(0.1, magnesium=-4.06))
    read_atmospheres(path)
    assert "deck.dat: the mixture of 1 of 2 models is not scaled solar ([Mg/Fe] +0.38)" in caplog.text


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [(" 4.00000", None, "line 1: cannot read Teff and gravity"), (" 30 RHOX", None, "line 5: .* is cut off"),
     (" RHOX", None, "line 5: .* is cut off"), ("SCALE   1.00000", "SCALE   x", "SCALE is x, expected a positive"),
     ("1.000E-03 -3.843E-02", "1.000E-03-3.843E-02", "line 6 is damaged or its columns touch")],
)  # fmt: skip
def test_a_damaged_deck_is_told_with_the_line(tmp_path, before, after, message):
    path = tmp_path / "deck.dat"
    text = deck()
    path.write_text(text[: text.index(before)] if after is None else text.replace(before, after))
    with pytest.raises(UserError, match=message):
        read_atmospheres(path)


def test_exponents_of_double_precision(tmp_path):
    (tmp_path / "e.dat").write_text(deck())
    (tmp_path / "d.dat").write_text(deck().replace("E+", "D+").replace("E-", "D-"))
    (single,), (double,) = read_atmospheres(tmp_path / "e.dat"), read_atmospheres(tmp_path / "d.dat")
    np.testing.assert_array_equal(single.rhox, double.rhox)


def arrays() -> dict[str, np.ndarray]:
    layers = np.geomspace(1.0, 1e3, 20)[:, None] * np.ones(7)
    params = np.array([[5000.0, 4.0, 0.0, 2.0], [5250.0, 4.5, -0.5, 2.0]])
    return {"params": params, "structure": np.stack([layers] * 2)}


def test_a_grid_file_names_its_parameters_and_columns(tmp_path):
    path, plain = tmp_path / "grid.npz", arrays()
    np.savez(path, **plain)
    expected = AtmosphereGrid.load(path)
    plain["structure"] *= np.arange(1, 8)
    np.savez(path, **plain)
    named = AtmosphereGrid.load(path)
    order, columns = ["logg", "teff", "mh", "vturb_kms"], "T rhox Pgas xne abross accrad vturb_cms".split()
    np.savez(
        path,
        params=plain["params"][:, [1, 0, 2, 3]],
        structure=plain["structure"][:, :, [1, 0, 2, 3, 4, 5, 6]],
        param_names=order,
        columns=columns,
    )
    permuted = AtmosphereGrid.load(path)
    np.testing.assert_array_equal(permuted.params, expected.params)
    assert permuted.checksum == named.checksum
    np.savez(path, **plain, param_names=["teff", "logg", "feh", "vturb_kms"])
    with pytest.raises(UserError, match="param_names is teff, logg, feh, vturb_kms; expected"):
        AtmosphereGrid.load(path)


def test_parameters_that_are_not_numbers_are_refused(tmp_path):
    path, broken = tmp_path / "grid.npz", arrays()
    broken["params"][1, 0] = np.nan
    np.savez(path, **broken)
    with pytest.raises(UserError, match="parameters of model 2 are .* expected finite numbers"):
        AtmosphereGrid.load(path)
    np.savez(path, params=1.0, structure=2.0)
    with pytest.raises(UserError, match="an atmosphere grid needs params"):
        AtmosphereGrid.load(path)


def test_a_damaged_grid_file_is_refused(tmp_path):
    path = tmp_path / "grid.npz"
    np.savez_compressed(path, **arrays())
    whole = path.read_bytes()
    flipped = whole[:120] + bytes([whole[120] ^ 255]) + whole[121:]
    for content in (b"PK\x03\x04 half of it", whole[: len(whole) // 2], flipped):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"grid\.npz: the atmosphere grid is damaged"):
            AtmosphereGrid.load(path)


def test_a_folder_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    def denied(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(UserError, match=f"{tmp_path}: the atmospheres cannot be read .Permission denied"):
        AtmosphereGrid.load(tmp_path)


def test_one_bad_file_does_not_cost_a_folder(folder, tmp_path, caplog):
    for name in ("p00_5750_4.5.dat", "m25_4750_1.5.dat"):
        (tmp_path / name).write_bytes((folder / "native" / name).read_bytes())
    (tmp_path / "notes.txt").write_text("no model")
    grid = AtmosphereGrid.load(tmp_path)
    assert len(grid.params) == 2
    assert "left out" in caplog.text
    assert "notes.txt: not a Kurucz model atmosphere" in caplog.text
    for name in ("p00_5750_4.5.dat", "m25_4750_1.5.dat"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match="notes.txt: not a Kurucz model atmosphere"):
        AtmosphereGrid.load(tmp_path)
