"""Calibrated labels beside those of a model learned from data."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table

from calibration import second_opinion as module
from calibration.catalog import Catalog
from calibration.correction import correct
from calibration.report_page import write_report
from phdlspec.cli import main
from phdlspec.datadriven.dataset import read_dataset
from phdlspec.datadriven.label_table import LabelInfo
from phdlspec.datadriven.lux import LuxFlag, train
from phdlspec.io import write_lamost
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import LAMOST_WAVE


@pytest.fixture
def opinion(survey, calibration, monkeypatch) -> Table:
    """Of a model that says 30 K less than the calibrated catalogue, for every star, in another order of the stars."""
    raw = copy.deepcopy(survey.catalog)[:200]
    raw["FILE"] = [f"star{i}.fits" for i in range(len(raw))]
    physics = correct(Catalog.from_table(copy.deepcopy(raw)), calibration).table

    def apply(files: list[str]) -> Table:
        table = Table({"FILE": files, "TEFF": np.asarray(physics["TEFF"]) - 30.0, "FLAG": np.zeros(len(files), int)})
        table["TEFF_ERR"] = 40.0
        return table[::-1]

    model = SimpleNamespace(names=("TEFF",), infos=(LabelInfo("TEFF", "apogee", "K", "not stated"),), apply=apply)
    monkeypatch.setattr(module.Lux, "load", lambda path: model)
    monkeypatch.setattr(module.Catalog, "read", lambda path: Catalog.from_table(copy.deepcopy(raw)))
    return module.second_opinion(calibration, "model.safetensors", "catalogue.fits")


def test_differences_by_star(opinion):
    np.testing.assert_allclose(opinion["DIFFERENCE"], 30.0, rtol=1e-3)
    assert len(opinion) == 200


def test_they_are_in_the_report(opinion, of_teff, tmp_path):
    page = write_report(of_teff, tmp_path, opinion=opinion).read_text()
    assert "Second opinion" in page
    assert (tmp_path / "second_opinion.ecsv").is_file()


def thermometer(teff: float, seed: int, name: str) -> Spectrum:
    """A LAMOST spectrum with lines whose depths tell the temperature."""
    depth = (7500.0 - teff) / 5000.0
    flux = np.ones_like(LAMOST_WAVE)
    for wave in np.arange(4000.0, 8800.0, 150.0):
        flux -= depth * np.exp(-0.5 * ((LAMOST_WAVE - wave) / 3.0) ** 2)
    flux += 0.02 * np.random.default_rng(seed).standard_normal(len(flux))
    meta = {"OBSID": name, "CLASS": "STAR", "Z": 0.0}
    ivar, power = np.full(len(flux), 2500.0), np.full(len(flux), 1800.0)
    return Spectrum(LAMOST_WAVE, flux, ivar, np.zeros(len(flux), bool), power, meta)


def test_the_command_with_a_trained_model_and_files(survey, calibration, of_teff, tmp_path):
    catalog = copy.deepcopy(survey.catalog)[:12]
    physics = correct(Catalog.from_table(copy.deepcopy(catalog)), calibration).table
    catalog["FILE"] = [str(tmp_path / f"star{i}.fits") for i in range(12)]
    for i, (path, teff) in enumerate(zip(catalog["FILE"][:-1], physics["TEFF"])):  # the last is not there
        write_lamost(thermometer(float(teff) - 100.0, i, str(i)), path)
    catalog.write(tmp_path / "catalogue.fits")
    of_teff.write(tmp_path / "calibration.json")
    teff = np.random.default_rng(1).uniform(3800.0, 7200.0, 60)
    labels = Table({"OBSID": [str(i) for i in range(60)], "TEFF": teff, "TEFF_ERR": np.full(60, 20.0)})
    data = read_dataset([thermometer(t, 100 + i, str(i)) for i, t in enumerate(teff)], [labels], velocity="zero")
    train(data, latents=1).save(tmp_path / "m.safetensors")
    files = {"calibration": "calibration.json", "catalog": "catalogue.fits", "second-opinion": "m.safetensors"}
    options = [f"--{name}={tmp_path / file}" for name, file in files.items()]
    assert main(["calibrate", "report", *options, "--out", str(tmp_path / "report")]) == 0
    found = Table.read(tmp_path / "report" / "second_opinion.ecsv")
    assert np.median(found["DIFFERENCE"][:-1]) == pytest.approx(100.0, abs=15.0)
    assert found["LUX_FLAG"][-1] == LuxFlag.UNREADABLE
    assert np.isnan(found["DATA"][-1])
    assert "Second opinion" in (tmp_path / "report" / "calibration.html").read_text()
