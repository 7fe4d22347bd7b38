"""What single abundances do to the structure of an atmosphere: temperature, pressure and column mass.

In late-type stars H- makes the continuum, and its electrons come from the metals. More magnesium or silicon means more
electrons, more opacity and, at the same optical depth, less pressure above: [alpha/Fe] = +0.4 takes a quarter off the
gas pressure of the Sun's line-forming layers, as if log g were 0.15 lower, and moves the temperature by some kelvin.
The structure therefore answers to one variable, the *enrichment* in electron donors,

    e = lg sum_X s_X 10^[X/Fe],     s_X = share of X in the electrons that metals give, sum_X s_X = 1 (Fe among them),

with d e/d[X/Fe] = s_X 10^[X/Fe-e]. The shares depend on Teff, log g and [M/H] (in the Sun Mg 0.42, Fe 0.30, Si 0.17,
Al 0.03, Ca 0.03, Na 0.02; in cool dwarfs Na, Ca and Al lead). How structures change with e is measured on neural
networks for ATLAS12 models with [alpha/Fe] from 0 to +0.6 (`scripts/structure_response.py`), where all alpha elements
move together: for them the answer is that of the networks, and other mixtures are weighed by their electrons. What
molecules of oxygen and titanium do to the structure of the coolest stars goes with the sum, and is not told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, NdBSpline, make_interp_spline

from kurucz_grids.atmospheres import Atmosphere

Array = NDArray[np.float64]

TABLE = "structure_response.npz"
# Elements that give electrons in late-type stars, iron among them; carbon does in stars too hot for it to matter.
DONORS = tuple("Na Mg Al Si S K Ca Ti Cr Fe Ni".split())
ALPHA = frozenset("O Ne Mg Si S Ar Ca Ti".split())  # what the networks' [alpha/Fe] moves


@dataclass(frozen=True)
class StructureResponse:
    """Logarithmic change of an atmosphere of D layers with the enrichment in electron donors, at fixed optical depth.

    temperature, gas_pressure, column : (D,) d ln T/d e and so on, e in dex
    shares : (donors,) of `DONORS` in the electrons that metals give, sum 1
    """

    temperature: Array
    gas_pressure: Array
    column: Array
    shares: Array

    def enrichment(self, ratios: Mapping[str, float]) -> float:
        """The enrichment e (dex) of abundance ratios [X/Fe] by element; what is not named is 0."""
        return float(np.log10(self.shares @ 10.0 ** _donors(ratios)))

    def by_element(self, ratios: Mapping[str, float]) -> dict[str, float]:
        """d e/d[X/Fe] of each donor but iron."""
        electrons = self.shares * 10.0 ** _donors(ratios)
        parts = electrons / electrons.sum()
        return {name: float(part) for name, part in zip(DONORS, parts) if name != "Fe"}

    def applied(self, atmosphere: Atmosphere, enrichment: float) -> Atmosphere:
        """The atmosphere with its temperature, gas pressure and column mass changed; its optical depths stay."""
        log_column = np.log(atmosphere.rhox) + enrichment * self.column
        stretched = np.gradient(log_column, np.log(atmosphere.rhox))  # d tau = opacity d column stays
        return replace(
            atmosphere,
            temperature=atmosphere.temperature * np.exp(enrichment * self.temperature),
            gas_pressure=atmosphere.gas_pressure * np.exp(enrichment * self.gas_pressure),
            rhox=np.exp(log_column),
            rosseland=atmosphere.rosseland * np.exp(-enrichment * self.column) / stretched,
        )


def _donors(ratios: Mapping[str, float]) -> Array:
    return np.array([0.0 if name == "Fe" else ratios.get(name, 0.0) for name in DONORS])


def response_at(teff: float, logg: float, mh: float, log_tau: Array) -> StructureResponse:
    """The answer of an atmosphere at log10 of Rosseland depths (D,), smooth in Teff, log g and [M/H].

    Beyond the range of the table (3500-7750 K, log g 0-5.5, [M/H] -4 to 0.5) it is that of the table's edge.
    """
    axes, depth, spline = _table()
    inside = np.clip([teff, logg, mh], [axis[0] for axis in axes], [axis[-1] for axis in axes])
    values = spline(inside[None])[0]
    log_tau = np.clip(log_tau, depth[0], depth[-1])
    answers = CubicSpline(depth, values[: 3 * len(depth)].reshape(3, -1), axis=1)(log_tau)
    shares = np.exp(values[3 * len(depth) :])
    return StructureResponse(answers[0], answers[1], answers[1] + answers[2], shares / shares.sum())


@cache
def _table() -> tuple[tuple[Array, ...], Array, NdBSpline]:
    # Axes, log10 of optical depths, and the cubic spline of answers (T, P, column less P, by depth) and ln(shares).
    with resources.as_file(resources.files("kurucz_grids") / "data" / TABLE) as path, np.load(path) as file:
        axes = tuple(file[name].astype(float) for name in ("teff", "logg", "mh"))
        depth = file["log_tau"].astype(float)
        answers = file["answers"] * file["scale"][:, None]
        values = np.concatenate([answers.reshape(*answers.shape[:3], -1), file["ln_shares"].astype(float)], axis=-1)
    knots = []
    for i, axis in enumerate(axes):
        along = make_interp_spline(axis, np.moveaxis(values, i, 0), k=3)
        knots.append(along.t)
        values = np.moveaxis(along.c, 0, i)
    return axes, depth, NdBSpline(tuple(knots), np.ascontiguousarray(values), k=3)
