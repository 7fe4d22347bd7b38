"""Prior distributions: initial mass, age, distance, extinction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phdlspec.errors import UserError

Array = NDArray[np.float64]

OLDEST_GYR = 15.0
LENGTH_KPC = 1.35  # of the exponentially decreasing space density (Astraatmadja & Bailer-Jones 2016, ApJ 833, 119)
MEAN_EXTINCTION = 0.3  # mag in V, of the exponential prior where a star has none of its own


def kroupa(mass: Array) -> Array:
    """Initial mass function dN/dM of Kroupa (2001, MNRAS 322, 231): M^-1.3 below 0.5 solar masses, M^-2.3 above."""
    return np.where(mass < 0.5, mass**-1.3, 0.5 * mass**-2.3)


def salpeter(mass: Array) -> Array:
    """Initial mass function dN/dM of Salpeter (1955, ApJ 121, 161): M^-2.35."""
    return np.asarray(mass**-2.35)


def flat(value: Array) -> Array:
    """The same everywhere."""
    return np.ones_like(value)


def per_age(age: Array) -> Array:
    """1/age: flat in the logarithm."""
    return np.asarray(1.0 / age)


@dataclass(frozen=True)
class AgePrior:
    """A named prior: densities in initial mass (solar masses) and in age (Gyr), and the words for the output.

    [M/H] is flat; distances follow the exponentially decreasing space density where magnitudes are used.
    """

    name: str
    description: str
    mass: Callable[[Array], Array]
    age: Callable[[Array], Array]
    oldest_gyr: float = OLDEST_GYR


PRIORS: dict[str, AgePrior] = {
    prior.name: prior
    for prior in (
        AgePrior("flat", "flat in age to 15 Gyr, initial mass function of Kroupa (2001)", kroupa, flat),
        AgePrior("universe", "flat in age to 13.8 Gyr, initial mass function of Kroupa (2001)", kroupa, flat, 13.8),
        AgePrior("log-age", "flat in log age to 15 Gyr, initial mass function of Kroupa (2001)", kroupa, per_age),
        AgePrior("salpeter", "flat in age to 15 Gyr, initial mass function of Salpeter (1955)", salpeter, flat),
        AgePrior("flat-mass", "flat in age to 15 Gyr and in initial mass", flat, flat),
    )
}


def named_prior(name: str) -> AgePrior:
    """The prior of a name. Raises `UserError` for an unknown one."""
    if name not in PRIORS:
        raise UserError(f"unknown prior {name!r}; known are {', '.join(PRIORS)}")
    return PRIORS[name]


def ln_space_density(modulus: Array) -> Array:
    """ln p(mu) of the distance modulus, not normalised: p(d) ~ d^2 exp(-d / L), so p(mu) ~ d^3 exp(-d / L)."""
    distance = 10.0 ** (0.2 * modulus - 2.0)  # kpc
    return np.asarray(3.0 * np.log(distance) - distance / LENGTH_KPC)
