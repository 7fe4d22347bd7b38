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
from phdlspec.datadriven.label_table import LabelInfo


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


def test_they_are_in_the_report(opinion, calibration, tmp_path):
    page = write_report(calibration, tmp_path, opinion=opinion).read_text()
    assert "Second opinion" in page
    assert (tmp_path / "second_opinion.ecsv").is_file()
