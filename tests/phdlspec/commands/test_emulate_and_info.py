"""`phdlspec emulate` and `phdlspec info`; direct synthesis stands in for itself with toy stars."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from safetensors.torch import save_file

import phdlspec
from phdlspec.cli import main
from phdlspec.commands import emulate
from phdlspec.errors import UserError
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.settings import FitSettings
from phdlspec.gridfile.parts import GridParts
from tests.phdlspec import tiny


class ToySynthesis:
    """The truth behind the toy emulator, with the interface of `DirectSynthesis`."""

    def native_flux(self, theta, native):
        return tiny.toy_model(torch.as_tensor(theta))[0].float()

    def native_flux_and_jacobian(self, theta, native):
        flux, jacobian = tiny.toy_model(torch.as_tensor(theta))
        return flux.float(), jacobian.float()


@pytest.fixture
def options(toy_checkpoint):
    return ["--emulator", str(toy_checkpoint), "--device", "cpu"]


def test_one_star_in_every_format(options, tmp_path, capsys):
    for name in ("a.fits", "a.ecsv", "a.h5"):
        out = tmp_path / name
        assert main(["emulate", "--set", "TEFF=5200", "log_g=3", "--out", str(out), *options]) == 0
    table = Table.read(tmp_path / "a.fits")
    assert table.colnames == ["WAVE", "FLUX", "ERR"]
    assert table["WAVE"][0] == pytest.approx(3750.0)
    assert np.allclose(table["ERR"], 1 / 200)
    text = Table.read(tmp_path / "a.ecsv")
    assert text.meta["medium"] == "vacuum"
    assert np.allclose(text["flux"], table["FLUX"], atol=1e-6)
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.allclose(file["flux"][0], table["FLUX"], atol=1e-6)
    for name in ("a.fits", "a.ecsv", "a.h5[0]"):  # and all of them are spectra to fit
        spectrum = phdlspec.as_spectrum(str(tmp_path / name))
        assert np.allclose(spectrum.wave, table["WAVE"])
        assert np.median(spectrum.resolving_power) == pytest.approx(1800.0)
    capsys.readouterr()
    assert main(["info", str(tmp_path / "a.fits")]) == 0
    assert "1 model spectra of phdlspec emulate" in capsys.readouterr().out


def test_the_resolving_power_of_a_survey(options, tmp_path, capsys):
    Table({"TEFF": [5000.0, 5200.0]}).write(tmp_path / "stars.csv")
    for name in ("a.fits", "a.ecsv", "a.h5[0]"):
        out = str(tmp_path / name.removesuffix("[0]"))
        given = ["--set", "TEFF=5200", "--resolving-power", "lamost", "--out", out, *options]
        assert main(["emulate", *given]) == 0
        assert "at R = 10" in capsys.readouterr().out
        spectrum = phdlspec.as_spectrum(str(tmp_path / name))
        expected = phdlspec.default_resolving_power("LAMOST", spectrum.wave)
        assert np.allclose(spectrum.resolving_power_by_pixel, expected, rtol=1e-6)
    given = ["--labels", str(tmp_path / "stars.csv"), "--out", str(tmp_path / "s.fits"), *options]
    assert main(["emulate", "--resolving-power", "LAMOST", *given]) == 0
    second = phdlspec.as_spectrum(f"{tmp_path / 's.fits'}[1]")
    assert np.allclose(second.resolving_power_by_pixel, expected, rtol=1e-6)
    power = ([3000.0, 9500.0], [1200.0, 2000.0])
    emulator = phdlspec.load_emulator(options[1], "cpu", power)
    assert np.allclose(emulator.resolving_power, np.interp(emulator.wave, *power))
    wave, flux = emulator.spectrum({"TEFF": 5200.0}, "LAMOST", spectrum.wave)
    assert np.allclose(flux, spectrum.flux, atol=1e-6)
    blunt, sharp = (emulator.spectrum({"TEFF": 5200.0}, r, wave)[1] for r in (1100.0, 2200.0))
    assert np.ptp(blunt) < np.ptp(flux) < np.ptp(sharp)


def test_a_table_of_stars(options, tmp_path, capsys):
    stars = {"Name": ["one", "two"], "Teff": [5000.0, 3601.0], "[Mg/Fe]": [0.2, 0.0], "RV": [0.0, 300.0]}
    Table(stars).write(tmp_path / "stars.ecsv")
    for out in (tmp_path / "s.h5", tmp_path / "s.fits"):
        assert main(["emulate", "--labels", str(tmp_path / "stars.ecsv"), "--out", str(out), *options]) == 0
        text = capsys.readouterr().out
        assert "2 spectra" in text
        assert "1 of them are not to be trusted" in text
    table = Table.read(tmp_path / "s.fits")
    assert list(table["NAME"]) == ["one", "two"]
    assert list(table["RV"]) == [0.0, 300.0]
    second = phdlspec.read_spectrum(tmp_path / "s.fits", row=1)
    assert second.meta["OBSID"] == "two"
    assert np.array_equal(second.flux, phdlspec.as_spectrum(f"{tmp_path / 's.h5'}[1]").flux)
    with pytest.raises(UserError, match="holds 2 spectra, name one by its row"):
        phdlspec.read_spectrum(tmp_path / "s.fits")
    with pytest.raises(UserError, match="no row 2"):
        phdlspec.read_spectrum(f"{tmp_path / 's.fits'}[2]")


def test_a_velocity_shifts_the_lines(options, tmp_path):
    at_rest, moving = tmp_path / "a.ecsv", tmp_path / "b.ecsv"
    for out, rv in ((at_rest, 0), (moving, 300)):
        assert main(["emulate", "--set", "TEFF=5200", f"RV={rv}", "--out", str(out), *options]) == 0
    a, b = Table.read(at_rest), Table.read(moving)
    shifted = np.interp(a["wave"], b["wave"] / (1 + 300 / 299792.458), b["flux"])
    inside = slice(50, -50)
    assert np.abs(shifted - a["flux"])[inside].max() < 0.2 * np.abs(b["flux"] - a["flux"])[inside].max()


@pytest.mark.parametrize("column", ["M_H", "ALPHA_FE", "mg_h"])
def test_columns_that_only_come_near_a_label_are_not_dropped_in_silence(column, options, tmp_path, capsys):
    Table({"TEFF": [5000.0], column: [-0.5]}).write(tmp_path / "stars.csv")
    given = ["emulate", "--labels", str(tmp_path / "stars.csv"), "--out", str(tmp_path / "x.h5"), *options]
    assert main(given) == 1
    assert f"column {column} comes near" in capsys.readouterr().err
    assert main([*given, "--rename", f"{column}=FE_H"]) == 0
    with h5py.File(tmp_path / "x.h5") as file:
        names = [name.decode() for name in file["label_names"][()]]
        assert file["labels"][0, names.index("FE_H")] == -0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "TEFF=abc"], "expected LABEL=VALUE"), (["--set", "TEFF=100"], "outside the emulator's range"),
        (["--set", "TEFFF=5000"], "did you mean"), (["--labels", "none.ecsv"], "there is no such file"),
        (["--set", "TEFF=5000", "RV=2000"], "RV = 2000: expected"), (["--set", "TEFF=5000", "--snr", "0"], "--snr 0"),
        (["--set", "TEFF=5000", "--wave-min", "3000"], "must be increasing"),
        (["--set", "TEFF=5000", "--ab-initio"], "needs --atmospheres"),
        (["--set", "TEFF=5000", "--resolving-power", "0"], "--resolving-power 0: expected at least 300"),
        (["--set", "TEFF=5000", "--resolving-power", "nan"], "--resolving-power nan: expected at least 300"),
        (["--set", "TEFF=5000", "--resolving-power", "inf"], "not a positive number"),
        (["--set", "TEFF=5000", "--resolving-power", "LAMOT"], "LAMOT: neither a survey (LAMOST DESI SDSS MILES) nor"),
        (["--set", "TEFF=5000", "--plot", "{folder}/a.plot"], "a.plot: the plot cannot be written"),
        (["--set", "TEFF=5000", "--plot", "{folder}/words.csv/a.png"], "its folder cannot be made"),
        (["--labels", "{folder}/words.csv"], "words.csv: column LOGG holds text, expected numbers"),
    ],
)  # fmt: skip
def test_mistakes_are_sentences(arguments, words, options, tmp_path, capsys):
    (tmp_path / "words.csv").write_text("TEFF,LOGG\n5000,high\n")
    arguments = [argument.replace("{folder}", str(tmp_path)) for argument in arguments]
    assert main(["emulate", *arguments, "--out", str(tmp_path / "x.fits"), *options]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "x.fits").exists()


def test_the_plot_makes_its_folder(options, tmp_path):
    plot = tmp_path / "new" / "a.png"
    out = tmp_path / "a.fits"
    assert main(["emulate", "--set", "TEFF=5200", "--plot", str(plot), "--out", str(out), *options]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_low_resolution_keeps_away_from_the_ends_of_the_grid(options, tmp_path, capsys):
    arguments = ["--set", "TEFF=5200", "--wave-min", "3705", "--out", str(tmp_path / "a.fits"), *options]
    assert main(["emulate", *arguments]) == 0
    assert main(["emulate", *arguments, "--resolving-power", "300"]) == 1
    assert "must be increasing and lie within" in capsys.readouterr().err


def test_the_difference_to_direct_synthesis(options, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(emulate, "load_direct_synthesis", lambda *arguments: ToySynthesis())
    out = tmp_path / "a.h5"
    assert main(["emulate", "--set", "TEFF=5200", "LOGG=3", "--ab-initio", "--out", str(out), *options]) == 0
    assert "emulator minus ab initio" in capsys.readouterr().out
    with h5py.File(out) as file:
        assert np.abs(file["flux"][()] - file["ab_initio"][()]).max() < 0.2


def test_refinement_takes_the_emulators_error_out(toy_emulator):
    theta = toy_emulator.labels.complete({"TEFF": 5300.0, "LOGG": 3.2, "FE_H": -0.2, "MG_FE": 0.15})
    direct = ToySynthesis()
    native = direct.native_flux(theta[:-1], toy_emulator.native).numpy()
    from phdlspec.mock import mock_lamost

    star = mock_lamost(native, toy_emulator.native, 5300.0, 3000.0, 3, resolution_scale=1.0)
    truth = np.append(theta, [0.0] * (len(toy_emulator.labels) + 2 - len(theta)))
    plain, refined = (
        fit_batch([star], toy_emulator, FitSettings(mode="fast", refine=refine), direct=direct)[0]
        for refine in (False, True)
    )
    assert plain.diagnostics["emulator_rms"] > 1e-4
    assert refined.diagnostics["refine_steps"] >= 1
    assert 0.0 < refined.diagnostics["refine_shift"] < 5.0
    # The star was made by direct synthesis: its labels fit better without the emulator.
    active = [refined.names.index(name) for name in tiny.ACTIVE]
    distance = [np.sqrt(np.mean(((fit.value - truth) / fit.err)[active] ** 2)) for fit in (plain, refined)]
    assert distance[1] < 0.7 * distance[0]


def test_a_star_without_an_atmosphere_keeps_the_emulators_labels(toy_emulator):
    class NoAtmosphere(ToySynthesis):
        def native_flux(self, theta, native):
            raise UserError("no atmosphere there")

    from tests.phdlspec.fitting.test_driver import mock

    star = mock(toy_emulator)
    plain, refined = (
        fit_batch([star], toy_emulator, FitSettings(mode="fast", refine=direct is not None), direct=direct)[0]
        for direct in (None, NoAtmosphere())
    )
    assert np.array_equal(plain.value, refined.value)
    assert "no atmosphere there" in refined.stop_reason


def test_info(toy_checkpoint, toy_grid, tmp_path, capsys):
    assert main(["info"]) == 0
    assert "torch" in capsys.readouterr().out
    assert main(["info", str(toy_checkpoint)]) == 0
    assert "trained on" in capsys.readouterr().out
    assert main(["info", str(toy_grid.path)]) == 0
    assert "60 complete models of 60" in capsys.readouterr().out
    fits.PrimaryHDU().writeto(tmp_path / "empty.fits")
    assert main(["info", str(tmp_path / "empty.fits")]) == 1
    assert main(["info", "none"]) == 1
    assert "no such file" in capsys.readouterr().err


def test_info_on_what_is_being_made(toy_grid, tmp_path, capsys):
    path = tmp_path / "growing.h5"
    parts = GridParts(path)
    parts.folder.mkdir()
    parts.write_manifest(toy_grid.manifest(), toy_grid.labels, toy_grid.split)
    parts.write_row(3, toy_grid.labels[3], toy_grid.flux(3), toy_grid.continuum(3), toy_grid.jacobian(3))
    assert main(["info", str(path)]) == 0
    assert "1 complete models of 60" in capsys.readouterr().out
    catalogue = tmp_path / "c.fits"
    table = fits.BinTableHDU(Table({"TEFF": [5000.0]}), name="CATALOG")
    table.header["HISTORY"] = "made here"
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(catalogue)
    (tmp_path / "c.fits.parts").mkdir()
    assert main(["info", str(catalogue)]) == 0
    assert "catalogue of 1 stars\nmade here" in capsys.readouterr().out


TABLES = {
    "ages of 2 stars, of phdlspec ages": ("AGE", "AGE_FLAG"),
    "evidence of a calibration: 2 comparisons": ("DATUM", "FITTED", "HELD_OUT"),
    "second opinion on a calibration: 2 labels": ("PHYSICS", "DATA", "PULL"),
    "embedding of 2 stars, of phdlspec desa embed": ("EMBEDDING", "DISTANCE", "FLAG"),
    "how strange 2 spectra are, of phdlspec vae apply": ("LATENTS", "ANOMALY_PCT", "FLAG"),
    "labels of 2 spectra, of phdlspec lux apply": ("LATENTS", "FLAG"),
}


@pytest.mark.parametrize("words", TABLES)
@pytest.mark.parametrize("ending", ["fits", "ecsv"])
def test_info_on_tables_of_every_kind(words, ending, tmp_path, capsys):
    path = tmp_path / f"a.{ending}"
    Table({name: [0.0, 1.0] for name in TABLES[words]}).write(path)
    assert main(["info", str(path)]) == 0
    assert capsys.readouterr().out.startswith(words)


def test_info_on_the_other_files_that_are_written(tmp_path, capsys):
    def told(path) -> str:
        assert main(["info", str(path)]) == 0
        return capsys.readouterr().out

    for kind, words in (("light-curves", "light curves of 3 stars"), ("pulls", "diagnostics of fits")):
        with h5py.File(tmp_path / f"{kind}.h5", "w") as file:
            file.attrs.update(format=f"phdlspec-{kind}", version=1)
            file["targets"] = [b"a", b"b", b"c"]
        assert told(tmp_path / f"{kind}.h5").startswith(words)
    for kind in ("lux", "vae", "desa"):
        text = {"header": json.dumps({"format": f"phdlspec-{kind}", "version": 1})}
        save_file({"a": torch.zeros(2)}, tmp_path / f"{kind}.safetensors", metadata=text)
        assert told(tmp_path / f"{kind}.safetensors").startswith(f"model of phdlspec {kind}, 1 arrays")
    calibration = {"format": "phdlspec-calibration", "labels": {"TEFF": {}}, "skipped": {"ZN_FE": "too few"}}
    (tmp_path / "c.json").write_text(json.dumps(calibration))
    assert "not calibrated: ZN_FE, too few" in told(tmp_path / "c.json")
    (tmp_path / "c.html").write_text("<title>Calibration</title><h2>All labels</h2>")
    assert told(tmp_path / "c.html").startswith("page: Calibration\n  All labels")
    (tmp_path / "m.safetensors.training").write_bytes(b"")
    assert "`phdlspec train GRID --out m.safetensors` goes on" in told(tmp_path / "m.safetensors.training")
    for name, job, part, words in (
        ("c.fits", {"--chunk": 32, "--seed": 1}, "chunk_0000001.npz", "catalogue in the making: 1 chunks"),
        ("ages.fits", {"job": "1"}, "stars_000000000.npz", "ages.fits in the making: 1 parts"),
        ("lux.safetensors", {"job": "1"}, "fold_3.npz", "lux.safetensors in the making: 1 parts"),
    ):
        folder = tmp_path / f"{name}.parts"
        folder.mkdir()
        (folder / "job.json").write_text(json.dumps(job))
        (folder / part).write_bytes(b"")
        assert told(folder).startswith(words)


def test_info_on_damaged_files_is_one_sentence(toy_grid, tmp_path, capsys):
    whole = toy_grid.path.read_bytes()
    with h5py.File(tmp_path / "fit.h5", "w") as file:
        file.attrs["format"] = "phdlspec-fit"
    cases = {
        "bad.h5": (b"no HDF5", "damaged, half-written or not HDF5"), "cut.h5": (whole[: len(whole) // 2], "damaged"),
        "fit.h5": ((tmp_path / "fit.h5").read_bytes(), "damaged"), "empty.h5": (b"", "damaged"),
        "cut.fits.gz": (b"\x1f\x8b\x08\x00", "damaged or truncated"), "other": (b"words", "no product of phdlspec"),
        "a.json": (b"[" * 3000, "cannot be read as JSON"), "b.json": (b"{}", "no calibration"),
        "a.html": (b"<p>", "without a title"), "a.safetensors": (b"words", "not a checkpoint"),
        "a.parquet": (b"words", "no catalogue of phdlspec"), "a.ecsv": (b"words", "cannot be read as a table"),
    }  # fmt: skip
    for name, (content, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        assert main(["info", str(tmp_path / name)]) == 1
        text = capsys.readouterr().err
        assert words in text, name
        assert name in text
        assert text.count("\n") == 1, name


def test_what_a_file_tells_does_not_command_the_terminal(tmp_path, capsys):
    path = tmp_path / "fit.h5"
    made = {"version": "\x1b[31mred\rhidden", "wide    name": "b"}
    with h5py.File(path, "w") as file:
        file.attrs.update(format="phdlspec-fit", file="a\x1b]0;title\x07", mode="fast", provenance=json.dumps(made))
    main(["info", str(path)])
    out = capsys.readouterr()
    assert not set("\x1b\x07\r") & set(out.out + out.err)
