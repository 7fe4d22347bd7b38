"""The posterior against sums done in the plainest way, truth recovered with honest errors, and what bad stars get."""

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad

from phdlspec.ages import distance
from phdlspec.ages.fine_grid import LEVELS, IsochroneGrids
from phdlspec.ages.flags import AgeFlag
from phdlspec.ages.judgement import at_limit, bimodal
from phdlspec.ages.photometry import BANDS, with_magnitudes
from phdlspec.ages.posterior import posteriors
from phdlspec.ages.priors import PRIORS, named_prior
from phdlspec.ages.simulation import Errors, simulate
from phdlspec.ages.stages import Stage
from phdlspec.ages.stars import AgeStars, Photometry, no_photometry
from phdlspec.bolometric import corrections
from phdlspec.errors import UserError

COVARIANCE = np.array([[3600.0, 2.4, 1.5], [2.4, 0.01, 0.001], [1.5, 0.001, 0.0036]])


@pytest.fixture(scope="module")
def grids(toy):
    return IsochroneGrids(toy, PRIORS["flat"])


@pytest.fixture(scope="module")
def bright(toy):
    isochrones, errors, _ = with_magnitudes(toy)
    return IsochroneGrids(isochrones, PRIORS["flat"], ("G", "KS"), errors)


def test_labels_alone_agree_with_a_plain_sum(grids):
    star = np.array([5600.0, 3.9, 0.05])
    found = posteriors(AgeStars(star[None], COVARIANCE[None], no_photometry(1)), grids)
    level = int(grids.level_of(np.array([60.0]), np.array([0.06]))[0])
    grid = grids[level]
    covariance = COVARIANCE.copy()
    covariance[2, 2] += grid.level.mh**2 / 12
    residual = grid.labels.double().numpy().T - star
    misfit = np.einsum("ni,ij,nj->n", residual, np.linalg.inv(covariance), residual)
    weight = np.exp(grid.ln_weight.double().numpy() - 0.5 * misfit)
    mids = 0.5 * (grid.age_edges[1:] + grid.age_edges[:-1])
    age = (weight * mids[grid.age_index.numpy()]).sum() / weight.sum()
    assert found.age[0, 0] == pytest.approx(age, rel=1e-3)
    subgiant = weight[grid.stage.numpy() == Stage.SUBGIANT].sum() / weight.sum()
    assert found.stages[0, Stage.SUBGIANT] == pytest.approx(subgiant, abs=1e-3)
    assert found.chi2[0] == pytest.approx(misfit.min(), abs=1e-2)


@pytest.mark.parametrize("bands", [("KS",), ("G", "KS"), ("G", "BP", "RP", "KS")])
def test_distance_tables_agree_with_an_integral_done_by_quadrature(bands):
    rng = np.random.default_rng(5)
    slopes = np.array([BANDS[band].extinction for band in bands])
    absolute = np.array([3.2, 3.5, 2.7, 1.8])[: len(bands)]
    magnitude = absolute + 8.0 + 0.4 * slopes
    error = np.full(len(bands), 0.03)
    photometry = Photometry(
        bands, np.array([2.5]), np.array([0.05]), magnitude[None], error[None], np.array([0.4]), np.array([0.1])
    )
    tables = distance.distance_tables(photometry, {}, torch.device("cpu"))
    points = absolute + rng.normal(0.0, 0.05, (6, len(bands)))

    def exact(point):
        def integrand(mu, extinction):
            misfit = (((magnitude - point - mu - slopes * extinction) / error) ** 2).sum()
            misfit += ((10 ** (2 - 0.2 * mu) - 2.5) / 0.05) ** 2 + ((extinction - 0.4) / 0.1) ** 2
            return np.exp(-0.5 * misfit + distance.ln_space_density(np.array(mu)))

        return np.log(dblquad(integrand, 0.0, 0.8, 7.6, 8.5, epsabs=1e-14, epsrel=1e-6)[0])

    expected = np.array([exact(point) for point in points])
    chi2, _ = tables.chi2(
        torch.tensor([0]), torch.tensor(points.T, dtype=torch.float32), torch.arange(len(points))[None]
    )
    difference = -0.5 * chi2[0].numpy() - expected
    np.testing.assert_allclose(difference - difference.mean(), 0.0, atol=0.03)


def test_truth_is_covered_as_often_as_stated(bright):
    mock = simulate(bright, 400, Errors(60.0, 0.1, 0.06, parallax=0.02), seed=3)
    found = posteriors(mock.stars, bright)
    inside = (mock.age > found.age[:, 2]) & (mock.age < found.age[:, 4])
    assert 0.60 < inside.mean() < 0.76
    low, high = found.modulus[:, 2], found.modulus[:, 4]
    assert 0.60 < ((mock.modulus > low) & (mock.modulus < high)).mean() < 0.80
    labels = AgeStars(mock.stars.labels, mock.stars.covariance, no_photometry(400))
    alone = posteriors(labels, IsochroneGrids(bright.isochrones, bright.prior))
    branch = mock.stage == Stage.SUBGIANT
    assert np.median(found.age[branch, 1]) < 0.7 * np.median(alone.age[branch, 1])


