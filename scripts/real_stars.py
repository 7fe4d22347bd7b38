"""Fits of real stars whose labels are known: MILES, STELIB, high-resolution spectra as LAMOST would see them, LAMOST.

    python scripts/real_stars.py DATA [--sets miles stelib highres lamost] [--emulator CKPT] [--bridge none]
        [--miles FILE.npz] [--stars benchmark|all] [--above WAVELENGTH] [--table OUT.ecsv]

Every star is fitted as `phdlspec catalog` does by default, and fit minus label is printed by class: median and robust
scatter, share of the stars within one and two errors (of fit and label together), chi2 a pixel with the stated noise.
Labels are fundamental (Gaia FGK benchmark stars v3: angular diameters, parallaxes; their stated errors, but 45 K, 0.05
and 0.06 dex at least) or, with --stars all and for LAMOST, of the literature and of LAMOST's own pipeline. Abundances
are compared with Jofre et al. (2015) in the benchmark stars that it has. MILES has no errors of its own: S/N 100 is
assumed; wavelengths are in air, FWHM 2.5 Å.
Its spectrum of Arcturus (HD 124897) departs from any smooth shape and is shown, not counted.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from astropy.table import Table
from astropy.units import UnitsWarning
from benchmark_stars import as_lamost, without_balmer
from numpy.typing import NDArray
from reference_spectra import CLASSES, HIGH_RESOLUTION, kind_of, observed
from tqdm import tqdm

from phdlspec import load_emulator, read_spectrum
from phdlspec.emulator.bridge import DEFAULT
from phdlspec.errors import UserError
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import FitSettings
from phdlspec.flags import StarFlag
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import air_to_vacuum

Array = NDArray[np.float64]

MAIN = ("TEFF", "LOGG", "FE_H")
SNR = 100.0
MILES_FWHM, STELIB_FWHM = 2.5, 3.0  # Å
NOT_COUNTED = "HD124897"
FUNDAMENTAL, LITERATURE = (45.0, 0.05, 0.06), (100.0, 0.2, 0.1)  # errors of labels, at least
BENCHMARKS = "gbs_v3_tmass_gaiadr3_hip_allwise_all_lite.fits"
LEFT_OUT = StarFlag.FAILED | StarFlag.NO_STAR | StarFlag.UNREADABLE | StarFlag.VELOCITY_UNSURE
EDGES = (3700, 3950, 4200, 4600, 5000, 5500, 6200, 6900, 7400)
WINDOWS = tuple(zip(EDGES, EDGES[1:]))
ELEMENTS = ("MG", "SI", "CA", "TI", "CR", "NI", "MN", "CO", "V", "SC")
# Of H alpha to H 8 this spectrum has 0.64 to 0.85 of the equivalent width that the star's spectrum in MILES has
# (`balmer_wings.py`): their wings went when it was normalised.
NO_WINGS = ("HD 140283",)
JOFRE = {  # names of `reference/benchmarks.yaml`
    "HD113226": "epsVir", "HD160691": "muAra", "HD107328": "HD107328", "HD122563": "HD122563", "HD023249": "delEri",
    "HD049933": "HD49933", "HD002151": "betHyi", "HD085503": "muLeo", "HD006582": "muCas", "HD103095": "Gmb1830",
    "HD062509": "betGem", "HD018884": "alfCet", "HD220009": "HD220009", "HD029139": "alfTau", "HD010700": "tauCet",
    "HD121370": "etaBoo", "HD022879": "HD22879", "HD018907": "epsFor", "HD157244": "betAra", "HD140283": "HD140283",
    "HD061421": "Procyon", "HD124897": "Arcturus", "HD084937": "HD84937", "HD102870": "betVir", "HD011695": "psiPhe",
    "HD128621": "alfCenB", "HD022049": "epsEri", "HD128620": "alfCenA", "HD189319": "gamSge", "HD100407": "ksiHya",
    "Sun": "Sun", "Procyon": "Procyon", "alf Tau": "alfTau", "HD 140283": "HD140283",
}  # fmt: skip


@dataclass(frozen=True)
class Star:
    """A spectrum and what is known of it: Teff (K), log g, [Fe/H] and their errors, and what the literature says."""

    name: str
    spectrum: Spectrum
    labels: Array
    errors: tuple[float, float, float]
    literature: Array | None = None
    fundamental: bool = False

    @property
    def kind(self) -> str:
        """Its class, one of `CLASSES`."""
        return kind_of(*self.labels)


def made(name: str, air: Array, flux: Array, fwhm: float) -> Spectrum:
    """A spectrum of air wavelengths with S/N 100 at every pixel."""
    wave = air_to_vacuum(air)
    good = np.isfinite(flux) & (flux > 0)
    level = np.where(good, flux, 1.0)
    return Spectrum(wave, level, (SNR / level) ** 2, ~good, wave / fwhm, {"OBSID": name}, name)


def miles(data: Path, everything: bool, file: Path | None = None) -> Iterator[Star]:
    """Stars of MILES with fundamental labels, or with any."""
    with np.load(file or data / "miles/miles_even.npz") as arrays:
        air, columns = arrays["wave_air"], {key: arrays[key] for key in arrays.files if arrays[key].ndim}
    stated = benchmark_errors(data)
    rows = zip(columns["name"], columns["flux"], *(columns[f"labels_{k}"] for k in ("gaia_benchmark_v3", "literature")))
    for name, flux, fundamental, literature in rows:
        label = " ".join(str(name).split())
        known = _known(fundamental, literature, everything, stated.get(label))
        if known is not None:
            spectrum = made(label, air, flux.astype(float), MILES_FWHM)
            yield Star(label, spectrum, *known, literature.astype(float), bool(np.isfinite(fundamental).all()))


def stelib(data: Path, everything: bool) -> Iterator[Star]:
    """Stars of STELIB with fundamental labels, or with any."""
    with np.load(data / "stelib/stelib.npz") as file:
        columns = {key: file[key] for key in file.files}
    stated = benchmark_errors(data)
    for i, name in enumerate(columns["name"]):
        fundamental, literature = columns["labels_gaia_benchmark_v3"][i], columns["labels_literature"][i]
        known = _known(fundamental, literature, everything, stated.get(str(name)))
        if known is not None:
            flux = columns["flux"][i].astype(float)
            air = columns["wave0_air"][i] + columns["step"][i] * np.arange(len(flux))
            inside = (air > 3650.0) & (air < 9150.0)
            try:
                spectrum = made(str(name), air[inside], flux[inside], STELIB_FWHM)
                yield Star(str(name), spectrum, *known, literature.astype(float), bool(np.isfinite(fundamental).all()))
            except UserError as error:
                print(error, file=sys.stderr)


def _known(
    fundamental: Array, literature: Array, everything: bool, stated: tuple[float, float] | None
) -> tuple[Array, tuple[float, float, float]] | None:
    if np.isfinite(fundamental).all():
        teff, logg, fe_h = FUNDAMENTAL
        least = stated or (0.0, 0.0)
        return fundamental.astype(float), (max(teff, least[0]), max(logg, least[1]), fe_h)
    if everything and np.isfinite(literature).all():
        return literature.astype(float), LITERATURE
    return None


def benchmark_errors(data: Path) -> dict[str, tuple[float, float]]:
    """Stated errors of Teff (K) and log g (dex) of the Gaia benchmark stars, version 3, by name in HD: of the angular
    diameter, so that `FUNDAMENTAL` is the least that is believed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnitsWarning)
        table = Table.read(data / "reference" / BENCHMARKS)
    numbers = [str(hd).removeprefix("HD").strip() for hd in table["hd"]]
    return {
        f"HD{number.zfill(6)}": (float(teff), float(logg))
        for number, teff, logg in zip(numbers, table["e_teff"], table["e_logg"])
    }


