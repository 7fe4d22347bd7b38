"""Are double-lined spectra told? Pairs of real spectra added up, mocks of two stars, and the same with one star.

`--real` adds LAMOST spectra of two stars of like metallicity and log g, the second at most as hot as the first: no
model is in them, so that the misfits of models to real stars are. `--mocks` adds the ab initio model of the second star
to that of the first. Velocities differ by 100 to 400 km/s either way, the second star has 0.3 to 1 of the first one's
light at 5500 Å. Single stars are all other spectra of the table, and the models themselves. Printed: shares flagged as
double-lined (or, in brackets, by any flag that forbids the star's use), by difference of velocity; those flagged among
single ones by name; CPU time of the test over that of the fit.

    python scripts/double_lines.py --real DATA/lamost/dr10_labels.csv --n 100
    python scripts/double_lines.py --mocks grid.h5 --split test --n 100

The thresholds were set with every sixth spectrum of DR10 and pairs made with seed 5; here --part leaves these out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table
from mock_study import choose

from phdlspec import load_emulator, read_spectrum
from phdlspec.cores import CorePriors
from phdlspec.emulator.bridge import DEFAULT, NONE
from phdlspec.emulator.emulator import Emulator
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import FitSettings
from phdlspec.flags import StarFlag, usable
from phdlspec.gridfile import Grid
from phdlspec.lsf import NativeGrid
from phdlspec.mock import mock_lamost
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

BATCH = 16
TUNED = 6  # every how many-th spectrum of the table the thresholds were set with
APART = (100.0, 400.0)  # km/s
LIGHT = (0.3, 1.0)  # second star over first
ALIKE = {"logg_lasp": 0.4, "feh_lasp": 0.25}
COOLER = (0.82, 1.005)  # Teff of the second over that of the first
LEVEL = (5300.0, 5700.0)  # Å, where the light is compared
BINS = (100.0, 150.0, 200.0, 300.0, 400.0)


def at_velocity(spectrum: Spectrum, rv: float, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flux and variance of a spectrum shifted by rv (km/s) at wavelengths; infinite where none is known."""
    wave = spectrum.wave * (1.0 + rv / SPEED_OF_LIGHT_KM_S)
    variance = 1.0 / np.where(spectrum.good, spectrum.ivar, 1.0)
    known = np.interp(at, wave, spectrum.good.astype(float)) > 0.999
    return np.interp(at, wave, spectrum.flux), np.where(known, np.interp(at, wave, variance), np.inf)


def level(spectrum: Spectrum, flux: np.ndarray) -> float:
    """Median flux about 5500 Å."""
    near = (spectrum.wave > LEVEL[0]) & (spectrum.wave < LEVEL[1]) & spectrum.good
    return float(np.median(flux[near]))


def real_pairs(table: Path, n: int, part: int, random: np.random.Generator) -> tuple[list[Spectrum], np.ndarray]:
    """Sums of two real spectra, and the differences of their velocities (n,)."""
    known = Table.read(table)
    known = known[(np.arange(len(known)) % TUNED > 0) == bool(part)]
    known = known[(known["snrg"] > 30) & (known["teff_lasp"] > 0)]
    spectra, apart = [], []
    while len(spectra) < n:
        first = known[random.integers(len(known))]
        ratio = known["teff_lasp"] / first["teff_lasp"]
        alike = (ratio > COOLER[0]) & (ratio < COOLER[1]) & (known["obsid"] != first["obsid"])
        for name, least in ALIKE.items():
            alike &= np.abs(known[name] - first[name]) < least
        others = np.flatnonzero(alike)
        if len(others) == 0:
            continue
        second = known[others[random.integers(len(others))]]
        a, b = (read_spectrum(table.parent / str(row["file"])) for row in (first, second))
        change = random.uniform(*APART) * random.choice([-1.0, 1.0])
        flux, variance = at_velocity(b, SPEED_OF_LIGHT_KM_S * (first["z"] - second["z"]) + change, a.wave)
        share = random.uniform(*LIGHT) * level(a, a.flux) / level(a, flux)
        total = 1.0 / np.where(a.good, a.ivar, 1.0) + share**2 * variance
        good = a.good & np.isfinite(total)
        spectra.append(
            replace(a, flux=np.where(good, a.flux + share * flux, 0.0), ivar=np.where(good, 1.0 / total, 0.0),
                    mask=~good, path=f"pair-{len(spectra)}")
        )  # fmt: skip
        apart.append(abs(change))
    return spectra, np.array(apart)


