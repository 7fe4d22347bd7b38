"""gfall and VALD: species, medium, shares of components, damping; what is refused."""

from __future__ import annotations

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
    with pytest.raises(UserError, match="was asked for"):
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


def test_a_damaged_gfall_line_is_named(tmp_path):
    path = tmp_path / "gf.dat"
    path.write_text(gfall_row(*LEVELS[0]) + "\n" + gfall_row(*LEVELS[1]).replace("8997.787", "89x7.787"))
    with pytest.raises(UserError, match="line 2, columns 25-36"):
        read_line_list(path)


SHORT = """ 5000.0, 5001.0, 2, 6413, 1.0 Wavelength region, lines selected, lines processed, Vmicro
                                                  Damping parameters    Lande  Central
Spec Ion       WL_{medium}(A)  Excit(eV) Vmic log gf* Rad.   Stark   Waals   factor  depth  Reference
'Fe 1',        5000.5000,  3.1124, 1.0, -0.760, 7.970,-5.260,  -7.540,  0.780, 0.018, '   1 wl:K16'
'Ti 2',        5000.7000,  1.2000, 1.0, -1.500, 0.000, 0.000, 290.240,  0.780, 0.018, '   1 wl:K16'
'CH 1',        5000.9000,  0.4000, 1.0, -2.500, 0.000, 0.000,   0.000, 99.000, 0.018, '   1 wl:K16'
'model.krz',
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
    with pytest.raises(UserError, match="says that the wavelengths are in air"):
        read_line_list(path, medium="vacuum")
    path.write_text(SHORT.format(medium="air").replace("'Ti 2'", "'Xx 2'"))
    with pytest.raises(UserError, match="unknown species Xx 2"):
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
