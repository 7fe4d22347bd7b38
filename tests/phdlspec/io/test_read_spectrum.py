"""Reading every format, and one sentence for every bad file."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import Table

from phdlspec.errors import UserError
from phdlspec.io import from_specutils, read_spectrum, reading, to_specutils, write_lamost
from phdlspec.io.desi import resolving_power_of_bands
from phdlspec.io.table import from_table
from phdlspec.spectrum import SIGMA_TO_FWHM, Spectrum
from phdlspec.wavelength import LAMOST_WAVE, vacuum_to_air


def flux_and_ivar(wave: np.ndarray, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A noisy spectrum with a few lines and its inverse variance."""
    rng = np.random.default_rng(seed)
    lines = sum(0.4 * np.exp(-0.5 * ((wave - c) / 3) ** 2) for c in (4340, 4861, 5184, 6563, 8542))
    flux = 200 * (1 - lines) + rng.normal(0, 4, wave.shape)
    return flux, np.full(wave.shape, 1 / 16)


@pytest.fixture
def mock() -> Spectrum:
    flux, ivar = flux_and_ivar(LAMOST_WAVE)
    mask = np.zeros(len(LAMOST_WAVE), dtype=bool)
    mask[100:110] = True
    meta = {"OBSID": "123", "RA": 10.5, "DEC": -1.25, "SNRG": 50.0, "Z": 1e-4, "CLASS": "STAR"}
    return Spectrum(LAMOST_WAVE, flux, ivar, mask, 1800.0, meta)


def write_image(path: Path, spectrum: Spectrum, **cards) -> None:
    """The older LAMOST layout."""
    mask = spectrum.mask.astype(float)
    image = np.array([spectrum.flux, spectrum.ivar, spectrum.wave, mask, mask], dtype=np.float32)
    hdu = fits.PrimaryHDU(image)
    hdu.header.update({"TELESCOP": "LAMOST", "VACUUM": True, "HELIO": True, "OBSID": 123, "Z": 1e-4, **cards})
    hdu.writeto(path)


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
@pytest.mark.parametrize("layout", ["image", "table"])
def test_lamost_layouts(tmp_path, mock, layout, suffix):
    path = tmp_path / f"spec{suffix}"
    if layout == "image":
        write_image(path, mock, COEFF0=3.5682, COEFF1=1e-4, HELIO_RV=25.0)
    else:
        write_lamost(mock, path)
    got = read_spectrum(path)
    np.testing.assert_allclose(got.wave, mock.wave, rtol=1e-12)
    np.testing.assert_allclose(got.flux, mock.flux, rtol=1e-6)
    np.testing.assert_array_equal(got.mask, mock.mask)
    assert got.meta["OBSID"] == "123"
    assert got.meta["Z"] == pytest.approx(1e-4)
    assert got.meta["SURVEY"] == "LAMOST"
    assert "HELIO_RV" not in got.meta
    assert len(got.arms) == 2
    assert got.path == str(path)
    assert not list(tmp_path.glob("*.part*"))


def test_lamost_quirks(tmp_path, mock):
    """Stray NAXIS1/2 in the empty primary HDU, float masks, fewer pixels, the class of a galaxy, air
    wavelengths."""
    path = tmp_path / "quirk.fits"
    short = Spectrum(mock.wave[:3820], mock.flux[:3820], mock.ivar[:3820], mock.mask[:3820], 1800.0, mock.meta)
    write_lamost(short, path)
    raw = bytearray(path.read_bytes())
    card = b"NAXIS1  =                 3820".ljust(80)
    raw[: 80 * 4] = raw[: 80 * 3] + card  # in place of EXTEND
    path.write_bytes(raw)
    assert len(read_spectrum(path)) == 3820

    galaxy = tmp_path / "galaxy.fits"
    air = Spectrum(vacuum_to_air(mock.wave), mock.flux, mock.ivar, mock.mask, 1800.0)
    write_image(galaxy, air, CLASS="GALAXY", VACUUM=False, HELIO=False)
    got = read_spectrum(galaxy, resolving_power=(np.array([3700.0, 9100.0]), np.array([1500.0, 2000.0])))
    assert any("GALAXY" in sentence for sentence in got.warnings)
    assert any("converted to vacuum" in sentence for sentence in got.warnings)
    assert any("not heliocentric" in sentence for sentence in got.warnings)
    np.testing.assert_allclose(got.wave, mock.wave, rtol=2e-6)
    assert got.resolving_power_by_pixel[-1] == pytest.approx(2000, abs=1)


