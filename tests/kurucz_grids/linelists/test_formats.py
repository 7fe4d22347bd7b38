"""Molecules, MOOG, HDF5 and the check of the medium by strong lines, on lines typed by hand."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from kurucz_grids.linelists import read_line_list
from phdlspec.errors import UserError

VALD_SHORT = """ 5889.00000, 5897.00000, 2, 6413, 1.0 Wavelength region, lines selected, lines processed, Vmicro
                                                  Damping parameters    Lande  Central
Spec Ion       WL_air(A)  Excit(eV) Vmic log gf* Rad.   Stark   Waals   factor  depth  Reference
'Na 1',        5889.9510,  0.0000, 1.0,  0.108, 7.798,-5.640, 407.273,  1.167, 0.900, 'ref'
'Na 1',        5895.9242,  0.0000, 1.0, -0.194, 0.000, 0.000,   0.000,  1.333, 0.880, 'ref'
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text + "\n", encoding="latin-1")
    return path


def test_kurucz_molecule_gets_the_isotope_fraction(tmp_path):
    text = (
        "  500.0010 -1.505  9.5  4666.690  8.5  24661.070 112X03F2   B03F2   24\n"
        "  500.0010 -1.505  9.5  4666.690  8.5  24661.070 112X03F2   B03F2   26"
    )
    lines = read_line_list(write(tmp_path / "m.asc", text))
    assert lines.species_names == ("MgH",)
    assert lines.medium == "air"
    np.testing.assert_allclose(sorted(lines.loggf), -1.505 + np.log10([0.1101, 0.7899]), atol=1e-5)


def test_kurucz_molecules_have_the_widths_of_their_reader(tmp_path):
    electronic = "  500.0010 -1.505  9.5  4666.690  8.5  24661.070 112X03F2   B03F2   24"
    within_x = electronic.replace("B03F2", "X09F2") + " 617"
    lines = read_line_list(write(tmp_path / "m.asc", electronic + "\n" + within_x))
    np.testing.assert_allclose(lines.gamma_rad, [2.2236e15 / lines.wave_vacuum[0] ** 2, 10**6.17], rtol=1e-5)
    np.testing.assert_allclose(lines.gamma_stark, [3e-5, 3e-8], rtol=1e-6)
    np.testing.assert_allclose(lines.gamma_vdw, [1e-8, 1e-8], rtol=1e-6)


def test_molecular_lines_wider_than_ten_angstroms_are_left_out(tmp_path):
    row = "  500.0010 -1.505  9.5  4666.690  8.5  24661.070 106                12"
    lines = read_line_list(write(tmp_path / "m.asc", f"{row}1309\n{row}1290"))
    np.testing.assert_allclose(lines.gamma_rad, 10**12.9, rtol=1e-5)


@pytest.mark.parametrize("end", [40, 69, 73])
def test_a_cut_molecular_line_is_named(tmp_path, end):
    row = "  500.0010 -1.505  9.5  4666.690  8.5  24661.070 112X03F2   B03F2   24 617"
    with pytest.raises(UserError, match="line 4 is not a molecular line"):
        read_line_list(write(tmp_path / "m.asc", f"\n\n{row}\n{row[:end]}"))


def test_elements_of_one_isotope(tmp_path):
    text = "  500.0010 -1.505  9.5  4666.690  8.5  24661.070 113X03F2   A03F2   27"
    lines = read_line_list(write(tmp_path / "m.asc", text))
    assert (lines.species_names, lines.isotope_fraction.tolist()) == (("AlH",), [1.0])
    text = " 5100.2490 113.00127     0.607     0.520\n 5900.0000 839.01689     0.100    -0.500"
    lines = read_line_list(write(tmp_path / "m.moog", text), "air")
    assert lines.species.tolist() == ["AlH", "YO"]
    np.testing.assert_allclose(lines.isotope_fraction, [0.99998, 0.997621], rtol=1e-6)
    with pytest.raises(UserError, match="isotope 28 fits no atom"):
        read_line_list(write(tmp_path / "n.moog", text.replace("00127", "00128")), "air")


def test_vald_header_against_the_sodium_lines(tmp_path):
    path = write(tmp_path / "w.vald", VALD_SHORT.replace("WL_air", "WL_vac"))
    with pytest.raises(UserError, match="said to be in vacuum, but its lines lie where they lie in air"):
        read_line_list(path)
    with pytest.raises(UserError, match="says that its wavelengths are in air"):
        read_line_list(write(tmp_path / "x.vald", VALD_SHORT), medium="vacuum")


