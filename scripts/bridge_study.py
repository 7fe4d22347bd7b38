"""What a bridge does to stars that it was not learned from: MILES by cross-validation, STELIB, LAMOST.

    python scripts/bridge_study.py pack DATA --out DIR    # spectra for `bridge learn`
    python scripts/bridge_study.py cross DATA --work DIR [--folds 4] [--stars N] [--emulator CKPT]
    python scripts/bridge_study.py apply DATA --bridge BRIDGE --sets highres lamost [--emulator CKPT]
    python scripts/bridge_study.py instruments DATA [--emulator CKPT]

`pack` writes DIR/miles.h5, DIR/stelib.h5 (S/N 100 assumed) and DIR/labels.ecsv: fundamental labels of the benchmark
stars, for the others those of the literature, brought to the scale of the benchmark stars (`on_one_scale`): dwarfs of
the literature are 50 to 80 K too cool, which the bridge would learn. `cross` deals the stars of MILES out in folds;
each fold's bridge is learned from the others and the benchmark stars of the fold are fitted as `catalog` does by
default, with it and without; the tables are those of `scripts/real_stars.py`. `apply` does so for other sets with one
bridge. `instruments` shows what solar-type dwarfs of MILES, STELIB, LAMOST and the Sun of HARPS leave at their known
labels: how large it is, and how much of it they have in common with MILES.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from real_stars import (
    CLASSES,
    LITERATURE,
    NOT_COUNTED,
    Star,
    abundances,
    by_class,
    by_window,
    highres,
    lamost,
    middle,
    miles,
    one_by_one,
    stelib,
)
from scipy.optimize import least_squares
from tqdm import tqdm

from phdlspec import load_emulator
from phdlspec.bridge.learn import Step, learn, residuals_of
from phdlspec.bridge.references import ReferenceStar
from phdlspec.bridge.residuals import spline_basis
from phdlspec.datadriven.folds import grouped_folds
from phdlspec.emulator.bridge import NONE, Bridge, BridgedEmulator
from phdlspec.emulator.emulator import Emulator
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import FitSettings
from phdlspec.io.model_spectra import PACKED_FORMAT, PACKED_VERSION
from phdlspec.labels import STRUCTURE, LabelSet

Array = NDArray[np.float64]

SETTINGS = FitSettings(mode="fast", bridge=NONE)
BATCH = 32
SUNLIKE = np.array([5800.0, 4.4, -0.05]), np.array([300.0, 0.4, 0.3])  # Teff (K), log g, [Fe/H] and how far from it
TWINS = 40  # of an instrument, at most
NARROW = ((3800, 3950), (3950, 4200), (4200, 4600), (4600, 5000), (5000, 5500), (5500, 5850), (6200, 6850))


def usable(stars: Sequence[Star]) -> list[Star]:
    """Those within the models; the doubtful spectrum of Arcturus is not learned from."""
    labels = [LabelSet()[name] for name in STRUCTURE]
    return [
        star for star in stars
        if star.name != NOT_COUNTED and all(one.lower < x < one.upper for one, x in zip(labels, star.labels))
    ]  # fmt: skip


def on_one_scale(stars: Sequence[Star]) -> list[Star]:
    """The stars, labels of the literature corrected by what it gives for those of them with fundamental labels.

    The correction of each label is linear in 5040 K / Teff, log g and [Fe/H], robust against single stars, and kept
    small by a prior of the literature's own errors.
    """
    anchors = [(s.literature, s.labels) for s in stars if s.fundamental and s.literature is not None]
    listed, right = (np.array(labels) for labels in zip(*((a, b) for a, b in anchors if np.isfinite(a).all())))
    scatter = np.array(LITERATURE)
    slopes = np.stack([_robust(_terms(listed), off) for off in ((listed - right) / scatter).T], axis=1)

    def corrected(star: Star) -> Star:
        if star.fundamental:
            return star
        return replace(star, labels=star.labels - scatter * (_terms(star.labels[None])[0] @ slopes))

    return [corrected(star) for star in stars]


def print_scales(stars: Sequence[Star]) -> None:
    """How far labels of the literature are from fundamental ones, by class."""
    print("| literature minus fundamental | Teff | log g | [Fe/H] |\n|---|---|---|---|")
    for kind in CLASSES:
        both = [s for s in stars if s.kind == kind and s.fundamental and s.literature is not None]
        off = np.array([s.literature - s.labels for s in both if s.literature is not None]).reshape(-1, 3)
        off = off[np.isfinite(off).all(1)]
        if len(off):
            print(f"| {kind} ({len(off)}) | " + " | ".join(middle(column) for column in off.T) + " |")


def _robust(terms: Array, values: Array) -> Array:
    def residuals(x: Array) -> Array:
        return np.concatenate([values - terms @ x, x])

    return np.asarray(least_squares(residuals, np.zeros(terms.shape[1]), loss="soft_l1").x)


def _terms(labels: Array) -> Array:
    teff, logg, fe_h = labels.T
    return np.stack([np.ones(len(labels)), (5040.0 / teff - 0.95) / 0.15, (logg - 3.5), fe_h + 0.3], axis=1)


def pack(data: Path, out: Path) -> None:
    """Spectra as packed HDF5 and one table of labels."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    found = {"miles": list(miles(data, True)), "stelib": list(stelib(data, True))}
    print_scales(found["miles"])
    together = on_one_scale([star for stars in found.values() for star in stars])
    first = len(found["miles"])
    for name, some in (("miles", together[:first]), ("stelib", together[first:])):
        stars = usable(some)
        write_packed(stars, out / f"{name}.h5", name)
        for star in stars:
            row: dict[str, object] = {"OBSID": f"{name} {star.name}", "STAR": star.name}
            for label, value, error in zip(("TEFF", "LOGG", "FE_H"), star.labels, star.errors):
                row |= {label: float(value), f"{label}_ERR": error}
            rows.append(row)
    Table(rows).write(out / "labels.ecsv", overwrite=True)
    print(f"{out}: {len(rows)} spectra")


