"""What `--refine` does: steps until the labels stand still, how far they move, and what the emulator had claimed.

Mocks of models that the emulator never saw, and the Sun, are fitted in fast mode and then refined on ab initio spectra
and derivatives. *Claimed* is the emulator's own part of a label's error: the square root of what its error adds to the
squared Cramér-Rao bound. Labels whose bound is below --informative are counted.

    python scripts/refine_study.py grid.h5 --split test --n 10 --sun DATA/highres --atmospheres A.npz \\
        --line-list L.npz M.npz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from benchmark_stars import REFERENCE, as_lamost, harps_sun
from emulator_error_in_bounds import bounds
from mock_study import choose
from tqdm import tqdm

from phdlspec import load_emulator
from phdlspec.cores import CorePriors
from phdlspec.direct_synthesis import load_direct_synthesis
from phdlspec.emulator.bridge import NONE
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.settings import FitSettings
from phdlspec.gridfile import Grid
from phdlspec.lsf import NativeGrid
from phdlspec.mock import mock_lamost
from phdlspec.spectrum import Spectrum

SHOWN = ("TEFF", "LOGG", "VMIC", "FE_H", "C_FE", "O_FE", "MG_FE", "SI_FE", "CA_FE", "TI_FE", "NI_FE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid")
    parser.add_argument("--atmospheres", required=True)
    parser.add_argument("--line-list", nargs="+", required=True)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--snr", type=float, default=100.0)
    parser.add_argument("--sun", type=Path, help="folder with Sun_HARPS.fits")
    parser.add_argument("--emulator")
    parser.add_argument("--informative", type=float, default=0.2, help="largest bound (dex; 200 K for TEFF)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    grid, emulator = Grid(args.grid), load_emulator(args.emulator, "cpu")
    direct = load_direct_synthesis(args.atmospheres, args.line_list, emulator.metadata["grid"])
    native, cores = NativeGrid.from_wave(grid.wave, grid.resolving_power), CorePriors.shipped(grid.attrs)
    stars: list[tuple[Spectrum, np.ndarray]] = []
    for i, row in enumerate(choose(grid, args.split, args.n)):
        truth = np.append(grid.labels[row], 8.0)
        mock = mock_lamost(
            grid.flux(int(row)),
            native,
            truth[0],
            args.snr,
            1000 + i,
            vbroad=truth[-1],
            logg=truth[1],
            cores=cores,
            identifier=f"model {row}",
        )
        stars.append((mock, truth))
    if args.sun:
        sun = np.array([REFERENCE["Sun"].get(name, 0.0) for name in emulator.labels.names])
        stars.append((as_lamost(*harps_sun(args.sun), 5800.0, args.snr, 0, "Sun, HARPS"), sun))
    print(
        "| star | steps | emulator - ab initio, rms | largest shift / error | shift / claimed: median, 95% | "
        "off the truth / error: median, largest, before | after |\n|---|---|---|---|---|---|---|"
    )
    details = []
    for spectrum, truth in tqdm(stars, disable=None):
        before = fit_batch([spectrum], emulator, FitSettings(mode="fast", bridge=NONE))[0]
        after = fit_batch([spectrum], emulator, FitSettings(mode="fast", refine=True, bridge=NONE), direct=direct)[0]
        names, with_it, without = bounds(emulator, spectrum, before.value[: len(truth)])
        claimed = np.sqrt(np.maximum(with_it**2 - without**2, 0.0))
        scale = np.array([1000.0 if name == "TEFF" else 1.0 for name in names])
        use = np.array([b < args.informative * s and n not in ("VBROAD", "RV", "LN_RESOLUTION")
                        for n, b, s in zip(names, before.crlb, scale)])  # fmt: skip
        shift = after.value - before.value
        against = np.abs(shift[use]) / claimed[use]
        pulls = [np.abs(r.value[: len(truth)] - truth)[use[: len(truth)]] / r.err[use] for r in (before, after)]
        said = [f"{np.median(p):.2f}, {p.max():.1f}" for p in pulls]
        steps, rms = after.diagnostics["refine_steps"], after.diagnostics["emulator_rms"]
        print(
            f"| {spectrum.path or spectrum.meta.get('OBSID')} | {steps:.0f} | {rms:.1e} | "
            f"{np.abs(shift[use] / before.err[use]).max():.2f} | {np.median(against):.2f}, "
            f"{np.quantile(against, 0.95):.2f} | {said[0]} | {said[1]} |", flush=True,
        )  # fmt: skip
        details.append((spectrum, [
            f"{n} {before.value[names.index(n)]:.4g} -> {after.value[names.index(n)]:.4g} "
            f"(claimed {claimed[names.index(n)]:.2g}, error {before.err[names.index(n)]:.2g})" for n in SHOWN
        ]))  # fmt: skip
    for spectrum, lines in details:
        print(f"\n{spectrum.path or spectrum.meta.get('OBSID')}: " + "; ".join(lines))


if __name__ == "__main__":
    main()