def test_vald_without_isotopic_scaling_is_refused(tmp_path):
    text = VALD_SHORT.replace("gf*", "gf ").replace("'ref'", "'(48)TiO'")
    with pytest.raises(UserError, match="isotopic scaling"):
        read_line_list(write(tmp_path / "u.vald", text))


def test_vald_in_inverse_cm_is_refused(tmp_path):
    with pytest.raises(UserError, match="energies in eV"):
        read_line_list(write(tmp_path / "c.vald", VALD_SHORT.replace("Excit(eV)", "Excit(cm-1)")))


def test_moog_needs_a_medium_and_applies_isotopes(tmp_path):
    text = (
        "a title\n"
        "  4980.074      24.0     4.444    -2.324\n"
        "  4981.000  22.00048     1.000    -1.000\n"
        " 5117.5820 606.01213     0.637    -0.082\n"
        " 5100.2490 112.00124     0.607     0.520"
    )
    path = write(tmp_path / "l.moog", text)
    with pytest.raises(UserError, match="nothing tells"):
        read_line_list(path)
    lines = read_line_list(path, medium="air")
    assert lines.species.tolist() == ["Cr", "Ti", "MgH", "C2"]
    np.testing.assert_allclose(lines.isotope_fraction, [1, 0.7372, 0.7899 * 0.99998, 2 * 89 / 90**2], rtol=1e-5)


def test_moog_medium_by_strong_lines(tmp_path):
    sodium = "  5889.951      11.0     0.000     0.108\n  5895.924      11.0     0.000    -0.194"
    path = write(tmp_path / "na.moog", sodium)
    assert read_line_list(path).medium == "air"
    with pytest.raises(UserError, match="said to be in vacuum"):
        read_line_list(path, medium="vacuum")


def test_moog_with_titles_and_comments(tmp_path):
    row = "  4980.074      24.0     4.444    -2.324"
    text = f"# of somebody\n51 Peg's other title\n{row}  Cr I by them\n{row}    -7.500  lab\n{row}"
    lines = read_line_list(write(tmp_path / "l.moog", text), medium="air")
    assert len(lines) == 3
    np.testing.assert_allclose(lines.gamma_vdw[1], 10**-7.5, rtol=1e-6)
    assert lines.gamma_vdw[0] == lines.gamma_vdw[2]
    assert len(read_line_list(write(tmp_path / "one.moog", row), medium="air")) == 1
    with pytest.raises(UserError, match="line 5 is not a MOOG line"):
        read_line_list(write(tmp_path / "d.moog", text.replace("-7.500", "-7.5-1").replace("title", "title\n")), "air")


def test_moog_with_gf_instead_of_log_gf_is_refused(tmp_path):
    text = "  4980.074      24.0     4.444     0.005\n  4980.088      20.0     4.760     0.012"
    with pytest.raises(UserError, match="no gf of this list is negative"):
        read_line_list(write(tmp_path / "gf.moog", text), medium="air")


def test_moog_unknown_species_and_isotope(tmp_path):
    for code, message in (("99.0", "unknown species"), ("22.00099", "unknown isotope")):
        with pytest.raises(UserError, match=message):
            read_line_list(write(tmp_path / "u.moog", f"  5889.951  {code}   0.000   0.108\n" * 2), medium="air")


def columnar_rows() -> np.ndarray:
    names = "wl_air z1 z2 ion iso elow_ev loggf log_gamrad log_gamstark vdw src abo_loggam1e4K abo_alpha abo_gamrad"
    dtype = [(n, "S8" if n == "src" else "f8") for n in names.split()]
    return np.array([(5000.0, 26, 0, 0, 0, 1.0, -1.0, 8.0, -5.0, 2.0, b"VALD", np.nan, np.nan, np.nan)], dtype=dtype)


def test_columnar_hdf5(tmp_path):
    rows = columnar_rows()
    with h5py.File(tmp_path / "l.h5", "w") as file:
        file["lines"] = rows
    lines = read_line_list(tmp_path / "l.h5")
    assert lines.species.tolist() == ["Fe"]
    assert lines.medium == "air"
    with pytest.raises(UserError, match="vacuum was asked for"):
        read_line_list(tmp_path / "l.h5", medium="vacuum")


