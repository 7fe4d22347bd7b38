"""gfall and VALD: species, medium, shares of components, damping; what is refused."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest

from kurucz_grids.linelists import read_line_list
from phdlspec.errors import UserError
from phdlspec.wavelength import air_to_vacuum, vacuum_to_air


def gfall_row(code: str, low: float, high: float, loggf: float, vacuum: bool = False, shares=(0.0, 0.0)) -> str:
    wave = 1e8 / (high - low)
    wave = wave if vacuum else float(vacuum_to_air(wave))
    levels = f"{low:12.3f}{2.0:5.1f} {'lower':10s}{high:12.3f}{3.0:5.1f} {'upper':10s}"
    head = f"{wave / 10:11.4f}{loggf:7.3f}{code:>6s}{levels}"
    damping = f"{8.0:6.2f}{-6.0:6.2f}{-7.5:6.2f}{'K14':4s}{0:2d}{0:2d}"
    return head + damping + f"{0:3d}{shares[0]:6.3f}{0:3d}{shares[1]:6.3f}".ljust(62)


LEVELS = (
    ("26.00", 18378.186, 38175.355, -1.2), ("22.01", 8997.787, 29968.350, -0.5), ("20.00", 15210.063, 31539.495, 0.2),
)  # fmt: skip


@pytest.mark.parametrize("vacuum", [False, True])
def test_gfall_tells_its_medium_by_its_levels(tmp_path, vacuum):
    path = tmp_path / "gf.dat"
    path.write_text("\n".join(gfall_row(*row, vacuum=vacuum) for row in LEVELS) + "\n")
    lines = read_line_list(path)
    assert lines.medium == ("vacuum" if vacuum else "air")
    expected = sorted(1e8 / (high - low) for _, low, high, _ in LEVELS)
    assert np.allclose(lines.wave_vacuum, expected, rtol=2e-7)
    assert sorted(lines.species.tolist()) == ["Ca", "Fe", "Ti+"]
    assert lines.gamma_rad[0] == pytest.approx(1e8, rel=1e-3)
    with pytest.raises(UserError, match="said to be in"):
        read_line_list(path, medium="air" if vacuum else "vacuum")


def test_gfall_applies_the_shares_of_components_once(tmp_path):
    path = tmp_path / "gf.dat"
    rows = [gfall_row(*LEVELS[0], shares=(-0.5, -0.3)), *(gfall_row(*row) for row in LEVELS[1:])]
    path.write_text("\n".join(rows))
    lines = read_line_list(path)
    iron = lines.species == "Fe"
    assert lines.loggf[iron][0] == pytest.approx(-2.0, abs=1e-3)
    assert lines.isotope_fraction[iron][0] == pytest.approx(10**-0.3, rel=1e-3)


def test_gfall_with_a_blank_for_the_decimal_point(tmp_path):
    path = tmp_path / "gf.dat"
    rows = [gfall_row(*LEVELS[0]).replace(" -1.200", "  -1 72"), *(gfall_row(*row) for row in LEVELS[1:])]
    path.write_text("\n".join(rows))
    lines = read_line_list(path)
    assert lines.loggf[lines.species == "Fe"][0] == pytest.approx(-1.72)


def test_gfall_in_air_is_in_vacuum_below_2000_angstrom(tmp_path):
    path = tmp_path / "gf.dat"
    rows = [gfall_row("26.00", 0.0, 60000.0, -1.0, vacuum=True), *(gfall_row(*row) for row in LEVELS)]
    path.write_text("\n".join(rows))
    assert read_line_list(path).wave_vacuum[0] == pytest.approx(1e8 / 60000.0, abs=1e-3)


@pytest.mark.parametrize(
    ("damage", "columns"),
    [(lambda row: row.replace("8997.787", "89x7.787"), "25-36"),
     (lambda row: row[:14], "12-18"), (lambda row: row[:22], "19-24"), (lambda row: row[:40], "53-64"),
     (lambda row: row[:58], "53-64"), (lambda row: row[:84], "81-86"),
     (lambda row: row[:11] + 7 * " " + row[18:], "12-18"), (lambda row: row[:24] + 12 * " " + row[36:], "25-36")],
)  # fmt: skip
def test_a_damaged_gfall_line_is_named(tmp_path, damage, columns):
    path = tmp_path / "gf.dat"
    path.write_text(gfall_row(*LEVELS[0]) + "\n\n" + damage(gfall_row(*LEVELS[1])))
    with pytest.raises(UserError, match=f"line 3, columns {columns}: "):
        read_line_list(path)


def test_gfall_may_leave_damping_blank_and_begin_with_a_blank_line(tmp_path):
    path = tmp_path / "gf.dat"
    path.write_text("\n".join(["", gfall_row(*LEVELS[0]), gfall_row(*LEVELS[1]), gfall_row(*LEVELS[2])[:80]]))
    lines = read_line_list(path)
    assert len(lines) == 3
    calcium = lines.species == "Ca"
    assert lines.gamma_rad[calcium][0] == pytest.approx(2.2236e15 / lines.wave_vacuum[calcium][0] ** 2, rel=1e-3)


@pytest.mark.parametrize("kind", ["AUT", "COR"])
def test_gfall_lines_without_an_oscillator_strength_are_left_out(tmp_path, kind, caplog):
    path = tmp_path / "gf.dat"
    other = gfall_row(*LEVELS[0])
    other = other[:80] + " 13.50 -1.20  2.30" + other[98:141] + kind + other[144:]
    path.write_text("\n".join([*(gfall_row(*row) for row in LEVELS), other]))
    with caplog.at_level(logging.INFO, logger="kurucz_grids"):
        lines = read_line_list(path)
    assert len(lines) == 3
    assert lines.gamma_vdw.max() < 1e-6
    assert "1 autoionising and coronal lines are left out" in caplog.text


def test_gfall_lines_whose_levels_contradict_the_wavelength(tmp_path, caplog):
    path = tmp_path / "gf.dat"
    wrong = gfall_row(*LEVELS[0]).replace("18378.186", " 1837.818")
    predicted = gfall_row(*LEVELS[0]).replace("  38175.355", " -38100.000")
    path.write_text("\n".join([gfall_row(*LEVELS[1])] * 150 + [wrong, predicted]))
    lines = read_line_list(path)
    assert len(lines) == 151
    assert "the first is line 151" in caplog.text
    path.write_text("\n".join([gfall_row(*LEVELS[1])] * 10 + [wrong]))
    with pytest.raises(UserError, match="disagree in 1 of 11 lines, the first is line 11"):
        read_line_list(path)


SHORT = """ 5000.0, 5001.0, 3, 6413, 1.0 Wavelength region, lines selected, lines processed, Vmicro
                                                  Damping parameters    Lande  Central
