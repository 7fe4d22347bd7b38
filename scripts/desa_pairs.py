"""Simulated stars with a spectrum and a light curve, whose truth is known.

  python scripts/desa_pairs.py --catalogues CATALOGUES --stars 3000 --seed 1 --out pairs/

Stars are drawn, each at most once, from Kepler's catalogues: Teff, log g, rotation, activity and magnitude from Santos
et al. (2021) and ages and masses from Mathur et al. (2023), half of all; young fast rotators from the open clusters of
the gyrochronology table; orbits from Kirk et al. (2016), of eclipsing binaries and of synchronised ones that do not
eclipse, whose primaries are stars of Santos et al. CATALOGUES is the folder with these tables. Spectra come from the
shipped emulator with LAMOST's pixels, resolution and noise, of both stars of a binary; light curves from
`phdlspec.datadriven.desa.mock_light_curve`. Written are spectra.h5, light_curves.h5, pairs.ecsv and truth.ecsv.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table, join
from numpy.typing import NDArray
from tqdm import tqdm

from phdlspec.cores import CorePriors
from phdlspec.datadriven.dataset import read_dataset
from phdlspec.datadriven.desa.light_curve import LightCurve, stitch
from phdlspec.datadriven.desa.light_curve_set import LightCurveSet
from phdlspec.datadriven.desa.mock_light_curve import Binary, Spots, observe
from phdlspec.default_emulator import load_emulator
from phdlspec.mock import mock_lamost
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

DAYS = 683.0  # of the mission in which each star is seen, some eight quarters
SHARES = {"single": 0.5, "eclipsing": 0.19, "synchronised": 0.19, "young": 0.12}
LONGEST_ORBIT = 40.0  # d, of eclipsing binaries
LONGEST_LOCKED = 8.0  # d, shorter orbits are synchronised
YOUNG_PERIOD = 10.0  # d, longest of the young fast rotators
MAX_VBROAD = 60.0  # km/s, the emulator's bound
ERRORS = {"TEFF": 50.0, "LOGG": 0.05, "FE_H": 0.05, "LOG_L": 0.05, "LOG_PROT": 0.02, "AGE": 0.5, "BINARY": 0.1,
          "LOCKED": 0.1}  # fmt: skip


@dataclass(frozen=True)
class Star:
    """A star that is simulated. prot : d. age : Gyr. activity : standard deviation of the flux by spots. kind : of
    `SHARES`. binary : its orbit, with the second star's Teff and log g, or None."""

    name: str
    kind: str
    teff: float
    logg: float
    fe_h: float
    mass: float
    age: float
    prot: float
    activity: float
    magnitude: float
    inclination: float
    binary: Binary | None = None
    second: tuple[float, float] = (np.nan, np.nan)

    @property
    def radius(self) -> float:
        """Solar radii."""
        return float(np.sqrt(self.mass / 10.0 ** (self.logg - 4.438)))


def _rotators(folder: Path) -> Table:
    """Stars of Santos et al. with an age, within the emulator's bounds; what they are in truth does not matter here."""
    stars = Table.read(folder / "santos_2021_catalog.fit.gz")
    ages = Table.read(folder / "Mathur2023_apjacd118t3_mrt.txt", format="ascii.mrt")
    found = join(stars, ages, keys="KIC")
    good = (found["Teff"] > 4500) & (found["Teff"] < 6900) & (found["logg"] > 3.4) & (found["logg"] < 4.8)
    good &= np.isfinite(np.ma.filled(found["Age"], np.nan)) & np.isfinite(np.ma.filled(found["Sph"], np.nan))
    return found[np.asarray(np.ma.filled(good, False))]


def _young(folder: Path) -> Table:
    stars = Table.read(folder / "gyro_clusters_draft-2020April08.csv", format="ascii.csv")
    good = (stars["AGE"] < 800) & (stars["PROT"] < YOUNG_PERIOD) & (stars["TEFF"] > 4500) & (stars["TEFF"] < 6700)
    good &= (stars["BINARY_SHORT"] == 0) & (stars["BINARY_WIDE"] == 0)
    return stars[np.asarray(np.ma.filled(good, False))]


def draw(folder: Path, number: int, seed: int) -> list[Star]:
    """Stars of all kinds, in an order that says nothing."""
    random = np.random.default_rng(seed)
    rotators, clusters = _rotators(folder), _young(folder)
    orbits = np.asarray(Table.read(folder / "Kirk_2016_KEBC_2876_rows.fits")["Per"], dtype=float)
    rotators = rotators[random.permutation(len(rotators))]
    young = iter(clusters[random.permutation(len(clusters))])
    counts = {kind: int(round(share * number)) for kind, share in SHARES.items()}
    counts["young"] = min(counts["young"], len(clusters))
    kinds = random.permutation([kind for kind, count in counts.items() for _ in range(count)])
    stars = []
    for kind, row in zip(kinds, rotators):
        single = _single(row, random)
        if kind == "single":
            stars.append(single)
        elif kind == "young":
            stars.append(_young_star(next(young), single, random))
        else:
            stars.append(_with_companion(single, kind, orbits, random))
    return stars


