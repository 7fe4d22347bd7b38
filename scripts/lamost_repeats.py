"""Are the errors of real spectra right? Stars that LAMOST observed more than once, fitted as if they were strangers.

For each label: the robust scatter (68% quantile) of the differences of all pairs of spectra of one star, over the error
that is reported for the difference. A pair counts for a label if in both spectra the Cramer-Rao bound is below
--informative and the label is neither at a bound nor set by its prior. The error of the ratio comes from drawing the
stars anew, since the pairs of a star observed five times are no ten independent ones. What repeats from night to night
(errors of the models) is not in these differences.

    phdlspec catalog repeats/ --out repeats.fits
    python scripts/lamost_repeats.py repeats.fits repeats.csv --figure docs/figures/repeats.png
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from astropy.table import Table
from harness import table_head

from phdlspec.columns import PARAMETER_UNITS
from phdlspec.errors import UserError
from phdlspec.flags import LabelFlag

AIM = (0.8, 1.3)
FEWEST_PAIRS = 10
BOOTSTRAPS = 400
NOT_MEASURED = int(LabelFlag.AT_BOUND | LabelFlag.PRIOR_DOMINATED)
PARAMETERS = tuple(name for name in PARAMETER_UNITS if name != "LN_RESOLUTION")  # that is the fibre's, not the star's


@dataclass(frozen=True)
class Row:
    """One label: differences over errors (N,) of its pairs, the star (N,) of each, the median error of one spectrum."""

    name: str
    pull: np.ndarray
    star: np.ndarray
    error: float

    @property
    def ratio(self) -> float:
        """Scatter over error."""
        return robust(self.pull)

    def ratio_error(self, random: np.random.Generator) -> float:
        """Standard deviation of the ratio when the stars are drawn anew."""
        by_star = [self.pull[self.star == s] for s in np.unique(self.star)]
        draws = [random.integers(len(by_star), size=len(by_star)) for _ in range(BOOTSTRAPS)]
        return float(np.std([robust(np.concatenate([by_star[i] for i in d])) for d in draws]))


def robust(x: np.ndarray) -> float:
    """Standard deviation about zero from the 68% quantile of |x|."""
    return float(np.quantile(np.abs(x), 0.6827))


def pairs_of(catalog: Table, who: Table) -> np.ndarray:
    """Rows of the catalogue (N, 2) that are two spectra of one star, which the columns obsid and star of `who` say."""
    place = {str(obsid): i for i, obsid in enumerate(catalog["OBSID"])}
    missing = sum(str(obsid) not in place for obsid in who["obsid"])
    if missing:
        print(f"{missing} of {len(who)} spectra are not in the catalogue")
    stars: dict[str, list[int]] = {}
    for obsid, star in zip(who["obsid"], who["star"]):
        if str(obsid) in place:
            stars.setdefault(str(star), []).append(place[str(obsid)])
    found = [pair for rows in stars.values() for pair in combinations(rows, 2)]
    if not found:
        raise UserError("the catalogue has no two spectra of one star: give the catalogue of the repeats")
    return np.array(found)


def compare(catalog: Table, pairs: np.ndarray, star: np.ndarray, name: str, informative: float) -> Row:
    """One label in the pairs (N, 2) in which both spectra measure it."""
    limit = informative * (1000.0 if name == "TEFF" else 100.0 if name in ("RV", "VBROAD") else 1.0)
    value, err, bound = (np.asarray(catalog[name + end], dtype=float)[pairs] for end in ("", "_ERR", "_CRLB"))
    measured = np.isfinite(value) & (bound < limit) & (np.asarray(catalog[name + "_FLAG"])[pairs] & NOT_MEASURED == 0)
    use = measured.all(axis=1)
    pull = (value[use, 1] - value[use, 0]) / np.hypot(err[use, 0], err[use, 1])
    return Row(name, pull, star[use], float(np.median(err[use])) if use.any() else np.nan)


def report(every: list[Row], good: list[Row]) -> None:
    """Print the table in Markdown."""
    random = np.random.default_rng(3)
    print(
        table_head("label", "pairs", "stars", "median error", "scatter / error", "unflagged pairs", "scatter / error")
    )
    for one, two in zip(every, good):
        cells = [
            f"{row.ratio:.2f} ± {row.ratio_error(random):.2f}" if len(row.pull) >= FEWEST_PAIRS else ""
            for row in (one, two)
        ]
        print(
            f"| {one.name} | {len(one.pull)} | {len(np.unique(one.star))} | {one.error:.3g} | {cells[0]} | "
            f"{len(two.pull)} | {cells[1]} |"
        )
    for words, rows in (("all pairs", every), ("pairs of unflagged spectra", good)):
        ratios = np.array([row.ratio for row in rows if len(row.pull) >= FEWEST_PAIRS])
        inside = int(((ratios >= AIM[0]) & (ratios <= AIM[1])).sum())
        print(f"\n{words}: {inside} of {len(ratios)} labels within {AIM[0]}-{AIM[1]}, median {np.median(ratios):.2f}")


def draw(rows: list[Row], path: Path) -> None:
    """The ratio of each label, and the differences of all labels together."""
    random = np.random.default_rng(3)
    shown = [row for row in rows if len(row.pull) >= FEWEST_PAIRS]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 0.6 + 0.22 * len(shown)), width_ratios=(3, 2))
    place = np.arange(len(shown))[::-1]
    left.axvspan(*AIM, color="0.9")
    left.axvline(1.0, color="0.6", lw=1)
    left.errorbar([r.ratio for r in shown], place, xerr=[r.ratio_error(random) for r in shown], fmt="o", ms=4, lw=1)
    left.set_yticks(place, [f"{row.name} ({len(row.pull)})" for row in shown], fontsize=8)
    left.set_xlim(0.0, max(2.0, 1.1 * max(row.ratio for row in shown)))
    left.set_xlabel("scatter of pairs / reported error (pairs in brackets; grey: the aim)")
    pull = np.concatenate([row.pull for row in shown if row.name not in ("RV", "VBROAD")])
    right.hist(pull, bins=np.linspace(-5, 5, 61), density=True, color="C0", alpha=0.5)
    x = np.linspace(-5, 5, 201)
    right.plot(x, np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi), "k", lw=1, label="unit Gaussian")
    right.set_xlabel(f"difference / error, all labels; {100 * (np.abs(pull) > 3).mean():.1f}% beyond 3")
    right.set_yticks([])
    right.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", help="FITS of `phdlspec catalog`")
    parser.add_argument("who", help="table with the columns obsid and star")
    parser.add_argument("--informative", type=float, default=0.2, help="largest bound (dex; 200 K for TEFF)")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    catalog = Table.read(args.catalog, hdu="CATALOG")
    who = Table.read(args.who, converters={"obsid": str})
    pairs = pairs_of(catalog, who)
    names = dict(zip(map(str, who["obsid"]), map(str, who["star"])))
    star = np.array([names[str(obsid)] for obsid in catalog["OBSID"][pairs[:, 0]]])
    unflagged = (np.asarray(catalog["FLAG"])[pairs] == 0).all(axis=1)
    print(f"{len(pairs)} pairs of {len(np.unique(star))} stars; {unflagged.sum()} pairs without flags\n")
    every = [compare(catalog, pairs, star, name, args.informative) for name in PARAMETERS]
    good = [compare(catalog, pairs[unflagged], star[unflagged], name, args.informative) for name in PARAMETERS]
    report(every, good)
    if args.figure:
        draw(good, args.figure)


if __name__ == "__main__":
    main()
