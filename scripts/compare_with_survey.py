"""A catalogue beside the labels of a survey's own pipeline: median difference and robust scatter by kind of star.

Stars at the edge of the models, in untrusted regions, failed or not stars are left out. The survey's labels are a
comparison, not the truth.

    python scripts/compare_with_survey.py dr10.fits dr10_labels.csv --figure docs/figures/lamost_dr10.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from astropy.table import Table
from harness import table_head

from phdlspec.flags import StarFlag
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

COLUMNS = {"TEFF": "teff_lasp", "LOGG": "logg_lasp", "FE_H": "feh_lasp"}
LEFT_OUT = int(
    StarFlag.VELOCITY_UNSURE | StarFlag.OUTSIDE_GRID | StarFlag.UNTRUSTED_REGION | StarFlag.NO_STAR | StarFlag.FAILED
    | StarFlag.UNREADABLE
)  # fmt: skip
DIGITS = {"TEFF": 0, "LOGG": 2, "FE_H": 2}


def survey_labels(catalog: Table, labels: Table) -> dict[str, np.ndarray]:
    """The survey's columns (N,) in the order of the catalogue, matched by file name; NaN where there are none."""
    place = {Path(str(row)).name: i for i, row in enumerate(labels["file"])}
    index = np.array([place.get(Path(str(name)).name, -1) for name in catalog["FILE"]])

    def column(name: str) -> np.ndarray:
        values = np.asarray(np.ma.filled(np.ma.asarray(labels[name]).astype(float), np.nan))
        return np.where(index >= 0, values[index], np.nan)

    return {name: column(name) for name in (*COLUMNS.values(), "snrg", "z")}


def robust(x: np.ndarray) -> tuple[float, float]:
    """Median and 1.48 times the median absolute deviation."""
    middle = float(np.median(x))
    return middle, 1.4826 * float(np.median(np.abs(x - middle)))


def report(catalog: Table, survey: dict[str, np.ndarray]) -> None:
    """Print the tables in Markdown."""
    flag, mode = np.asarray(catalog["FLAG"]), np.asarray(catalog["MODE"]).astype(str)
    teff, logg, fe_h, snr = (survey[n] for n in ("teff_lasp", "logg_lasp", "feh_lasp", "snrg"))
    compared = ((flag & LEFT_OUT) == 0) & np.isfinite(teff)
    kinds = {
        "all": compared, "SNRg > 50": compared & (snr > 50), "SNRg <= 50": compared & (snr <= 50),
        "< 5250 K, dwarfs": compared & (teff < 5250) & (logg > 3.5),
        "5250-6000 K, dwarfs": compared & (teff >= 5250) & (teff < 6000) & (logg > 3.5),
        "> 6000 K": compared & (teff >= 6000), "giants": compared & (logg <= 3.5),
        "[Fe/H] < -1": compared & (fe_h < -1),
    }  # fmt: skip
    print(table_head("stars", "number", "Teff (K)", "log g", "[Fe/H]"))
    for words, use in kinds.items():
        cells = []
        for name, column in COLUMNS.items():
            middle, scatter = robust((np.asarray(catalog[name]) - survey[column])[use])
            cells.append(f"{middle:+.{DIGITS[name]}f} ± {scatter:.{DIGITS[name]}f}")
        print(f"| {words} | {int(use.sum())} | " + " | ".join(cells) + " |")
    middle, scatter = robust((np.asarray(catalog["RV"]) - survey["z"] * SPEED_OF_LIGHT_KM_S)[compared])
    print(f"\nvelocity minus the header's redshift: {middle:+.1f} ± {scatter:.1f} km/s")
    low, half, high = np.nanpercentile(catalog["RCHI2"], [16, 50, 84])
    seconds = np.asarray(catalog["SECONDS"])
    print(f"reduced chi2 {low:.1f}, {half:.1f}, {high:.1f} (16, 50, 84%); {np.nanmean(seconds):.1f} s a star")
    print("modes " + ", ".join(f"{m} {int((mode == m).sum())}" for m in np.unique(mode)))
    print(f"without flags {int((flag == 0).sum())} of {len(flag)}; " + ", ".join(
        f"{bit.name} {int(((flag & int(bit)) > 0).sum())}" for bit in StarFlag
    ))  # fmt: skip


def draw(catalog: Table, survey: dict[str, np.ndarray], path: Path) -> None:
    """Differences against the survey's Teff and S/N."""
    use = ((np.asarray(catalog["FLAG"]) & LEFT_OUT) == 0) & np.isfinite(survey["teff_lasp"])
    figure, axes = plt.subplots(3, 2, figsize=(10, 8), sharey="row")
    limits = {"TEFF": 500.0, "LOGG": 1.0, "FE_H": 0.7}
    for row, (name, column) in enumerate(COLUMNS.items()):
        difference = (np.asarray(catalog[name]) - survey[column])[use]
        for place, (x, words) in zip(axes[row], ((survey["teff_lasp"], "LASP Teff (K)"), (survey["snrg"], "SNRg"))):
            dots = place.scatter(x[use], difference, c=survey["logg_lasp"][use], s=7, cmap="viridis", vmin=1, vmax=4.8)
            place.axhline(0.0, color="0.6", lw=0.8)
            place.set_ylim(-limits[name], limits[name])
            place.set_xlabel(words if row == 2 else "")
        axes[row, 1].set_xscale("log")
        axes[row, 0].set_ylabel(f"{name} - LASP")
    figure.colorbar(dots, ax=axes, label="LASP log g", shrink=0.5)
    figure.savefig(path, dpi=100, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", help="FITS of `phdlspec catalog`")
    parser.add_argument("labels", help="table with file, teff_lasp, logg_lasp, feh_lasp, snrg, z")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    catalog, labels = Table.read(args.catalog, hdu="CATALOG"), Table.read(args.labels)
    survey = survey_labels(catalog, labels)
    report(catalog, survey)
    if args.figure:
        draw(catalog, survey, args.figure)


if __name__ == "__main__":
    main()
