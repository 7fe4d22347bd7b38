"""What a fit may state as measured, and which flags single out bad fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from phdlspec.fitting.coordinates import Coordinates
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.settings import FitSettings
from phdlspec.fitting.summary import Moments, _nuisance_at_bound
from phdlspec.flags import NOTES, LabelFlag, StarFlag, usable
from phdlspec.labels import LabelSet
from phdlspec.spectrum import Spectrum
from tests.phdlspec.fitting.test_driver import mock

FAST = FitSettings(mode="fast", seed=2)


def changed(star: Spectrum, change) -> Spectrum:
    """The star with its flux over a smooth continuum changed."""
    x = np.linspace(-1.0, 1.0, len(star))
    continuum = np.polyval(np.polyfit(x[star.good], star.flux[star.good], 5, w=star.ivar[star.good] ** 0.5), x)
    flux = change(star.flux / continuum, star.wave) * continuum
    return replace(star, flux=flux)


@pytest.fixture(scope="module")
def results(toy_emulator):
    star = mock(toy_emulator, 400.0)
    bands = changed(star, lambda f, wave: f * (1.0 - 0.45 * np.sin(wave / 25.0) ** 8))
    lines = gaussian_filter1d(np.random.default_rng(3).normal(size=len(star)), 4.0)
    strong = changed(star, lambda f, wave: f + 0.012 * lines / lines.std())  # as lists of lines miss real stars
    faint = changed(mock(toy_emulator, 7.0), lambda f, wave: 0.95 + 0.05 * f)
    names = ("good", "bands", "strong", "faint")
    spectra = [replace(s, meta={**s.meta, "OBSID": n}) for s, n in zip((star, bands, strong, faint), names)]
    return dict(zip(names, fit_batch(spectra, toy_emulator, FAST)))


def test_a_good_fit_has_no_flag(results):
    assert results["good"].flag == 0
    assert results["good"].diagnostics["misfit"] < 0.01


def test_what_is_no_star_of_this_kind_is_a_poor_fit(results):
    assert results["bands"].flag & StarFlag.POOR_FIT
    assert not usable([results["bands"].flag])[0]


def test_a_star_that_the_models_miss_by_little_is_a_note_and_may_be_used(results):
    found = results["strong"]
    assert found.flag & StarFlag.IMPERFECT_FIT
    assert not found.flag & StarFlag.POOR_FIT
    assert usable([found.flag])[0]
    assert found.rchi2 < 2.0  # with the noise that the fit used
    assert found.diagnostics["stated_chi2"] / found.npix > 3.0


def test_what_collapsed_is_no_number(results):
    for result in results.values():
        unsure = bool(result.flag & (StarFlag.NOT_CONVERGED | StarFlag.OUTSIDE_GRID))
        collapsed = unsure & ~(result.err >= 0.5 * result.crlb)
        assert np.array_equal(np.isnan(result.value), collapsed)
        assert np.array_equal((result.label_flag & int(LabelFlag.NOT_MEASURED)) > 0, collapsed)


def test_an_infinite_bound_is_dominated_by_the_prior(results):
    found = 0
    for result in results.values():
        infinite = np.isinf(result.crlb)
        found += infinite.sum()
        assert (result.label_flag[infinite] & int(LabelFlag.PRIOR_DOMINATED)).all()
    assert found


def test_a_collapsed_posterior_is_told_in_words(results):
    good = results["good"]
    broken = replace(good, label_flag=good.label_flag | int(LabelFlag.NOT_MEASURED), value=good.value * np.nan)
    assert "no number for: TEFF LOGG" in repr(broken)
    assert "nan" not in repr(broken)


def test_notes_are_flags_of_usable_stars():
    flags = np.array([0, int(NOTES), int(StarFlag.POOR_FIT), int(NOTES | StarFlag.LOW_SNR)])
    assert list(usable(flags)) == [True, True, False, False]


@pytest.mark.parametrize(
    ("broadening", "ln_resolution", "flagged"),
    [(48.0, -0.2, True), (48.0, -0.05, False), (20.0, -0.2, False), (59.8, 0.0, True), (5.0, 0.268, True)],
)
def test_a_star_that_is_broad_in_both_nuisances_is_flagged(broadening, ln_resolution, flagged):
    """Where few lines leave both uncertain, neither need be at its bound."""
    coordinates = Coordinates.around(LabelSet(), torch.tensor([0.0]), 0.15)
    values = np.zeros(len(coordinates.names))
    values[coordinates.names.index("VBROAD")], values[-1] = broadening, ln_resolution
    error = np.full(len(values), 1e-3)
    moments = Moments(values, error, values, values, values, np.diag(error**2))
    assert _nuisance_at_bound(coordinates, moments, np.zeros(len(values), dtype=int)) is flagged
