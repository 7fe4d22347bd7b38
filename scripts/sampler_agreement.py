"""Do fast mode, emcee and HMC find the same posterior, and at what price?

Each star (LAMOST files from the command line, mocks of ab initio models of a grid, or both) is fitted three times:
fast, full with emcee, full with HMC. Over the labels with a Cramer-Rao bound below --informative, the tables compare
each with HMC: differences of the means in units of HMC's error, and ratios of the errors.

Every mean and error of a sampler has a Monte Carlo error of its own: with E effective draws a mean is uncertain by
1/sqrt(E) and an error by 1/sqrt(2 E), so that with 150 draws against 400 differences of 0.1 are noise, and the largest
of 25 labels is twice that. *noise* is that of one label; *beyond noise* is the rms over labels after subtracting it in
quadrature; *outside* counts the labels that are beyond the aim by more than two standard deviations of noise. The
effective sample size that a sampler states is that of its worst label, which makes *noise* an upper limit.

    python scripts/sampler_agreement.py phdlspec/data/example.fits.gz --grid grid.h5 --mocks 2
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import torch
from harness import table_head
from mock_study import choose

from phdlspec import load_emulator, read_spectrum
from phdlspec.cores import CorePriors
from phdlspec.emulator.bridge import NONE
from phdlspec.emulator.emulator import Emulator
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import FitSettings
from phdlspec.gridfile import Grid
from phdlspec.lsf import NativeGrid
from phdlspec.mock import mock_lamost
from phdlspec.spectrum import Spectrum

AIM_MEAN, AIM_ERROR = 0.15, 0.15  # largest difference of the means in errors, of the errors as a fraction
NUISANCES = ("VBROAD", "RV", "LN_RESOLUTION")
METHODS = {
    "fast": FitSettings(mode="fast", bridge=NONE),
    "emcee": FitSettings(mode="full", sampler="emcee", bridge=NONE),
    "hmc": FitSettings(mode="full", sampler="hmc", bridge=NONE),
}


@dataclass(frozen=True)
class Run:
    """One fit of one star, with the seconds that passed and those that processors worked."""

    result: Fitted
    wall: float
    cpu: float

    @property
    def ess(self) -> float:
        """Effective sample size of the worst parameter."""
        return float(self.result.diagnostics["ess"])


def mocks(path: str, split: str, n: int, snr: float) -> list[tuple[str, Spectrum]]:
    """Mock spectra of n models of a part of the grid, with their names."""
    grid = Grid(path)
    native, cores = NativeGrid.from_wave(grid.wave, grid.resolving_power), CorePriors.shipped(grid.attrs)
    found = []
    for i, row in enumerate(choose(grid, split, n)):
        name = f"{split} {row}"
        teff, logg = (float(value) for value in grid.labels[row, :2])
        mock = mock_lamost(
            grid.flux(int(row)), native, teff, snr, 500 + i, rv=20.0, vbroad=8.0, red_velocity=5.0, logg=logg,
            cores=cores, identifier=name,
        )  # fmt: skip
        found.append((name, mock))
    return found


def run(spectrum: Spectrum, emulator: Emulator, settings: FitSettings) -> Run:
    """Fit and time it."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = fit_batch([spectrum], emulator, settings)[0]
    return Run(result, time.perf_counter() - wall, time.process_time() - cpu)


def informative(result: Fitted, limit: float) -> np.ndarray:
    """Which parameters (D,) are labels with a bound below `limit` (dex; 1000 times that in K)."""
    scale = np.array([1000.0 if name == "TEFF" else 1.0 for name in result.names])
    star = np.array([name not in NUISANCES for name in result.names])
    return star & (result.crlb < limit * scale)


def comparison(one: Run, reference: Run, limit: float) -> str:
    """Cells of the table: a sampler against HMC."""
    use = informative(reference.result, limit)
    names = np.array(reference.result.names)[use]
    error = reference.result.err[use]
    shift = np.abs(one.result.value[use] - reference.result.value[use]) / error
    ratio = one.result.err[use] / error
    noise = np.sqrt(1.0 / one.ess + 1.0 / reference.ess)
    cells = []
    for values, off, own_noise, aim in (
        (shift, shift, noise, AIM_MEAN), (ratio, np.abs(np.log(ratio)), noise / np.sqrt(2.0), AIM_ERROR),
    ):  # fmt: skip
        worst = int(off.argmax())
        beyond = np.sqrt(max(float((off**2).mean()) - own_noise**2, 0.0))
        outside = int((off > aim + 2.0 * own_noise).sum())
        cells.append(
            f"{np.median(values):.2f} | {values[worst]:.2f} {names[worst]} | {own_noise:.2f} | {beyond:.2f} | {outside}"
        )
    return f"{use.sum()} | " + " | ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spectra", nargs="*", help="files of spectra")
    parser.add_argument("--grid", help="grid of which mocks are made")
    parser.add_argument("--split", default="test")
    parser.add_argument("--mocks", type=int, default=1)
    parser.add_argument("--snr", type=float, default=100.0, help="of the mocks")
    parser.add_argument("--emulator")
    parser.add_argument("--informative", type=float, default=0.2, help="largest bound (dex; 200 K for TEFF)")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    emulator = load_emulator(args.emulator, "cpu")
    stars = [(path.rsplit("/", 1)[-1], read_spectrum(path)) for path in args.spectra]
    if args.grid:
        stars += mocks(args.grid, args.split, args.mocks, args.snr)
    found: list[tuple[str, dict[str, Run]]] = []
    print(f"{len(stars)} stars, {args.threads} threads\n")
    print(
        table_head(
            "star", "method", "done by", "ESS", "split R-hat", "autocorrelation time", "flag", "seconds", "CPU seconds"
        )
    )
    for name, spectrum in stars:
        runs = {}
        for method, settings in METHODS.items():
            one = runs[method] = run(spectrum, emulator, settings)
            if one.result.reason:
                print(f"| {name} | {method} | {one.result.reason} | | | | {one.result.flag} | | |", flush=True)
                break
            told = one.result.diagnostics
            rhat, tau = (f"{told[k]:.3g}" if k in told else "" for k in ("rhat", "autocorrelation_time"))
            print(
                f"| {name} | {method} | {one.result.mode} | {one.ess:.0f} | {rhat} | {tau} | {one.result.flag} | "
                f"{one.wall:.0f} | {one.cpu:.0f} |", flush=True,
            )  # fmt: skip
        else:
            found.append((name, runs))
    print("\n| star | against HMC | labels | mean: median | largest | noise | beyond noise | outside "
          "| error ratio: median | farthest | noise | beyond noise | outside |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name, runs in found:
        for method in ("fast", "emcee"):
            print(f"| {name} | {method} | {comparison(runs[method], runs['hmc'], args.informative)} |")


if __name__ == "__main__":
    main()
