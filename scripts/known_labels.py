"""What a known Teff and log g are worth: mocks of ab initio models fitted without, and with the true values fixed.

For each abundance, over the stars whose spectrum says something of it in both fits: its median error and bound with
what is given; the median ratio of errors with and without, and its uncertainty, most of which is the noise of draws;
the median ratio of the Cramér-Rao bounds; the least error over the bound where no flag tells of it (that it is less
than 0.8 where the flat prior's bounds help, a flag does); the scatter of (fit - truth) over the error.

    python scripts/known_labels.py grid.h5 --split test --n 40 --out known
"""

from __future__ import annotations

import numpy as np
import torch
from harness import arguments_of_kept_mocks, kept_fits, table
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
MEDIAN = 1.25  # error of a median over that of a mean


def main() -> None:
    args = arguments_of_kept_mocks(__doc__)
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
        flags = [int(a.label_flag[i]) | int(t.label_flag[i]) for a, t in zip(alone, told)]
        use = [s for s, flag in enumerate(flags) if not flag & LabelFlag.PRIOR_DOMINATED]
        if name in GIVEN or len(use) < LEAST:
            continue
        (before, bound_before), (error, bound) = (
            np.array([(fits[s].err[i], fits[s].crlb[i]) for s in use]).T for fits in (alone, told)
        )
        off = np.array([told[s].value[i] for s in use]) - labels[use, i]
        ratio = error / before
        told_of = np.array([bool(flags[s] & LabelFlag.BELOW_BOUND) for s in use])
        least = float((error / bound)[~told_of].min()) if not told_of.all() else np.nan
        rows.append((name, len(use), float(np.median(error)), float(np.median(bound)),
                     f"{np.median(ratio):.3f} ± {MEDIAN * ratio.std() / len(use) ** 0.5:.3f}",
                     f"{np.median(bound / bound_before):.3f}", f"{least:.2f}", robust(off / error)))  # fmt: skip
    head = ("label", "stars", "error", "bound", "error / without", "bound / without", "least error / bound")
    print(table((*head, "scatter / error"), rows))


if __name__ == "__main__":
    main()
