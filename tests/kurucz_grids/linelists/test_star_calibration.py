"""The corrections that stars ask for: each finds its own line or band, and no other; what is added is added once."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from kurucz_grids.linelists import LineList
from kurucz_grids.linelists.silicon_hydride import BAND, silicon_hydride
from kurucz_grids.linelists.star_calibration import StarCalibration, bands_of
from kurucz_grids.linelists.veil import BIN, EXCITATION, WAVE_MAX, WAVE_MIN, bins, classes, veil
from phdlspec.errors import UserError


def listed(**changes) -> LineList:
    columns = {
        "wave_vacuum": np.array([5000.0, 5000.003, 5100.0, 5120.0, 5121.0]),
        "elow_ev": np.array([1.0, 2.0, 1.0, 0.1, 0.2]),
        "loggf": np.array([-1.0, -1.0, -2.0, -3.0, -3.0]),
        "gamma_vdw": np.full(5, 1e-8),
    } | changes
    species = np.array(["Fe", "Fe", "Ti", "TiO", "TiO"])
    rest = {name: np.ones(5) for name in ("gamma_rad", "gamma_stark", "vdw_exponent", "isotope_fraction")}
    return LineList.from_columns(species, **columns, **rest)


def table(lines: LineList) -> StarCalibration:
    ((species, low, _, strength),) = bands_of(lines)
    single = Table(
        {
            "species": ["Fe", "Ti"], "wave_vacuum": [5000.0, 5100.0], "elow_ev": [1.0, 1.0], "loggf": [-1.0, -1.5],
            "gf_change": [0.3, 0.5], "vdw_change": [0.1, 0.0], "gf_error": [0.1, 0.1],
        }
    )  # fmt: skip
    bands = Table(
        {"species": [species], "wave_min": [low], "strength": [strength], "gf_change": [-0.2], "gf_error": [0.1]}
    )
    change = np.zeros((len(EXCITATION), bins()))
    change[1, 4] = 0.7
    veiled = Table(
        {
            "elow_ev": np.repeat(EXCITATION, bins()), "wave_min": np.tile(WAVE_MIN + BIN * np.arange(bins()), 3),
            "gf_change": change.ravel(), "gf_error": np.ones(change.size),
        }
    )  # fmt: skip
    return StarCalibration(single, bands, veiled, {"XMADE": "by hand"})


def own(lines: LineList) -> LineList:
    return lines.select(np.isin(lines.loggf, lines.loggf) & (lines.gamma_rad == 1.0))


def test_a_correction_changes_its_line_alone():
    after = own(table(listed()).apply(listed()))
    change = after.loggf - listed().loggf
    # Another level at 3 mÅ and a line whose log gf is not the one that was corrected stay as they are.
    assert change == pytest.approx([0.3, 0.0, 0.0, -0.2, -0.2], abs=1e-6)
    assert after.gamma_vdw == pytest.approx(1e-8 * np.array([10**0.1, 1, 1, 1, 1]), rel=1e-5)


def test_a_band_of_other_strength_is_left_alone():
    stronger = listed(loggf=np.array([-1.0, -1.0, -2.0, -2.5, -2.5]))
    after = own(table(listed()).apply(stronger))
    assert after.loggf[3:] == pytest.approx([-2.5, -2.5])


def test_veil_and_silicon_hydride_are_added_once():
    lines = listed()
    whole = table(lines).apply(lines)
    assert len(whole) == len(lines) + len(veil()) + len(silicon_hydride())
    has_it = LineList.joined([lines, silicon_hydride()])
    assert len(table(lines).apply(has_it)) == len(whole)


def test_veil_has_its_classes_and_takes_changes_by_bin():
    before = veil()
    assert before.wave_vacuum.min() > WAVE_MIN
    assert before.wave_vacuum.max() < WAVE_MAX
    which = classes(before)
    assert np.array_equal(np.unique(which), np.arange(len(EXCITATION) * bins()))
    change = np.zeros((len(EXCITATION), bins()))
    change[1, 4] = 0.7
    moved = veil(change).loggf - before.loggf
    assert moved[which == bins() + 4] == pytest.approx(0.7, abs=1e-6)
    assert not moved[which != bins() + 4].any()


def test_silicon_hydride_lies_in_its_band():
    lines = silicon_hydride()
    strength = 10.0 ** lines.loggf.astype(float) * np.exp(-lines.elow_ev / 0.345)
    inside = (lines.wave_vacuum > BAND[0]) & (lines.wave_vacuum < BAND[1])
    assert strength[inside].sum() > 0.9 * strength.sum()
    head = lines.wave_vacuum[np.argmin(np.abs(lines.wave_vacuum - 4129.0))]
    assert abs(head - 4129.0) < 1.0  # the Q heads of A-X (0,0) near 4128 and 4142 Å


def test_table_survives_the_file(tmp_path):
    made = table(listed())
    made.write(tmp_path / "lines.fits.gz")
    again = StarCalibration.read(tmp_path / "lines.fits.gz")
    assert again.made["XMADE"] == "by hand"
    assert np.array_equal(again.apply(listed()).loggf, made.apply(listed()).loggf)


@pytest.mark.parametrize("content", [b"not FITS at all", b""])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "lines.fits"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a table of corrections"):
        StarCalibration.read(path)
