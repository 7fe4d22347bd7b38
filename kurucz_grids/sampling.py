"""Label sets for a grid: quasi-random, filling the whole range, denser where stars are.

Row i of a label set depends on (seed, i) only: a grid of 4,000 models is the beginning of one of 10,000 with
the same seed. The unit coordinates of a row are a point of a scrambled Sobol sequence; each is mapped through
the inverse of a distribution function, so that the low discrepancy survives:

* Teff, logg, [Fe/H]: 65% of the rows follow the Kiel diagram (lower main sequence 30% of these, turn-off and
  subgiant branch 25%, giant branch 30%, clump and horizontal branch 15%) for ages of 0.5-13 Gyr, log-uniform,
  with a scatter of 150 K and 0.2 dex; 35% are uniform over the box, but for [Fe/H] below -2.5, where 15% of them
  lie. [Fe/H] of the first kind is 70% a Gaussian (-0.3 ± 0.45) and 30% uniform. The sequences are rough shapes
  of our own, good to some 150 K against isochrones: all that they do is to say where models are spent.
* VMIC: 75% Gaussian around `phdlspec.labels.typical_vmic` with a scatter of 0.3 km/s, 25% uniform.
* [X/Fe]: 60% Gaussian (0.2 dex, C and N 0.25 dex) around a centre, 40% uniform, all within the bounds. The
  centres of O Mg Si S Ca Ti rise from 0 to +0.3 between [Fe/H] = 0 and -1 with a spread common to the six; in
  giants C falls and N rises together with the strength of the first dredge-up.

A point outside the bounds, or where there is no model atmosphere, is drawn again (structural labels only)
from a generator seeded with (seed, i).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import qmc

from phdlspec.errors import UserError
from phdlspec.labels import ELEMENTS, GRID_LABELS, STRUCTURE, abundance_name, typical_vmic

Array = NDArray[np.float64]
Contains = Callable[[float, float, float], bool]

TRAIN, VALIDATION, TEST = 0, 1, 2

ALPHA_ELEMENTS = ("O", "Mg", "Si", "S", "Ca", "Ti")
KIEL_FRACTION = 0.65
_POOR, _POOR_SHARE = -2.5, 0.15  # [Fe/H] below which lines are few, and the share of the box spent on it
_TEFF_SCATTER, _LOGG_SCATTER = 150.0, 0.2  # K, dex
_BRANCHES = np.cumsum([0.30, 0.25, 0.30])  # main sequence, turn-off and subgiants, giant branch; rest: clump
_STRUCTURE = 7  # unit coordinates: kind, [Fe/H], branch, place on it, age, scatter in Teff and in logg
_SHARED = 3  # unit coordinates: VMIC, common spread of the alpha elements, strength of dredge-up
_DIMENSIONS = _STRUCTURE + _SHARED + len(ELEMENTS)
_MAX_REDRAWS = 1000

# 150 of the first 750 rows are for testing, none of the rest of the first 3,000, then 5% of each thousand: at
# least 150 and 5% at once, without a row ever changing sides as a grid grows.
_FIRST_BLOCK, _FIRST_TEST, _NO_TEST_BEFORE, _BLOCK = 750, 150, 3000, 1000


def sample_labels(n: int, seed: int = 0, contains: Contains | None = None) -> Array:
    """Labels (n, 32) within the bounds of `GRID_LABELS` and in their order, which is that of the label table.

    `contains(teff, logg, fe_h)` tells whether a model atmosphere exists there; by default all do. The first
    rows of a longer set with the same seed and atmospheres are these rows.

    >>> kurucz_grids.sample_labels(4, seed=1).shape
    (4, 32)
    """
    if n < 1:
        raise UserError(f"a grid of {n} models was asked for, expected at least one")
    unit = qmc.Sobol(_DIMENSIONS, scramble=True, rng=np.random.default_rng([seed, 0x6B75])).random_base2(
        max(1, int(np.ceil(np.log2(n))))
    )[:n]
    tiny = 2.0**-33
    unit = np.clip(unit, tiny, 1.0 - tiny)
    structure = unit[:, :_STRUCTURE]
    stars = _stellar(structure)
    for i in np.flatnonzero(~_allowed(stars, contains)):
        stars[i] = _redraw(seed, int(i), contains)
    teff, logg, fe_h = stars.T
    shared = unit[:, _STRUCTURE : _STRUCTURE + _SHARED]
    labels = np.empty((n, len(GRID_LABELS)))
    for name, values in zip(STRUCTURE, stars.T):
        labels[:, GRID_LABELS.index(name)] = values
    vmic = GRID_LABELS["VMIC"]
    labels[:, GRID_LABELS.index("VMIC")] = _mixture(
        shared[:, 0], typical_vmic(teff, logg, fe_h), 0.3, vmic.lower, vmic.upper, 0.25
    )
    centres = _abundance_centres(logg, fe_h, shared[:, 1], shared[:, 2])
    for k, element in enumerate(ELEMENTS):
        label = GRID_LABELS[abundance_name(element)]
        labels[:, GRID_LABELS.index(label.name)] = _mixture(
            unit[:, _STRUCTURE + _SHARED + k],
            centres.get(element, np.zeros(n)),
            0.25 if element in ("C", "N") else 0.2,
            label.lower,
            label.upper,
            0.4,
        )
    return labels


def split_rows(n: int, seed: int = 0) -> NDArray[np.uint8]:
    """The part (n,) of each row: 0 train, 1 validation (about 5%), 2 test (5%, and 150 of the first 750).

    The part of a row depends on (seed, i) only.
    """
    part = np.zeros(n, dtype=np.uint8)
    edges = [0, _FIRST_BLOCK, _NO_TEST_BEFORE]
    while edges[-1] < n:
        edges.append(edges[-1] + _BLOCK)
    for start, stop in zip(edges, edges[1:]):
        if start >= n:
            break
        n_test = _FIRST_TEST if start == 0 else (0 if start < _NO_TEST_BEFORE else _BLOCK // 20)
        n_validation = round(0.05 * (stop - start))
        order = start + np.argsort([_hash(seed, i) for i in range(start, stop)], kind="stable")
        for rows, value in (
            (order[:n_test], TEST),
            (order[n_test : n_test + n_validation], VALIDATION),
        ):
            part[rows[rows < n]] = value
    return part


def _hash(seed: int, i: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {i}".encode()).digest()[:8], "big")


def _allowed(stars: Array, contains: Contains | None) -> NDArray[np.bool_]:
    columns = [GRID_LABELS.index(name) for name in STRUCTURE]
    inside = (stars >= GRID_LABELS.lower[columns]) & (stars <= GRID_LABELS.upper[columns])
    allowed: NDArray[np.bool_] = np.array(inside.all(axis=1))
    if contains is not None:
        for i in np.flatnonzero(allowed):
            allowed[i] = contains(*map(float, stars[i]))
    return allowed


def _redraw(seed: int, i: int, contains: Contains | None) -> Array:
    generator = np.random.default_rng([seed, 0x6B76, i])
    for _ in range(_MAX_REDRAWS):
        star = _stellar(generator.uniform(1e-9, 1 - 1e-9, (1, _STRUCTURE)))
        if _allowed(star, contains)[0]:
            return np.asarray(star[0])
    raise UserError(
        f"no label set for model {i}: {_MAX_REDRAWS} draws found no atmosphere, expected a grid that covers "
        "the range of the labels; check --atmospheres"
    )


def _stellar(unit: Array) -> Array:
    """Teff, logg, [Fe/H] (n, 3) from unit coordinates (n, 7), possibly outside the bounds."""
    kind, u_fe_h, u_branch, place, u_age, u_teff, u_logg = unit.T
    bounds = {name: (GRID_LABELS[name].lower, GRID_LABELS[name].upper) for name in STRUCTURE}
    kiel = kind < KIEL_FRACTION
    fe_h_low, fe_h_high = bounds["FE_H"]
    fe_h = np.where(
        kiel,
        _mixture(u_fe_h, np.full(len(unit), -0.3), 0.45, fe_h_low, fe_h_high, 0.3),
        np.interp(u_fe_h, (0.0, _POOR_SHARE, 1.0), (fe_h_low, _POOR, fe_h_high)),
    )
    teff_k, logg_k = _kiel_diagram(fe_h, u_branch, place, 0.5 * 26.0**u_age)
    teff_k = teff_k + _TEFF_SCATTER * ndtri(u_teff)
    logg_k = logg_k + _LOGG_SCATTER * ndtri(u_logg)
    teff = np.where(kiel, teff_k, bounds["TEFF"][0] + (bounds["TEFF"][1] - bounds["TEFF"][0]) * u_branch)
    logg = np.where(kiel, logg_k, bounds["LOGG"][0] + (bounds["LOGG"][1] - bounds["LOGG"][0]) * place)
    return np.column_stack([teff, logg, fe_h])


def _giant_teff(logg: Array, fe_h: Array) -> Array:
    return 4760.0 + 340.0 * (logg - 2.5) - 45.0 * (logg - 2.5) ** 2 - 170.0 * fe_h


def _kiel_diagram(fe_h: Array, u_branch: Array, place: Array, age: Array) -> tuple[Array, Array]:
    """Teff and logg (n,) at a `place` (0-1) of the branch of an isochrone of `age` (Gyr)."""
    poor = np.minimum(fe_h, 0.0)
    turnoff_teff = 5900.0 - 1450.0 * np.log10(age / 10.0) - 350.0 * poor - 250.0 * (fe_h - poor)
    turnoff_teff = np.clip(turnoff_teff, 5400.0, 7600.0)
    turnoff_logg = 4.22 - 0.12 * (turnoff_teff - 6000.0) / 1000.0
    base_logg = np.full_like(fe_h, 3.6)
    base_teff = _giant_teff(base_logg, fe_h)

    dwarf_teff = 3600.0 + place * (turnoff_teff - 3600.0)
    dwarf_logg = 4.75 + (turnoff_logg - 4.75) * place**2.2

    # A subgiant leaves the turn-off upwards and reaches the base of the giant branch on a parabola.
    subgiant_teff = turnoff_teff + (base_teff - turnoff_teff) * place**1.5
    subgiant_logg = turnoff_logg + (base_logg - turnoff_logg) * np.sqrt(place)

    giant_logg = 3.6 * (1.0 - place)
    giant_teff = _giant_teff(giant_logg, fe_h)

    clump_logg = 2.3 + 0.4 * place
    clump_teff = 4750.0 - 350.0 * fe_h + np.where(fe_h < -1.0, 1200.0 * place, 0.0)

    branch = np.searchsorted(_BRANCHES, u_branch, side="right")
    teff = np.choose(branch, [dwarf_teff, subgiant_teff, giant_teff, clump_teff])
    logg = np.choose(branch, [dwarf_logg, subgiant_logg, giant_logg, clump_logg])
    return teff, logg


def _abundance_centres(logg: Array, fe_h: Array, u_alpha: Array, u_dredge: Array) -> dict[str, Array]:
    alpha = np.clip(-0.3 * fe_h, 0.0, 0.3) + 0.08 * ndtri(u_alpha)
    dredge = np.where(logg < 3.4, u_dredge, 0.0)
    centres = dict.fromkeys(ALPHA_ELEMENTS, alpha)
    centres["C"] = -0.6 * dredge
    centres["N"] = 0.7 * dredge
    return centres


def _mixture(u: Array, centre: Array, scatter: float, lower: float, upper: float, uniform_fraction: float) -> Array:
    """Quantiles u (n,) of a Gaussian cut at the bounds, mixed with a uniform distribution between them.

    The distribution function has no closed inverse; bisection finds it to 1e-12 of the range.
    """
    low_tail, high_tail = ndtr((lower - centre) / scatter), ndtr((upper - centre) / scatter)
    low, high = np.full(len(u), float(lower)), np.full(len(u), float(upper))
    for _ in range(40):
        middle = 0.5 * (low + high)
        gaussian = (ndtr((middle - centre) / scatter) - low_tail) / (high_tail - low_tail)
        below = (1 - uniform_fraction) * gaussian + uniform_fraction * (middle - lower) / (upper - lower) < u
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray(0.5 * (low + high))