def highres(data: Path) -> Iterator[Star]:
    """The high-resolution stars at R = 1800 on LAMOST's pixels with S/N 100."""
    for seed, (name, known) in enumerate(HIGH_RESOLUTION.items()):
        wave, flux, bad = observed(data, name)
        spectrum = as_lamost(wave, np.where(bad, np.nan, flux), known.labels[0], SNR, seed, name)
        yield Star(name, spectrum, np.array(known.labels), known.errors)
        if name in NO_WINGS:
            yield Star(f"{name}, no Balmer", without_balmer(spectrum), np.array(known.labels), known.errors)


def lamost(data: Path) -> Iterator[Star]:
    """LAMOST DR10 with the labels of its own pipeline, S/N in g above 50."""
    table = Table.read(data / "lamost/dr10_labels.csv")
    for row in table[table["snrg"] > 50]:
        labels = np.array([row[c] for c in ("teff_lasp", "logg_lasp", "feh_lasp")], dtype=float)
        path = data / "lamost" / str(row["file"])
        if np.isfinite(labels).all() and path.exists():
            try:
                yield Star(path.name, read_spectrum(path), labels, LITERATURE)
            except UserError as error:
                print(error, file=sys.stderr)


def redder(star: Star, wavelength: float) -> Star:
    """The star without what is bluer (Å): tells which wavelengths rule its labels."""
    spectrum = star.spectrum
    return replace(star, spectrum=replace(spectrum, mask=spectrum.mask | (spectrum.wave < wavelength)))


