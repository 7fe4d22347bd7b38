"""From catalogue files to tables of ages: covariance, calibration, photometry, damage, restarts, the command."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from phdlspec.ages import infer
from phdlspec.ages.catalogue import AgeCatalogue
from phdlspec.ages.composition import metallicity_slope, metallicity_term
from phdlspec.ages.flags import AgeFlag
from phdlspec.ages.inference import AgeSettings, make_ages
from phdlspec.ages.photometry_table import photometry_of
from phdlspec.cli import main
from phdlspec.columns import PARAMETER_UNITS
from phdlspec.errors import UserError

NAMES = list(PARAMETER_UNITS)
N = 7


def catalogue_table(n: int = N) -> Table:
    rng = np.random.default_rng(2)
    table = Table({"OBSID": [f"{100 + k}" for k in range(n)]})
    table["FLAG"] = np.zeros(n, dtype=np.int32)
    for name, value, error in (
        ("TEFF", 5600.0, 60.0), ("LOGG", 3.9, 0.1), ("FE_H", -0.1, 0.05), ("MG_FE", 0.2, 0.04), ("SI_FE", 0.1, 0.08),
        ("CA_FE", 0.15, 0.05),
    ):  # fmt: skip
        table[name] = (value + 0.3 * error * rng.normal(size=n)).astype(np.float32)
        table[f"{name}_ERR"] = np.full(n, error, dtype=np.float32)
        table[f"{name}_FLAG"] = np.zeros(n, dtype=np.int16)
    table.meta["EMUHASH"] = "0123456789abcdef"
    return table


def write_catalogue(path, table, correlation=0.5):
    """With correlations of Teff with log g (`correlation`) and [Fe/H] with [Mg/Fe] (its half, negative)."""
    size = len(NAMES)
    full = np.zeros((size, size))
    full[NAMES.index("LOGG"), NAMES.index("TEFF")] = correlation
    full[NAMES.index("MG_FE"), NAMES.index("FE_H")] = -0.5 * correlation
    triangle = np.rint((full + full.T)[np.tril_indices(size, -1)] * 127).astype(np.int8)
    hdu = fits.table_to_hdu(table)
    hdu.name = "CATALOG"
    column = fits.Column(
        name="CORRELATION", format=f"{len(triangle)}B", bzero=-128, array=np.tile(triangle, (len(table), 1))
    )
    triangles = fits.BinTableHDU.from_columns([column], name="CORRELATION")
    fits.HDUList([fits.PrimaryHDU(), hdu, triangles]).writeto(path, overwrite=True)
    return path


@pytest.fixture
def catalogue(tmp_path):
    return write_catalogue(tmp_path / "catalogue.fits", catalogue_table())


def gaia(n: int = N) -> Table:
    return Table(
        {
            "OBSID": [f"{100 + k}" for k in range(n)], "PARALLAX": np.full(n, 4.0), "PARALLAX_ERR": np.full(n, 0.03),
            "KS": np.full(n, 8.9), "KS_ERR": np.full(n, 0.02),
        }
    )  # fmt: skip


def test_labels_and_covariance_of_a_catalogue(catalogue):
    opened = AgeCatalogue(catalogue)
    stars, used = opened.stars(0, N)
    table = catalogue_table()
    weight = 1.0 / np.array([0.04, 0.08, 0.05]) ** 2
    weight /= weight.sum()
    alpha = sum(w * np.asarray(table[name], dtype=float) for w, name in zip(weight, ("MG_FE", "SI_FE", "CA_FE")))
    np.testing.assert_allclose(used["ALPHA_FE"], alpha, rtol=1e-5)
    np.testing.assert_allclose(stars.labels[:, 2], table["FE_H"] + metallicity_term(alpha), rtol=1e-4)
    assert stars.covariance[0, 0, 1] == pytest.approx(0.5 * 60 * 0.1, rel=0.01)
    slope = metallicity_slope(alpha[0]) * weight
    variance = 0.05**2 + (slope**2 * np.array([0.04, 0.08, 0.05]) ** 2).sum() - 2 * slope[0] * 0.25 * 0.05 * 0.04
    assert stars.covariance[0, 2, 2] == pytest.approx(variance, rel=0.01)
    assert (stars.flag == 0).all()
    assert opened.kind.words == "raw (not calibrated)"


def test_calibrated_and_raw_labels(tmp_path):
    table = catalogue_table()
    for name in ("TEFF", "LOGG", "FE_H"):
        table[f"{name}_RAW"], table[f"{name}_ERR_RAW"] = table[name].copy(), table[f"{name}_ERR"].copy()
    table["TEFF"] = table["TEFF"] - np.float32(100)
    table["TEFF_ERR"] = np.full(N, 80, dtype=np.float32)
    table.meta["CALIBID"] = "cal7"
    path = write_catalogue(tmp_path / "c.fits", table)
    calibrated, raw = AgeCatalogue(path), AgeCatalogue(path, raw=True)
    assert calibrated.kind.words == "calibrated (cal7)"
    assert raw.kind.words == "raw (before calibration)"
    first, second = calibrated.stars(0, 1)[0], raw.stars(0, 1)[0]
    assert second.labels[0, 0] - first.labels[0, 0] == pytest.approx(100.0, abs=0.01)
    assert first.covariance[0, 0, 0] == pytest.approx(6400.0)
    assert first.covariance[0, 0, 1] == pytest.approx(second.covariance[0, 0, 1])


def test_elements_that_the_spectrum_says_nothing_about_are_left_out(tmp_path):
    table = catalogue_table()
    table["MG_FE_FLAG"][0] = 2
    stars, used = AgeCatalogue(write_catalogue(tmp_path / "c.fits", table)).stars(0, 1)
    weight = 1.0 / np.array([0.08, 0.05]) ** 2
    expected = (weight * [table["SI_FE"][0], table["CA_FE"][0]]).sum() / weight.sum()
    assert used["ALPHA_FE"][0] == pytest.approx(expected, rel=1e-4)


def test_a_plain_table_counts_as_independent(tmp_path, toy_path):
    path = tmp_path / "labels.csv"
    path.write_text("star,Teff,e_Teff,logg,e_logg,feh,e_feh\na,5600,60,3.9,0.1,-0.1,0.05\nb,5600,60,3.9,0.1,,0.05\n")
    table = infer(path, isochrones=str(toy_path))
    assert table["AGE_FLAG"][0] & AgeFlag.NO_COVARIANCE
    assert np.isfinite(table["AGE"][0])
    assert table["AGE_FLAG"][1] & AgeFlag.NO_LABELS
    assert np.isnan(table["AGE"][1])


def test_photometry_sharpens_ages(tmp_path, catalogue, toy_path):
    gaia().write(tmp_path / "gaia.csv")
    plain = infer(catalogue, isochrones=str(toy_path))
    sharp = infer(catalogue, isochrones=str(toy_path), photometry=tmp_path / "gaia.csv")
    assert (np.asarray(plain["AGE_FLAG"]) & AgeFlag.NO_LUMINOSITY).all()
    assert not (np.asarray(sharp["AGE_FLAG"]) & AgeFlag.NO_LUMINOSITY).any()
    assert np.median(sharp["AGE_ERR"]) < np.median(plain["AGE_ERR"])
    np.testing.assert_allclose(sharp["DIST_MOD"], 5 * np.log10(1000 / 4.0) - 5, atol=0.05)
    assert np.isnan(plain["DIST_MOD"]).all()
    assert sharp.meta["BANDS"] == "KS"
    assert sharp["SUBGIANT_MK"].all()


def test_names_of_the_gaia_archive_and_positions(tmp_path):
    table = catalogue_table()
    table["RA"], table["DEC"] = 100.0 + 0.1 * np.arange(N), np.full(N, 20.0)
    path = write_catalogue(tmp_path / "c.fits", table)
    archive = Table(
        {
            "source_id": np.arange(N) + 10**18, "ra": (100.0 + 0.1 * np.arange(N))[::-1], "dec": np.full(N, 20.0001),
            "parallax": np.arange(N)[::-1] + 1.0, "parallax_error": np.full(N, 0.03),
            "phot_g_mean_mag": np.full(N, 11.0),
            "phot_g_mean_flux_over_error": np.full(N, 500.0), "ebv": np.full(N, 0.1), "ebv_err": np.full(N, 0.02),
        }
    )  # fmt: skip
    archive.write(tmp_path / "gaia.ecsv")
    found = photometry_of(AgeCatalogue(path), tmp_path / "gaia.ecsv")
    np.testing.assert_allclose(found.parallax, np.arange(N) + 1.0)
    np.testing.assert_allclose(found.errors[:, 0], np.hypot(1.0857 / 500, 0.01), rtol=1e-3)
    np.testing.assert_allclose(found.av, 0.31)


def test_odd_parallaxes_are_flagged_rows(tmp_path, catalogue, toy_path):
    table = gaia()
    table["PARALLAX"][:3] = [-0.05, -5.0, np.nan]
    table["PARALLAX_ERR"][3] = np.nan
    table.write(tmp_path / "gaia.fits")
    flags = np.asarray(infer(catalogue, isochrones=str(toy_path), photometry=tmp_path / "gaia.fits")["AGE_FLAG"])
    bad = (flags & AgeFlag.BAD_PARALLAX) > 0
    assert bad.tolist() == [False, True, False, True, False, False, False]
    assert ((flags & AgeFlag.NO_LUMINOSITY) > 0).tolist() == [False, True, True, True, False, False, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.rename_column("KS", "u_sdss"), "no magnitude of a known system.*u_sdss"),
        (lambda t: t.remove_column("KS_ERR"), "magnitudes KS without errors"),
        (lambda t: t.remove_column("PARALLAX_ERR"), "parallaxes without errors"),
        (lambda t: t.rename_column("OBSID", "OTHER"), "none of its stars"),
        (lambda t: t["OBSID"].__setitem__(1, "100"), "OBSID 100 more than once"),
        (lambda t: t.add_column(np.full(N, 0.1), name="AV"), "extinctions without errors"),
        (lambda t: setattr(t["PARALLAX"], "unit", "km"), "is in km, expected mas"),
    ],
)
def test_photometric_tables_that_cannot_be_used(tmp_path, catalogue, change, message):
    table = gaia()
    change(table)
    table.write(tmp_path / "gaia.ecsv")
    with pytest.raises(UserError, match=message):
        photometry_of(AgeCatalogue(catalogue), tmp_path / "gaia.ecsv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Teff,Teff_err\n5000,100\n", "no column LOGG"),
        ("Teff,logg,feh\n5000,3.9,0\n", "has no Teff_ERR beside it"),
        ("", "is empty"),
    ],
)
def test_catalogues_that_cannot_be_used(tmp_path, text, message):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        AgeCatalogue(path)


def test_chunks_and_restarts_give_the_same_table(tmp_path, catalogue, toy_path, monkeypatch):
    settings = AgeSettings(str(toy_path))
    whole = make_ages(catalogue, tmp_path / "a.fits", settings, progress=False)
    monkeypatch.setattr("phdlspec.ages.inference.CHUNK", 2)
    from phdlspec.ages import inference

    original, calls = inference.AgeInference.rows, []

    def killed(self, start, stop):
        calls.append(start)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, start, stop)

    monkeypatch.setattr(inference.AgeInference, "rows", killed)
    with pytest.raises(KeyboardInterrupt):
        make_ages(catalogue, tmp_path / "b.fits", settings, progress=False)
    assert not (tmp_path / "b.fits").exists()
    parts = make_ages(catalogue, tmp_path / "b.fits", settings, progress=False)
    assert calls == [0, 2, 4, 4, 6]  # what was finished is not made again
    for name in ("AGE", "AGE_P16", "MASS", "LOGG_ISO", "P_SGB"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5)
    assert not (tmp_path / "b.fits.parts").exists()


def test_the_command(tmp_path, catalogue, toy_path, capsys):
    out = tmp_path / "ages.fits"
    command = ["ages", str(catalogue), "--out", str(out), "--isochrones", str(toy_path)]
    assert main([*command, "--compare", str(toy_path)]) == 0
    assert "labels: raw (not calibrated)" in capsys.readouterr().out
    written = Table.read(out, hdu="AGES")
    assert len(written) == N
    assert str(written["AGE"].unit) == "Gyr"
    np.testing.assert_allclose(written["AGE2"], written["AGE"])
    header = fits.getheader(out, "AGES")
    assert header["ISOCHRON"] == "toy"
    assert any("AFLAG 1:" in str(line) for line in header["COMMENT"])
    page = out.with_suffix(".html").read_text()
    assert page.count("data:image/png") == 4
    assert main(command) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--prior", "nothing"]) == 1
    assert "known are flat" in capsys.readouterr().err
    assert main(["ages", str(catalogue), "--out", str(tmp_path / "a.txt"), "--isochrones", str(toy_path)]) == 1
    assert "form of the output" in capsys.readouterr().err
    assert main(["ages", str(catalogue)]) == 1
    assert "--out" in capsys.readouterr().err


def test_the_command_describes_a_set(toy_path, capsys):
    assert main(["ages", "info", "--isochrones", str(toy_path)]) == 0
    text = capsys.readouterr().out
    assert "4 from -0.60 to +0.30" in text
    assert "interpolation" in text


def test_an_overall_metallicity_is_taken_as_it_is_and_a_table_may_be_in_memory():
    rows = {"Teff": [5600.0], "e_Teff": [50.0], "log_g": [3.9], "log_g_ERR": [0.05], "ALPHA_M": [0.3]}
    of_iron, overall = (
        AgeCatalogue(Table(rows | {name: [-0.4], f"{name}_ERR": [0.05]})).stars(0, 1)[0] for name in ("[Fe/H]", "M_H")
    )
    assert of_iron.labels[0, 2] == pytest.approx(-0.4 + metallicity_term(np.array([0.3]))[0])
    assert overall.labels[0, 2] == pytest.approx(-0.4)
