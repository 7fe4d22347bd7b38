import numpy as np
import pytest
from astropy import units as u

from phdlspec.catalog.rows import to_arrays, to_table
from phdlspec.columns import COLUMNS, PARAMETERS, QUANTITIES, ColumnRole, calibration_columns, column_name
from phdlspec.fitting.result import Fitted
from scripts.document_columns import PAGE, with_table


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
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names)
    assert column_name("MG_FE", ColumnRole.ERROR) == "MG_FE_ERR"
    assert calibration_columns("TEFF")[ColumnRole.RAW].name == "TEFF_RAW"
    for column in COLUMNS:
        if column.parameter:
            assert column.name == column_name(column.parameter, column.role)


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_every_column_has_a_comment_that_fits_a_header(column):
    assert column.comment
    assert column.comment.isascii()


def test_the_documentation_shows_the_declaration():
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page) == page, "run scripts/document_columns.py"
