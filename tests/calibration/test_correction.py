"""Applying: values, errors, raw copies and flags; refusals; the file there and back; the commands."""

from __future__ import annotations

import argparse
import dataclasses
import json
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from calibration import command
from calibration.catalog import Catalog
from calibration.correction import OUTSIDE, RELATIVE, SPARSE, UNCALIBRATED, correct
from calibration.learning import learn_corrections
from calibration.report_page import write_report
from calibration.store import Calibration, evidence_path
from phdlspec.errors import UserError


def test_values_errors_and_raw_copies(catalog, calibration):
    raw, error = np.array(catalog.table["MG_FE"]), np.array(catalog.table["MG_FE_ERR"])
    bias, bias_error = calibration.bias("MG_FE", catalog.coordinates())
    table = correct(catalog, calibration).table
    np.testing.assert_array_equal(table["MG_FE_RAW"], raw)
    np.testing.assert_array_equal(table["MG_FE_ERR_RAW"], error)
    np.testing.assert_allclose(table["MG_FE"], raw - bias, atol=1e-6)
    expected = np.sqrt(error**2 + bias_error**2 + calibration.labels["MG_FE"].scatter ** 2)
    np.testing.assert_allclose(table["MG_FE_ERR"], expected, rtol=1e-5)
    assert table.meta["CALIBID"] == calibration.identity


def test_columns_made_of_labels_follow_them(catalog, calibration):
    table = catalog.table
    iron, iron_error = np.array(table["FE_H"]), np.array(table["FE_H_ERR"])
    table["MG_H"] = np.array(table["MG_FE"]) + iron
    table["MG_H_ERR"] = np.hypot(table["MG_FE_ERR"], iron_error)
    table["TEFF_P84"] = np.array(table["TEFF"]) + 50.0
    after = correct(catalog, calibration).table
    np.testing.assert_allclose(after["MG_H"], after["MG_FE"] + after["FE_H"], atol=1e-5)
    np.testing.assert_allclose(after["MG_H_ERR"], np.hypot(after["MG_FE_ERR"], after["FE_H_ERR"]), rtol=1e-4)
    np.testing.assert_allclose(after["TEFF_P84"], after["TEFF"] + 50.0, rtol=1e-5)


def test_flags_where_references_do_not_reach(catalog, calibration):
    catalog.table["TEFF"][0] = 7400.0
    catalog.table["LOGG"][1], catalog.table["TEFF"][1] = 0.6, 6400.0
    catalog.table["FE_H"][2] = np.nan
    catalog.table["ZN_FE"], catalog.table["ZN_FE_ERR"] = 0.1, 0.1
    table = correct(catalog, calibration).table
    assert table["MG_FE_CALFLAG"][0] & OUTSIDE
    assert table["MG_FE_CALFLAG"][1] & SPARSE
    assert table["MG_FE_CALFLAG"][2] == UNCALIBRATED
    assert table["MG_FE"][2] == table["MG_FE_RAW"][2]
    assert np.all(table["ZN_FE_CALFLAG"] == UNCALIBRATED)
    assert np.mean(table["MG_FE_CALFLAG"] == 0) > 0.9


def test_without_a_survey_only_differences_are_calibrated(catalog, survey):
    calibration = learn_corrections(catalog, survey.pairs, survey.clusters)
    table = correct(catalog, calibration).table
    assert np.all(table["MG_FE_CALFLAG"] & RELATIVE)
    assert np.all(table["TEFF_CALFLAG"] == UNCALIBRATED)


def test_calibrating_twice_is_refused(catalog, calibration):
    table = correct(catalog, calibration).table
    with pytest.raises(UserError, match="is calibrated already"):
        Catalog.from_table(table)


def test_another_checkpoint_is_refused(catalog, calibration):
    catalog.table.meta["EMUHASH"] = "another"
    with pytest.raises(UserError, match="made by the emulator checkpoint another, the calibration is for simulated"):
        correct(Catalog.from_table(catalog.table), calibration)


def test_file_there_and_back(tmp_path, calibration, survey):
    path = calibration.write(tmp_path / "cal.json")
    again = Calibration.read(path)
    assert again.identity == calibration.identity
    for one, two in zip(calibration.bias("MG_FE", survey.noise_free), again.bias("MG_FE", survey.noise_free)):
        np.testing.assert_allclose(one, two, atol=1e-6)
    assert len(again.evidence) == len(calibration.evidence)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"format": "other"}'])
def test_no_calibration_file(tmp_path, text):
    path = tmp_path / "cal.json"
    path.write_text(text)
    with pytest.raises(UserError, match="calibration"):
        Calibration.read(path)


