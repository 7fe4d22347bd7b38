"""The linear continuum: a smooth basis for each arm, whose coefficients the likelihood marginalises.

Cubic B-splines with equal knots in ln(wave). They are local, so a bad stretch of pixels disturbs its
surroundings only; between their knots they are as free everywhere, where a polynomial is freer at its ends;
they sum to one, so a flat continuum is exact; and their Gram matrix has a condition number of about 30
however many there are, where that of monomials overflows. The number of them follows from the wavelength
span: one knot interval for about 400 Å at 5500 Å (`KNOT_SPACING` in ln(wave)). A continuum that is freer than
that takes part of what the wings of Balmer lines and molecular bands say; one that is stiffer cannot follow
the response curve of LAMOST's arms.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import BSpline

KNOT_SPACING = 0.075  # ln(wave)
DEGREE = 3


def terms_of_span(low: float, high: float, knot_spacing: float = KNOT_SPACING) -> int:
    """Number of B-splines for an arm from `low` to `high` Å; at least 4, which is one cubic polynomial."""
    return int(max(1, round(np.log(high / low) / knot_spacing)) + DEGREE)


def spline_basis(wave: ArrayLike, low: float, high: float, terms: int) -> NDArray[np.float64]:
    """Cubic B-splines (terms, P) on `low`-`high` Å, uniform in ln(wave), summing to one inside and zero
    outside."""
    wave = np.asarray(wave, dtype=float)
    if terms < DEGREE + 1:
        raise ValueError(f"{terms} terms, expected at least {DEGREE + 1}")
    position = np.log(wave / low) / np.log(high / low)
    inside = (position >= 0) & (position <= 1)
    intervals = terms - DEGREE
    knots = np.concatenate([np.zeros(DEGREE), np.linspace(0, 1, intervals + 1), np.ones(DEGREE)])
    basis = np.zeros((terms, len(wave)))
    basis[:, inside] = BSpline.design_matrix(position[inside], knots, DEGREE).toarray().T
    return basis


def continuum_basis(
    wave: ArrayLike,
    arms: tuple[tuple[float, float], ...] = (),
    good: NDArray[np.bool_] | None = None,
    knot_spacing: float = KNOT_SPACING,
) -> NDArray[np.float64]:
    """The continuum basis of a spectrum: one set of splines for each arm.

    Parameters
    ----------
    wave : (P,) vacuum Å.
    arms : ((low, high), ...) Å as in `Spectrum`; one arm over all pixels by default. An arm is narrowed to
        the good pixels that it has, so that no spline lies where there are none; arms with fewer than 20 of
        them get none.
    good : (P,) True where a pixel is used; all by default.
    knot_spacing : in ln(wave).

    Returns
    -------
    (K, P), of order one; zero at pixels outside the good range of every arm.
    """
    wave = np.asarray(wave, dtype=float)
    good = np.ones(wave.shape, dtype=bool) if good is None else good
    parts = []
    for low, high in arms or ((wave.min(), wave.max()),):
        used = wave[good & (wave >= low) & (wave <= high)]
        if len(used) < 20:
            continue
        parts.append(spline_basis(wave, used[0], used[-1], terms_of_span(used[0], used[-1], knot_spacing)))
    if not parts:
        return np.zeros((0, len(wave)))
    basis = np.concatenate(parts)
    # Splines over long masked gaps have nothing to hold them.
    weight = (basis**2 * good).sum(axis=1)
    return np.asarray(basis[weight > 1e-3 * weight.max()])
