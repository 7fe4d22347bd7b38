"""Tables of labels: any usual names of columns, what is missing, which star a row is."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from phdlspec.datadriven.label_table import match, read_label_table
from phdlspec.errors import UserError


def table(**extra) -> Table:
    return Table({"obsid": ["7", "8", "9"], "Teff": [5000.0, 5100.0, np.nan], "e_Teff": [50.0, 0.0, 50.0], **extra})


def test_usual_names_of_labels_and_any_other_quantity_with_an_error():
    iron, age = {"[Fe/H]": [0.1, 0.2, 0.3], "[Fe/H]_err": [0.1] * 3}, {"AGE": [1.0, 2, 3], "AGE_ERR": [0.5] * 3}
    found = read_label_table(table(**iron, **age, SNR=[9.0] * 3, RA=[1.0] * 3, RA_ERR=[1.0] * 3))
    assert [info.name for info in found.infos] == ["TEFF", "FE_H", "AGE"]
    assert [info.unit for info in found.infos][:2] == ["K", "dex"]


def test_without_an_error_or_with_a_flag_a_value_is_missing():
    found = read_label_table(table(feh=[0.1, 0.2, 0.3], feh_err=[0.1] * 3, feh_flag=[0, 0, 1]))
    np.testing.assert_array_equal(np.isfinite(found.values), [[True, True], [False, True], [False, False]])
    np.testing.assert_array_equal(np.isfinite(found.errors), np.isfinite(found.values))


def test_the_solar_scale_is_of_the_header_else_as_told():
    stated = table()
    stated.meta["SOLSCALE"] = "Asplund2009"
    assert read_label_table(stated, "Grevesse2007").infos[0].solar_scale == "Asplund2009"
    assert read_label_table(table(), "Grevesse2007").infos[0].solar_scale == "Grevesse2007"


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"logg": [4.0] * 3}, "logg has no column of errors LOGG_ERR"),
        ({"T_eff": [1.0] * 3, "T_eff_err": [1.0] * 3}, "Teff and T_eff are both TEFF"),
    ],
)
def test_labels_that_cannot_be_used_are_one_sentence(columns, words):
    with pytest.raises(UserError, match=words):
        read_label_table(table(**columns))


def test_a_table_that_says_of_no_star_or_no_label_is_one_sentence():
    with pytest.raises(UserError, match="says which star a row is"):
        read_label_table(Table({"TEFF": [5000.0], "TEFF_ERR": [50.0]}))
    with pytest.raises(UserError, match="no labels in it"):
        read_label_table(Table({"OBSID": ["7"]}))


def test_rows_are_found_by_identifier_and_by_position_in_any_form():
    nan = np.full(3, np.nan)
    assert match(read_label_table(table()), ["a", "b", "c"], ["8", "", "7"], nan, nan).tolist() == [1, -1, 0]
    sexagesimal = Table({"RAJ2000": ["10 00 00", "11 00 00"], "DEJ2000": ["-05 30 00", "+00 00 00"],
                         "TEFF": [5000.0, 6000.0], "TEFF_ERR": [50.0, 50.0]})  # fmt: skip
    ra, dec = np.array([165.0, 150.0003, 20.0]), np.array([0.0, -5.5, 0.0])
    assert match(read_label_table(sexagesimal), ["a", "b", "c"], ["", "", ""], ra, dec).tolist() == [1, 0, -1]


def test_two_rows_for_one_spectrum_or_none_for_any_are_one_sentence():
    nan = np.full(1, np.nan)
    twice = Table({"FILE": ["a.fits", "a.fits"], "TEFF": [5000.0, 5100.0], "TEFF_ERR": [50.0, 50.0]})
    with pytest.raises(UserError, match="stands in 2 rows"):
        match(read_label_table(twice), ["a.fits"], [""], nan, nan)
    with pytest.raises(UserError, match="none of its rows"):
        match(read_label_table(table()), ["x.fits"], ["1"], nan, nan)
