"""What a known Teff and log g are worth: mocks of ab initio models fitted without, and with the true values fixed.

For each abundance, over the stars whose spectrum says something of it in both fits: its error and its Cramér-Rao bound
without and with, the share of stars whose error is smaller with, the smallest error over the bound, and the scatter of
(fit - truth) over the error with.

    python scripts/known_labels.py grid.h5 --split test --n 40 --out known
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from harness import kept_fits, table
from mock_study import choose, robust

from phdlspec import load_emulator
from phdlspec.cores import CorePriors
from phdlspec.emulator.bridge import NONE
from phdlspec.fitting.known import KnownStar
from phdlspec.fitting.settings import FitSettings
from phdlspec.flags import LabelFlag
from phdlspec.gridfile import Grid
from phdlspec.lsf import NativeGrid
from phdlspec.mock import mock_lamost

GIVEN = ("TEFF", "LOGG")
LEAST = 8  # stars of a line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--snr", type=float, default=100.0)
    parser.add_argument("--n", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True, help="folder of the fits, gone on with where it exists")
    args = parser.parse_args()
    torch.set_num_threads(1)
    grid, emulator = Grid(args.grid), load_emulator(None, "cpu")
    native, cores = NativeGrid.from_wave(grid.wave, grid.resolving_power), CorePriors.shipped(grid.attrs)
    labels = grid.labels[choose(grid, args.split, args.n)]
    spectra = [
        mock_lamost(grid.flux(int(row)), native, star[0], args.snr, 7000 + i, vbroad=5.0, logg=star[1], cores=cores,
                    identifier=f"{row}-{i}")
        for i, (row, star) in enumerate(zip(choose(grid, args.split, args.n), labels))
    ]  # fmt: skip
    places = [grid.label_names.index(name) for name in GIVEN]
    known = [KnownStar.of({name: float(star[i]) for name, i in zip(GIVEN, places)}) for star in labels]
    settings = FitSettings(mode="fast", bridge=NONE)
    alone = kept_fits(spectra, emulator, settings, args.out / "alone.jsonl")
    told = kept_fits(spectra, emulator, settings, args.out / "told.jsonl", known)
    rows = []
    for i, name in enumerate(grid.label_names):
        vague = int(LabelFlag.PRIOR_DOMINATED)
        use = [s for s, (a, t) in enumerate(zip(alone, told)) if not (a.label_flag[i] | t.label_flag[i]) & vague]
        if name in GIVEN or len(use) < LEAST:
            continue
        errors, bounds = (np.array([[getattr(r[s], what)[i] for s in use] for r in (alone, told)])
                          for what in ("err", "crlb"))  # fmt: skip
        off = np.array([told[s].value[i] for s in use]) - labels[use, i]
        smaller = f"{100 * np.mean(errors[1] < errors[0]):.0f}%"
        medians = [float(x) for x in np.median(np.concatenate([errors, bounds]), axis=1)]
        rows.append((name, len(use), *medians, smaller, float((errors[1] / bounds[1]).min()), robust(off / errors[1])))
    head = ("label", "stars", "error without", "with", "bound without", "with", "error smaller in",
            "smallest error / bound", "scatter / error")  # fmt: skip
    print(table(head, rows))


if __name__ == "__main__":
    main()