def test_sdss(tmp_path):
    loglam = 3.58 + 1e-4 * np.arange(3800)
    flux, ivar = flux_and_ivar(10**loglam)
    ivar[5] = 0
    and_mask = np.zeros(3800, dtype=np.int32)
    and_mask[7], and_mask[8] = 1 << 23, 1 << 20
    wdisp = np.full(3800, 1.0, dtype=np.float32)
    wdisp[50:60] = 0
    columns = {"flux": flux, "loglam": loglam, "ivar": ivar, "and_mask": and_mask, "wdisp": wdisp}
    table = fits.BinTableHDU(Table(columns), name="COADD")
    about = fits.BinTableHDU(Table({"CLASS": ["STAR"], "SUBCLASS": ["F9"], "Z": [1e-4]}), name="SPECOBJ")
    primary = fits.PrimaryHDU()
    primary.header.update({"PLATEID": 266, "MJD": 51602, "FIBERID": 31})
    primary.header.update({"RA": 145.9, "DEC": 0.1, "PLUG_RA": 147.3, "PLUG_DEC": -0.1})
    path = tmp_path / "spec-0266-51602-0031.fits"
    fits.HDUList([primary, table, about]).writeto(path)
    got = read_spectrum(path)
    assert list(np.flatnonzero(got.mask)) == [5, 7]
    np.testing.assert_allclose(got.resolving_power, 1 / (SIGMA_TO_FWHM * 1e-4 * np.log(10)), rtol=1e-6)
    assert got.meta["OBSID"] == "266-51602-31"
    assert got.meta["SUBCLASS"] == "F9"
    assert (got.meta["RA"], got.meta["DEC"]) == (147.3, -0.1)  # the star's, not the telescope's


def desi_hdus(prefix: str, wave: np.ndarray, sigma_pixels: float, count: int = 3) -> list:
    flux, ivar = flux_and_ivar(wave)
    offsets = np.arange(5, -6, -1)
    band = np.exp(-0.5 * (offsets / sigma_pixels) ** 2)
    bands = np.repeat((band / band.sum())[:, None], len(wave), axis=1)
    stack = np.arange(1, count + 1)[:, None]
    data = {
        "WAVELENGTH": wave,
        "FLUX": stack * flux,
        "IVAR": ivar / stack**2,
        "MASK": np.zeros((count, len(wave)), dtype=np.int32),
        "RESOLUTION": np.repeat(bands[None], count, axis=0),
    }
    return [fits.ImageHDU(values, name=prefix + name) for name, values in data.items()]


def test_desi_coadd(tmp_path):
    blue, red = np.arange(3600.0, 5800.0, 0.8), np.arange(5760.0, 7620.0, 0.8)
    hdus = [fits.PrimaryHDU()]
    hdus += desi_hdus("B_", blue, 1.2) + desi_hdus("R_", red, 1.1)
    fibers = {"TARGETID": [11, 22, 33], "TARGET_RA": [1.0, 2.0, 3.0], "TARGET_DEC": [4.0, 5.0, 6.0]}
    fibers |= {"REF_ID": [7, 8, 9], "REF_CAT": ["T2", "G2", ""]}
    hdus.append(fits.BinTableHDU(Table(fibers), name="FIBERMAP"))
    path = tmp_path / "coadd.fits"
    fits.HDUList(hdus).writeto(path)
    with pytest.raises(UserError, match="holds 3 spectra"):
        read_spectrum(path)
    with pytest.raises(UserError, match="no row 3"):
        read_spectrum(path, row=3)
    got = read_spectrum(f"{path}[1]")
    assert got.meta["OBSID"] == "22"
    assert got.meta["RA"] == 2.0
    assert got.meta["GAIA_ID"] == "8"
    assert "GAIA_ID" not in read_spectrum(f"{path}[0]").meta  # of Tycho
    assert len(got.arms) == 2
    assert got.arms[0][1] == pytest.approx(5780, abs=1)
    assert np.median(got.flux) == pytest.approx(400, rel=0.02)
    power = got.resolving_power_by_pixel
    at_5000 = np.argmin(np.abs(got.wave - 5000))
    assert power[at_5000] == pytest.approx(5000 / (SIGMA_TO_FWHM * 1.2 * 0.8), rel=0.01)