def _first(content):
    return next(iter(content["labels"].values()))


ALTERED = {
    "another number": lambda c: _first(c)["coefficients"].__setitem__(0, 0.5),
    "a number beyond all": lambda c: _first(c).update(scatter=2**70),
    "a scatter that is not": lambda c: _first(c).update(scatter=float("nan")),
    "text for numbers": lambda c: _first(c).update(centre="1 2 3"),
    "a list for a table": lambda c: c.update(labels=[]),
    "very many intervals": lambda c: c["basis"][0].update(intervals=10**9),
    "fewer numbers": lambda c: _first(c)["covariance_lower"].pop(),
    "an axis without range": lambda c: c["basis"][0].update(lower=9e9),
    "no references": lambda c: c.update(references=[{}]),
    "a foreign field": lambda c: c.update(sha265=c.pop("sha256")),
}


@pytest.mark.parametrize("change", ALTERED.values(), ids=ALTERED)
def test_what_was_altered_is_refused(tmp_path, calibration, change):
    path = calibration.write(tmp_path / "cal.json")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="incomplete or altered calibration") as told:
        Calibration.read(path)
    assert len(str(told.value)) < 500


@pytest.mark.filterwarnings("ignore::astropy.io.fits.verify.VerifyWarning")
def test_altered_calibration(tmp_path, calibration):
    path = calibration.write(tmp_path / "cal.json")
    path.write_text(path.read_text().replace('"centre"', '"center"'))
    with pytest.raises(UserError, match="incomplete or altered calibration .*`center`"):
        Calibration.read(path)
    path = calibration.write(tmp_path / "cal.json")
    evidence_path(path).write_bytes(b"SIMPLE  =                    F")
    with pytest.raises(UserError, match="was changed since the calibration was learned"):
        Calibration.read(path)


def test_report_on_old_evidence(tmp_path, calibration):
    evidence = calibration.evidence.copy()
    evidence.remove_column("ERR_REFERENCE")
    path = dataclasses.replace(calibration, evidence=evidence).write(tmp_path / "cal.json")
    with pytest.raises(UserError, match="no column ERR_REFERENCE"):
        write_report(Calibration.read(path), tmp_path)


@pytest.fixture
def files(tmp_path, survey):
    """The small survey as a user would have it."""
    survey.catalog.write(tmp_path / "catalog.fits")
    pairs, cluster, labels = survey.pairs[0], survey.clusters[0], survey.labels[0]
    Table({"ID_1": pairs.first.ids, "ID_2": pairs.second.ids}).write(tmp_path / "binaries.csv")
    Table({"ID": cluster.stars.ids, "P_MEMBER": cluster.probability}).write(tmp_path / "M67.csv")
    table = Table({"ID": labels.stars.ids})
    for name, (value, error) in labels.values.items():
        table[name], table[f"{name}_ERR"] = value, error
    table.write(tmp_path / "survey1.csv")
    return tmp_path


def _run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def test_commands(files):
    learning = ["learn", "--catalog", files / "catalog.fits", "--out", files / "cal.json"]
    learning += ["--wide-binaries", files / "binaries.csv", "--cluster", files / "M67.csv"]
    learning += ["--reference", files / "survey1.csv", "--labels", "TEFF", "LOGG", "FE_H"]
    with pytest.raises(UserError, match="solar scale"):
        _run(*learning)
    with pytest.raises(UserError, match="no folder .*nowhere; make it first"):
        _run(*learning, "--out", files / "nowhere" / "cal.json")
    with pytest.raises(UserError, match="SET:LABEL"):
        _run(*learning, "--exclude", "MG_FE")
    assert _run(*learning, "--solar-scale", "Asplund2009") == 0
    applying = ["apply", "--calibration", files / "cal.json", "--out", files / "out.fits"]
    assert _run(*applying, "--catalog", files / "catalog.fits") == 0
    assert "FE_H_RAW" in Table.read(files / "out.fits").colnames
    with pytest.raises(UserError, match="calibrated already"):
        _run(*applying, "--catalog", files / "out.fits", "--out", files / "again.fits")
    with pytest.raises(UserError, match="expected .fits or .fits.gz or .ecsv"):
        _run(*applying, "--catalog", files / "catalog.fits", "--out", files / "out.txt")
    reporting = ["report", "--calibration", files / "cal.json", "--out", files / "report"]
    assert _run(*reporting) == 0
    page = (files / "report" / "calibration.html").read_text()
    assert "data:image/png;base64" in page
    assert "http" not in page
    assert page.count("External error by SNR</h3>") == 3
    assert page.count("<td>survey1</td><td>30-50</td>") == 3
    assert "<details open><summary>[Fe/H] (FE_H)" in page  # figures in sight, under the names that people use
    assert "<details>" not in page
    with pytest.raises(UserError, match="catalog.fits: cannot be made"):
        _run(*reporting, "--out", files / "catalog.fits")
    evidence_path(files / "cal.json").unlink()
    with pytest.raises(UserError, match="evidence"):
        _run(*reporting)


