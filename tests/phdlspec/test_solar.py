"""The solar table: completeness, and agreement with the published table where that is at hand."""

from __future__ import annotations

import csv

from phdlspec.labels import ELEMENTS
from phdlspec.solar import ATOMIC_NUMBER, SOLAR_ABUNDANCES

METEORITIC = frozenset(("As", "Se", "Br", "Cd", "Sb", "Te", "I", "Cs", "Ta", "Re", "Pt", "Hg", "Bi", "U"))


def test_every_label_element_has_a_value():
    for element in (*ELEMENTS, "Fe", "H", "He"):
        assert -1 < SOLAR_ABUNDANCES[element] <= 12
    assert SOLAR_ABUNDANCES["Fe"] == 7.50


def test_atomic_numbers():
    assert [ATOMIC_NUMBER[symbol] for symbol in ("H", "Fe", "Ba", "U")] == [1, 26, 56, 92]


def test_agrees_with_the_published_table(shared_data):
    path = shared_data / "reference" / "wide_binaries" / "asplund2009.csv"
    rows = csv.DictReader((line for line in path.open() if not line.startswith("#")), skipinitialspace=True)
    for row in rows:
        column = "CIchon_LPG09" if row["element"] in METEORITIC else "photosphere"
        assert SOLAR_ABUNDANCES[row["element"]] == float(row[column])
        assert ATOMIC_NUMBER[row["element"]] == int(row["Z"])