Spec Ion       WL_{medium}(A)  Excit(eV) Vmic log gf* Rad.   Stark   Waals   factor  depth  Reference
'Fe 1',        5000.5000,  3.1124, 1.0, -0.760, 7.970,-5.260,  -7.540,  0.780, 0.018, '   1 wl:K16'
'Ti 2',        5000.7000,  1.2000, 1.0, -1.500, 0.000, 0.000, 290.240,  0.780, 0.018, '   1 wl:K16'
'CH 1',        5000.9000,  0.4000, 1.0, -2.500, 0.000, 0.000,   0.000, 99.000, 0.018, '   1 wl:K16'
"""


@pytest.mark.parametrize("medium", ["air", "vac"])
def test_vald_short(tmp_path, medium):
    path = tmp_path / "list.vald"
    path.write_text(SHORT.format(medium=medium))
    lines = read_line_list(path)
    assert lines.species.tolist() == ["Fe", "Ti+", "CH"]
    listed = np.array([5000.5, 5000.7, 5000.9])
    assert np.allclose(lines.wave_vacuum, air_to_vacuum(listed) if medium == "air" else listed)
    assert lines.gamma_vdw[0] == pytest.approx(10**-7.54, rel=1e-3)
    assert lines.vdw_exponent[1] == pytest.approx((1 - 0.24) / 2, abs=1e-3)
    assert 1e-8 < lines.gamma_vdw[1] < 1e-7
    assert (lines.gamma_rad > 0).all()
    assert (lines.gamma_stark > 0).all()


def test_vald_with_the_wrong_medium_or_species_is_refused(tmp_path):
    path = tmp_path / "list.vald"
    path.write_text(SHORT.format(medium="air"))
    with pytest.raises(UserError, match="says that its wavelengths are in air"):
        read_line_list(path, medium="vacuum")
    path.write_text(SHORT.format(medium="air").replace("'Ti 2'", "'Xx 2'"))
    with pytest.raises(UserError, match="unknown species Xx 2"):
        read_line_list(path)


def test_vald_leaves_out_what_the_chemistry_does_not_know(tmp_path, caplog):
    path = tmp_path / "list.vald"
    path.write_text(SHORT.format(medium="air").replace("'CH 1'", "'CaO 1'"))
    assert read_line_list(path).species.tolist() == ["Fe", "Ti+"]
    assert "1 lines of species that the chemistry does not know" in caplog.text
    path.write_text(re.sub(r"'(Fe|Ti|CH) \d'", "'H 1'", SHORT.format(medium="air")))
    with pytest.raises(UserError, match="no line of a known species"):
        read_line_list(path)


def test_vald_cut_between_lines(tmp_path, caplog):
    path = tmp_path / "list.vald"
    cut = "\n".join(SHORT.format(medium="air").splitlines()[:-1])
    path.write_text(cut)
    with pytest.raises(UserError, match="cut off: 2 lines where its header promises 3"):
        read_line_list(path)
    # Somebody took a line out of a whole list, which ends with abundances.
    path.write_text(cut + "\n'model.krz',\n'H :  0.92','He: -1.11',\n'Es:-20.00','END'\n")
    assert len(read_line_list(path)) == 2
    assert "2 lines where the header promises 3" in caplog.text


def test_a_vald_row_without_its_comma_is_damaged(tmp_path):
    path = tmp_path / "list.vald"
    path.write_text(SHORT.format(medium="air").replace("'Ti 2', ", "'Ti 2'  "))
    with pytest.raises(UserError, match="line 5 is damaged"):
        read_line_list(path)


LONG = """ 5000.0, 5001.0, 1, 6413, 1.0 Wavelength region, lines selected, lines processed, Vmicro
                                                                       Lande factors       Damping parameters   Central