def test_a_columnar_list_that_is_damaged_or_none(tmp_path):
    rows = columnar_rows()
    nanometres, words = rows.copy(), rows.astype([(n, "S8" if n == "loggf" else t) for n, t in rows.dtype.descr])
    nanometres["wl_air"] /= 10.0
    without_widths = rows[[name for name in rows.dtype.names if name != "log_gamrad"]]
    bad = (
        (rows[:0], r"shape \(0,\)"), (nanometres, "in Å, not in nm"), (words, "'loggf' is of type"),
        (without_widths, "lacks the field 'log_gamrad'; expected wl_air"),
    )  # fmt: skip
    for changed, message in bad:
        np.savez(tmp_path / "l.npz", lines=changed)
        with pytest.raises(UserError, match=message):
            read_line_list(tmp_path / "l.npz")
    np.savez_compressed(tmp_path / "l.npz", lines=np.repeat(rows, 100))
    whole = (tmp_path / "l.npz").read_bytes()
    flipped = whole[:200] + bytes([whole[200] ^ 255]) + whole[201:]
    for content in (whole[:200], flipped):
        (tmp_path / "l.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"l\.npz: not a whole columnar line list"):
            read_line_list(tmp_path / "l.npz")
    with h5py.File(tmp_path / "l.h5", "w") as file:
        file.create_group("lines")
    with pytest.raises(UserError, match="'lines' is a group"):
        read_line_list(tmp_path / "l.h5")


@pytest.mark.parametrize(("isotope", "fraction"), [(12, (89 / 90) ** 2), (13, 89 / 90**2), (33, 1 / 90**2)])
def test_kurucz_c2_counts_level_by_level(tmp_path, isotope, fraction):
    text = f"  512.9000 -0.500 23.0  2354.000 24.0  21845.569 6063a00e1  3d10e3  {isotope} 677"
    lines = read_line_list(write(tmp_path / "c2.asc", text))
    np.testing.assert_allclose(lines.isotope_fraction, fraction, rtol=1e-6)


def test_kurucz_c2_with_an_isotope_in_two_digits_and_a_wave_number(tmp_path):
    text = "  512.9000 -0.500 23.0  2354.000 24.0  21845.569 6063a00e1  3d10e3  12 677  19491.569"
    lines = read_line_list(write(tmp_path / "c2.asc", text))
    assert lines.species_names == ("C2",)
    assert lines.medium == "air"
    np.testing.assert_allclose(lines.isotope_fraction, (89 / 90) ** 2, rtol=1e-6)


def test_folder_is_one_list(tmp_path):
    write(tmp_path / "na.vald", VALD_SHORT)
    write(tmp_path / "m.asc", "  500.0010 -1.505  9.5  4666.690  8.5  24661.070 112X03F2   B03F2   24")
    (tmp_path / ".half.part").write_text("no list")
    lines = read_line_list(tmp_path)
    assert lines.species.tolist() == ["MgH", "Na", "Na"]
    assert (lines.medium, lines.path) == ("air", str(tmp_path))
    assert sum(lines.sources.values()) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no line list"):
        read_line_list(tmp_path / "empty")


def test_the_same_list_twice_in_a_folder_is_refused(tmp_path):
    for name in ("a.vald", "b.vald"):
        write(tmp_path / name, VALD_SHORT)
    with pytest.raises(UserError, match=r"a\.vald and .*b\.vald are the same line list"):
        read_line_list(tmp_path)


def test_what_may_not_be_read_is_told(tmp_path, monkeypatch):
    def denied(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    path = write(tmp_path / "na.vald", VALD_SHORT)
    monkeypatch.setattr(Path, "open", denied)
    monkeypatch.setattr(Path, "iterdir", denied)
    for asked in (path, tmp_path):
        with pytest.raises(UserError, match=f"{asked}: the line list cannot be read .Permission denied"):
            read_line_list(asked)


@pytest.mark.parametrize(
    ("name", "medium", "count", "found"),
    [
        ("mgh_sample.asc", None, 3379, "air"),
        ("kurucz_cn.txt", None, 10, "air"),
        ("linemake_moogatom05000_head.moog", "air", 3000, "air"),
    ],
)
def test_real_files(shared_data, name, medium, count, found):
    lines = read_line_list(shared_data / "linelists" / "native" / name, medium)
    assert (len(lines), lines.medium) == (count, found)
    assert (lines.gamma_vdw > 0).all()
