"""`phdlspec fit` from file to files."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest
from astropy.table import QTable

from phdlspec.cli import main
from phdlspec.commands import fit
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


@pytest.mark.parametrize("names", [("a/s.csv", "b/s.csv"), ("star.csv", "star.fits.gz"), ("./s.csv", "s.csv")])
def test_results_that_would_overwrite_each_other_are_refused_before_any_fit(names, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["fit", "other.csv", *names, "--out", str(out), "--emulator", "none"]) == 1
    text = capsys.readouterr().err
    assert f"{names[0]} and {names[1]}: the results of both would be" in text
    assert text.count("\n") == 1
    assert not out.exists()


def test_a_result_does_not_overwrite_its_spectrum(toy_checkpoint, tmp_path, capsys):
    path = tmp_path / "star.ecsv"
    path.write_text("a spectrum")
    assert main(["fit", str(path), "--out", str(tmp_path), "--emulator", str(toy_checkpoint), "--device", "cpu"]) == 1
    assert "star.ecsv: its result would overwrite it; choose another --out" in capsys.readouterr().err
    assert path.read_text() == "a spectrum"


def test_a_file_named_twice_is_fitted_once(toy_checkpoint, tmp_path, capsys):
    path = str(tmp_path / "none.fits")
    options = ["--out", str(tmp_path), "--emulator", str(toy_checkpoint), "--device", "cpu"]
    assert main(["fit", path, path, *options]) == 0
    assert capsys.readouterr().err.count("there is no such file") == 1


def test_nothing_of_an_earlier_run_is_left_beside_a_result(run, toy_checkpoint, tmp_path):
    options = ["--mode", "fast", "--device", "cpu", "--emulator", str(toy_checkpoint)]
    out = tmp_path / "out"
    shutil.copytree(run[1], out)
    assert main(["fit", str(run[1].parent / "star.fits.gz"), "--no-report", "--out", str(out), *options]) == 0
    assert sorted(path.name for path in out.glob("star.*")) == ["star.ecsv", "star.h5"]
    broken = tmp_path / "star.fits.gz"
    broken.write_text("no spectrum")
    assert main(["fit", str(broken), "--out", str(out), *options]) == 0
    assert [path.name for path in out.glob("star.*")] == ["star.ecsv"]
    assert QTable.read(out / "star.ecsv").meta["reason"]


def test_an_error_of_a_reader_costs_one_file_not_the_others(toy_checkpoint, tmp_path, capsys, monkeypatch):
    original = fit.read_spectrum

    def broken_for_a(path, **given):
        if path.endswith("a.fits"):
            raise RuntimeError("no such thing\nand more")
        return original(path, **given)

    monkeypatch.setattr(fit, "read_spectrum", broken_for_a)
    options = ["--out", str(tmp_path), "--emulator", str(toy_checkpoint), "--device", "cpu"]
    assert main(["fit", "a.fits", "b.fits", *options]) == 0
    text = capsys.readouterr().err
    assert "a.fits: cannot be read (RuntimeError: no such thing)" in text
    assert "b.fits: there is no such file" in text
    assert "cannot be read" in QTable.read(tmp_path / "a.ecsv").meta["reason"]


@pytest.mark.parametrize("width", ["nan", "-0.1"])
def test_a_width_of_the_prior_that_cannot_be(width, toy_checkpoint, tmp_path, capsys):
    options = ["--out", str(tmp_path), "--emulator", str(toy_checkpoint), "--device", "cpu"]
    assert main(["fit", "a.fits", *options, "--resolution-width", width]) == 1
    assert "width of the prior" in capsys.readouterr().err
