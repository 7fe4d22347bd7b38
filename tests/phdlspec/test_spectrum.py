"""The spectrum's own checks, and degrading one that is sharper than a model."""

from __future__ import annotations

import numpy as np
import pytest

from phdlspec import lsf
from phdlspec.errors import UserError
from phdlspec.spectrum import Spectrum, stem_of


def spectrum(**change) -> Spectrum:
    wave = np.linspace(4000, 6000, 2500)
    values = {
        "wave": wave,
        "flux": 1 + 0.1 * np.sin(wave / 30),
        "ivar": np.full(2500, 100.0),
        "mask": np.zeros(2500, dtype=bool),
        "resolving_power": 4000.0,
    }
    return Spectrum(**{**values, **change})


def test_bad_pixels_become_masked_and_harmless():
    flux, ivar = np.ones(2500), np.full(2500, 4.0)
    flux[:1000] += 0.1
    flux[3], ivar[4], ivar[5], ivar[6] = np.nan, -1.0, np.inf, np.nan
    got = spectrum(flux=flux, ivar=ivar)
    assert list(np.flatnonzero(got.mask)) == [3, 4, 5, 6]
    assert np.isfinite(got.flux).all()
    assert np.isfinite(got.ivar).all()
    assert (got.ivar >= 0).all()
    assert got.snr == pytest.approx(2.0)


def test_arrays_cannot_be_changed():
    got = spectrum()
    with pytest.raises(ValueError, match="read-only"):
        got.flux[0] = 3.0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"flux": np.ones(3)}, "one length"),
        ({"resolving_power": np.ones(7)}, "one number or one per pixel"),
        ({"resolving_power": np.nan}, "must be positive"),
        ({"arms": ((4000, 5500), (5000, 6000))}, "not disjoint"),
        ({"path": "a.fits", "wave": np.linspace(400, 600, 2500)}, "a.fits: .*looks like nm"),
    ],
)
def test_refusals(change, complaint):
    with pytest.raises(UserError, match=complaint):
        spectrum(**change)


@pytest.mark.parametrize(
    ("path", "stem"),
    [("a/star.fits.gz", "star"), ("b/star.csv", "star"), ("coadd.fits[12]", "coadd.fits_row12"), (".", "spectrum")],
)
def test_results_are_named_after_the_file(path, stem):
    assert stem_of(path) == stem
    assert spectrum(path=path).stem == stem


def test_results_of_a_spectrum_made_in_memory_are_named_after_its_obsid():
    assert spectrum(meta={"OBSID": "77"}).stem == "77"
    assert spectrum().stem == "spectrum"


def test_arms():
    got = spectrum(arms=((4000, 5000), (5000.1, 5900)))
    index = got.arm_index()
    assert set(index) == {0, 1, -1}
    assert (index[got.wave < 5000] == 0).all()
    assert spectrum().arm_index().max() == 0


def test_degrading_matches_direct_convolution_and_keeps_the_information():
    rng = np.random.default_rng(5)
    fine = np.exp(np.arange(np.log(3950), np.log(6050), 1e-5))
    lines = np.zeros_like(fine)
    for centre in rng.uniform(3960, 6040, 300):
        lines += 0.3 * np.exp(-0.5 * ((fine - centre) / 0.2) ** 2)
    wave = np.arange(4000.0, 6000.0, 0.5)
    observed = lsf.broaden(fine, 1 - lines, 5000.0, wave)
    sharp = Spectrum(wave, observed, np.full(len(wave), 100.0), np.zeros(len(wave), dtype=bool), 5000.0)
    got = sharp.degraded_to(2500.0)
    expected = lsf.broaden(fine, 1 - lines, 2500.0, got.wave)
    inside = slice(10, -10)
    assert np.nanmax(np.abs(got.flux - expected)[inside]) < 3e-3
    np.testing.assert_allclose(got.resolving_power_by_pixel, 2500.0)
    assert got.ivar.sum() == pytest.approx(sharp.ivar.sum(), rel=1e-9)
    assert got.degraded_to(2500.0) is got
