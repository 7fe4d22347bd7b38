"""ScatterVAE of Gaia XP coefficients: architecture, readers, bad input, the command end to end."""

from __future__ import annotations

import gzip
from dataclasses import replace

import numpy as np
import pytest
import torch
from astropy.table import Table

from phdlspec.cli import main
from phdlspec.datadriven.scatter_vae import XPModel, XPSettings, load_model, read_published, read_xp, train_xp
from phdlspec.datadriven.scatter_vae.xp_network import XPNetwork
from phdlspec.datadriven.scatter_vae.xp_table import XPSet, is_xp, xp_table
from phdlspec.errors import UserError

PARAMETERS = 67_182


def mock_xp(count: int, seed: int = 0) -> XPSet:
    random = np.random.default_rng(seed)
    loadings = random.normal(size=(3, 110)) * 10.0 ** -(np.arange(110) % 55 / 20.0)
    flux = 10.0 ** random.uniform(3, 5, count)
    shape = 1.0 + random.normal(size=(count, 3)) @ loadings * 0.1
    error = 1e-3 * np.ones((count, 110))
    values = shape + error * random.normal(size=shape.shape)
    sources = tuple(str(4_000_000_000_000_000_000 + i) for i in range(count))
    return XPSet(sources, values * flux[:, None], error * flux[:, None], flux, ("",) * count)


def table_of(data: XPSet) -> Table:
    return xp_table([int(s) for s in data.sources], data.coefficients, data.errors, data.g_flux)


def write_csv(path, data: XPSet, brackets: str = "()") -> None:
    names = ("bp_coefficients", "rp_coefficients", "bp_coefficient_errors", "rp_coefficient_errors")
    table = table_of(data)
    lines = [",".join(["source_id", *names, "phot_g_mean_flux"])]
    for row in table:
        arrays = ['"' + brackets[0] + ", ".join(repr(float(x)) for x in row[n]) + brackets[1] + '"' for n in names]
        lines.append(",".join([str(row["source_id"]), *arrays, repr(float(row["phot_g_mean_flux"]))]))
    text = "\n".join(lines) + "\n"
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(("# a comment of Gaia's bulk files\n" + text).encode()))
    else:
        path.write_text(text)


def test_the_architecture_is_the_papers():
    network = XPNetwork()
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS
    _, scatter = network.eval().decode(torch.randn(7, 6))
    assert scatter.shape == (7, 110)
    assert ((scatter > 0) & (scatter < 1)).all()


def test_the_authors_weights_fit_by_name_and_shape(shared_data):
    network = read_published(shared_data / "xp" / "xp_vae" / "weight.pt")
    mean, log_var = network.encode(torch.zeros(1, 110))
    assert torch.isfinite(mean).all()
    assert (log_var < -3.0).sum() == 4  # of the six latents two say nothing: their variance is that of the prior
    assert (log_var < 1e-3).all()


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"model_state_dict": {"mu.bias": torch.zeros(6)}}, tmp_path / "weight.pt")
    with pytest.raises(UserError, match="not the weights of the ScatterVAE"):
        read_published(tmp_path / "weight.pt")


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.ecsv", "x.fits", "x.vot", "x.parquet"])
def test_every_format_gives_the_same(name, tmp_path):
    data = mock_xp(4)
    path = tmp_path / name
    if ".csv" in name:
        write_csv(path, data, "()" if name == "x.csv" else "[]")
    elif name == "x.vot":
        table_of(data).write(path, format="votable")
    elif name == "x.parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
        import pyarrow

        table = table_of(data)
        parquet.write_table(pyarrow.table({n: table[n].tolist() for n in table.colnames}), path)
    else:
        table_of(data).write(path)
    assert is_xp(path)
    found = read_xp([path])
    assert found.sources == data.sources
    assert np.allclose(found.coefficients, data.coefficients)
    assert np.allclose(found.errors, data.errors)
    assert np.allclose(found.g_flux, data.g_flux)


def test_gaias_own_files_and_gaiaxpys(shared_data):
    found = read_xp(
        [shared_data / "xp" / n for n in ("HiromonGON_example_file_coeff.csv", "gaiaxpy_XP_CONTINUOUS_RAW.csv")]
    )
    assert len(found) == 12
    assert found.readable.all()
    assert not np.isfinite(found.g_flux).any()


