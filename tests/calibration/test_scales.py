"""Solar scales: conversion, refusal of unknown ones, scales from files."""

from __future__ import annotations

from math import log10

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calibration.scales import DIFFERENTIAL, SCALES, label_shift, read_solar_scale, solar_scale
from phdlspec.errors import UserError
from phdlspec.labels import ELEMENTS
from phdlspec.solar import SOLAR_ABUNDANCES, SYMBOLS

_LABELS = ["FE_H", *(f"{element.upper()}_FE" for element in ELEMENTS)]


def test_known_shift():
    assert label_shift("FE_H", "Grevesse2007") == pytest.approx(-0.05)
    assert label_shift("MG_FE", "Grevesse2007") == pytest.approx(7.53 - 7.45 - (7.60 - 7.50))
    assert label_shift("TEFF", "Grevesse2007") == 0
    assert label_shift("EU_FE", "GALAH-DR4") == 0


@given(st.sampled_from(_LABELS), st.sampled_from(sorted(SCALES)), st.sampled_from(sorted(SCALES)))
def test_there_and_back_is_nothing(label, one, other):
    assert label_shift(label, one, other) == pytest.approx(-label_shift(label, other, one), abs=1e-12)


@given(st.sampled_from(_LABELS), *[st.sampled_from(sorted(SCALES))] * 3)
def test_a_detour_over_a_third_scale_changes_nothing(label, one, other, third):
    detour = label_shift(label, one, other) + label_shift(label, other, third)
    assert label_shift(label, one, third) == pytest.approx(detour, abs=1e-12)


@given(st.sampled_from(ELEMENTS), *[st.sampled_from(sorted(SCALES))] * 2)
def test_absolute_abundance_is_kept(element, one, other):
    """[X/Fe] + [Fe/H] + A_sun(X) is A(X) of the star, whatever the Sun."""
    label = f"{element.upper()}_FE"
    before = 0.2 - 0.3 + SCALES[one][element]
    fe_h = -0.3 + label_shift("FE_H", one, other)
    x_fe = 0.2 + label_shift(label, one, other)
    assert x_fe + fe_h + SCALES[other][element] == pytest.approx(before, abs=1e-12)


@given(st.sampled_from(_LABELS), st.sampled_from(DIFFERENTIAL), st.sampled_from(sorted(SCALES)))
def test_a_differential_scale_is_never_shifted(label, differential, scale):
    assert label_shift(label, differential, scale) == label_shift(label, scale, differential) == 0


_METALS = st.sampled_from([e for e in SYMBOLS if e not in ("H", "Fe")])
_ABUNDANCES = st.dictionaries(_METALS, st.floats(-3, 11).map(lambda a: round(a, 3)), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_ABUNDANCES, st.floats(5, 9))
def test_a_scale_written_to_a_file_is_read_back(tmp_path, abundances, iron):
    wanted = {"H": 12.0, "Fe": iron, **abundances}
    path = tmp_path / "scale.csv"
    path.write_text("element,A\n" + "".join(f"{e},{value!r}\n" for e, value in wanted.items()))
    assert dict(read_solar_scale(path)) == wanted


def test_numbers_of_atoms_of_bergemann_2025():
    """Table 1 of Bergemann, Lodders & Palme (2025) also gives N(X) with A(X) = 1.551 + log10 N(X)."""
    atoms = {"C": 9.10e6, "N": 2.45e6, "O": 1.62e7, "Na": 54838, "Mg": 1.07e6, "Al": 75698, "Si": 1.02e6,
             "Ca": 62963, "Ti": 2625, "Cr": 15456, "Mn": 9313, "Fe": 910088, "Ni": 48875, "Cu": 489, "Ba": 5.24,
             "Eu": 0.104}  # fmt: skip
    for element, number in atoms.items():
        assert SCALES["Bergemann2025"][element] == pytest.approx(1.551 + log10(number), abs=0.0055)


def test_unknown_scale_is_refused_with_a_hint():
    with pytest.raises(UserError, match="did you mean Grevesse2007"):
        solar_scale("Grevese2007")


def test_scale_from_a_file(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("element,A\nH,12\nFe,7.40\nMg,7.55\n")
    assert label_shift("MG_FE", str(path)) == pytest.approx(0.15 - 0.10)
    with pytest.raises(UserError, match="no value for Ca"):
        label_shift("CA_FE", str(path))


def test_published_tables(shared_data):
    folder = shared_data / "reference" / "wide_binaries"
    scale = read_solar_scale(folder / "asplund2009.csv")
    assert all(SOLAR_ABUNDANCES[element] == value for element, value in scale.items())
