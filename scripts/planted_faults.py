"""Do faults of spectra reach the labels? Mocks of ab initio models with planted faults, beside the same without.

Spikes: 1 to 5 neighbouring pixels, 3 to 30 times the continuum, one to four a spectrum, not masked. Then a stated
resolving power that is wrong by two either way, and rotation of 150 km/s. Printed: scatter of velocity and
labels with and without spikes in units of the clean errors, stars beyond four of their errors that no flag forbids to
use, shares of stars flagged as having a nuisance parameter at its bound, and false alarms of that flag among the clean.

    python scripts/planted_faults.py grid.h5 --split test --n 300 --out faults

The limit of that flag was set with the first 64 clean stars, and with wrong resolving powers of every tenth from the
first; those that are printed are every tenth from the sixth.

Fits are kept in the folder --out, from where the same command goes on, with more stars too.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from harness import KeptFit, arguments_of_kept_mocks, kept_fits, table_head
from mock_study import choose, robust

from phdlspec import load_emulator
from phdlspec.cores import CorePriors
from phdlspec.emulator.bridge import NONE
from phdlspec.fitting.settings import FitSettings
from phdlspec.flags import StarFlag, usable
from phdlspec.gridfile import Grid
from phdlspec.lsf import NativeGrid
from phdlspec.mock import mock_lamost
from phdlspec.spectrum import Spectrum

LABELS = ("TEFF", "LOGG", "FE_H", "MG_FE")
EVERY = 10  # of the stars get a wrong resolving power or fast rotation


def with_spikes(spectrum: Spectrum, random: np.random.Generator) -> Spectrum:
    """The spectrum with bright pixels that no mask tells."""
    flux, good = spectrum.flux.copy(), np.flatnonzero(spectrum.good)
    for place in random.choice(good, random.integers(1, 5)):
        pixels = slice(place, place + random.integers(1, 6))
        level = np.median(flux[max(place - 30, 0) : place + 30])
        flux[pixels] += level * np.exp(random.uniform(np.log(3.0), np.log(30.0)))
    return replace(spectrum, flux=flux)


def main() -> None:
    args = arguments_of_kept_mocks(__doc__)
    torch.set_num_threads(1)
    grid, emulator = Grid(args.grid), load_emulator()
    native, cores = NativeGrid.from_wave(grid.wave, grid.resolving_power), CorePriors.shipped(grid.attrs)
    rows = choose(grid, args.split, args.n)
    truth = {name: grid.labels[rows, grid.label_names.index(name)] for name in LABELS}
    randoms = [np.random.default_rng((7, i)) for i in range(len(rows))]  # the first stars of more are the same
    truth["RV"] = np.array([random.normal(0.0, 60.0) for random in randoms])

    def mocks(which: np.ndarray, **changed: float) -> list[Spectrum]:
        return [
            mock_lamost(
                grid.flux(int(rows[i])), native, truth["TEFF"][i], args.snr, 5000 + i, logg=truth["LOGG"][i],
                cores=cores, identifier=f"{rows[i]}-{i}", **({"rv": truth["RV"][i], "vbroad": 5.0} | changed),
            )
            for i in which
        ]  # fmt: skip

    def fitted(name: str, spectra: list[Spectrum]) -> list[KeptFit]:
        return kept_fits(spectra, emulator, FitSettings(mode="fast", bridge=NONE), args.out / f"{name}.jsonl")

    every, some = np.arange(len(rows)), np.arange(EVERY // 2, len(rows), EVERY)
    clean = mocks(every)
    told = fitted("clean", clean)
    spoiled = fitted("spikes", [with_spikes(*both) for both in zip(clean, randoms)])
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
        print(f"| {name} | {len(spectra)} | {share(fitted(name.replace(' ', '_'), spectra)):.0f}% |")


def share(results: list[KeptFit]) -> float:
    """Of stars that are flagged, in per cent."""
    return 100.0 * float(np.mean([bool(r.flag & StarFlag.NUISANCE_AT_BOUND) for r in results]))


def print_spikes(clean: list[KeptFit], spoiled: list[KeptFit], truth: dict[str, np.ndarray]) -> None:
    """The table of the planted spikes."""
    head = ("label", "clean: scatter / error", "with spikes: scatter / clean error", "clean: beyond 4 errors, usable")
    print(table_head(*head, "with spikes: beyond 4 errors, usable", "there only with spikes"))
    free = [usable(np.array([r.flag for r in results])) for results in (clean, spoiled)]
    for name, true in truth.items():
        i = clean[0].names.index(name)
        off = [np.array([r.value[i] for r in results]) - true for results in (clean, spoiled)]
        error = [np.array([r.err[i] for r in results]) for results in (clean, spoiled)]
        far = [np.abs(o) > 4.0 * e for o, e in zip(off, error)]
        silent = [int((f & use).sum()) for f, use in zip(far, free)]
        cells = [f"{robust(o / error[0]):.2f}" for o in off]
        print(f"| {name} | {' | '.join(cells)} | {silent[0]} | {silent[1]} | {(far[1] & free[1] & ~far[0]).sum()} |")


if __name__ == "__main__":
    main()
