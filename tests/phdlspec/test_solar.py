"""The solar table: completeness, look-up, and agreement with the published table where that is at hand."""

from __future__ import annotations

import csv

import pytest

from phdlspec.errors import UserError
from phdlspec.labels import ELEMENTS
from phdlspec.solar import ATOMIC_NUMBER, METEORITIC, SOLAR_ABUNDANCES, solar_abundance


def test_every_label_element_has_a_value():
    for element in (*ELEMENTS, "Fe", "H", "He"):
        assert -1 < solar_abundance(element) <= 12
    assert solar_abundance(" fe ") == 7.50


def test_atomic_numbers():
    assert [ATOMIC_NUMBER[symbol] for symbol in ("H", "Fe", "Ba", "U")] == [1, 26, 56, 92]


@pytest.mark.parametrize("bad", ["Xx", "Tc", ""])
def test_unknown_element_is_refused(bad):
    with pytest.raises(UserError, match="Asplund2009"):
        solar_abundance(bad)


def test_agrees_with_the_published_table(shared_data):
    path = shared_data / "reference" / "wide_binaries" / "asplund2009.csv"
    rows = csv.DictReader((line for line in path.open() if not line.startswith("#")), skipinitialspace=True)
    for row in rows:
        column = "CIchon_LPG09" if row["element"] in METEORITIC else "photosphere"
        assert SOLAR_ABUNDANCES[row["element"]] == float(row[column])
        assert ATOMIC_NUMBER[row["element"]] == int(row["Z"])