@pytest.fixture
def catalog_file(tmp_path, survey, calibration):
    """A catalogue as `phdlspec catalog` writes it: described columns, a second table, a header of its own."""
    calibration.write(tmp_path / "cal.json")
    table = fits.table_to_hdu(survey.catalog)
    table.name = "CATALOG"
    for number, column in enumerate(survey.catalog.colnames, start=1):
        table.header[f"TCOMM{number}"] = f"what {column} is"
    values = np.arange(3 * len(survey.catalog), dtype=np.uint8).reshape(-1, 3)
    second = fits.BinTableHDU.from_columns([fits.Column("CORRELATION", "3B", bzero=-128, array=values.astype("i1"))])
    second.name, second.header["SCALE"] = "CORRELATION", (1 / 127, "of the values")
    first = fits.PrimaryHDU(header=fits.Header({"ORIGIN": "a test"}))
    fits.HDUList([first, fits.ImageHDU(np.eye(2), name="IMAGE"), table, second]).writeto(tmp_path / "catalog.fits")
    return tmp_path / "catalog.fits"


def _calibrate(catalog_file, out) -> int:
    return _run("apply", "--catalog", catalog_file, "--calibration", catalog_file.with_name("cal.json"), "--out", out)


@pytest.mark.parametrize("name", ["out.fits", "out.fits.gz"])
def test_the_other_tables_and_the_descriptions_are_kept(catalog_file, name):
    out = catalog_file.with_name(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _calibrate(catalog_file, out) == 0
    with fits.open(catalog_file) as raw, fits.open(out) as calibrated:
        assert [unit.name for unit in calibrated] == ["PRIMARY", "IMAGE", "CATALOG", "CORRELATION"]
        assert calibrated[0].header["ORIGIN"] == "a test"
        assert str(calibrated["CORRELATION"].header) == str(raw["CORRELATION"].header)
        np.testing.assert_array_equal(calibrated["CORRELATION"].data, raw["CORRELATION"].data)
        np.testing.assert_array_equal(calibrated["IMAGE"].data, raw["IMAGE"].data)
        header = calibrated["CATALOG"].header
    comments = {header[f"TTYPE{i}"]: header[f"TCOMM{i}"] for i in range(1, header["TFIELDS"] + 1)}
    assert comments["TEFF"] == "what TEFF is"
    assert comments["TEFF_RAW"] == "TEFF before calibration"
    assert comments["TEFF_CALFLAG"].startswith("where the calibration of TEFF does not reach")
    assert not any("ASTROPY" in str(comment) for comment in header.get("COMMENT", []))
    assert header["CALIBID"]


def test_an_ecsv_says_what_it_leaves_out(catalog_file, capsys):
    out = catalog_file.with_name("out.ecsv")
    assert _calibrate(catalog_file, out) == 0
    assert "left out, because ECSV holds one table only: IMAGE, CORRELATION" in capsys.readouterr().out
    table = Table.read(out)
    assert table["TEFF"].description == "what TEFF is"
    assert not any(key.startswith("TCOMM") for key in table.meta)


def test_an_ecsv_becomes_fits_with_descriptions(catalog_file, survey):
    raw, out = catalog_file.with_name("raw.ecsv"), catalog_file.with_name("out.fits")
    table = survey.catalog.copy()
    table["TEFF"].description = "in Kelvin, not\n\u212b"
    table.write(raw)
    assert _calibrate(raw, out) == 0
    header = fits.getheader(out, 1)
    assert header[f"TCOMM{1 + table.colnames.index('TEFF')}"] == "in Kelvin, not \\u212b"


def test_the_raw_catalogue_is_not_written_over(catalog_file):
    content = catalog_file.read_bytes()
    catalog_file.with_name("link.fits").symlink_to(catalog_file)
    for name in ("catalog.fits", "link.fits"):
        with pytest.raises(UserError, match=f"{name}: is the catalogue to be calibrated .*choose another --out"):
            _calibrate(catalog_file, catalog_file.parent / "." / name)
    assert catalog_file.read_bytes() == content
