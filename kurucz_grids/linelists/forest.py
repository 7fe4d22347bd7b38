"""Forests: a molecule with so many lines that they overlap several deep, as TiO's 1.6 million, in fewer lines.

Opacities add up, so that lines of one species at nearly one wavelength are as good as one line, if its strength goes
with temperature as theirs together. All lines within a column of `COLUMN` km/s become two at most: the two-point Gauss
quadrature of their excitation energies, weighted with their strengths at `TEMPERATURE`, which has the first four
moments right. The sum of exp(-E/kT) over a column is so kept to some 1e-4 from 2500 to 5000 K, and no line is dropped.
What remains is that a column's lines share two centres: its absorption is a little narrower than it was. The
error of spectra, and what it saves, are in docs/real_stars.md.

A forest has no wings: the widths of its lines are guesses, and what the wings of all of them add up to at 3600 K, a
tenth of a per cent of the flux in a dwarf, costs five times the synthesis without.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kurucz_grids.linelists.elements import MOLECULE_ATOMS
from kurucz_grids.linelists.linelist import LineList

log = logging.getLogger(__name__)

COLUMN = 1.5  # km/s; molecules as heavy as TiO have Doppler widths of 1.3 km/s and more
DEEP = 2.0  # mean number of lines a column from which on a molecule is a forest
TEMPERATURE = 3500.0  # K, of the layers in which forests are seen
NO_WINGS = 1e6  # 1/s, the radiative width: a Voigt parameter of 3e-5
_SAME_ENERGY = 0.02  # eV; lines of a column whose energies scatter less become one
_LIGHT_KM_S = 299792.458
_EV_OVER_BOLTZMANN = 11604.518

Array = NDArray[np.float64]


def forests_thinned(lines: LineList) -> LineList:
    """The list with the lines of molecules that are forests replaced by fewer that absorb the same."""
    parts, others = [], np.ones(len(lines), dtype=bool)
    for index, species in enumerate(lines.species_names):
        mine = np.flatnonzero(lines.species_index == index)
        if species not in MOLECULE_ATOMS or not _is_forest(lines.wave_vacuum[mine]):
            continue
        parts.append(_thinned(lines.select(mine)))
        others[mine] = False
        log.info("%s: %d lines of %s as %d", lines.path, len(mine), species, len(parts[-1]))
    if not parts:
        return lines
    whole = LineList.joined([lines.select(others), *parts], lines.path)
    return replace(whole, medium=lines.medium, sources=lines.sources)


def _is_forest(wave: Array) -> bool:
    columns = np.log(wave[-1] / wave[0]) * _LIGHT_KM_S / COLUMN if len(wave) else 0.0
    return len(wave) > DEEP * max(columns, 1000.0)


def _thinned(lines: LineList) -> LineList:
    elow = lines.elow_ev.astype(float)
    weight = 10.0 ** lines.loggf.astype(float) * np.exp(-elow * (_EV_OVER_BOLTZMANN / TEMPERATURE))
    column = np.floor(np.log(lines.wave_vacuum) * (_LIGHT_KM_S / COLUMN)).astype(np.int64)
    first = np.flatnonzero(np.diff(column, prepend=-1))
    which = np.repeat(np.arange(len(first)), np.diff(first, append=len(column)))
    low, high, share = _two_energies(elow, weight, first, which)
    upper = elow > ((low + high) / 2)[which]
    total = np.add.reduceat(weight, first)
    alone = high - low < _SAME_ENERGY
    mean = np.add.reduceat(weight * elow, first) / total
    nodes = (
        (np.where(alone, mean, low), np.where(alone, 1.0, share) * total, alone[which] | ~upper),
        (high[~alone], ((1.0 - share) * total)[~alone], ~alone[which] & upper),
    )
    return LineList.joined([_lines(lines, weight, which, *node) for node in nodes])


def _two_energies(
    elow: Array, weight: Array, first: NDArray[np.intp], which: NDArray[np.intp]
) -> tuple[Array, Array, Array]:
    # Nodes of the two-point Gauss quadrature of each column (M,) and the share of the lower one.
    total = np.add.reduceat(weight, first)
    mean = np.add.reduceat(weight * elow, first) / total
    off = elow - mean[which]
    spread = np.sqrt(np.add.reduceat(weight * off**2, first) / total)
    skew = np.add.reduceat(weight * off**3, first) / total / np.maximum(spread, 1e-6) ** 3 / 2.0
    root = np.sqrt(1.0 + skew**2)
    return mean + spread * (skew - root), mean + spread * (skew + root), (1.0 + skew / root) / 2.0


def _lines(
    lines: LineList, weight: Array, which: NDArray[np.intp], energy: Array, strength: Array, members: NDArray[np.bool_]
) -> LineList:
    # One line for each column that has members: their mean in all but energy and strength, which are given.
    columns, inverse = np.unique(which[members], return_inverse=True)
    share = weight[members] / np.bincount(inverse, weight[members])[inverse]

    def mean(values: NDArray[np.floating[Any]]) -> Array:
        return np.asarray(np.bincount(inverse, share * values[members]), dtype=float)

    loggf = np.log10(strength) + energy * (_EV_OVER_BOLTZMANN / TEMPERATURE / np.log(10.0))
    names = ("wave_vacuum", "vdw_exponent", "isotope_fraction")
    none = np.zeros(len(columns))
    return LineList.from_columns(
        np.full(len(columns), lines.species[0]), elow_ev=energy, loggf=loggf, gamma_rad=none + NO_WINGS,
        gamma_stark=none, gamma_vdw=none, medium=lines.medium, path=lines.path,
        **{name: mean(getattr(lines, name)) for name in names},
    )  # fmt: skip
