"""Do faults of spectra reach the labels? Mocks of ab initio models with planted faults, beside the same without.

Spikes: 1 to 5 neighbouring pixels, 3 to 30 times the continuum, one to four a spectrum, not masked. Then a stated
resolving power that is wrong by two either way, and rotation of 150 km/s. Printed: scatter of velocity and Teff with
and without spikes in units of the clean errors, stars beyond four errors without a flag, shares of stars flagged as
having a nuisance parameter at its bound, and false alarms of that flag among the clean ones.

    python scripts/planted_faults.py grid.h5 --split test --n 300
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch
from harness import table_head
from mock_study import choose, robust

from phdlspec import load_emulator
from phdlspec.cores import CorePriors
from phdlspec.emulator.bridge import NONE
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import FitSettings
from phdlspec.flags import StarFlag
from phdlspec.gridfile import Grid
from phdlspec.lsf import NativeGrid
from phdlspec.mock import mock_lamost
from phdlspec.spectrum import Spectrum

BATCH = 16
EVERY = 4  # of the stars get a wrong resolving power or fast rotation


def with_spikes(spectrum: Spectrum, random: np.random.Generator) -> Spectrum:
    """The spectrum with bright pixels that no mask tells."""
    flux, good = spectrum.flux.copy(), np.flatnonzero(spectrum.good)
    for place in random.choice(good, random.integers(1, 5)):
        pixels = slice(place, place + random.integers(1, 6))
        level = np.median(flux[max(place - 30, 0) : place + 30])
        flux[pixels] += level * np.exp(random.uniform(np.log(3.0), np.log(30.0)))
    return replace(spectrum, flux=flux)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--snr", type=float, default=100.0)
    parser.add_argument("--n", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    grid, emulator = Grid(args.grid), load_emulator()
    native, cores = NativeGrid.from_wave(grid.wave, grid.resolving_power), CorePriors.shipped(grid.attrs)
    rows, random = choose(grid, args.split, args.n), np.random.default_rng(7)
    teff, logg = (grid.labels[rows, grid.label_names.index(name)] for name in ("TEFF", "LOGG"))
    truth = np.column_stack([teff, random.normal(0.0, 60.0, len(rows)), logg])

    def mocks(which: np.ndarray, **changed: float) -> list[Spectrum]:
        return [
            mock_lamost(grid.flux(int(rows[i])), native, truth[i, 0], args.snr, 5000 + i, logg=truth[i, 2], cores=cores,
                        **({"rv": truth[i, 1], "vbroad": 5.0, "identifier": f"{rows[i]}-{i}"} | changed))
            for i in which
        ]  # fmt: skip

    def fitted(spectra: list[Spectrum]) -> list[Fitted]:
        parts = (spectra[i : i + BATCH] for i in range(0, len(spectra), BATCH))
        return [result for part in parts for result in fit_batch(part, emulator, FitSettings(mode="fast", bridge=NONE))]

    every, some = np.arange(len(rows)), np.arange(0, len(rows), EVERY)
    clean = mocks(every)
    told = fitted(clean)
    spoiled = fitted([with_spikes(spectrum, random) for spectrum in clean])
    print_spikes(told, spoiled, truth)
    print(table_head("fault", "stars", "flagged at a bound"))
    print(f"| none | {len(told)} | {share(told):.0f}% |")
    too_low = [replace(s, resolving_power=0.5 * s.resolving_power_by_pixel) for s in mocks(some, resolution_scale=1.0)]
    faults = {
        "R stated twice too high": mocks(some, resolution_scale=0.5),
        "R stated twice too low": too_low,
        "v sin i 150 km/s": mocks(some, resolution_scale=1.0, vbroad=150.0),
    }
    for name, spectra in faults.items():
        print(f"| {name} | {len(spectra)} | {share(fitted(spectra)):.0f}% |")


def share(results: list[Fitted]) -> float:
    """Of stars that are flagged, in per cent."""
    return 100.0 * float(np.mean([bool(r.flag & StarFlag.NUISANCE_AT_BOUND) for r in results]))


def print_spikes(clean: list[Fitted], spoiled: list[Fitted], truth: np.ndarray) -> None:
    """The table of the planted spikes."""
    print(
        table_head(
            "label", "clean: scatter / error", "with spikes: scatter / clean error", "beyond 4 errors without a flag"
        )
    )
    for column, name in enumerate(("TEFF", "RV")):
        i = clean[0].names.index(name)
        error = np.array([r.err[i] for r in clean])
        off = [np.array([r.value[i] for r in results]) - truth[:, column] for results in (clean, spoiled)]
        lost = np.abs(off[1]) > 4.0 * np.array([r.err[i] for r in spoiled])
        lost &= np.abs(off[0]) < 4.0 * error
        silent = sum(bool(far) and r.flag == 0 for far, r in zip(lost, spoiled))
        print(f"| {name} | {robust(off[0] / error):.2f} | {robust(off[1] / error):.2f} | {silent} |")


if __name__ == "__main__":
    main()