def fitted(stars: Sequence[Star], emulator: str | None, bridge: str, batch: int = 32) -> list[Fitted]:
    """Fits of the stars, in their order."""
    model, settings, results = load_emulator(emulator), FitSettings(mode="fast", bridge=bridge), []
    for first in tqdm(range(0, len(stars), batch), desc="fits", unit=f"{batch} stars"):
        results += fit_batch([s.spectrum for s in stars[first : first + batch]], model, settings, keep=True)
    return results


# --- tables ----------------------------------------------------------------------------------------------------------


def middle(values: Array) -> str:
    """Median and robust scatter."""
    median = np.median(values)
    digits = 0 if np.abs(values).max(initial=0.0) > 20 else 2
    return f"{median:+.{digits}f} ± {1.4826 * np.median(np.abs(values - median)):.{digits}f}"


def by_class(stars: Sequence[Star], results: Sequence[Fitted]) -> None:
    """Fit minus label by class, share within one and two errors, chi2."""
    print("| stars | Teff | log g | [Fe/H] | within 1σ | within 2σ | chi2 | errors quoted |\n" + "|---" * 8 + "|")
    for kind in CLASSES:
        chosen = [
            (s, r) for s, r in zip(stars, results)
            if s.kind == kind and not r.flag & LEFT_OUT and np.isfinite(r.value[:4]).all() and s.name != NOT_COUNTED
        ]  # fmt: skip
        if not chosen:
            continue
        off = np.array([[r[n] - x for n, x in zip(MAIN, s.labels)] for s, r in chosen])
        quoted = np.array([[r.err[r.names.index(n)] for n in MAIN] for _, r in chosen])
        pull = np.abs(off) / np.hypot(quoted, [s.errors for s, _ in chosen])
        shares = [", ".join(f"{100 * np.mean(p < k):.0f}" for p in pull.T) + "%" for k in (1, 2)]
        errors = ", ".join(f"{x:.{d}f}" for x, d in zip(np.median(quoted, axis=0), (0, 2, 2)))
        chi2 = np.nanmedian([_chi2(s, r, 0.0, np.inf) for s, r in chosen])
        print(f"| {kind} ({len(chosen)}) | " + " | ".join(middle(x) for x in off.T)
              + f" | {shares[0]} | {shares[1]} | {chi2:.1f} | {errors} |")  # fmt: skip


def by_window(stars: Sequence[Star], results: Sequence[Fitted]) -> None:
    """Median reduced chi2 by class and window of wavelength, with the noise of the spectrum alone."""
    print("\n| chi2 | " + " | ".join(f"{a}-{b}" for a, b in WINDOWS) + " |\n" + "|---" * (1 + len(WINDOWS)) + "|")
    for kind in CLASSES:
        rows = [[_chi2(s, r, *w) for w in WINDOWS] for s, r in zip(stars, results)
                if s.kind == kind and s.name != NOT_COUNTED and r.spectrum is not None]  # fmt: skip
        if rows:
            print(f"| {kind} | " + " | ".join(f"{x:.1f}" for x in np.nanmedian(rows, axis=0)) + " |")


def _chi2(star: Star, result: Fitted, low: float, high: float) -> float:
    # A pixel, with the stated noise alone: what the fit adds for misfits would hide them.
    s = result.spectrum
    assert s is not None
    use = s.used & (s.wave > low) & (s.wave < high)
    chi2 = (s.flux - s.model) ** 2 * np.interp(s.wave, star.spectrum.wave, star.spectrum.ivar)
    return float(np.mean(chi2[use])) if use.any() else np.nan


