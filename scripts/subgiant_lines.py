"""Fit the lines that select subgiants (phdlspec.ages.selection) to a set of isochrones, and say what they select.

  python scripts/subgiant_lines.py ISOCHRONES        # a set or a file, as of phdlspec ages --isochrones

The hot line goes through the ends of the main sequence, the cool line through the feet of the giant branch, of ages
1 to 14 Gyr and [M/H] -2 to 0.5; each in Teff and log g, and in Teff and M_Ks.
"""

from __future__ import annotations

import argparse

import numpy as np

from phdlspec.ages.isochrones import Isochrones
from phdlspec.ages.photometry import with_magnitudes
from phdlspec.ages.readers import read_isochrones
from phdlspec.ages.selection import GRAVITY_LINES, MAGNITUDE_LINES, Lines, cool_terms, hot_terms
from phdlspec.ages.stages import Stage

AGES, METALLICITIES = (1.0, 14.0), (-2.0, 0.5)


def borders(isochrones: Isochrones, last: Stage) -> np.ndarray:
    """Teff, log g, M_Ks, [M/H] (n, 4) of the last point of a stage on each isochrone."""
    q, rows = isochrones.quantities, []
    for i, mh in enumerate(isochrones.mh):
        for j, log_age in enumerate(isochrones.log_age):
            at = np.flatnonzero(q["stage"][i, j] == last)
            later = q["stage"][i, j] == last + 1
            age = 10.0 ** (log_age - 9.0)
            if len(at) and later.any() and AGES[0] <= age <= AGES[1] and METALLICITIES[0] <= mh <= METALLICITIES[1]:
                k = at[-1]
                row = (10 ** q["log_teff"][i, j, k], q["logg"][i, j, k], isochrones.magnitudes["KS"][i, j, k], mh)
                rows.append(row)
    return np.array(rows)


def fit(isochrones: Isochrones) -> None:
    """Print the coefficients of both pairs of lines, their scatter, and those that are in use."""
    hot, cool = borders(isochrones, Stage.MAIN_SEQUENCE), borders(isochrones, Stage.SUBGIANT)
    hot, cool = hot[np.isfinite(hot).all(axis=1)], cool[np.isfinite(cool).all(axis=1)]
    for name, column, used in (("log g", 1, GRAVITY_LINES), ("M_Ks", 2, MAGNITUDE_LINES)):
        terms = hot_terms(hot[:, 0], hot[:, 3])
        upper = np.linalg.lstsq(terms, hot[:, column], rcond=None)[0]
        scatter = (hot[:, column] - terms @ upper).std()
        print(f"{name}: hot line {np.round(upper, 3).tolist()} scatter {scatter:.3f}, in use {list(used.hot)}")
        terms = cool_terms(cool[:, column] - used.centre, cool[:, 3])
        lower = np.linalg.lstsq(terms, cool[:, 0], rcond=None)[0]
        scatter = (cool[:, 0] - terms @ lower).std()
        print(f"{name}: cool line {np.round(lower, 1).tolist()} scatter {scatter:.0f} K, in use {list(used.cool)}")


def judge(isochrones: Isochrones, lines: Lines, brightness: np.ndarray, name: str) -> None:
    """Print which share of the subgiants' points the lines keep, and which share of what they keep are subgiants."""
    q = isochrones.quantities
    teff, mh = 10.0 ** q["log_teff"], np.broadcast_to(isochrones.mh[:, None, None], isochrones.shape)
    mass = np.zeros(isochrones.shape)
    mass[:, :, 1:] = np.nan_to_num(np.diff(q["initial_mass"], axis=2)).clip(min=0)
    mass *= (10.0**isochrones.log_age)[None, :, None]
    inside = lines.inside(teff, brightness, mh) & (teff < 7500)
    subgiant = q["stage"] == Stage.SUBGIANT
    print(
        f"{name}: keeps {mass[inside & subgiant].sum() / mass[subgiant & (teff < 7500)].sum():.2f} of the subgiants by "
        f"mass; {mass[inside & subgiant].sum() / mass[inside].sum():.2f} of what it keeps are subgiants"
    )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("isochrones")
    isochrones = with_magnitudes(read_isochrones(parser.parse_args().isochrones))[0]
    fit(isochrones)
    judge(isochrones, GRAVITY_LINES, isochrones.quantities["logg"], "Teff and log g")
    judge(isochrones, MAGNITUDE_LINES, isochrones.magnitudes["KS"], "Teff and M_Ks")


if __name__ == "__main__":
    main()