def write_packed(stars: Sequence[Star], path: Path, prefix: str) -> None:
    """Spectra that share a number of pixels, on the wavelengths of the one that begins last."""
    wave = max((star.spectrum.wave for star in stars), key=lambda w: w[0])
    wave = wave[wave < min(star.spectrum.wave[-1] for star in stars)]
    with h5py.File(path, "w") as file:
        file.attrs.update(format=PACKED_FORMAT, version=PACKED_VERSION, survey="", arms=[[wave[0], wave[-1]]])
        file["wave"] = wave
        first = stars[0].spectrum
        file["resolving_power"] = np.interp(wave, first.wave, first.resolving_power_by_pixel).astype(np.float32)
        flux, ivar, mask = zip(*(on_pixels(star, wave) for star in stars))
        file["flux"], file["ivar"] = np.array(flux, np.float32), np.array(ivar, np.float32)
        file["mask"] = np.array(mask, np.uint8)
        file["obsid"] = [f"{prefix} {star.name}".encode() for star in stars]
        file["ra"] = file["dec"] = np.full(len(stars), np.nan)


def on_pixels(star: Star, wave: Array) -> tuple[Array, Array, Array]:
    """Flux, ivar and mask on common pixels; these are the star's own up to a shift of less than one pixel."""
    s = star.spectrum
    scale = np.median(s.flux[s.good])
    flux = np.interp(wave, s.wave, s.flux) / scale
    mask = np.interp(wave, s.wave, s.mask.astype(float)) > 0
    return flux, np.where(mask, 0.0, (100.0 / np.maximum(flux, 1e-3)) ** 2), mask


def as_reference(star: Star) -> ReferenceStar:
    """A star to learn from."""
    return ReferenceStar(star.name, star.spectrum, np.array(star.labels), np.array(star.errors), {})


def fitted(stars: Sequence[Star], model: Emulator, title: str) -> list[Fitted]:
    """Fits as `catalog` makes them."""
    found: list[Fitted] = []
    for first in tqdm(range(0, len(stars), BATCH), desc=title):
        found += fit_batch([star.spectrum for star in stars[first : first + BATCH]], model, SETTINGS, keep=True)
    return found


def tables(title: str, stars: Sequence[Star], results: Sequence[Fitted], data: Path) -> None:
    """What `scripts/real_stars.py` prints."""
    print(f"\n## {title}: {len(stars)} stars")
    if len(stars) < 100:
        one_by_one(stars, results)
    by_class(stars, results)
    by_window(stars, results)
    abundances(stars, results, data / "reference/benchmarks.yaml")


def cross(data: Path, work: Path, folds: int, most: int | None, checkpoint: str | None, rounds: int) -> None:
    """Benchmark stars of MILES with bridges that were learned without them, and without bridges."""
    emulator = load_emulator(checkpoint, "cpu")
    stars = usable(list(miles(data, True)))
    if most is not None:
        stars = [stars[i] for i in np.sort(np.random.default_rng(1).permutation(len(stars))[:most])]
    work.mkdir(parents=True, exist_ok=True)
    fold = grouped_folds([star.name for star in stars], folds)
    judged = [star for star in stars if star.fundamental]
    crossed: dict[str, Fitted] = {}
    for number in range(folds):
        learn_from = on_one_scale([star for star, f in zip(stars, fold) if f != number])
        bridge = learn([as_reference(star) for star in learn_from], emulator, SETTINGS, rounds, progress=True)
        bridge.write(work / f"fold{number}.safetensors")
        held = [star for star, f in zip(stars, fold) if f == number and star.fundamental]
        results = fitted(held, BridgedEmulator(emulator, bridge), f"fold {number}")
        crossed |= {star.name: result for star, result in zip(held, results)}
    tables("MILES without a bridge", judged, fitted(judged, emulator, "without"), data)
    tables(f"MILES, bridges of {folds} folds", judged, [crossed[star.name] for star in judged], data)


