"""Are double-lined spectra told? Pairs of real spectra added up, mocks of two stars, and the same with one star.

`--real` adds LAMOST spectra of two stars of like metallicity and log g, the second at most as hot as the first: no
model is in them, so that the misfits of models to real stars are. `--mocks` adds to the ab initio model of a star the
emulator's of a second, cooler one. Velocities differ by 100 to 400 km/s (mocks: 300) either way, the second star has
0.3 (mocks: 0.1) to 1 of the first one's light at 5500 Å. Single stars are all other spectra of the table, and the
models themselves. `--dwarfs` makes toys of white dwarfs, broad Balmer lines and nothing else. Printed: shares flagged
as double-lined (or, in brackets, by any flag that forbids the star's use), by difference of velocity and by light;
those flagged among single ones by name; time of the test over that of the fit.

    python scripts/double_lines.py --real DATA/lamost/dr10_labels.csv --n 100 --out double
    python scripts/double_lines.py --mocks grid.h5 --split test --n 100 --out double
    python scripts/double_lines.py --dwarfs --n 30 --out double

Fits are kept in the folder --out, from where the same command goes on.
The thresholds were set with every sixth spectrum of DR10 and pairs made with seed 5; here --part leaves these out.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table
from harness import KeptFit, kept_fits
from mock_study import choose

from phdlspec import load_emulator, read_spectrum
from phdlspec.cores import CorePriors
from phdlspec.emulator.bridge import DEFAULT, NONE
from phdlspec.emulator.emulator import Emulator
from phdlspec.fitting.settings import FitSettings
from phdlspec.flags import StarFlag, usable
from phdlspec.gridfile import Grid
from phdlspec.lsf import NativeGrid
from phdlspec.mock import mock_lamost
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

TUNED = 6  # every how many-th spectrum of the table the thresholds were set with
APART = (100.0, 400.0)  # km/s
LIGHT = (0.3, 1.0)  # second star over first
OF_MOCKS = (100.0, 300.0), (0.1, 1.0)  # the same two of mocks
ALIKE = {"logg_lasp": 0.4, "feh_lasp": 0.25}
COOLER = (0.82, 1.005)  # Teff of the second over that of the first
LEVEL = (5300.0, 5700.0)  # Å, where the light is compared
BINS, FAINT = (100.0, 150.0, 200.0, 300.0, 400.0), 0.3


@dataclass(frozen=True)
class Pairs:
    """Spectra of two stars, how far these are apart (n,), km/s, and the second's light over the first's (n,)."""

    spectra: list[Spectrum]
    apart: np.ndarray
    light: np.ndarray


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


def real_pairs(table: Path, n: int, part: int, random: np.random.Generator) -> Pairs:
    """Sums of two real spectra."""
    known = Table.read(table)
    known = known[(np.arange(len(known)) % TUNED > 0) == bool(part)]
    known = known[(known["snrg"] > 30) & (known["teff_lasp"] > 0)]
    spectra: list[Spectrum] = []
    apart, light = [], []
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
        light.append(random.uniform(*LIGHT))
        share = light[-1] * level(a, a.flux) / level(a, flux)
        total = 1.0 / np.where(a.good, a.ivar, 1.0) + share**2 * variance
        good = a.good & np.isfinite(total)
        spectra.append(
            replace(a, flux=np.where(good, a.flux + share * flux, 0.0), ivar=np.where(good, 1.0 / total, 0.0),
                    mask=~good, path=f"pair-{len(spectra)}")
        )  # fmt: skip
        apart.append(abs(change))
    return Pairs(spectra, np.array(apart), np.array(light))


def mocks(grid: Grid, rows: np.ndarray, double: bool, emulator: Emulator, random: np.random.Generator) -> Pairs:
    """Mocks of S/N 50 or 100 of one star or of two."""
    native, cores = NativeGrid.from_wave(grid.wave, grid.resolving_power), CorePriors.shipped(grid.attrs)
    wave = native.wave
    spectra: list[Spectrum] = []
    apart, light = [], []
    for i, row in enumerate(rows):
        theta, flux = grid.labels[row], grid.flux(int(row))
        change, share = random.uniform(*OF_MOCKS[0]) * random.choice([-1.0, 1.0]), random.uniform(*OF_MOCKS[1])
        if double:
            second = np.append(theta, 5.0)
            second[:2] = max(theta[0] * share**0.14, 4050.0), min(theta[1] + 0.1 * (1.0 - share), 4.95)
            with torch.no_grad():
                values = torch.as_tensor(second[None], dtype=torch.float32)
                other = emulator.native_flux(values)[0].double().numpy()
            ratio = np.expm1(1.4388e8 / (wave * theta[0])) / np.expm1(1.4388e8 / (wave * second[0]))
            ratio *= share / np.interp(0.5 * sum(LEVEL), wave, ratio)
            other = np.interp(wave, wave * (1.0 + change / SPEED_OF_LIGHT_KM_S), other)
            flux = (flux + ratio * other) / (1.0 + ratio)
        spectra.append(
            mock_lamost(flux, native, theta[0], float(random.choice([50.0, 100.0])), 9000 + i,
                        rv=random.normal(0.0, 60.0), vbroad=random.uniform(0.0, 15.0),
                        red_velocity=random.normal(5.0, 3.0), logg=theta[1], cores=cores,
                        identifier=f"mock-{i}")
        )  # fmt: skip
        apart.append(abs(change))
        light.append(share)
    return Pairs(spectra, np.array(apart), np.array(light))


def white_dwarfs(n: int, emulator: Emulator, random: np.random.Generator) -> list[Spectrum]:
    """Toys of white dwarfs of S/N 50 or 100: Balmer lines some tens of Å wide, deep ones saturated."""
    wave, series = emulator.native.wave, np.arange(3, 11)
    centres = 1.0 / (1.0967758e-3 * (0.25 - 1.0 / series**2))
    spectra = []
    for i in range(n):
        width, depth = random.uniform(8.0, 45.0), random.uniform(0.3, 1.2)
        widths = width * (1.0 + 0.1 * (series - 3))
        profiles = (1.0 + ((wave - centres[:, None]) / widths[:, None]) ** 2) ** -1.25
        flux = np.exp(-depth * 0.9 ** (series - 3) @ profiles)
        spectra.append(mock_lamost(flux, emulator.native, 8000.0, float(random.choice([50.0, 100.0])), 700 + i,
                                   rv=random.normal(0.0, 60.0), identifier=f"dwarf-{i}"))  # fmt: skip
    return spectra


def share(results: list[KeptFit]) -> str:
    """Of stars flagged as double, and by anything that forbids their use, in per cent."""
    flags = np.array([r.flag for r in results])
    double = (flags & int(StarFlag.DOUBLE_LINED)) > 0
    return f"{100 * double.mean():.1f}% ({100 * (~usable(flags)).mean():.0f}%)"


def print_pairs(what: str, pairs: Pairs, found: list[KeptFit]) -> None:
    """Print the shares of pairs."""
    for (faint, bright), light in (((0.0, FAINT), f"less than {FAINT}"), ((FAINT, 1.01), f"{FAINT} to 1")):
        for low, high in (*zip(BINS, BINS[1:]), (BINS[1], BINS[-1])):
            inside = (pairs.apart >= low) & (pairs.apart < high) & (pairs.light >= faint) & (pairs.light < bright)
            if inside.any():
                some = [one for one, take in zip(found, inside) if take]
                print(f"| {what}, two stars {low:.0f}-{high:.0f} km/s apart, {light} of the light | {len(some)} "
                      f"| {share(some)} |")  # fmt: skip


def print_single(what: str, found: list[KeptFit]) -> None:
    """Print the share of single stars, and who they are."""
    print(f"| {what}, one star | {len(found)} | {share(found)} |", flush=True)
    for r in found:
        if r.flag & StarFlag.DOUBLE_LINED:
            told = {k: r.diagnostics[f"second_star_{k}"] for k in ("sigma", "share", "km_s")}
            print(f"  {r.name}: S/N {r.snr:.0f}, Teff {r.value[0]:.0f}, " + ", ".join(
                f"{k} {v:.2f}" for k, v in told.items()))  # fmt: skip
    seconds = np.median([r.seconds["second star"] / sum(r.seconds.values()) for r in found])
    print(f"the test takes {100 * seconds:.1f}% of a fit's time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="table of spectra with obsid, file, z, snrg and LASP's labels")
    parser.add_argument("--mocks", help="grid of ab initio models")
    parser.add_argument("--dwarfs", action="store_true", help="toys of white dwarfs")
    parser.add_argument("--split", default="test")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--single", type=int, default=100000, help="spectra of single stars at most")
    parser.add_argument("--part", type=int, choices=(0, 1), default=1, help="0: the spectra that were tuned with")
    parser.add_argument("--out", type=Path, required=True, help="folder of the fits, gone on with where it exists")
    args = parser.parse_args()
    torch.set_num_threads(1)
    emulator = load_emulator(None, "cpu")
    random = np.random.default_rng(5 if args.part == 0 else 6)
    print("| spectra | number | flagged as double (by anything) |")
    print("|---|---|---|")

    def fitted(what: str, spectra: list[Spectrum]) -> list[KeptFit]:
        # Mocks without the bridge, which is what real stars have besides the models.
        settings = FitSettings(mode="fast", bridge=DEFAULT if what.startswith("real") else NONE)
        return kept_fits(spectra, emulator, settings, args.out / f"{what}_{args.part}.jsonl")

    if args.real:
        table = Table.read(args.real)
        others = np.flatnonzero((np.arange(len(table)) % TUNED > 0) == bool(args.part))
        others = others[np.unique(np.linspace(0, len(others) - 1, args.single).astype(int))]
        pairs = real_pairs(args.real, args.n, args.part, random)
        print_pairs("real", pairs, fitted("real_pairs", pairs.spectra))
        single = [read_spectrum(args.real.parent / str(table["file"][i])) for i in others]
        print_single("real", fitted("real_single", single))
    if args.mocks:
        grid = Grid(args.mocks)
        rows = choose(grid, args.split, args.n)
        pairs = mocks(grid, rows, True, emulator, random)
        print_pairs("mocks", pairs, fitted("mock_pairs", pairs.spectra))
        single = mocks(grid, rows, False, emulator, random).spectra[: args.single]
        print_single("mocks", fitted("mock_single", single))
    if args.dwarfs:
        print_single("toys of white dwarfs", fitted("dwarfs", white_dwarfs(args.n, emulator, random)))


if __name__ == "__main__":
    main()