def test_desi_frame_of_one_arm(tmp_path):
    path = tmp_path / "cframe-b0.fits"
    hdus = [fits.PrimaryHDU(), *desi_hdus("", np.arange(3600.0, 5800.0, 0.8), 1.2, count=1)]
    fits.HDUList(hdus).writeto(path)
    assert len(read_spectrum(path)) == 2750


def test_resolution_bands_follow_scipy_storage():
    from scipy.sparse import dia_matrix

    size, offsets = 60, np.arange(4, -5, -1)
    sigma = np.linspace(0.9, 1.5, size)
    matrix = np.exp(-0.5 * ((np.arange(size)[None] - np.arange(size)[:, None]) / sigma[:, None]) ** 2)
    matrix[np.abs(np.arange(size)[None] - np.arange(size)[:, None]) > 4] = 0
    matrix /= matrix.sum(axis=1, keepdims=True)
    bands = np.zeros((9, size))
    for k, offset in enumerate(offsets):
        for j in range(size):
            if 0 <= j - offset < size:
                bands[k, j] = matrix[j - offset, j]
    np.testing.assert_allclose(dia_matrix((bands, offsets), shape=(size, size)).toarray(), matrix)
    wave = 5000 + 0.8 * np.arange(size)
    got = wave / (SIGMA_TO_FWHM * 0.8 * resolving_power_of_bands(bands, wave))
    np.testing.assert_allclose(got[10:-10], sigma[10:-10], rtol=0.02)


def generic(**change) -> Table:
    wave = np.linspace(4000, 7000, 1500)
    flux, ivar = flux_and_ivar(wave)
    table = Table({"wave": wave * u.AA, "flux": flux, "err": ivar**-0.5}, meta={"RESOLVING_POWER": 2000})
    for name, column in change.items():
        table[name] = column
    return table


@pytest.mark.parametrize("kind", ["ecsv", "csv", "fits"])
def test_generic_table(tmp_path, kind):
    path = tmp_path / f"star.{kind}"
    table = generic()
    table.rename_column("wave", "wave_vac")
    table.write(path, format={"ecsv": "ascii.ecsv", "csv": "ascii.csv", "fits": "fits"}[kind])
    got = read_spectrum(path, resolving_power=2000.0)
    np.testing.assert_allclose(got.wave, np.linspace(4000, 7000, 1500))
    np.testing.assert_allclose(got.ivar, 1 / 16, rtol=1e-6)
    assert got.resolving_power == 2000.0
    assert got.stem == "star"


def test_table_units_air_and_mask(tmp_path):
    path = tmp_path / "nm.ecsv"
    table = generic(mask=np.arange(1500) < 3)
    table["wave"] = (vacuum_to_air(table["wave"].value) / 10) * u.nm
    table.rename_column("wave", "wavelength")
    table.meta["MEDIUM"] = "air"
    table.write(path, format="ascii.ecsv")
    got = read_spectrum(path)
    np.testing.assert_allclose(got.wave, np.linspace(4000, 7000, 1500), rtol=1e-9)
    assert got.mask.sum() == 3
    with pytest.raises(UserError, match="make them agree"):
        read_spectrum(path, medium="vacuum")


def test_table_with_log_wavelengths_and_vector_row(tmp_path):
    wave = np.linspace(4000, 7000, 1500)
    flux, ivar = flux_and_ivar(wave)
    path = tmp_path / "vector.fits"
    one_row = Table({"loglam": np.log10(wave)[None], "flux": flux[None], "ivar": ivar[None]})
    one_row.write(path)
    got = read_spectrum(path, medium="vacuum", resolving_power=1500.0)
    np.testing.assert_allclose(got.wave, wave)