def mocks(
    grid: Grid, rows: np.ndarray, double: bool, emulator: Emulator, random: np.random.Generator
) -> tuple[list[Spectrum], np.ndarray]:
    """Mocks of S/N 50 or 100 of one star or of two, and differences of velocities (n,)."""
    native, cores = NativeGrid.from_wave(grid.wave, grid.resolving_power), CorePriors.shipped(grid.attrs)
    wave, spectra, apart = native.wave, [], []
    for i, row in enumerate(rows):
        theta, flux = grid.labels[row], grid.flux(int(row))
        change, share = random.uniform(*APART) * random.choice([-1.0, 1.0]), random.uniform(*LIGHT)
        if double:
            second = np.append(theta, 5.0)
            second[:2] = max(theta[0] * share**0.14, 4050.0), min(theta[1] + 0.1 * (1.0 - share), 4.95)
            with torch.no_grad():
                values = torch.as_tensor(second[None], dtype=torch.float32)
                other = emulator.native_flux(values)[0].double().numpy()
            light = np.expm1(1.4388e8 / (wave * theta[0])) / np.expm1(1.4388e8 / (wave * second[0]))
            light *= share / np.interp(0.5 * sum(LEVEL), wave, light)
            other = np.interp(wave, wave * (1.0 + change / SPEED_OF_LIGHT_KM_S), other)
            flux = (flux + light * other) / (1.0 + light)
        spectra.append(
            mock_lamost(flux, native, theta[0], float(random.choice([50.0, 100.0])), 9000 + i,
                        rv=random.normal(0.0, 60.0), vbroad=random.uniform(0.0, 15.0),
                        red_velocity=random.normal(5.0, 3.0), logg=theta[1], cores=cores,
                        identifier=f"mock-{i}")
        )  # fmt: skip
        apart.append(abs(change))
    return spectra, np.array(apart)


def fitted(spectra: list[Spectrum], emulator: Emulator, bridge: str) -> list[Fitted]:
    """Fast fits, of mocks without the bridge, which is what real stars have besides the models."""
    settings = FitSettings(mode="fast", bridge=bridge)
    parts = (spectra[i : i + BATCH] for i in range(0, len(spectra), BATCH))
    return [result for part in parts for result in fit_batch(part, emulator, settings)]


def share(results: list[Fitted]) -> str:
    """Of stars flagged as double, and by anything that forbids their use, in per cent."""
    flags = np.array([r.flag for r in results])
    double = (flags & int(StarFlag.DOUBLE_LINED)) > 0
    return f"{100 * double.mean():.1f}% ({100 * (~usable(flags)).mean():.0f}%)"


def report(what: str, pairs: list[Fitted], apart: np.ndarray, single: list[Fitted]) -> None:
    """Print the shares."""
    for low, high in zip(BINS, BINS[1:]):
        inside = [r for r, a in zip(pairs, apart) if low <= a < high]
        print(f"| {what}, two stars {low:.0f}-{high:.0f} km/s apart | {len(inside)} | {share(inside)} |")
    far = [r for r, a in zip(pairs, apart) if a >= BINS[1]]
    print(f"| {what}, two stars from {BINS[1]:.0f} km/s | {len(far)} | {share(far)} |")
    print(f"| {what}, one star | {len(single)} | {share(single)} |", flush=True)
    for r in single:
        if r.flag & StarFlag.DOUBLE_LINED:
            told = {k: r.diagnostics[f"second_star_{k}"] for k in ("sigma", "share", "km_s")}
            print(f"  {r.path or r.meta['OBSID']}: S/N {r.snr:.0f}, Teff {r.value[0]:.0f}, " + ", ".join(
                f"{k} {v:.2f}" for k, v in told.items()))  # fmt: skip
    seconds = np.median([r.seconds["second star"] / sum(r.seconds.values()) for r in single])
    print(f"the test takes {100 * seconds:.1f}% of a fit's time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="table of spectra with obsid, file, z, snrg and LASP's labels")
    parser.add_argument("--mocks", help="grid of ab initio models")
    parser.add_argument("--split", default="test")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--single", type=int, default=100000, help="spectra of single stars at most")
    parser.add_argument("--part", type=int, choices=(0, 1), default=1, help="0: the spectra that were tuned with")
    args = parser.parse_args()
    torch.set_num_threads(1)
    emulator = load_emulator(None, "cpu")
    random = np.random.default_rng(5 if args.part == 0 else 6)
    print("| spectra | number | flagged as double (by anything) |")
    print("|---|---|---|")

    def study(what: str, pairs: tuple[list[Spectrum], np.ndarray], single: Callable[[], list[Spectrum]]) -> None:
        bridge = NONE if what == "mocks" else DEFAULT
        report(what, fitted(pairs[0], emulator, bridge), pairs[1], fitted(single(), emulator, bridge))

    if args.real:
        table = Table.read(args.real)
        others = np.flatnonzero((np.arange(len(table)) % TUNED > 0) == bool(args.part))
        others = others[np.unique(np.linspace(0, len(others) - 1, args.single).astype(int))]
        files = [args.real.parent / str(table["file"][i]) for i in others]
        study("real", real_pairs(args.real, args.n, args.part, random), lambda: [read_spectrum(f) for f in files])
    if args.mocks:
        grid = Grid(args.mocks)
        rows = choose(grid, args.split, args.n)
        study(
            "mocks",
            mocks(grid, rows, True, emulator, random),
            lambda: mocks(grid, rows, False, emulator, random)[0][: args.single],
        )


if __name__ == "__main__":
    main()