def _single(row: Table.Row, random: np.random.Generator) -> Star:
    return Star(
        f"single KIC {int(row['KIC'])}", "single", float(row["Teff"]), float(row["logg"]),
        float(np.clip(random.normal(-0.03, 0.2), -0.8, 0.4)), float(row["Mstar"]), float(row["Age"]),
        float(row["Prot"]), 1e-6 * float(row["Sph"]), float(row["Kpmag"]), float(np.arccos(random.uniform(0, 1))),
    )  # fmt: skip


def _young_star(row: Table.Row, like: Star, random: np.random.Generator) -> Star:
    """A member of a cluster; activity and magnitude are those of young stars in Kepler's field."""
    mass = float(row["MASS"])
    logg = 4.438 + np.log10(mass / mass**1.7)
    fe_h, activity = float(random.normal(0.05, 0.1)), float(random.lognormal(np.log(8e-3), 0.5))
    return Star(
        like.name.replace("single", "young"), "young", float(row["TEFF"]), float(logg), fe_h, mass,
        1e-3 * float(row["AGE"]), float(row["PROT"]), activity, like.magnitude, like.inclination,
    )  # fmt: skip


def _with_companion(one: Star, kind: str, orbits: NDArray[np.float64], random: np.random.Generator) -> Star:
    longest = LONGEST_ORBIT if kind == "eclipsing" else LONGEST_LOCKED
    ratio = random.uniform(0.3, 1.0)
    second_mass = ratio * one.mass
    radius = second_mass**0.85 if ratio < 0.97 else one.radius
    allowed = orbits[(orbits > 0.5) & (orbits < longest)]
    while True:
        period = float(random.choice(allowed))
        distance = 4.208 * (period**2 * (one.mass + second_mass)) ** (1 / 3)  # solar radii
        if (one.radius + radius) / distance < 0.7:
            break
    grazing = (one.radius + radius) / distance
    cosine = random.uniform(0, 0.9 * grazing) if kind == "eclipsing" else random.uniform(1.05 * grazing, 1.0)
    inclination = float(np.arccos(min(cosine, 1.0)))
    second_teff = float(np.clip(one.teff * ratio**0.6, 4000.0, 7400.0))
    speed = 212.9 * ratio / (1 + ratio) ** (2 / 3) * (one.mass / period) ** (1 / 3) * np.sin(inclination)
    orbit = Binary(
        period, random.uniform(0, period), inclination, (one.radius / distance, radius / distance),
        (second_teff / one.teff) ** 4, ratio, float(speed),
    )  # fmt: skip
    locked = period < LONGEST_LOCKED
    activity = float(random.lognormal(np.log(8e-3), 0.5)) if locked else one.activity
    return Star(
        one.name.replace("single", kind), kind, one.teff, one.logg, one.fe_h, one.mass, one.age,
        period * random.normal(1.0, 0.01) if locked else one.prot, activity, one.magnitude, inclination, orbit,
        (second_teff, float(4.438 + np.log10(second_mass / radius**2))),
    )  # fmt: skip


def first_of_each(stars: list[Star], number: int) -> NDArray[np.int64]:
    """Rows of the first stars of each kind, in the shares of `SHARES`."""
    kinds = np.array([star.kind for star in stars])
    rows = [np.flatnonzero(kinds == kind)[: round(share * number)] for kind, share in SHARES.items()]
    return np.sort(np.concatenate(rows))


def light_curve_of(star: Star, random: np.random.Generator) -> LightCurve:
    """Its light curve, stitched as a real one is."""
    lifetime = float(np.clip(random.lognormal(np.log(3.0 * star.prot), 0.4), 5.0, 200.0))
    spots = Spots(star.prot, star.activity, lifetime, star.inclination, random.uniform(0.0, 0.2))
    return stitch(observe(star.name, DAYS, star.teff, star.logg, star.magnitude, random, spots, star.binary))