Spec Ion        WL_{medium}(A)  log gf* E_low(eV) J lo E_up(eV)  J up   lower   upper   mean   Rad.  Stark  Waals  depth
'Fe 1',        5000.5000, -0.760,  3.1000,  2.0,  5.5795,  3.0,  1.930,  1.360,  0.780, 7.970,-5.260,  -7.540, 0.018,
"""


def test_vald_long_tells_its_medium_by_its_levels(tmp_path):
    path = tmp_path / "list.vald"
    path.write_text(LONG.format(medium="vac"))
    assert read_line_list(path).medium == "vacuum"
    path.write_text(LONG.format(medium="air"))
    with pytest.raises(UserError, match="said to be in air, but its lines lie where they lie in vacuum"):
        read_line_list(path)


def test_an_unknown_format_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("these are no lines\n")
    with pytest.raises(UserError, match="format of this line list is not known"):
        read_line_list(tmp_path / "list.txt")
    with pytest.raises(UserError, match="no such line list"):
        read_line_list(tmp_path / "none")


def test_real_samples(shared_data):
    folder = shared_data / "linelists" / "native"
    gfall = read_line_list(folder / "gf0600_sample.dat")
    assert gfall.medium == "air"
    assert len(gfall) > 1000
    assert read_line_list(folder / "gfallvac08oct17.stub.dat").medium == "vacuum"
    short, long = (read_line_list(folder / f"{form}-extract-stellar.vald") for form in ("short", "long"))
    assert short.species.tolist() == long.species.tolist()
    assert np.allclose(short.wave_vacuum, long.wave_vacuum, atol=1e-3)
    assert np.allclose(short.loggf, long.loggf)
    assert np.allclose(short.gamma_vdw, long.gamma_vdw)
