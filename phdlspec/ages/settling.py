"""What has sunk below the surface of a star, for sets that give the initial composition alone.

Elements settle below the convective zone of a main-sequence star; the zone deepens in a subgiant and brings them back.
Models with settling have the Sun's Teff and luminosity at the Sun's age only where it was born richer than its surface
is now. That excess is read off each set's own isochrones, one number that must meet two conditions, and taken from the
surface of its main-sequence stars; from that of subgiants in proportion to where log Teff is between the turn-off and
the foot of the giant branch; from giants not at all. It is that of the Sun for stars of every mass.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from phdlspec.ages.isochrones import Isochrones
from phdlspec.ages.stages import Stage

Array = NDArray[np.float64]

SUN_AGE = 4.568e9  # yr (Bouvier & Wadhwa 2010)
SUN_TEFF = 5772.0  # K (IAU 2015)
_ALLOWED = (-0.02, 0.15)  # dex: a set whose Sun is elsewhere is not understood
_MET = (15.0, 0.005)  # K and dex in luminosity by which the two conditions may be missed
_WEIGHT = (20.0, 0.01)  # K and dex that count alike


def with_settling(isochrones: Isochrones) -> Isochrones:
    """The set with a surface that is poorer than at birth; itself where it has its own, or where its Sun is unknown."""
    if isochrones.facts.surface:
        return isochrones
    sunk = excess_of_the_sun(isochrones)
    if not np.isfinite(sunk):
        return isochrones
    quantities = dict(isochrones.quantities)
    quantities["surface_mh"] = quantities["surface_mh"] - sunk * _share(isochrones)
    return replace(isochrones, facts=replace(isochrones.facts, settled=sunk), quantities=quantities)


def excess_of_the_sun(isochrones: Isochrones) -> float:
    """[M/H] at which one solar mass is the Sun at its age, on the set's own scale; NaN where no [M/H] does it."""
    nodes = np.flatnonzero(np.abs(isochrones.mh) < 0.6)
    suns = np.array([_sun(isochrones, int(i)) for i in nodes]).reshape(-1, 2)
    good = np.isfinite(suns).all(axis=1)
    if good.sum() < 2:
        return float("nan")
    mh = isochrones.mh[nodes][good]
    trial = np.arange(max(_ALLOWED[0], mh[0]), min(_ALLOWED[1], mh[-1]), 0.001)
    if not len(trial):
        return float("nan")
    teff, log_l = PchipInterpolator(mh, suns[good])(trial).T
    best = int(np.argmin(((teff - SUN_TEFF) / _WEIGHT[0]) ** 2 + (log_l / _WEIGHT[1]) ** 2))
    met = abs(teff[best] - SUN_TEFF) < _MET[0] and abs(log_l[best]) < _MET[1]
    return float(trial[best]) if met else float("nan")


def _sun(isochrones: Isochrones, i: int) -> tuple[float, float]:
    """Teff (K) and log L of one solar mass on the main sequence at the Sun's age, at a node of [M/H]."""
    log_age, q = isochrones.log_age, isochrones.quantities
    found = []
    for j in range(len(log_age)):
        use = np.isfinite(q["mass"][i, j]) & (q["stage"][i, j] == Stage.MAIN_SEQUENCE)
        mass = q["initial_mass"][i, j, use]
        if len(mass) > 1 and mass.min() < 1.0 < mass.max():
            order = np.argsort(mass)
            columns = (q[name][i, j, use][order] for name in ("log_teff", "log_l"))
            found.append((log_age[j], *(np.interp(1.0, mass[order], column) for column in columns)))
    if not found:
        return float("nan"), float("nan")
    age, teff, log_l = np.array(found).T
    now = np.log10(SUN_AGE)
    if not age[0] <= now <= age[-1]:
        return float("nan"), float("nan")
    return float(10.0 ** np.interp(now, age, teff)), float(np.interp(now, age, log_l))


def _share(isochrones: Isochrones) -> Array:
    """Of what settles, the share that is below the surface (M, A, E): 1 on the main sequence, 0 in giants."""
    log_teff, stage = isochrones.quantities["log_teff"], isochrones.quantities["stage"]
    subgiant = stage == Stage.SUBGIANT
    with np.errstate(invalid="ignore"):
        hottest = np.nanmax(np.where(subgiant, log_teff, -np.inf), axis=2, keepdims=True)
        coolest = np.nanmin(np.where(subgiant, log_teff, np.inf), axis=2, keepdims=True)
        between = np.clip((log_teff - coolest) / (hottest - coolest), 0.0, 1.0)
    return np.where(stage == Stage.MAIN_SEQUENCE, 1.0, np.where(subgiant, between, 0.0))
