import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import Table

from phdlspec.catalog.rows import to_arrays, to_table
from phdlspec.columns import (
    COLUMNS,
    ON_REQUEST,
    PARAMETERS,
    QUANTITIES,
    ColumnRole,
    calibration_columns,
    column_name,
    columns_with,
)
from phdlspec.errors import UserError
from phdlspec.fitting.result import Fitted
from phdlspec.tables import read_any_table, write_table


def test_a_catalogue_has_the_declared_columns():
    table = to_table(to_arrays([Fitted.failed("a.fits", "empty")], ["a.fits"]))
    assert table.colnames == [column.name for column in COLUMNS]
    for column in COLUMNS:
        found = table[column.name]
        assert found.description == column.comment
        assert (found.unit or u.one) == u.Unit(column.unit)
        assert found.dtype.kind == np.dtype(column.dtype).kind


def test_the_result_of_a_star_has_the_declared_quantities():
    labels = Fitted.failed("a.fits", "empty").labels
    assert labels.colnames == ["label", *(quantity.name for quantity in QUANTITIES), "unit"]
    assert list(labels["label"]) == [parameter.name for parameter in PARAMETERS]
    assert labels["err"].info.description == "posterior standard deviation"


def test_names_are_unique_and_said_in_one_way():
    names = [column.name for column in columns_with(ON_REQUEST)]
    assert len(set(names)) == len(names)
    assert column_name("MG_FE", ColumnRole.ERROR) == "MG_FE_ERR"
    assert "MG_H_ERR" in names
    assert "MG_H_ERR" not in [column.name for column in COLUMNS]
    assert calibration_columns("TEFF")[ColumnRole.RAW].name == "TEFF_RAW"
    for column in COLUMNS:
        if column.parameter:
            assert column.name == column_name(column.parameter, column.role)


@pytest.mark.parametrize("column", columns_with(ON_REQUEST), ids=lambda column: column.name)
def test_every_column_has_a_comment_that_fits_a_header(column):
    assert column.comment
    assert column.comment.isascii()


def test_columns_on_request():
    names = tuple(parameter.name for parameter in PARAMETERS)
    value, cov = np.linspace(-0.3, 0.4, len(names)), np.eye(len(names)) * 0.01
    iron, magnesium = names.index("FE_H"), names.index("MG_FE")
    cov[iron, magnesium] = cov[magnesium, iron] = -0.005
    err = np.full(len(names), 0.1)
    flag = np.zeros(len(names), dtype=int)
    result = Fitted(
        names, value, err, value - err, value, value + err, err, flag, cov, flag=3,
        meta={"DESIG": "LAMOST J0", "GAIA_ID": "3870726854751970688"},
    )  # fmt: skip
    table = to_table(to_arrays([result], ["a.fits"]), ["xh", "percentiles", "flag-names"])
    row = table[0]
    assert row["MG_H"] == pytest.approx(value[magnesium] + value[iron])
    assert row["MG_H_ERR"] == pytest.approx(0.1)  # 0.01 + 0.01 - 2 * 0.005
    assert row["TEFF_P84"] == pytest.approx(value[0] + 0.1)
    assert row["FLAG_NAMES"] == "LOW_SNR POOR_FIT"
    assert (row["OBJECT"], row["GAIA_ID"]) == ("LAMOST J0", "3870726854751970688")
    with pytest.raises(UserError, match="no columns 'p16', expected some of percentiles, xh, flag-names"):
        columns_with(["p16"])


def test_a_unit_that_fits_does_not_know_is_not_lost(tmp_path):
    table = Table({"LOGG": [4.4]}, units={"LOGG": "dex"}, descriptions={"LOGG": "gravity"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_table(table, tmp_path / "a.fits")
        again = read_any_table(tmp_path / "a.fits")
        write_table(again, tmp_path / "b.fits")
    assert fits.getheader(tmp_path / "b.fits", 1)["TCOMM1"] == "gravity [dex]"
    assert (str(again["LOGG"].unit), again["LOGG"].description) == ("dex", "gravity")