def test_resolving_power_from_a_file(tmp_path, mock):
    path, power = tmp_path / "s.fits", tmp_path / "r.csv"
    write_lamost(mock, path)
    Table({"wave": [3700.0, 9100.0], "resolving_power": [1400.0, 2000.0]}).write(power, format="ascii.csv")
    assert read_spectrum(path, resolving_power=power).resolving_power_by_pixel[0] == pytest.approx(1400, abs=1)
    power.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="nor a table with the columns"):
        read_spectrum(path, resolving_power=power)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"wave": np.linspace(400, 700, 1500)}, "looks like nm"),
        ({"wave": np.linspace(0.4, 0.7, 1500)}, "looks like µm"),
        ({"wave": np.linspace(3.6, 3.9, 1500)}, "looks like log10"),
        ({"wave": np.repeat(np.linspace(4000, 7000, 750), 2)}, "do not increase strictly"),
        ({"wave": np.linspace(4000, 7000, 1500) * u.K}, "expected a unit of length"),
        ({"flux": np.full(1500, 3.0)}, "flux is constant"),
        ({"flux": np.full(1500, np.nan)}, "flux is not finite"),
        ({"err": np.zeros(1500)}, "inverse variance is not positive"),
        ({"ivar": np.full(1500, -1.0)}, "inverse variance is not positive"),
        ({"mask": np.ones(1500)}, "all pixels are masked"),
        ({"mask": np.arange(1500) > 20}, "only 21 of 1500"),
        ({"flux": np.array(["x"] * 1500)}, "does not hold numbers"),
        ({"resolving_power": np.full(1500, -2.0)}, "must be positive"),
    ],
)
def test_bad_tables_get_one_sentence(tmp_path, change, complaint):
    path = tmp_path / "bad.ecsv"
    generic(**change).write(path, format="ascii.ecsv")
    with pytest.raises(UserError, match=complaint) as caught:
        read_spectrum(path, medium="vacuum")
    assert "\n" not in str(caught.value)
    assert "bad.ecsv" in str(caught.value)


@pytest.mark.parametrize(
    ("drop", "complaint"),
    [("wave", "no wavelength column"), ("flux", "no flux column"), ("err", "no uncertainty column")],
)
def test_missing_columns(tmp_path, drop, complaint):
    path = tmp_path / "bad.csv"
    table = generic()
    table.remove_column(drop)
    table.write(path, format="ascii.csv")
    with pytest.raises(UserError, match=complaint):
        read_spectrum(path, medium="vacuum")


def test_a_table_with_a_header_only_or_words_for_the_resolving_power(tmp_path):
    path = tmp_path / "header.csv"
    path.write_text("wave,flux,err\n")
    with pytest.raises(UserError, match="header.csv: the table has no rows"):
        read_spectrum(path, medium="vacuum", resolving_power=1800.0)
    table = generic()
    table.meta["RESOLVING_POWER"] = "high"
    table.write(tmp_path / "words.ecsv", format="ascii.ecsv")
    with pytest.raises(UserError, match="words.ecsv: RESOLVING_POWER in its metadata is 'high', expected a number"):
        read_spectrum(tmp_path / "words.ecsv", medium="vacuum")
    assert read_spectrum(tmp_path / "words.ecsv", medium="vacuum", resolving_power=1800.0).resolving_power == 1800.0


def test_whatever_a_reader_does_becomes_one_sentence():
    with pytest.raises(UserError, match=r"^a\.fits: cannot be read \(RuntimeError: no\)$"), reading("a.fits"):
        raise RuntimeError("no\nsecond line")
    with pytest.raises(UserError, match="^plain$"), reading("a.fits"):
        raise UserError("plain")


def test_medium_and_resolving_power_are_never_guessed(tmp_path):
    path = tmp_path / "s.csv"
    generic().write(path, format="ascii.csv")
    with pytest.raises(UserError, match="air or vacuum"):
        read_spectrum(path)
    with pytest.raises(UserError, match="resolving power is not given"):
        read_spectrum(path, medium="air")
    with pytest.raises(UserError, match="expected 'air' or 'vacuum'"):
        read_spectrum(path, medium="water")


