"""A second star in a spectrum is told, with its velocity and its share of the light; one star is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from phdlspec.fitting import driver
from phdlspec.fitting.double_lines import DoubleLines, _cubic
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.settings import FitSettings
from phdlspec.flags import StarFlag, star_words, usable
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S
from tests.phdlspec.fitting.test_driver import mock

APART, SHARE = 230.0, 0.35


@pytest.fixture(scope="module")
def results(toy_emulator):
    single, cooler = mock(toy_emulator, name="one"), mock(toy_emulator, seed=8, name="two", TEFF=4900.0)
    other = mock(toy_emulator, seed=9, snr=1000.0)
    moved = np.interp(single.wave, single.wave * (1.0 + APART / SPEED_OF_LIGHT_KM_S), other.flux)
    x = np.linspace(-1.0, 1.0, len(single))
    # The same colour for both: their mocks have calibrations of their own.
    colour = np.polyval(np.polyfit(x[single.good], single.flux[single.good] / other.flux[single.good], 6), x)
    flux = (1.0 - SHARE) * single.flux + SHARE * moved * colour
    double = replace(single, flux=np.where(single.good, flux, 0.0), path="double.fits")
    return fit_batch([single, cooler, double], toy_emulator, FitSettings(mode="fast"))


def test_two_stars_are_flagged_and_told(results):
    double = results[2]
    assert double.flag & StarFlag.DOUBLE_LINED
    assert not usable([double.flag])[0]
    assert any("second star" in words for words in star_words(double.flag))
    told = double.diagnostics
    assert abs(told["second_star_km_s"]) == pytest.approx(APART, abs=90.0)  # from the blend, not from the first
    assert told["second_star_share"] == pytest.approx(SHARE, abs=0.2)
    assert any("lines of a second star at about +" in text for text in double.meta["WARNINGS"])


def test_one_star_is_not(results):
    for result in results[:2]:
        assert not result.flag & StarFlag.DOUBLE_LINED
        assert result.diagnostics["second_star_sigma"] < 4.0


def test_between_pixels_a_smooth_spectrum_is_followed():
    pixel = torch.arange(60, dtype=torch.float64)
    place = torch.linspace(3.0, 56.0, 200, dtype=torch.float64)[None, None]
    found = _cubic(torch.sin(pixel / 3.0)[None], place)
    assert torch.allclose(found, torch.sin(place / 3.0), atol=3e-4)


def test_outside_the_models_no_second_star_is_told(toy_emulator, monkeypatch):
    """As of a white dwarf: what the models leave of its lines may look like one."""

    def everywhere(problem, z):
        return DoubleLines(*(torch.full((len(z),), x) for x in (250.0, 0.4, 9.0)))

    monkeypatch.setattr(driver, "double_lines", everywhere)
    highest = toy_emulator.labels["TEFF"].upper
    inside, outside = mock(toy_emulator, name="inside"), mock(toy_emulator, name="outside", TEFF=highest)
    flags = [StarFlag(result.flag) for result in fit_batch([inside, outside], toy_emulator, FitSettings(mode="fast"))]
    assert StarFlag.DOUBLE_LINED in flags[0]
    assert StarFlag.OUTSIDE_GRID in flags[1]
    assert StarFlag.DOUBLE_LINED not in flags[1]
