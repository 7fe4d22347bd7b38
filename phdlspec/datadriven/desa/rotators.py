"""Simulated rotators, on which the light-curve encoder learns what a rotation period looks like.

They are drawn for that alone: periods, spots, noise and companions lie evenly where a survey's are clustered, so that
the network learns the shape of rotation and not which periods are common. No star of a training set, and no label of
one, is in them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phdlspec.datadriven.desa.light_curve import stitch
from phdlspec.datadriven.desa.mock_light_curve import Binary, Spots, observe
from phdlspec.datadriven.desa.views import Views32, mean_views, views_of

SHORTEST, LONGEST = 0.2, 70.0  # d, of the periods
LEAST_TURNS = 2.0  # in the time that a light curve covers
DAYS = (27.0, 1400.0)  # from a TESS sector to Kepler's mission
AMPLITUDES = (1e-4, 3e-2)  # of the flux, standard deviation
COMPANIONS = 0.3  # share of stars
ORBITS = (0.5, 40.0)  # d
LONGEST_LOCKED = 8.0  # d, shorter orbits are synchronised
ECLIPSING = 0.5  # share of companions

Array = NDArray[np.float64]


def draw_rotators(number: int, seed: int) -> tuple[Views32, Views32, Array]:
    """Mean autocorrelation and power (N, 256) of the stretches of so many stars, and the logs (N,) of their rotation
    periods (d)."""
    random = np.random.default_rng([seed, 17])
    acf, power, period = zip(*(_rotator(random) for _ in range(number)))
    return np.concatenate(acf), np.concatenate(power), np.log10(period)


def _log_uniform(low: float, high: float, random: np.random.Generator) -> float:
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def _rotator(random: np.random.Generator) -> tuple[Views32, Views32, float]:
    days = _log_uniform(*DAYS, random)
    period = _log_uniform(SHORTEST, min(LONGEST, days / LEAST_TURNS), random)
    companion = _companion(random) if random.random() < COMPANIONS else None
    if companion is not None and companion.period < LONGEST_LOCKED:
        period = companion.period
    lifetime = float(np.clip(period * random.lognormal(np.log(3.0), 0.6), 3.0, 300.0))
    spots = Spots(period, _log_uniform(*AMPLITUDES, random), lifetime, _inclination(random), random.uniform(0.0, 0.2))
    segments = observe("mock", days, random.uniform(4500.0, 6900.0), random.uniform(3.4, 4.8),
                       random.uniform(9.0, 16.0), random, spots, companion)  # fmt: skip
    views = views_of(stitch(segments).flux)
    return *mean_views(views, np.zeros(len(views), dtype=np.int64), 1), period


def _inclination(random: np.random.Generator) -> float:
    return float(np.arccos(random.uniform(0.0, 1.0)))


def _companion(random: np.random.Generator) -> Binary:
    """A companion of a star of the Sun's mass and size."""
    period, ratio = _log_uniform(*ORBITS, random), random.uniform(0.2, 1.0)
    radii = np.array([1.0, ratio**0.85]) / (4.208 * (period**2 * (1.0 + ratio)) ** (1 / 3))
    cosine = random.uniform(0.0, 0.9 * radii.sum()) if random.random() < ECLIPSING else random.uniform(radii.sum(), 1.0)
    speed = 212.9 * ratio / (1.0 + ratio) ** (2 / 3) * period ** (-1 / 3) * np.sqrt(1.0 - cosine**2)
    return Binary(
        period, random.uniform(0.0, period), float(np.arccos(cosine)), (float(radii[0]), float(radii[1])),
        ratio**2.4, ratio, float(speed),
    )  # fmt: skip
