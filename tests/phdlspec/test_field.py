"""Situations that users of this and of neighbouring tools report, from files that reproduce them."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.table import Table

import phdlspec
from phdlspec.errors import UserError
from phdlspec.fitting.settings import FitSettings
from phdlspec.io import read_spectrum
from phdlspec.io.table import from_table
from phdlspec.spectrum import Spectrum
from tests.phdlspec.fitting.test_driver import mock

FAST = FitSettings(mode="fast")


@pytest.fixture(scope="module")
def field() -> Path:
    folder = Path(__file__).resolve().parents[3] / "shared" / "field"
    if not folder.is_dir():
        pytest.skip(f"files from the field not at hand: there is no folder {folder}")
    return folder


@pytest.fixture(scope="module")
def star(toy_emulator) -> Spectrum:
    return mock(toy_emulator, name="field")


# --- reading -----------------------------------------------------------------------------------------------------

READ = {  # name: identifier, position, good pixels, resolving power at the first pixel, arms
    "spec-015000-59146-4375786564.fits": ("15000-59146-4375786564", (10.0, 20.0), 4599, None, 2),
    "sdss_empty_spall.fits": ("3586-55181-500", (6.7137, 0.01246), 4599, None, 2),
    "mrs_new.fits.gz": ("690812345", (10.0, 20.0), 7028, 7500.0, 2),
    "lamost_pilot.fits": ("101001", None, 3908, None, 2),
    "unit_ANGSTROMS.fits": ("", None, 3908, 1800.0, 1),
    "bom.csv": ("", None, 3908, 1800.0, 1),
}


@pytest.mark.parametrize("name", READ)
def test_files_of_surveys_and_people(field, name):
    identifier, position, good, power, arms = READ[name]
    stated = {"medium": "vacuum", "resolving_power": 1800.0} if power == 1800.0 else {}
    found = read_spectrum(field / name, **stated)
    assert found.meta["OBSID"] == identifier
    if position is not None:
        assert (found.meta["RA"], found.meta["DEC"]) == pytest.approx(position, rel=1e-4)
    assert found.good.sum() == good
    assert len(found.arms) == arms
    assert found.snr > 50
    if power is not None:
        assert found.resolving_power_by_pixel[0] == power


def test_one_row_of_many(field):
    with pytest.raises(UserError, match="holds 5 spectra, name one by its row"):
        read_spectrum(field / "mastar_rows.fits")
    assert len(read_spectrum(f"{field / 'mastar_rows.fits'}[3]", medium="vacuum", resolving_power=1800.0)) == 3908


def test_a_reader_that_fails_does_not_blame_the_file_alone(tmp_path):
    path = tmp_path / "spec.fits"
    Table({"flux": np.ones((200, 2)), "loglam": np.ones((200, 2)), "ivar": np.ones((200, 2))}).write(path)
    with pytest.raises(UserError, match=r"spec.fits: (?!.*fetch it again)"):
        read_spectrum(path, "sdss")


UNITS = {
    "mJy": ({"flux": u.Jy, "err": u.mJy}, 1e3),
    "ivar in mJy": ({"flux": u.Jy, "ivar": u.mJy**-2}, 1e-6),
    "a factor": ({"flux": u.Unit("1e-17 erg/(s cm2 Angstrom)"), "err": u.Unit("erg/(s cm2 Angstrom)")}, 1e-17),
    "per cent": ({"flux": u.Jy, "err": u.percent}, None),
    "none": ({"flux": u.Jy}, 1.0),
}


@pytest.mark.parametrize("case", UNITS)
def test_errors_are_brought_to_the_unit_of_the_flux(case):
    units, factor = UNITS[case]
    flux = np.random.default_rng(1).uniform(90.0, 110.0, 500)
    name = "ivar" if "ivar" in units else "err"
    error = np.full(500, 4.0 if name == "ivar" else 0.5)
    values = error * factor if factor else 100.0 * error / flux
    table = Table({"wave_vac": np.linspace(4000, 7000, 500), "flux": flux, name: values}, units=units)
    found = from_table(table, resolving_power=1800.0)
    np.testing.assert_allclose(found.ivar, 4.0)


def test_errors_in_another_quantity_are_refused():
    table = Table({"wave_vac": np.linspace(4000, 7000, 500), "flux": np.arange(500.0), "err": np.ones(500)},
                  units={"flux": u.Jy, "err": u.K})  # fmt: skip
    with pytest.raises(UserError, match="err is in K and flux in Jy"):
        from_table(table, resolving_power=1800.0)


def test_an_uncertainty_of_specutils_has_units():
    specutils = pytest.importorskip("specutils", reason="specutils is not installed")
    from astropy.nddata import StdDevUncertainty

    wave, flux = np.linspace(4000, 7000, 500), np.random.default_rng(1).uniform(90.0, 110.0, 500)
    kind = specutils.Spectrum if hasattr(specutils, "Spectrum") else specutils.Spectrum1D  # before its version 2
    error = StdDevUncertainty(np.full(500, 500.0) * u.mJy)
    made = kind(spectral_axis=wave * u.AA, flux=flux * u.Jy, uncertainty=error)
    found = phdlspec.from_specutils(made, resolving_power=1800.0, medium="vacuum")
    np.testing.assert_allclose(found.ivar, 4.0)


# --- numbers -----------------------------------------------------------------------------------------------------

NOISE = {
    "uniform": lambda ivar: None,
    "every second pixel ten times noisier": lambda ivar: ivar.__setitem__(slice(None, None, 2), 1e2),
    "sky lines": lambda ivar: [ivar.__setitem__(slice(k, None, 20), 1e2) for k in (0, 1)],
    "one in 37 a thousand times noisier": lambda ivar: ivar.__setitem__(slice(None, None, 37), 1e-2),
}


@pytest.mark.parametrize("kind", NOISE)
def test_degraded_spectra_scatter_as_they_state(kind):
    wave, random = np.arange(5800.0, 7600.0, 0.8), np.random.default_rng(0)
    ivar = np.full(len(wave), 1e4)
    NOISE[kind](ivar)
    pulls = []
    for _ in range(60):
        flux = 1.0 + random.normal(size=len(wave)) / np.sqrt(ivar)
        blunt = Spectrum(wave, flux, ivar, resolving_power=4000.0).degraded_to(2280.0)
        weight = blunt.ivar[blunt.good]
        mean = (weight * blunt.flux[blunt.good]).sum() / weight.sum()
        pulls.append((mean - 1.0) * np.sqrt(weight.sum()))
    assert np.std(pulls) == pytest.approx(1.0, abs=0.3)


def test_noise_that_follows_the_lines_does_not_bias_degraded_ones():
    wave = np.arange(5800.0, 7600.0, 0.8)
    flux = 1.0 - 0.4 * sum(np.exp(-0.5 * ((wave - centre) / 1.2) ** 2) for centre in range(5850, 7600, 40))
    photons = Spectrum(wave, flux, 1e4 / flux, resolving_power=4000.0).degraded_to(2280.0)
    alike = Spectrum(wave, flux, np.full(len(wave), 1e4), resolving_power=4000.0).degraded_to(2280.0)
    np.testing.assert_allclose(photons.flux, alike.flux, atol=1e-3)


# --- the caller's program ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["float64", "no gradients", "inference", "numpy raises"])
def test_the_callers_settings_do_not_matter(star, toy_emulator, state):
    expected = phdlspec.fit(star, toy_emulator, mode="fast").value
    before, errors = torch.get_default_dtype(), np.geterr()
    try:
        if state == "float64":
            torch.set_default_dtype(torch.float64)
        if state == "numpy raises":
            np.seterr(all="raise")
        with torch.inference_mode(state == "inference"), torch.set_grad_enabled(state != "no gradients"):
            found = phdlspec.fit(star, toy_emulator, mode="fast")
        assert torch.get_default_dtype() == (torch.float64 if state == "float64" else before)
    finally:
        torch.set_default_dtype(before)
        np.seterr(**errors)
    assert np.array_equal(found.value, expected)


def test_a_report_of_a_spectrum_with_a_gap(star, toy_emulator, tmp_path):
    kept = (star.wave < 5350.0) | (star.wave > 6300.0)
    arrays = (star.wave, star.flux, star.ivar, star.mask, star.resolving_power_by_pixel)
    cut = Spectrum(*(values[kept] for values in arrays), star.meta, "gap.fits", star.arms)
    page = phdlspec.fit(cut, toy_emulator, mode="fast").report(tmp_path / "gap.html").read_text()
    assert page.count("data:image/png;base64") >= 3


def test_fits_in_two_threads(star, toy_emulator):
    expected = phdlspec.fit(star, toy_emulator, mode="fast").value
    found = {}

    def fit(number):
        found[number] = phdlspec.fit(star, toy_emulator, mode="fast").value

    threads = [threading.Thread(target=fit, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[i], expected) for i in range(2))