def test_numbers_do_not_depend_on_company(bright, monkeypatch):
    mock = simulate(bright, 40, Errors(60.0, 0.1, 0.06, parallax=0.02), seed=4)
    together = posteriors(mock.stars, bright)
    monkeypatch.setattr("phdlspec.ages.posterior._STARS_AT_ONCE", 3)
    monkeypatch.setattr("phdlspec.ages.posterior._POINTS_AT_ONCE", 5000)
    apart = posteriors(mock.stars, bright)
    for name in ("age", "mass", "logg", "modulus", "extinction", "stages"):
        np.testing.assert_allclose(getattr(apart, name), getattr(together, name), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(apart.flag, together.flag)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same(toy):
    isochrones, errors, _ = with_magnitudes(toy)
    both = [IsochroneGrids(isochrones, PRIORS["flat"], ("G", "KS"), errors, device) for device in ("cpu", "cuda")]
    mock = simulate(both[0], 100, Errors(60.0, 0.1, 0.06, parallax=0.02), seed=4)
    first, second = (posteriors(mock.stars, grids) for grids in both)
    np.testing.assert_allclose(first.age, second.age, rtol=1e-4)


def test_the_coarser_levels_change_ages_by_a_small_part_of_their_errors(toy):
    fine = IsochroneGrids(toy, PRIORS["flat"], levels=LEVELS[:1])
    every = IsochroneGrids(toy, PRIORS["flat"])
    mock = simulate(every, 60, Errors(60.0, 0.1, 0.06), seed=6)
    a, b = posteriors(mock.stars, every), posteriors(mock.stars, fine)
    assert np.median(np.abs(a.age[:, 3] - b.age[:, 3]) / b.age[:, 1]) < 0.03


def test_the_covariance_matters(grids):
    star = np.array([[5600.0, 3.9, 0.0]])
    sigma = np.array([60.0, 0.1, 0.06])
    alike, opposite = (np.outer(sigma, sigma) * np.array([[1, r, 0], [r, 1, 0], [0, 0, 1]]) for r in (0.8, -0.8))
    ages = [posteriors(AgeStars(star, c[None], no_photometry(1)), grids).age[0] for c in (alike, opposite)]
    assert abs(ages[0][1] / ages[1][1] - 1.0) > 0.05


def test_stars_that_cannot_be_aged_get_flags(grids):
    labels = np.array(
        [[5600.0, 3.9, 0.0], [np.nan, 3.9, 0.0], [5600.0, 3.9, -2.4], [5600.0, 1.0, 0.0], [5600.0, 3.9, 0.0]]
    )
    covariance = np.repeat(COVARIANCE[None], 5, axis=0)
    covariance[4, 0, 0] = 0.0
    found = posteriors(AgeStars(labels, covariance, no_photometry(5)), grids)
    assert np.isfinite(found.age[0]).all()
    assert np.isnan(found.age[1:]).all()
    for row, bit in ((1, AgeFlag.NO_LABELS), (2, AgeFlag.OUTSIDE_SET), (3, AgeFlag.CONFLICT), (4, AgeFlag.NO_LABELS)):
        assert found.flag[row] & bit


def test_a_luminosity_against_the_labels_is_a_conflict(bright):
    mock = simulate(bright, 5, Errors(60.0, 0.05, 0.06, parallax=0.02), seed=8)
    photometry = mock.stars.photometry
    photometry.magnitudes[:] += 3.0
    found = posteriors(mock.stars, bright)
    assert (found.flag & AgeFlag.CONFLICT > 0).all()


def test_shapes_of_age_densities():
    edges = np.linspace(1.0, 15.0, 71)
    mids = 0.5 * (edges[1:] + edges[:-1])
    prior = np.full(70, 1 / 70)
    one = np.exp(-0.5 * ((mids - 6.0) / 0.8) ** 2)
    two = one + 0.7 * np.exp(-0.5 * ((mids - 11.0) / 0.8) ** 2)
    top = np.exp(0.5 * mids)
    densities = np.stack([d / d.sum() for d in (one, two, top)])
    assert bimodal(densities, edges).tolist() == [False, True, False]
    assert at_limit(densities, prior).tolist() == [False, False, True]


def test_priors():
    with pytest.raises(UserError, match="known are flat"):
        named_prior("flatt")
    assert PRIORS["flat"].mass(np.array([0.49999]))[0] == pytest.approx(
        PRIORS["flat"].mass(np.array([0.5]))[0], rel=1e-3
    )


def test_bolometric_corrections_of_the_sun():
    sun = {band: 4.74 - float(corrections().correction(band, np.log10(5772.0), 4.438, 0.0)) for band in BANDS}
    # Willmer (2018, ApJS 236, 47): M_Ks = 3.27; Casagrande & VandenBerg (2018): M_G = 4.67
    assert sun["KS"] == pytest.approx(3.27, abs=0.03)
    assert sun["G"] == pytest.approx(4.67, abs=0.03)
    assert sun["BP"] - sun["RP"] == pytest.approx(0.82, abs=0.03)
    assert np.isnan(corrections().correction("G", np.log10(12000.0), 4.4, 0.0))
