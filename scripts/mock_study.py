"""How true are the fit's values and errors? Mocks from ab initio models that the emulator never saw.

Models of the chosen part of a grid (validation while developing, test for figures that are published) are turned into
LAMOST spectra with real noise (`phdlspec.mock`) and fitted. For each label the table shows, over the stars whose
Cramer-Rao bound is below --informative: scatter of (fit - truth) over the bound, bias over the error, coverage of the
68% and 95% intervals, and a chi2 of the rank histogram (simulation-based calibration; 10 bins, so about 9 is good).

    python scripts/mock_study.py grid.h5 --split test --snr 100 --n 150

With --emulated the same stars are made from the emulator itself, with the same noise: what then is missing in coverage
is not the emulator's error.

Ctrl-C ends the fits; the table is then of those that are done.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from phdlspec import load_emulator
from phdlspec.cores import CorePriors
from phdlspec.emulator.bridge import NONE
from phdlspec.emulator.emulator import Emulator
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import FitSettings
from phdlspec.gridfile import Grid
from phdlspec.lsf import NativeGrid
from phdlspec.mock import mock_lamost

INNER = {"TEFF": (4300.0, 7200.0), "LOGG": (0.8, 4.8), "FE_H": (-2.2, 0.4)}  # away from the bounds of the models


def choose(grid: Grid, split: str, n: int) -> np.ndarray:
    """The first n rows of a part of the grid that lie away from the bounds; again from the start if there are fewer."""
    rows = grid.rows(split)
    for name, (low, high) in INNER.items():
        column = grid.labels[rows, grid.label_names.index(name)]
        rows = rows[(column > low) & (column < high)]
    return np.resize(rows, n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--emulator")
    parser.add_argument("--snr", type=float, default=100.0)
    parser.add_argument("--n", type=int, default=38)
    parser.add_argument("--emulated", action="store_true", help="fluxes of the emulator at the labels of the models")
    parser.add_argument("--no-cores", action="store_true", help="cores of strong lines as in LTE")
    parser.add_argument("--mode", default="fast")
    parser.add_argument("--sampler", default="hmc")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--informative", type=float, default=0.2, help="largest bound (dex; 200 K for TEFF)")
    parser.add_argument("--out", type=Path, help="JSON of every star")
    args = parser.parse_args()
    torch.set_num_threads(1)
    grid, emulator = Grid(args.grid), load_emulator(args.emulator)
    native = NativeGrid.from_wave(grid.wave, grid.resolving_power)
    cores = None if args.no_cores else CorePriors.shipped(grid.attrs)
    rows = choose(grid, args.split, args.n)
    settings = FitSettings(mode=args.mode, sampler=args.sampler, bridge=NONE)
    random = np.random.default_rng(11)
    velocity, rotation = random.normal(0.0, 60.0, len(rows)), random.uniform(0.0, 15.0, len(rows))
    truth = np.column_stack([grid.labels[rows], rotation, velocity])
    names = (*grid.label_names, "VBROAD", "RV")
    flux_of = (lambda row: emulated(emulator, grid.labels[row])) if args.emulated else grid.flux
    start = time.time()
    results: list[Fitted] = []
    with suppress(KeyboardInterrupt):
        for first in tqdm(range(0, len(rows), args.batch)):
            part = range(first, min(first + args.batch, len(rows)))
            mocks = [
                mock_lamost(flux_of(int(rows[i])), native, truth[i, 0], args.snr, 1000 + i, rv=velocity[i],
                            vbroad=rotation[i], red_velocity=float(random.normal(5.0, 3.0)),
                            logg=truth[i, 1], cores=cores,
                            identifier=f"{rows[i]}-{i}")
                for i in part
            ]  # fmt: skip
            results += fit_batch(mocks, emulator, settings, keep=True)
    rows, truth = rows[: len(results)], truth[: len(results)]
    seconds = (time.time() - start) / len(rows)
    report(names, truth, results, args.informative)
    modes = {m: sum(r.mode == m for r in results) for m in {r.mode for r in results}}
    print(f"\n{len(rows)} mocks of the {args.split} part, SNR {args.snr:g}, {seconds:.1f} s a star, modes {modes}")
    if args.out:
        rows_out = [
            {"row": int(row), "flag": r.flag, "rchi2": r.rchi2, "value": r.value.tolist(), "err": r.err.tolist(),
             "crlb": r.crlb.tolist(), "truth": t.tolist(), "diagnostics": dict(r.diagnostics)}
            for row, r, t in zip(rows, results, truth)
        ]  # fmt: skip
        args.out.write_text(json.dumps({"names": names, "stars": rows_out}))


def emulated(emulator: Emulator, labels: np.ndarray) -> np.ndarray:
    """Native flux (P,) of the emulator at the labels of a model."""
    theta = torch.as_tensor(np.append(labels, 0.0)[None], dtype=torch.float32)
    with torch.no_grad():
        return emulator.native_flux(theta)[0].double().numpy()


def report(names: tuple[str, ...], truth: np.ndarray, results: list, informative: float) -> None:
    """Print the table in Markdown."""
    print("| label | stars | median error | scatter / bound | scatter / error | bias / error | 68% | 95% | ranks |")
    print("|---|---|---|---|---|---|---|---|---|")
    totals: list[list[float]] = []
    for i, name in enumerate(names):
        limit = informative * (1000.0 if name == "TEFF" else 100.0 if name in ("RV", "VBROAD") else 1.0)
        use = [k for k, r in enumerate(results) if r.value.size and np.isfinite(r.value[i]) and r.crlb[i] < limit]
        if len(use) < 8:
            continue
        error = np.array([results[k].value[i] - truth[k, i] for k in use])
        err, bound = (np.array([getattr(results[k], a)[i] for k in use]) for a in ("err", "crlb"))
        ranks = np.array([(results[k].draws[:, i] < truth[k, i]).mean() for k in use])
        inside = [np.mean(np.abs(ranks - 0.5) < half) for half in (0.34, 0.475)]
        counts = np.histogram(ranks, bins=10, range=(0.0, 1.0))[0]
        flatness = float(((counts - len(use) / 10) ** 2 / (len(use) / 10)).sum())
        ratio, pull = robust(error / bound), robust(error / err)
        bias = float(np.median(error / err))
        totals.append([ratio, pull, bias, *(float(x) for x in inside)])
        print(
            f"| {name} | {len(use)} | {np.median(err):.3g} | {ratio:.2f} | {pull:.2f} | {bias:+.2f} | "
            f"{100 * inside[0]:.0f} | {100 * inside[1]:.0f} | {flatness:.0f} |"
        )
    middle = np.median(np.abs(totals), axis=0)
    print(
        f"| *median* | | | {middle[0]:.2f} | {middle[1]:.2f} | {middle[2]:.2f} | {100 * middle[3]:.0f} | "
        f"{100 * middle[4]:.0f} | |"
    )


def robust(x: np.ndarray) -> float:
    """Standard deviation about zero from the 68% quantile of |x|."""
    return float(np.quantile(np.abs(x), 0.6827))


if __name__ == "__main__":
    main()