def test_bad_files_get_one_sentence(tmp_path, mock):
    good = tmp_path / "good.fits"
    write_lamost(mock, good)
    packed = gzip.compress(good.read_bytes())
    cases = {
        "missing.fits": (None, "no such file"),
        "empty.fits": (b"", "file is empty"),
        "cut.fits": (good.read_bytes()[:20000], "damaged or truncated"),
        "cut_header.fits": (good.read_bytes()[:1000], "damaged or truncated"),
        "cut.fits.gz": (packed[: len(packed) // 2], "damaged or truncated"),
        "noise.fits.gz": (b"\x1f\x8b" + bytes(range(200)), "damaged or truncated"),
        "binary.csv": (bytes(range(256)) * 10, "not a FITS file and not a table"),
        "prose.txt": (b"this is not a spectrum\nat all\n", "column|not a table"),
    }
    for name, (content, complaint) in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=complaint) as caught:
            read_spectrum(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="this is a folder"):
        read_spectrum(tmp_path)
    with pytest.raises(UserError, match="unknown format"):
        read_spectrum(good, format="gaia")
    plain = tmp_path / "plain.fits"
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(plain)
    with pytest.raises(UserError, match="not a LAMOST"):
        read_spectrum(plain, format="lamost")
    with pytest.raises(UserError, match="no spectrum found"):
        read_spectrum(plain)


def test_specutils_there_and_back(mock):
    pytest.importorskip("specutils", reason="the extra phdlspec[specutils] is not installed")
    got = from_specutils(to_specutils(mock), 1800.0, "vacuum")
    np.testing.assert_allclose(got.wave, mock.wave)
    np.testing.assert_allclose(got.ivar, mock.ivar)
    np.testing.assert_array_equal(got.mask, mock.mask)
    with pytest.raises(UserError, match="expected 'air' or 'vacuum'"):
        from_specutils(to_specutils(mock), 1800.0, "unknown")


def test_every_real_spectrum_is_read(shared_data):
    """All LAMOST layouts and the SDSS spectra at hand; nothing is refused."""
    paths = sorted(shared_data.glob("lamost/*/*.fits*")) + sorted(shared_data.glob("sdss/*.fits"))
    assert len(paths) > 700
    step = 5  # every fifth of the uniform folders, all of the odd ones
    odd = [p for p in paths if p.parent.name in ("layouts", "sdss")]
    for path in odd + paths[::step]:
        spectrum = read_spectrum(path)
        assert 3700 < len(spectrum) < 4700
        assert spectrum.meta["SURVEY"] == ("SDSS" if path.parent.name == "sdss" else "LAMOST")
        assert spectrum.good.mean() > 0.7
        assert spectrum.wave[0] < 3850


def test_text_of_three_columns_with_the_medium_given(tmp_path):
    wave = np.linspace(4000.0, 5000.0, 300)
    flux = 1.0 + 0.1 * np.sin(wave)
    path = tmp_path / "star.txt"
    np.savetxt(path, np.column_stack([wave, flux, np.full(300, 0.02)]), header="made by hand")
    read = read_spectrum(path, medium="vacuum", resolving_power=1800)
    assert np.allclose(read.wave, wave)
    assert np.allclose(read.ivar, 2500.0)
    np.savetxt(path, np.column_stack([wave, flux, np.full(300, 0.02)]), delimiter=",")
    assert np.allclose(read_spectrum(path, medium="vacuum", resolving_power="LAMOST").flux, flux)
    with pytest.raises(UserError, match="--medium air or vacuum"):
        read_spectrum(path, resolving_power=1800)
    np.savetxt(path, np.column_stack([wave, flux]))
    with pytest.raises(UserError, match=r"star.txt: 2 columns without names, expected three"):
        read_spectrum(path, medium="vacuum", resolving_power=1800)


QUALITY = ("dq", "QUAL", "pixel_flags", "and_mask", "flags")


@pytest.mark.parametrize("name", QUALITY)
def test_a_column_of_quality_is_used_and_told(tmp_path, name):
    table = generic()
    table[name] = np.where(np.arange(len(table)) % 10 == 0, 4, 0)
    table.write(tmp_path / "a.ecsv")
    got = read_spectrum(tmp_path / "a.ecsv", medium="vacuum", resolving_power=2000.0)
    assert got.mask.sum() == 150
    assert got.mask[::10].all()
    assert got.warnings == (f"the column {name} is taken for the pixels' quality: 150 that are not 0 are left out",)


@pytest.mark.parametrize(
    ("columns", "bad", "words"),
    [
        ({"dq": 1}, 0, "the column dq is not used (it is not 0 in 100 % of the pixels)"),
        ({"dq": "fine"}, 0, "the column dq is not used (it does not hold numbers)"),
        ({"or_mask": 1}, 0, "the column or_mask is not used (its meaning is another)"),
        ({"mask": np.arange(1500) < 9, "dq": 0}, 9, "the column dq is not used (there is another)"),
    ],
)
def test_a_column_of_quality_that_is_not_used_is_told(columns, bad, words):
    table = generic()
    for name, values in columns.items():
        table[name] = values
    table.meta["WARNINGS"] = "of the file"
    got = from_table(table, medium="vacuum", resolving_power=2000.0)
    assert got.mask.sum() == bad
    assert words in got.warnings[0]
