"""Default masks, switching them, and a user's own."""

from __future__ import annotations

import numpy as np
import pytest

from phdlspec import masks
from phdlspec.errors import UserError
from phdlspec.wavelength import LAMOST_WAVE, air_to_vacuum


def test_default_masks_cover_what_they_name():
    bad_at = {w: masks.wavelength_mask(np.array([w]), survey="LAMOST")[0] for w in (5000, 7650, 5900, 5172, 6563)}
    assert bad_at == {5000: False, 7650: True, 5900: True, 5172: False, 6563: False}
    sky_air = np.array([4046.56, 4358.33, 5460.74, 5577.34, 6300.30, 6363.78, 5889.95, 5895.92, 5780.5, 6283.8])
    assert masks.wavelength_mask(air_to_vacuum(sky_air)).all()
    share = masks.wavelength_mask(LAMOST_WAVE, survey="LAMOST").mean()
    assert 0.15 < share < 0.3


def test_survey_intervals_apply_to_their_survey_only():
    join = np.array([5830.0])
    assert masks.wavelength_mask(join, survey="LAMOST")[0]
    assert not masks.wavelength_mask(join, survey="SDSS")[0]


def test_switching_masks_off_and_adding_own():
    table = masks.mask_table(off=["telluric"], extra=[masks.MaskInterval("mine", 5000, 5010, "star")])
    wave = np.array([5005.0, 5021.0, 7650.0])
    assert masks.wavelength_mask(wave, table).tolist() == [False, False, False]  # the velocity is not known
    assert masks.wavelength_mask(wave, table, rv_km_s=0.0).tolist() == [True, False, False]
    assert masks.wavelength_mask(wave, table, rv_km_s=900.0).tolist() == [False, True, False]
    assert masks.mask_table(off=["all"]) == ()
    with pytest.raises(UserError, match="unknown mask 'tellurics'"):
        masks.mask_table(off=["tellurics"])


def test_intervals_from_a_file(tmp_path):
    path = tmp_path / "mask.csv"
    path.write_text("name,low,high,frame\nghost,5000,5005,observed\nhalpha,6550,6580,star\n")
    got = masks.read_intervals(path)
    assert [(i.name, i.low, i.frame) for i in got] == [
        ("ghost", 5000.0, "observed"),
        ("halpha", 6550.0, "star"),
    ]
    path.write_text("low,high\n5010,5000\n")
    with pytest.raises(UserError, match="expected 0 < low < high"):
        masks.read_intervals(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="columns low and high"):
        masks.read_intervals(path)
    with pytest.raises(UserError, match="expected 'observed' or 'star'"):
        masks.MaskInterval("x", 1, 2, "moon")