class Observatory:
    """LAMOST spectra of stars and of pairs of stars."""

    def __init__(self) -> None:
        self.emulator = load_emulator(device="cpu")
        self.labels = self.emulator.labels
        self.cores = CorePriors.shipped(self.emulator.metadata["grid"])

    def _native(self, teff: float, logg: float, fe_h: float, alpha: float) -> NDArray[np.float64]:
        values = {"TEFF": teff, "LOGG": min(logg, 4.95), "FE_H": fe_h}
        values |= {f"{element}_FE": alpha for element in ("O", "MG", "SI", "CA", "TI")}
        theta = torch.as_tensor(self.labels.complete(values)[None], dtype=torch.float32)
        with torch.no_grad():
            return self.emulator.native_flux(theta)[0].double().numpy()

    def spectrum(self, star: Star, seed: int) -> Spectrum:
        """One spectrum, at a random phase of the orbit."""
        random = np.random.default_rng(seed)
        alpha = -0.2 * star.fe_h + random.normal(0.0, 0.03)
        flux = self._native(star.teff, star.logg, star.fe_h, alpha)
        velocity, grid = random.normal(0.0, 30.0), self.emulator.native
        if star.binary is not None:
            phase = random.uniform(0.0, 2.0 * np.pi)
            first = star.binary.speed * np.sin(phase)
            other = self._native(*star.second, star.fe_h, alpha)
            size = (star.binary.radii[1] / star.binary.radii[0]) ** 2
            light = (
                size * np.expm1(1.4388e8 / (grid.wave * star.teff)) / np.expm1(1.4388e8 / (grid.wave * star.second[0]))
            )
            apart = (-first / star.binary.ratio - first) / SPEED_OF_LIGHT_KM_S
            shifted = np.interp(np.log(grid.wave) - apart, np.log(grid.wave), other)
            flux = (flux + light * shifted) / (1.0 + light)
            velocity += first
        rotation = min(50.6 * star.radius / star.prot * np.sin(star.inclination), MAX_VBROAD)
        snr = float(np.clip(60.0 * 10.0 ** (-0.25 * (star.magnitude - 13.5)) * random.lognormal(0.0, 0.3), 15.0, 300.0))
        made = mock_lamost(
            flux,
            grid,
            star.teff,
            snr,
            seed,
            rv=velocity,
            vbroad=max(rotation, 2.0),
            logg=star.logg,
            cores=self.cores,
            identifier=star.name,
        )
        mean = velocity if star.binary is None else velocity + apart * SPEED_OF_LIGHT_KM_S * star.binary.light[1]
        z = (mean + random.normal(0.0, 5.0)) / SPEED_OF_LIGHT_KM_S  # what a pipeline would measure
        return replace(made, meta={**made.meta, "Z": z})


def truth_of(stars: list[Star]) -> Table:
    """Labels with errors, one row a star. LOCKED is 1 for synchronised binaries, 0 for young fast rotators."""
    luminosity = [2.0 * np.log10(s.radius) + 4.0 * np.log10(s.teff / 5772.0) for s in stars]
    locked = [1.0 if s.kind == "synchronised" else 0.0 if s.kind == "young" else np.nan for s in stars]
    age = [s.age if s.kind in ("single", "young") else np.nan for s in stars]
    columns = {
        "TEFF": [s.teff for s in stars], "LOGG": [s.logg for s in stars], "FE_H": [s.fe_h for s in stars],
        "LOG_L": luminosity, "LOG_PROT": [np.log10(s.prot) for s in stars], "AGE": age,
        "BINARY": [float(s.binary is not None) for s in stars], "LOCKED": locked,
    }  # fmt: skip
    table = Table({"OBSID": [s.name for s in stars], "KIND": [s.kind for s in stars]})
    for name, values in columns.items():
        table[name] = values
        table[f"{name}_ERR"] = ERRORS[name]
    return table


def main() -> None:
    """Draw, simulate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalogues", type=Path, required=True)
    parser.add_argument("--stars", type=int, default=3000)
    parser.add_argument("--keep", type=int, metavar="N", help="write so many of them, the first of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    stars = draw(args.catalogues, args.stars, args.seed)
    kept = np.arange(len(stars)) if args.keep is None else first_of_each(stars, args.keep)
    args.out.mkdir(parents=True, exist_ok=True)
    if not (args.out / "light_curves.h5").is_file():  # what a stopped run has finished stays
        random = np.random.default_rng([args.seed, 1])
        LightCurveSet.from_light_curves(
            [light_curve_of(star, random) for star in tqdm(stars, desc="light curves")], progress=True
        ).take(kept).write(args.out / "light_curves.h5")
    stars = [stars[i] for i in kept]
    if not (args.out / "spectra.h5").is_file():
        observatory = Observatory()
        seeds = 10_000_000 * args.seed + np.arange(len(stars))
        spectra = [observatory.spectrum(star, int(seed)) for star, seed in zip(tqdm(stars, desc="spectra"), seeds)]
        read_dataset(spectra, velocity="header").write(args.out / "spectra.h5")
    names = [star.name for star in stars]
    Table({"SPECTRUM": names, "LIGHT_CURVE": names}).write(args.out / "pairs.ecsv", overwrite=True)
    truth_of(stars).write(args.out / "truth.ecsv", overwrite=True)
    print({kind: sum(star.kind == kind for star in stars) for kind in SHARES})


if __name__ == "__main__":
    main()
