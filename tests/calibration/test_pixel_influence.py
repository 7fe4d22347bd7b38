"""Pulls of pixels: they add up to the difference they explain."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.pixel_influence import Diagnostics, pixel_influence, windows
from calibration.report_page import _influence_section
from phdlspec.errors import UserError
from phdlspec.pages import page


@pytest.fixture
def fit():
    rng = np.random.default_rng(3)
    jacobian = rng.standard_normal((300, 3))
    ivar = rng.uniform(50, 150, 300)
    truth = np.array([0.1, -0.2, 0.3])
    data = jacobian @ truth + rng.standard_normal(300) / np.sqrt(ivar)
    best = np.linalg.solve((jacobian * ivar[:, None]).T @ jacobian, (jacobian * ivar[:, None]).T @ data)
    return data - jacobian @ best, jacobian, ivar, best - truth


def test_pulls_add_up_to_the_displacement(fit):
    residual, jacobian, ivar, displacement = fit
    np.testing.assert_allclose(pixel_influence(residual, jacobian, ivar).sum(axis=0), 0, atol=1e-12)
    pulls = pixel_influence(residual, jacobian, ivar, displacement)
    np.testing.assert_allclose(pulls.sum(axis=0), displacement, atol=1e-12)


def test_a_wrong_line_is_found(fit):
    residual, jacobian, ivar, _ = fit
    sensitive = int(np.argmax(np.abs(jacobian[:, 1])))
    residual = residual.copy()
    residual[sensitive] += 3.0
    pulls = pixel_influence(residual, jacobian, ivar)
    assert np.argmax(np.abs(pulls[:, 1])) == sensitive


def test_unused_pixels_do_not_pull(fit):
    residual, jacobian, ivar, displacement = fit
    ivar = ivar.copy()
    ivar[:10] = 0
    residual = residual.copy()
    residual[10] = np.nan
    assert np.all(pixel_influence(residual, jacobian, ivar, displacement)[:11] == 0)


def test_degenerate_labels_are_refused(fit):
    residual, jacobian, ivar, _ = fit
    twice = np.column_stack([jacobian, jacobian[:, 0]])
    with pytest.raises(UserError, match="tell its labels apart"):
        pixel_influence(residual, twice, ivar)
    with pytest.raises(UserError, match="numbers are too large"), np.errstate(over="ignore"):
        pixel_influence(residual, np.where(jacobian == jacobian.max(), 1e300, jacobian), ivar)
    with pytest.raises(UserError, match="pixels need"):
        pixel_influence(residual[:-1], jacobian, ivar)


def test_file_and_report_section(tmp_path, fit):
    residual, jacobian, ivar, displacement = fit
    wave = np.linspace(4000, 9000, 300)
    one = Diagnostics(wave, ("FE_H", "MG_FE", "TEFF"), residual[None], ivar[None], jacobian[None], displacement[None])
    one.write(tmp_path / "pulls.h5")
    again = Diagnostics.read(tmp_path / "pulls.h5")
    np.testing.assert_allclose(again.mean_influence().sum(axis=0), displacement, atol=1e-10)
    centre, total = windows(wave, again.mean_influence())
    np.testing.assert_allclose(total.sum(axis=0), displacement, atol=1e-10)
    assert "MG_FE" in page("report", _influence_section(again))
    (tmp_path / "bad.h5").write_text("no HDF5")
    with pytest.raises(UserError, match="not HDF5"):
        Diagnostics.read(tmp_path / "bad.h5")
