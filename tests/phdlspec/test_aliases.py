"""Names of columns in other people's tables."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from phdlspec.aliases import error_of, label_columns, near_label, positions, refuse_near, renamed, renames
from phdlspec.errors import UserError
from phdlspec.labels import LABELS, LabelSet, label_of


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("[Fe/H]", "FE_H"), ("feh", "FE_H"), ("__Fe_H_", "FE_H"), ("Fe/H", "FE_H"), ("Teff", "TEFF"),
        ("T_eff", "TEFF"), ("log g", "LOGG"), ("log(g)", "LOGG"), ("vturb", "VMIC"), ("MgFe", "MG_FE"),
        ("[Mg/Fe]", "MG_FE"), ("mg_fe", "MG_FE"), ("M_H", None), ("ALPHA_FE", None), ("RA", None), ("Fe", None),
    ],
)  # fmt: skip
def test_labels_by_any_usual_name(name, label):
    assert label_of(name) == label


@pytest.mark.parametrize("label", LABELS, ids=lambda label: label.name)
def test_a_label_is_known_by_its_symbol(label):
    assert label_of(label.symbol) == label.name
    assert LabelSet().index(label.symbol) == LabelSet().index(label.name)


@pytest.mark.parametrize("name", ["M_H", "[M/H]", "ALPHA_FE", "[Alp/Fe]", "mg_h", "__MgI_Fe_", "vsini"])
def test_what_only_comes_near_is_known_as_such(name):
    assert label_of(name) is None
    assert near_label(name) is not None


def table(**columns):
    return Table({name: np.ones(3) for name in columns.values()})


@pytest.mark.parametrize(
    ("value", "error"),
    [("Teff", "e_Teff"), ("[Fe/H]", "S_[Fe/H]"), ("feh", "feh_err"), ("FE_H", "FE_H_ERR"), ("MgFe", "MG_FE_ERROR")],
)
def test_errors_by_any_usual_name(value, error):
    found = label_columns(table(a=value, b=error), "t.csv")
    ((label, columns),) = found.items()
    assert columns.value == value
    assert columns.error == error or error_of(table(a=value, b=error), value, label) == error


def test_the_labels_own_name_goes_before_an_alias():
    found = label_columns(table(a="feh", b="FE_H", c="FE_H_ERR", d="flag_fe_h"), "t.csv")
    assert found["FE_H"].value == "FE_H"
    assert found["FE_H"].flag == "flag_fe_h"


def test_two_aliases_of_one_label_are_refused():
    with pytest.raises(UserError, match=r"t.csv: feh and \[Fe/H\] are both FE_H; rename one"):
        label_columns(table(a="feh", b="[Fe/H]"), "t.csv")


def test_a_measured_column_that_comes_near_a_label_is_refused_with_the_remedy():
    with pytest.raises(UserError, match="column M_H comes near FE_H, but .* --rename M_H=FE_H"):
        label_columns(table(a="TEFF", b="M_H", c="M_H_ERR"), "t.csv")
    assert set(label_columns(table(a="FE_H", b="M_H", c="M_H_ERR"), "t.csv")) == {"FE_H"}  # beside the real one
    assert set(label_columns(table(a="TEFF", b="M_H"), "t.csv")) == {"TEFF"}  # no measurement: nothing is lost
    with pytest.raises(UserError, match="ALPHA_FE comes near O_FE, MG_FE"):
        refuse_near(table(a="ALPHA_FE"), "t.csv", ["TEFF"], need_error=False)


def test_renaming():
    assert renames(["M_H=FE_H", "x=-"]) == {"M_H": "FE_H", "x": "-"}
    assert renamed(table(a="m_h", b="x"), {"M_H": "FE_H", "x": "-", "none": "y"}, "t").colnames == ["FE_H"]
    with pytest.raises(UserError, match="expected OLD=NEW"):
        renames(["M_H"])
    with pytest.raises(UserError, match="there is a column FE_H already"):
        renamed(table(a="M_H", b="FE_H"), {"M_H": "FE_H"}, "t")


def test_positions_in_degrees_and_in_hours():
    degrees = Table({"_RAJ2000": [10.0, 350.0], "_DEJ2000": [-5.0, 60.0]})
    assert np.allclose(positions(degrees, "t"), [[10.0, 350.0], [-5.0, 60.0]])
    text = Table({"RAJ2000": ["00 40 00", ""], "DEJ2000": ["-05:00:00", "+60 30 00"]})
    ra, dec = positions(text, "t")
    assert (ra[0], dec[1]) == (pytest.approx(10.0), pytest.approx(60.5))
    assert np.isnan(ra[1])
    assert positions(Table({"RA": [1.0]}), "t") is None
    with pytest.raises(UserError, match="column RA is no angle"):
        positions(Table({"RA": ["west"], "DEC": ["north"]}), "t")
