"""`phdlspec fit` from file to files."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from astropy.table import QTable

from phdlspec.cli import main
from phdlspec.io import write_lamost
from tests.phdlspec.fitting.test_driver import mock


@pytest.fixture(scope="module")
def run(toy_emulator, toy_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    write_lamost(mock(toy_emulator, name="77"), folder / "star.fits.gz")
    (folder / "text.fits").write_text("no spectrum")
    inputs = [str(folder / "star.fits.gz"), str(folder / "text.fits"), str(folder)]
    out = folder / "out"
    options = ["--mode", "fast", "--device", "cpu", "--emulator", str(toy_checkpoint)]
    code = main(["fit", *inputs, "--out", str(out), *options])
    return code, out


def test_every_input_gives_a_table_and_the_run_succeeds(run):
    code, out = run
    assert code == 0
    table = QTable.read(out / "star.ecsv")
    assert table.colnames[:8] == ["label", "value", "err", "p16", "p50", "p84", "crlb", "flag"]
    assert "RV" in list(table["label"])
    for key in ("chi2", "npix", "snr", "versions", "checkpoint", "seconds", "configuration", "command"):
        assert key in table.meta
    assert table.meta["configuration"]["seed"] == 1
    bad = QTable.read(out / "text.ecsv")
    assert bad.meta["reason"]
    assert np.isnan(np.ma.filled(np.asarray(bad["value"], dtype=float), np.nan)).all()


def test_the_hdf5_holds_draws_and_model(run):
    with h5py.File(run[1] / "star.h5") as file:
        assert file.attrs["format"] == "phdlspec-fit"
        assert file["draws"].shape[1] == len(file["names"])
        group = file["spectrum"]
        used = group["used"][()]
        residual = (group["flux"][()] - group["model"][()])[used] / group["sigma"][()][used]
        assert np.std(residual) == pytest.approx(1.0, abs=0.3)


def test_the_page_is_self_contained(run):
    page = (run[1] / "star.html").read_text()
    assert page.count("data:image/png;base64") == 4
    assert "Cramér–Rao" in page
    assert not (run[1] / "text.html").exists()


def test_options_that_cannot_be(toy_checkpoint, tmp_path, capsys):
    options = ["--out", str(tmp_path), "--emulator", str(toy_checkpoint), "--device", "cpu"]
    assert main(["fit", "a.fits", *options, "--mask-off", "nonsense"]) == 1
    assert "unknown mask" in capsys.readouterr().err
    assert main(["fit", "a.fits", "--out", str(tmp_path), "--emulator", str(tmp_path / "none")]) == 1
    assert "no such checkpoint" in capsys.readouterr().err
