"""What the blue end does to Teff: bias and scatter against a survey's labels with more and more of it left out.

Fitted in fast mode are real LAMOST stars, up to eight of each kind from every second file (the other half stays apart),
and the HARPS Sun. Differences are ours minus the survey's, median and robust scatter. Printed besides: which windows
pull the Teff of the giants away from the survey's labels, with the default masks (`calibration.pixel_influence`).

    python scripts/mask_study.py ../shared/data
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table
from benchmark_stars import REFERENCE, as_lamost, harps_sun, influence_by_window
from compare_with_survey import COLUMNS, robust

from phdlspec import load_emulator, read_spectrum
from phdlspec.emulator.bridge import NONE
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.settings import FitSettings
from phdlspec.masks import DEFAULT_INTERVALS, MaskInterval

EACH, MIN_SNR, MIN_TEFF = 8, 50.0, 4500.0  # stars of a kind, in g; the emulator is trusted from there on
# Cores of Balmer lines and of Ca II H, K and the infrared triplet (vacuum Å), formed above the photosphere.
CORES = (6564.61, 4862.68, 4341.68, 4102.89, 3971.19, 3934.78, 3969.59, 8500.35, 8544.44, 8664.52)
LEFT_OUT: dict[str, tuple[MaskInterval, ...]] = {
    "default masks": (),
    **{f"also < {limit} Å": (MaskInterval("blue", 3000.0, float(limit)),) for limit in (3900, 4000, 4100)},
    "also ± 4 Å about cores": tuple(MaskInterval("core", core - 4.0, core + 4.0, "star") for core in CORES),
}


def chosen(labels: Table) -> tuple[Table, np.ndarray]:
    """Rows of the survey's table and their kinds."""
    labels = labels[np.argsort(labels["file"])][::2]
    teff, logg, snr = (np.ma.filled(labels[name].astype(float), np.nan) for name in ("teff_lasp", "logg_lasp", "snrg"))
    good = (snr > MIN_SNR) & (teff > MIN_TEFF)
    kinds = {
        "giants": good & (logg <= 3.5), "dwarfs < 5250 K": good & (logg > 3.5) & (teff < 5250),
        "dwarfs 5250-6000 K": good & (logg > 3.5) & (teff >= 5250) & (teff < 6000), "> 6000 K": good & (teff >= 6000),
    }  # fmt: skip
    rows = {kind: np.flatnonzero(use)[:EACH] for kind, use in kinds.items()}
    return labels[np.concatenate(list(rows.values()))], np.repeat(list(rows), [len(r) for r in rows.values()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with lamost/ and highres/")
    parser.add_argument("--emulator")
    args = parser.parse_args()
    torch.set_num_threads(1)
    emulator = load_emulator(args.emulator)
    labels, kind = chosen(Table.read(args.data / "lamost" / "dr10_labels.csv"))
    survey = {name: np.asarray(labels[column], dtype=float) for name, column in COLUMNS.items()}
    stars = [read_spectrum(args.data / "lamost" / file) for file in labels["file"]]
    sun = as_lamost(*harps_sun(args.data / "highres"), 5800.0, 100.0, 0, "Sun, HARPS")
    kinds = list(dict.fromkeys(kind))
    print("| left out | Sun: Teff, [Si/Fe] | " + " | ".join(f"{k}: Teff, log g, [Fe/H]" for k in kinds) + " |")
    print("|---|---|" + "---|" * len(kinds))
    for words, more in LEFT_OUT.items():
        solar, *results = fit_batch(
            [sun, *stars], emulator, FitSettings("fast", masks=DEFAULT_INTERVALS + more, bridge=NONE), True
        )
        cells = [f"{solar['TEFF'] - REFERENCE['Sun']['TEFF']:+.0f}, {solar['SI_FE']:+.2f}"]
        for name in kinds:
            middle = [robust((np.array([r[n] for r in results]) - survey[n])[kind == name]) for n in COLUMNS]
            cells.append(", ".join(f"{m:+.{d}f} ± {s:.{d}f}" for (m, s), d in zip(middle, (0, 2, 2))))
        print(f"| {words} | " + " | ".join(cells) + " |", flush=True)
        if not more:
            giants = np.flatnonzero(kind == "giants")
            influences = [influence_by_window(results[i], {n: survey[n][i] for n in COLUMNS}) for i in giants]
    low, teff = influences[0][0], np.median([by_label["TEFF"] for _, by_label in influences], axis=0)
    strongest = np.sort(np.argsort(-np.abs(teff))[:10])
    print(
        "\nTeff of the giants, median pull of a window: "
        + ", ".join(f"{low[i]:.0f} Å {teff[i]:+.0f} K" for i in strongest)
    )


if __name__ == "__main__":
    main()
