"""Hydrogen lines of the Balmer and Paschen series: the list handed to SMElib and where to sample its opacity."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import eval_genlaguerre, gammaln

RYDBERG_CM = 109677.5834  # Rydberg constant of hydrogen, 1/cm
IONISATION_EV = 13.59844
HIGHEST_LEVEL = {2: 20, 3: 18}  # by lower level; lines above merge into the series limit


@dataclass(frozen=True)
class HydrogenLine:
    """One line: principal quantum numbers, vacuum wavelength (Å), lower level (eV) and log gf."""

    lower: int
    upper: int
    wave_vacuum: float
    elow_ev: float
    loggf: float


def _radial(n: int, ell: int, r: NDArray[np.float64]) -> NDArray[np.float64]:
    # Hydrogen radial function R_nl(r), r in Bohr radii.
    rho = 2.0 * r / n
    log_norm = 0.5 * (3 * np.log(2.0 / n) + gammaln(n - ell) - np.log(2.0 * n) - gammaln(n + ell + 1))
    return np.asarray(np.exp(log_norm - rho / 2) * rho**ell * eval_genlaguerre(n - ell - 1, 2 * ell + 1, rho))


@cache
def oscillator_strength(lower: int, upper: int) -> float:
    """Absorption oscillator strength averaged over the lower level's sublevels (Bethe & Salpeter 1957, sect. 63)."""
    # Gauss-Laguerre quadrature is exact here: the integrand is a polynomial times an exponential.
    scale = 1.0 / (1.0 / lower + 1.0 / upper)
    x, weight = np.polynomial.laguerre.laggauss(lower + upper + 4)
    r = scale * x
    weight = weight * np.exp(x) * scale
    energy = 1.0 / lower**2 - 1.0 / upper**2  # Rydberg
    total = 0.0
    for ell in range(lower):
        for ell_upper in (ell - 1, ell + 1):
            if 0 <= ell_upper < upper:
                radial = np.sum(weight * r**3 * _radial(lower, ell, r) * _radial(upper, ell_upper, r))
                total += max(ell, ell_upper) * radial**2
    return energy * total / (3.0 * lower**2)


def hydrogen_lines(wave_min: float, wave_max: float) -> tuple[HydrogenLine, ...]:
    """Balmer and Paschen lines whose centres lie between the vacuum wavelengths (Å), in order of wavelength."""
    lines = []
    for lower in (2, 3):
        for upper in range(lower + 1, HIGHEST_LEVEL[lower] + 1):
            wave = 1e8 / (RYDBERG_CM * (1.0 / lower**2 - 1.0 / upper**2))
            if wave_min < wave < wave_max:
                loggf = np.log10(2 * lower**2 * oscillator_strength(lower, upper))
                elow = IONISATION_EV * (1.0 - 1.0 / lower**2)
                lines.append(HydrogenLine(lower, upper, wave, elow, float(loggf)))
    return tuple(sorted(lines, key=lambda line: line.wave_vacuum))


def sampling_nodes(lines: tuple[HydrogenLine, ...], wave_min: float, wave_max: float) -> NDArray[np.float64]:
    """Vacuum wavelengths (Å) at which the opacity of the lines is computed, dense at the cores.

    Between nodes its logarithm is interpolated with `interpolation_weights`, as wings are power laws of the
    distance from the line.
    """
    offsets = np.array([0.0, 0.2, 0.45, 0.9, 1.8, 3.4, 6.0, 10.5, 18.0, 32.0, 56.0, 100.0])
    centres = np.array([line.wave_vacuum for line in lines])
    nodes = [np.linspace(wave_min, wave_max, 30)]
    for i, centre in enumerate(centres):
        left = (centre - centres[i - 1]) / 2 if i else np.inf
        right = (centres[i + 1] - centre) / 2 if i + 1 < len(centres) else np.inf
        nodes.append(centre - offsets[offsets <= left])
        nodes.append(centre + offsets[offsets <= right])
    merged = np.unique(np.concatenate(nodes))
    merged = merged[(merged >= wave_min) & (merged <= wave_max)]
    keep = np.concatenate([[True], np.diff(merged) > 0.05])
    return np.asarray(merged[keep])


CORE = 0.25  # Å, half width of the Doppler core


def interpolation_weights(
    lines: tuple[HydrogenLine, ...], nodes: NDArray[np.float64], wave: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Left node (P,) of each wavelength (P,) and the weight (P,) of the right one, for the logarithm of the opacity.

    nodes (M,) ascending and wave (P,) are in vacuum Å.

    Linear in ln(distance^2 + core^2) from the line nearest to the two nodes' middle; linear in wavelength would make
    the wings 5% too strong on average.
    """
    centres = np.array([line.wave_vacuum for line in lines])
    left = np.clip(np.searchsorted(nodes, wave) - 1, 0, len(nodes) - 2)
    middle = 0.5 * (nodes[left] + nodes[left + 1])
    place = np.clip(np.searchsorted(centres, middle), 1, len(centres) - 1)
    nearest = np.where(middle - centres[place - 1] < centres[place] - middle, centres[place - 1], centres[place])
    start, end, here = (np.log((x - nearest) ** 2 + CORE**2) for x in (nodes[left], nodes[left + 1], wave))
    span = end - start
    linear = (wave - nodes[left]) / (nodes[left + 1] - nodes[left])
    one_sided = np.abs(span) > 1e-3  # nodes on both sides of a line, equally far, tell no distance
    return left, np.clip(np.where(one_sided, (here - start) / np.where(one_sided, span, 1.0), linear), 0.0, 1.0)
