"""Solar scales: conversion, refusal of unknown ones, scales from files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.scales import SCALES, chondrite_scale, label_shift, read_solar_scale, solar_scale
from phdlspec.errors import UserError
from phdlspec.labels import ELEMENTS
from phdlspec.solar import SOLAR_ABUNDANCES

_LABELS = ["FE_H", *(f"{element.upper()}_FE" for element in ELEMENTS)]


def test_known_shift():
    assert label_shift("FE_H", "Grevesse2007") == pytest.approx(-0.05)
    assert label_shift("MG_FE", "Grevesse2007") == pytest.approx(7.53 - 7.45 - (7.60 - 7.50))
    assert label_shift("TEFF", "Grevesse2007") == 0
    assert label_shift("EU_FE", "GALAH-DR4") == 0


@given(st.sampled_from(_LABELS), st.sampled_from(sorted(SCALES)), st.sampled_from(sorted(SCALES)))
def test_there_and_back_is_nothing(label, one, other):
    assert label_shift(label, one, other) == pytest.approx(-label_shift(label, other, one), abs=1e-12)


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


def test_chondrites_agree_with_the_photosphere(shared_data):
    from calibration.binaries import read_composition

    folder = shared_data / "reference" / "wide_binaries"
    ppm = {e: v for e, (v, _) in read_composition(folder / "CIchondrites.csv").values["MS95"].items()}
    mass = {e: v for e, (v, _) in read_composition(folder / "atomicmass.csv").values["weight"].items()}
    scale = chondrite_scale(ppm, mass)
    for element in ("Mg", "Ca", "Fe", "Ni", "Cr", "Ti"):
        assert scale[element] == pytest.approx(SOLAR_ABUNDANCES[element], abs=0.08)