def test_a_table_without_errors_is_told(tmp_path):
    table = table_of(mock_xp(3))
    table.remove_column("rp_coefficient_errors")
    table.write(tmp_path / "x.fits")
    with pytest.raises(UserError, match="no errors of the coefficients, the column rp_coefficient_errors is missing"):
        read_xp([tmp_path / "x.fits"])


@pytest.mark.parametrize(
    ("column", "change", "words"),
    [
        ("bp_coefficients", lambda a: a[:, :20], "20 values in bp_coefficients, expected 55; truncated"),
        ("bp_coefficient_errors", lambda a: 0 * a, "not positive"),
        ("rp_coefficients", lambda a: np.nan * a, "no numbers"),
    ],
)
def test_rows_that_cannot_be_used_say_why(column, change, words, tmp_path):
    table = table_of(mock_xp(3))
    table[column] = change(np.asarray(table[column]))
    table.write(tmp_path / "x.fits")
    with pytest.raises(UserError, match=words):
        read_xp([tmp_path / "x.fits"])


def test_a_negative_g_flux_is_a_row_with_a_reason():
    data = mock_xp(3)
    data = replace(data, g_flux=np.array([1.0, -2.0, np.nan]))
    _, _, reasons = data.scaled("gflux")
    assert reasons[0] == ""
    assert "a G flux of -2, expected a positive" in reasons[1]
    assert "no G flux" in reasons[2]
    assert not any(data.scaled("power")[2])


def test_photometry_comes_from_another_table(tmp_path):
    data = replace(mock_xp(3), g_flux=np.full(3, np.nan))
    Table({"source_id": [int(s) for s in data.sources[:2]], "phot_g_mean_mag": [25.6873668671, 20.6873668671]}).write(
        tmp_path / "g.csv"
    )
    found = data.with_photometry(tmp_path / "g.csv")
    assert np.allclose(found.g_flux[:2], [1.0, 100.0])
    assert np.isnan(found.g_flux[2])


def test_training_explains_held_out_sources_and_survives_its_file(tmp_path):
    data = mock_xp(1200)
    model = train_xp(data, XPSettings(epochs=60, batch=128))
    assert 0.2 < model.metadata["held_out_rchi2"] < 2.0
    found, _ = model.find(data)
    assert np.median(found.scatter) < 0.6  # of the spread of the sources: the latents explain the rest
    model.save(tmp_path / "xp.safetensors")
    again = load_model(tmp_path / "xp.safetensors")
    assert isinstance(again, XPModel)
    few = data.take(np.arange(20))
    for name in ("LATENTS", "RCHI2", "ANOMALY"):
        assert np.array_equal(model.apply(few)[name], again.apply(few)[name])
    odd = replace(few, coefficients=few.coefficients + 0.5 * few.g_flux[:, None] * (np.arange(110) == 60))
    assert (again.apply(odd)["ANOMALY"] > again.apply(few)["ANOMALY"]).all()


def test_the_command_reads_real_sets_end_to_end(shared_data, tmp_path, capsys):
    stars = np.load(shared_data / "xp" / "opcruz_xp_continuous_PN_Sy.npz")
    xp_table(stars["source_id"], np.c_[stars["bp"], stars["rp"]], np.c_[stars["bp_err"], stars["rp_err"]]).write(
        tmp_path / "pn.fits"
    )
    arguments = ["vae", "train", str(tmp_path / "pn.fits"), "--out", str(tmp_path / "m.safetensors"), "--epochs", "3"]
    assert main(arguments) == 1
    assert "0 of 616 sources can be used" in capsys.readouterr().err
    assert main([*arguments, "--normalise", "power"]) == 0
    out = tmp_path / "t.fits"
    assert main(["vae", "apply", str(tmp_path / "m.safetensors"), str(tmp_path / "pn.fits"), "--out", str(out)]) == 0
    assert len(Table.read(out)) == 616
    assert not (tmp_path / "m.safetensors.parts").exists()