def abundances(stars: Sequence[Star], results: Sequence[Fitted], file: Path) -> None:
    """Fit minus Jofre et al., relative to their Sun, where the bound of the fit is below 0.2 dex."""
    known = yaml.safe_load(file.read_text())
    sun = _values(known["Sun"]["abundances"])
    sun_fe = float(str(known["Sun"]["feh"]).split()[0])
    found: dict[str, list[float]] = {element: [] for element in ELEMENTS}
    for star, result in zip(stars, results):
        entry = known.get(JOFRE.get(star.name, ""))
        if entry is None or result.flag & LEFT_OUT or star.name == NOT_COUNTED:
            continue
        values, fe_h = _values(entry["abundances"]), float(str(entry["feh"]).split()[0]) - sun_fe
        for element in ELEMENTS:
            i = result.names.index(f"{element}_FE")
            name = element.capitalize()
            off = float(result.value[i]) - (values.get(name, np.nan) - sun[name] - fe_h)
            if result.crlb[i] < 0.2 and np.isfinite(off):
                found[element].append(off)
    print("\n| [X/Fe] minus Jofre et al. | " + " | ".join(ELEMENTS) + " |\n" + "|---" * (1 + len(ELEMENTS)) + "|")
    print("| median ± scatter | " + " | ".join(middle(np.array(x)) if x else "" for x in found.values()) + " |")
    print("| stars | " + " | ".join(str(len(x)) for x in found.values()) + " |")


def _values(entry: dict[str, object]) -> dict[str, float]:
    return {element: float(str(value).split()[0]) for element, value in entry.items()}


def one_by_one(stars: Sequence[Star], results: Sequence[Fitted]) -> None:
    """Every star with its labels and errors."""
    for star, r in sorted(zip(stars, results), key=lambda x: (CLASSES.index(x[0].kind), x[0].labels[0])):
        text = " ".join(
            f"{n} {r[n]:.{d}f}±{r.err[r.names.index(n)]:.{d}f} ({x:.{d}f})"
            for n, x, d in zip(MAIN, star.labels, (0, 2, 2))
        )
        print(f"{star.name:14s} {text} chi2 {r.rchi2:.1f} flag {r.flag} {r.reason}")


def as_table(stars: Sequence[Star], results: Sequence[Fitted]) -> Table:
    """One row a star: what is known, all that was fitted."""
    rows = []
    for star, r in zip(stars, results):
        row: dict[str, object] = {"NAME": star.name, "KIND": star.kind, "RCHI2": r.rchi2, "FLAG": r.flag}
        row |= {f"{n}_REF": x for n, x in zip(MAIN, star.labels)}
        for name, value, err in zip(r.names, r.value, r.err):
            row |= {name: float(value), f"{name}_ERR": float(err)}
        rows.append(row)
    return Table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=["miles", "stelib", "highres", "lamost"])
    parser.add_argument("--miles", type=Path, help="another half of MILES; default DATA/miles/miles_even.npz")
    parser.add_argument("--stars", choices=("benchmark", "all"), default="benchmark")
    parser.add_argument("--emulator")
    parser.add_argument("--bridge", default=DEFAULT, help="default, none or a file; the shipped one is of MILES even")
    parser.add_argument("--above", type=float, default=0.0, help="fit what is redder than this alone (vacuum Å)")
    parser.add_argument("--table", type=Path, help="write all labels as ECSV, one file a set")
    args = parser.parse_args()
    everything = args.stars == "all"
    sets = {
        "miles": lambda: miles(args.data, everything, args.miles),
        "stelib": lambda: stelib(args.data, everything),
        "highres": lambda: highres(args.data),
        "lamost": lambda: lamost(args.data),
    }
    for name in args.sets:
        stars = [redder(star, args.above) for star in sets[name]()]
        results = fitted(stars, args.emulator, args.bridge)
        print(f"\n## {name}: {len(stars)} stars")
        if len(stars) < 100:
            one_by_one(stars, results)
        by_class(stars, results)
        by_window(stars, results)
        abundances(stars, results, args.data / "reference/benchmarks.yaml")
        if args.table:
            as_table(stars, results).write(args.table.with_stem(f"{args.table.stem}_{name}"), overwrite=True)


if __name__ == "__main__":
    main()
