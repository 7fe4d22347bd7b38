"""Stars drawn from isochrones under a prior, observed with stated errors: to measure coverage and precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phdlspec.ages.distance import NO_MAGNITUDE
from phdlspec.ages.fine_grid import IsochroneGrids
from phdlspec.ages.priors import LENGTH_KPC, MEAN_EXTINCTION
from phdlspec.ages.stars import AgeStars, Photometry, no_photometry
from phdlspec.bolometric import BANDS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Errors:
    """Errors of simulated stars: Teff (K), log g, [M/H], their correlation coefficients (Teff with log g, Teff with
    [M/H], log g with [M/H]); magnitudes (mag), parallax (mas)."""

    teff: float
    logg: float
    mh: float
    correlations: tuple[float, float, float] = (0.6, 0.6, 0.3)
    magnitude: float = 0.02
    parallax: float = 0.02

    @property
    def covariance(self) -> Array:
        """(3, 3)."""
        a, b, c = self.correlations
        sigma = np.array([self.teff, self.logg, self.mh])
        return np.array([[1.0, a, b], [a, 1.0, c], [b, c, 1.0]]) * np.outer(sigma, sigma)


@dataclass(frozen=True)
class Mock:
    """Simulated stars and their truth (n,): age (Gyr), distance modulus, extinction, stage; labels (n, 3)."""

    stars: AgeStars
    age: Array
    modulus: Array
    extinction: Array
    stage: NDArray[np.int64]
    labels: Array


def simulate(grids: IsochroneGrids, n: int, errors: Errors, seed: int, farthest_kpc: float = 2.0) -> Mock:
    """n stars drawn from the prior of the grids (initial mass, age, [M/H], space density, extinction).

    Stars lie within `farthest_kpc`, where surveys see subgiants; only points that have magnitudes are drawn.
    """
    rng = np.random.default_rng(seed)
    grid = grids[0]
    weight = np.exp(grid.ln_weight.double().cpu().numpy())
    absolute = grid.absolute.double().cpu().numpy()
    weight = weight * (absolute < 0.1 * NO_MAGNITUDE).all(axis=0)
    at = np.searchsorted(np.cumsum(weight), rng.uniform(0.0, weight.sum(), n))
    truth = grid.labels.double().cpu().numpy()[:, at].T
    labels = truth + rng.multivariate_normal(np.zeros(3), errors.covariance, n)
    index = grid.age_index.cpu().numpy()[at]
    age = rng.uniform(grid.age_edges[index], grid.age_edges[index + 1])
    modulus = 5.0 * np.log10(_distances(rng, n, farthest_kpc) * 100.0)
    extinction = rng.exponential(MEAN_EXTINCTION, n)
    photometry = no_photometry(n)
    if grids.bands:
        slopes = np.array([BANDS[band].extinction for band in grids.bands])
        own = np.array([grids.own_errors.get(band, 0.0) for band in grids.bands])
        magnitudes = absolute[:, at].T + modulus[:, None] + slopes * extinction[:, None]
        magnitudes += rng.normal(size=magnitudes.shape) * np.hypot(errors.magnitude, own)
        parallax = 10.0 ** (2.0 - 0.2 * modulus) + rng.normal(0.0, errors.parallax, n)
        unknown = np.full(n, np.nan)
        photometry = Photometry(
            grids.bands, parallax, np.full(n, errors.parallax), magnitudes, np.full_like(magnitudes, errors.magnitude),
            unknown, unknown,
        )  # fmt: skip
    covariance = np.repeat(errors.covariance[None], n, axis=0)
    stage = grid.stage.cpu().numpy()[at].astype(np.int64)
    return Mock(AgeStars(labels, covariance, photometry), age, modulus, extinction, stage, truth)


def _distances(rng: np.random.Generator, n: int, farthest: float) -> Array:
    """Distances (kpc) of the exponentially decreasing space density, by inversion on a table."""
    d = np.linspace(0.0, farthest, 4001)
    cumulative = np.cumsum(d**2 * np.exp(-d / LENGTH_KPC))
    return np.interp(rng.uniform(0.0, cumulative[-1], n), cumulative, d)
