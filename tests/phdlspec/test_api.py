"""The Python API: what is fitted, what comes back, and what is said to mistakes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable, Table

import phdlspec
from phdlspec import UserError
from phdlspec.flags import LabelFlag, StarFlag
from phdlspec.io import write_lamost
from tests.phdlspec.fitting.test_driver import mock


@pytest.fixture(scope="module")
def path(toy_emulator, tmp_path_factory):
    path = tmp_path_factory.mktemp("api") / "star.fits.gz"
    write_lamost(mock(toy_emulator, name="77"), path)
    return path


@pytest.fixture(scope="module")
def spectrum(path):
    return phdlspec.read_spectrum(path)


@pytest.fixture(scope="module")
def result(path, toy_checkpoint):
    return phdlspec.fit(path, toy_checkpoint, mode="fast")


def test_a_path_a_spectrum_and_a_table_give_the_same(result, spectrum, toy_emulator):
    table = QTable(
        {"wave": spectrum.wave / 10 * u.nm, "flux": spectrum.flux, "ivar": spectrum.ivar, "mask": spectrum.mask},
        meta={"OBSID": "77", "MEDIUM": "vacuum"},
    )
    again = phdlspec.fit(spectrum, toy_emulator, mode="fast")
    assert np.allclose(again.value, result.value, rtol=0.0, atol=1e-3 * np.nanmin(result.err), equal_nan=True)
    from_table = phdlspec.as_spectrum(table, resolving_power="LAMOST")
    assert np.allclose(from_table.resolving_power, spectrum.resolving_power)
    assert np.allclose(from_table.wave, spectrum.wave, rtol=1e-12)


def test_specutils_objects(spectrum):
    specutils = pytest.importorskip("specutils")
    there = phdlspec.to_specutils(spectrum)
    assert isinstance(there, getattr(specutils, "Spectrum", specutils.Spectrum1D))
    back = phdlspec.as_spectrum(there)
    assert np.allclose(back.resolving_power, spectrum.resolving_power)
    assert np.array_equal(back.mask, spectrum.mask)


def test_one_parameter_says_everything_of_itself(result):
    found = result["[Fe/H]"]
    i = result.names.index("FE_H")
    assert (found, found.value) == (result.value[i], float(result.value[i]))
    assert (found.err, found.crlb, found.unit) == (result.err[i], result.crlb[i], "dex")
    assert isinstance(found.flag, LabelFlag)
    assert result["teff"].quantity.unit == u.K
    assert repr(result["Teff"]).startswith("TEFF = ")
    assert "the prior sets the error" in repr(result["EU_FE"])
    with pytest.raises(UserError, match="no parameter 'TEFFF', did you mean TEFF"):
        result["TEFFF"]


def test_a_result_prints_as_a_table(result):
    text = repr(result)
    assert text.splitlines()[0].startswith("77   S/N")
    assert "  MG_FE         [Mg/Fe]" in text
    assert "says little about:" in text
    assert "EU_FE" in text.split("says little about:")[1]
    page = result._repr_html_()
    assert page.count("<tr") == 1 + len(result.names)
    assert "[Mg/Fe]" in page


def test_the_html_of_a_result_is_escaped(result):
    assert "<script>" not in replace(result, meta={"DESIG": "<script>"})._repr_html_()


def test_results_can_be_compared_and_are_keys(result, spectrum):
    assert result == result
    assert result != replace(result)
    assert len({result, replace(result)}) == 2
    assert spectrum in {spectrum}


def test_a_result_is_written_and_read_whole(result, tmp_path):
    back = phdlspec.FitResult.read(result.write(tmp_path / "a.h5"))
    for name in ("names", "value", "err", "crlb", "label_flag", "cov", "flag", "mode", "chi2", "snr", "seconds"):
        assert np.array_equal(getattr(back, name), getattr(result, name)), name
    assert np.allclose(back.draws, result.draws, rtol=1e-5)
    assert np.allclose(back.spectrum.model, result.spectrum.model, rtol=1e-5)
    assert back.meta["OBSID"] == "77"
    assert back.provenance["checkpoint"] == result.provenance["checkpoint"]
    assert list(QTable.read(result.write(tmp_path / "a.ecsv"))["label"]) == list(result.names)
    assert result.report(tmp_path / "a").name == "a.html"
    assert "Cramér–Rao" in (tmp_path / "a.html").read_text()


def test_files_that_are_no_results(result, tmp_path):
    (tmp_path / "bad.h5").write_bytes(b"words")
    for name, words in {"bad.h5": "damaged", "none.h5": "no such file", "a.ecsv": "expected the .h5"}.items():
        with pytest.raises(UserError, match=words):
            phdlspec.FitResult.read(tmp_path / name)
    with pytest.raises(UserError, match=r"ends in \.ecsv, \.h5 or \.html"):
        result.write(tmp_path / "a.png")


def test_covariance_by_names(result):
    both = result.covariance(["LOGG", "teff"])
    assert both.shape == (2, 2)
    assert both[1, 1] == result.cov[0, 0]
    assert np.array_equal(result.covariance(), result.cov)
    with pytest.raises(UserError, match="expected a list of names"):
        result.covariance("TEFF")


def test_abundances_in_three_ways(result):
    table = result.abundances()
    assert table.meta["solar_scale"] == "Asplund2009"
    row = table[list(table["element"]).index("Mg")]
    assert row["x_fe"] == result["MG_FE"].value
    assert row["x_h"] == pytest.approx(result["MG_FE"] + result["FE_H"])
    assert row["a_x"] == pytest.approx(row["x_h"] + 7.60)
    silent = table[list(table["element"]).index("Eu")]
    assert silent["flag"] & LabelFlag.PRIOR_DOMINATED


def test_pictures(result):
    assert len(result.plot().axes) == 10
    assert len(result.corner(["TEFF", "[Mg/Fe]"]).axes) == 3
    assert result.plot_elements().axes
    bare = replace(result, spectrum=None, draws=None)
    for draw in (bare.plot, bare.corner, bare.plot_elements):
        with pytest.raises(UserError, match="not kept"):
            draw()


def test_many_of_all_kinds(path, spectrum, toy_emulator):
    table = phdlspec.fit_many([path, spectrum, "none.fits"], toy_emulator)
    assert list(table["OBSID"][:2]) == ["77", "77"]
    assert table["TEFF"][0] == pytest.approx(table["TEFF"][1], rel=1e-5)
    assert table["FLAG"][2] & StarFlag.UNREADABLE
    assert "no such file" in table["REASON"][2]
    assert len(phdlspec.fit_many(str(path.parent), toy_emulator)) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"spectrum": [1, 2]}, "cannot fit a list.*fit_many takes several"),
        ({"spectrum": None}, "cannot fit a NoneType"),
        ({"spectrum": "none.fits"}, "there is no such file"),
        ({"emulator": "fast"}, "mode='fast'"),
        ({"emulator": 5}, "emulator is a int"),
        ({"mode": "quick"}, "unknown mode"),
        ({"prior": "vmic"}, "did you mean priors"),
        ({"priors": "vmick"}, "did you mean vmic"),
        ({"masks": 5}, "expected intervals"),
        ({"masks": [(4100, 3700)]}, "expected 0 < low < high"),
        ({"resolving_power": [1800]}, "resolving_power is a list"),
        ({"resolving_power": "LAMOSTT"}, "neither a survey"),
    ],
)
def test_mistakes_are_sentences(arguments, words, spectrum, toy_emulator):
    given = {"spectrum": spectrum, "emulator": toy_emulator, "mode": "fast"} | arguments
    with pytest.raises(UserError, match=words):
        phdlspec.fit(**given)


def test_a_single_spectrum_is_not_many(spectrum, toy_emulator):
    with pytest.raises(UserError, match="fit_many takes many"):
        phdlspec.fit_many(spectrum, toy_emulator)


def test_settings_as_people_give_them():
    settings = phdlspec.FitSettings(priors="vmic", masks=[(3700, 4100), (410 * u.nm, 4200)])
    assert settings.priors == ("vmic",)
    assert np.allclose([(m.low, m.high) for m in settings.masks], [(3700.0, 4100.0), (4100.0, 4200.0)])


def test_the_emulator_takes_labels_by_name(toy_emulator):
    by_name = toy_emulator.flux({"Teff": 5300.0, "log g": 3.0, "[Mg/Fe]": 0.1})
    theta = toy_emulator.labels.complete({"TEFF": 5300.0, "LOGG": 3.0, "MG_FE": 0.1})
    assert np.array_equal(by_name.cpu(), toy_emulator.flux(theta[None]).cpu())
    for wrong in ({"TEFF": "hot"}, "TEFF", None):
        with pytest.raises(UserError, match="expected"):
            toy_emulator.flux(wrong)


class TestSpectrum:
    """Made by hand."""

    wave = np.linspace(4000.0, 5000.0, 500)
    flux = 1.0 + 0.1 * np.sin(wave / 7.0)

    def test_quantities(self):
        unit = u.erg / u.s / u.cm**2 / u.AA
        made = phdlspec.Spectrum(
            self.wave / 10 * u.nm, self.flux * unit, err=np.full(500, 1e4) * 1e-6 * unit, resolving_power=1800
        )
        plain = phdlspec.Spectrum(self.wave, self.flux, np.full(500, 1e4), resolving_power=1800)
        assert np.allclose(made.wave, plain.wave)
        assert np.allclose(made.ivar, plain.ivar)
        assert not made.mask.any()

    def test_an_error_in_another_unit_is_converted(self):
        made = phdlspec.Spectrum(self.wave, self.flux * u.Jy, err=np.full(500, 10.0) * u.mJy, resolving_power=1800)
        assert made.snr == pytest.approx(100.0, rel=0.01)

    def test_masked_arrays(self):
        flux = np.ma.array(self.flux, mask=np.arange(500) < 10)
        made = phdlspec.Spectrum(self.wave, flux, err=np.full(500, 0.01), resolving_power=1800)
        assert made.mask.sum() == 10

    def test_it_prints_in_a_line(self):
        made = phdlspec.Spectrum(self.wave, self.flux, err=np.full(500, 0.01), resolving_power=1800)
        assert repr(made) == "<Spectrum in memory: 500 pixels, 4000.0-5000.0 Å, 500 good, S/N 100.1, R 1800>"

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"resolving_power": None}, "resolving power is not given"),
            ({"err": None}, "either ivar"),
            ({"wave": wave * u.kg}, "unit of wave"),
            ({"flux": ["a"] * 500}, "flux does not hold numbers"),
            ({"flux": flux[:-1]}, "expected four one-dimensional arrays of one length"),
            ({"mask": [True]}, "expected four one-dimensional arrays of one length"),
        ],
    )
    def test_mistakes(self, changed, words):
        given = {"wave": self.wave, "flux": self.flux, "err": np.full(500, 0.01), "resolving_power": 1800} | changed
        with pytest.raises(UserError, match=words):
            phdlspec.Spectrum(**given)


def test_a_table_is_not_needed_for_what_a_spectrum_says(spectrum, toy_emulator):
    with pytest.raises(UserError, match="cannot fit a dict"):
        phdlspec.fit({"wave": spectrum.wave}, toy_emulator)
    with pytest.raises(UserError, match="no wavelength column"):
        phdlspec.fit(Table({"a": [1.0]}), toy_emulator)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda em, path: phdlspec.FitSettings(known={"TEFF": (4800.0,)}), "TEFF is given as .4800.0,., expected"),
        (lambda em, path: phdlspec.FitSettings(seed="a"), "the seed is 'a', expected a whole number"),
        (lambda em, path: em.spectrum({"TEFF": 5000}, wave="x"), "expected wavelengths in vacuum Å"),
        (lambda em, path: em.spectrum({"TEFF": 5000}, wave=[1.0, 2.0]), "expected wavelengths .P,. in vacuum Å within"),
        (lambda em, path: phdlspec.air_to_vacuum("x"), "expected numbers in Å, or a Quantity"),
        (lambda em, path: phdlspec.vacuum_to_air(5.0 * u.kg), "expected numbers in Å, or a Quantity"),
        (lambda em, path: phdlspec.write_packed(path / "a.h5", []), "expected one phdlspec.Spectrum or more"),
        (lambda em, path: phdlspec.write_lamost(3, path / "a.fits"), "cannot write a int"),
        (lambda em, path: phdlspec.read_catalog(__file__), "no catalogue of phdlspec, which is FITS"),
    ],
)  # fmt: skip
def test_misuse_is_a_sentence(mistake, words, toy_emulator, tmp_path):
    with pytest.raises(phdlspec.UserError, match=words):
        mistake(toy_emulator, tmp_path)


def test_wavelengths_with_units():
    assert phdlspec.air_to_vacuum(656.279 * u.nm) == pytest.approx(phdlspec.air_to_vacuum(6562.79))
    assert phdlspec.vacuum_to_air(0.656460 * u.um) == pytest.approx(phdlspec.vacuum_to_air(6564.60))


def test_an_emulator_says_what_it_is(toy_emulator):
    assert repr(toy_emulator).startswith(f"<Emulator {toy_emulator.checkpoint_hash[:12]}: 33 labels, ")