def apply(data: Path, bridge: str, sets: Sequence[str], checkpoint: str | None, every: int) -> None:
    """Other sets with one bridge and without."""
    emulator = load_emulator(checkpoint, "cpu")
    model = BridgedEmulator(emulator, Bridge.read(bridge), bridge)
    makers = {"highres": highres, "lamost": lamost, "stelib": lambda data: stelib(data, False)}
    for name in sets:
        stars = [star for star in makers[name](data) if star.name not in model.bridge.stars][::every]
        tables(f"{name} without a bridge", stars, fitted(stars, emulator, "without"), data)
        tables(f"{name} with {bridge}", stars, fitted(stars, model, "with"), data)


def instruments(data: Path, checkpoint: str | None) -> None:
    """Mean residuals of solar-type dwarfs of each instrument, by window: size, correlation and slope on MILES's."""
    emulator = load_emulator(checkpoint, "cpu")
    splines = spline_basis(emulator.native)
    at = np.asarray(emulator.native.wave)[np.asarray(splines.argmax(0)).ravel()]
    together = {"MILES": list(miles(data, True)), "STELIB": list(stelib(data, True)), "LAMOST": list(lamost(data))}
    together["HARPS, the Sun"] = [star for star in highres(data) if star.name == "Sun"]
    means = {}
    for name, stars in together.items():
        twins = [star for star in usable(stars) if np.all(np.abs(star.labels - SUNLIKE[0]) < SUNLIKE[1])][:TWINS]
        step = residuals_of([as_reference(star) for star in twins], emulator, SETTINGS, progress=True)
        means[f"{name} ({len(step.residuals)})"] = mean_residual(step)
    print("| rms (1e-4); correlation, slope | " + " | ".join(f"{a}-{b}" for a, b in NARROW) + " |")
    print("|---" * (1 + len(NARROW)) + "|")
    first = next(iter(means.values()))
    for name, mean in means.items():
        print(f"| {name} | " + " | ".join(in_common(mean, first, (at > a) & (at < b)) for a, b in NARROW) + " |")


def mean_residual(step: Step) -> Array:
    """What the stars leave on average, by spline (Q,); NaN where few have pixels."""
    of_pixels = [1.0 / (one.sigma**2 + 1e-4) for one in step.residuals]
    score = np.sum([one.seen.T @ (of * one.value) for one, of in zip(step.residuals, of_pixels)], axis=0)
    weight = np.sum([one.seen.T @ of for one, of in zip(step.residuals, of_pixels)], axis=0)
    return np.where(weight > 0.2 * np.max(weight), score / np.maximum(weight, 1e-12), np.nan)


def in_common(mean: Array, reference: Array, window: NDArray[np.bool_]) -> str:
    """Size of a mean residual in a window, and its correlation with a reference and slope on it."""
    both = window & np.isfinite(mean) & np.isfinite(reference)
    if both.sum() < 0.5 * window.sum():
        return ""
    x, y = reference[both] - reference[both].mean(), mean[both] - mean[both].mean()
    size = f"{1e4 * y.std():.0f}"
    return size if mean is reference else f"{size}; {np.corrcoef(x, y)[0, 1]:.2f}, {x @ y / (x @ x):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pack", "cross", "apply", "instruments"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("bridge_data"))
    parser.add_argument("--work", type=Path, default=Path("bridge_folds"))
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--stars", type=int, help="of MILES, at most (drawn at random)")
    parser.add_argument("--every", type=int, default=1, help="of the sets of `apply`, every n-th star")
    parser.add_argument("--emulator")
    parser.add_argument("--bridge")
    parser.add_argument("--sets", nargs="+", default=["highres", "lamost"])
    args = parser.parse_args()
    if args.what == "pack":
        pack(args.data, args.out)
    elif args.what == "instruments":
        instruments(args.data, args.emulator)
    elif args.what == "cross":
        cross(args.data, args.work, args.folds, args.stars, args.emulator, args.rounds)
    else:
        apply(args.data, args.bridge, args.sets, args.emulator, args.every)


if __name__ == "__main__":
    main()
