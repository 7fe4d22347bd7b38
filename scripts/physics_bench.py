"""Where the physics stands on real stars, before any emulator: spectra synthesized at known labels against MILES.

    python scripts/physics_bench.py DATA --atmospheres atlas9.npz --line-list LIST... [--lines TABLE|listed|shipped]
        [--stars benchmark|all|highres] [--fold 0|1] [--without PART] [--work DIR]

For every star (benchmark stars: fundamental labels) and class it tells
* *contrast*: slope of observed on computed ln(flux) by band, what is wider than 36 Å taken out: 1 is right, below 1 the
  computed lines are too deep;
* *shape*: observed over computed absolute flux by band, 1 at 5500-5800 Å;
* *fit minus label*: Teff, log g, [Fe/H] of one Gauss-Newton step from the known labels, with all other labels,
  continuum, velocity and resolution free within wide priors: what a fit would find, to first order, S/N 100;
  without Balmer, Ca II H and K and Na D cores, and with them;
* reduced chi2 at S/N 100 after that step.
--fold shows only the stars that `calibrate_lines.py --fold` left out; --stars highres the high-resolution stars as
MILES would see them. --without leaves one part of the line data out, to see what it does: "levels" (radiative widths of
the levels; the classical ones instead), "molecules" (of the lists), "single lines", "bands" or "veil" (of the
calibration). Spectra are kept in --work, one folder for each choice of lines.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
from calibrate_lines import DOUBTFUL, chosen
from numpy.typing import NDArray
from reference_spectra import CLASSES, HIGH_RESOLUTION, MILES_FWHM, KnownStar, full_labels, miles, observed, used
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter1d
from tqdm import tqdm

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.line_calibration import FWHM, projection
from kurucz_grids.linelists import LineList, read_line_list
from kurucz_grids.linelists.damping import classical_radiative
from kurucz_grids.linelists.star_calibration import StarCalibration
from kurucz_grids.synthesis import SynthesisSettings, Synthesizer
from phdlspec.labels import GRID_LABELS

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

SETTINGS = SynthesisSettings(wave_min=3690.0, wave_max=7420.0)
STEP = 0.9  # Å a pixel
BANDS = ((3800, 4200), (4200, 4600), (4600, 4840), (4890, 5150), (5200, 5500), (5500, 5850), (5950, 6500))
SHAPES = ((3750, 3950), (3950, 4150), (4150, 4500), (4500, 5000), (6500, 7300))
REFERENCE = (5500, 5800)
WIDE = 36.0  # Å
BALMER = (6562.8, 4861.3, 4340.5, 4101.7, 3970.0, 3889.0, 3835.0, 3798.0, 3771.0)
CORES = [(w, 18.0) for w in BALMER] + [(3933.7, 15.0), (3968.5, 15.0), (5892.0, 8.0)]  # Å in air, half widths
SNR, KNOT_SPACING = 100.0, 136.0
NO_VEIL = -9.0  # dex
PARTS = ("levels", "molecules", "single lines", "bands", "veil")
PRIORS = {"TEFF": 500.0, "LOGG": 1.0, "VMIC": 0.3, "FE_H": 0.5}  # others 0.2
SHOWN = ("MG_FE", "SI_FE", "CA_FE", "TI_FE", "CR_FE", "MN_FE", "NI_FE", "C_FE", "N_FE", "CO_FE", "V_FE")


@dataclass(frozen=True)
class Model:
    """A star's spectrum at M pixels of MILES: over continuum, the continuum, derivatives (M, 32)."""

    flux: Array
    continuum: Array
    jacobian: Array


_worker: dict[str, Synthesizer] = {}


def start(atmospheres: str, lines: LineList) -> None:
    """Set up a worker process."""
    torch.set_num_threads(1)
    _worker["synthesizer"] = Synthesizer(AtmosphereGrid.load(atmospheres), lines, SETTINGS)


def synthesized(task: tuple[KnownStar, Path | None]) -> Model:
    """The model of a star, from its file if it is there."""
    star, path = task
    if path is not None and path.exists():
        return pickle.loads(path.read_bytes())
    wave, _ = used(star)
    spectrum = _worker["synthesizer"].synthesize(full_labels(*star.labels), derivatives=True)
    operator = projection(spectrum.wave.numpy(), wave, np.full(len(wave), MILES_FWHM), 0.0)
    flux, continuum = spectrum.flux.double().numpy(), spectrum.continuum.double().numpy()
    assert spectrum.jacobian is not None
    model = Model(operator @ flux, operator @ continuum, operator @ spectrum.jacobian.double().numpy().T)
    if path is not None:
        path.write_bytes(pickle.dumps(model))
    return model


@dataclass(frozen=True)
class Examined:
    """What is found of a star: by band, and fit minus label by name, with and without cores that LTE cannot make."""

    contrast: Array
    shape: Array
    whole: dict[str, float]
    masked: dict[str, float]
    chi2: tuple[float, float]


def examine(star: KnownStar, model: Model) -> Examined:
    """Compare a star with its model."""
    wave, flux = used(star)
    air = wave - 1.4
    good = flux > 0
    observed = np.where(good, flux, np.median(flux[good]))
    shift = _offset(observed, model.flux * model.continuum)
    pixel = np.arange(len(wave))
    computed = np.interp(pixel - shift, pixel, model.flux * model.continuum)
    seen, made = np.log(observed), np.log(computed)
    fine_seen, fine_made = _high_pass(seen), _high_pass(made)
    contrast = [float(fine_seen[m] @ fine_made[m] / (fine_made[m] @ fine_made[m])) for m in _bands(air, BANDS)]
    ratio = seen - made
    base = np.median(ratio[_bands(air, (REFERENCE,))[0]])
    shape = [float(np.exp(np.median(ratio[m]) - base)) for m in _bands(air, SHAPES)]
    free = np.ones(len(wave), dtype=bool)
    for centre, half in CORES:
        free &= np.abs(air - centre) > half
    whole, chi2, _ = gauss_newton(wave, observed, good, model)
    masked, chi2_masked, _ = gauss_newton(wave, observed, good & free, model)
    return Examined(np.array(contrast), np.array(shape), whole, masked, (chi2, chi2_masked))


def _bands(air: Array, bands: Sequence[tuple[float, float]]) -> list[Mask]:
    return [(air > low) & (air < high) for low, high in bands]


def _high_pass(y: Array) -> Array:
    return y - gaussian_filter1d(y, WIDE / FWHM / STEP)


def _offset(observed: Array, computed: Array) -> float:
    # Pixels by which the observed spectrum lies redward, from the maximum of the cross-correlation.
    a, b = _high_pass(np.log(observed)), _high_pass(np.log(computed))
    size = len(a)
    found = np.fft.irfft(np.fft.rfft(a) * np.conj(np.fft.rfft(b)), size)
    found = np.roll(found, 6)[:13]
    peak = int(np.clip(np.argmax(found), 1, 11))
    before, at, after = found[peak - 1 : peak + 2]
    return peak - 6 + 0.5 * (before - after) / (before - 2 * at + after)


def gauss_newton(
    wave: Array, observed: Array, good: Mask, model: Model, cores: Array | None = None
) -> tuple[dict[str, float], float, Array]:
    """Changes of labels that fit best to first order, reduced chi2 then, and amplitudes of `cores` (P, M), free."""
    cores = np.empty((len(wave), 0)) if cores is None else cores
    labels = len(GRID_LABELS)
    knots = np.linspace(wave[0], wave[-1], round((wave[-1] - wave[0]) / KNOT_SPACING) + 1)
    basis = BSpline.design_matrix(wave, np.r_[[knots[0]] * 3, knots, [knots[-1]] * 3], 3).toarray()
    slope = np.gradient(model.flux)
    own = np.column_stack([model.jacobian, -slope, np.gradient(slope), cores])
    prior = np.array([PRIORS.get(name, 0.2) for name in GRID_LABELS.names] + [3.0, 0.3] + [3.0] * cores.shape[1])
    over = observed / model.continuum
    over /= np.median(over[good])
    change, fit = np.zeros(own.shape[1]), model.flux
    for _ in range(4):
        columns = basis * fit[:, None] * good[:, None]
        continuum = basis @ np.linalg.lstsq(columns, over * good, rcond=None)[0]
        design = np.hstack([own, basis * fit[:, None]])
        weight = good * SNR**2
        normal = design.T @ (design * weight[:, None])
        normal[np.diag_indices_from(normal)] += np.concatenate([1.0 / prior**2, np.full(basis.shape[1], 1e-6)])
        target = over / np.maximum(continuum, 1e-3) - model.flux
        change = np.linalg.solve(normal, design.T @ (weight * target))[: own.shape[1]]
        fit = model.flux + own @ change
    left = (over / np.maximum(continuum, 1e-3) - fit)[good]
    return dict(zip(GRID_LABELS.names, change[:labels])), float(np.mean((left * SNR) ** 2)), change[labels + 2 :]


def _middle(values: Array) -> tuple[float, float]:
    median = float(np.median(values))
    return median, float(1.4826 * np.median(np.abs(values - median)))


def tell(stars: Sequence[KnownStar], results: Sequence[Examined]) -> None:
    """Print the tables: contrast and shape, then labels, by class."""
    groups = {kind: [f for s, f in zip(stars, results) if s.kind == kind] for kind in CLASSES}
    print("| stars | contrast " + " | ".join(f"{a}-{b}" for a, b in BANDS) + " | shape "
          + " | ".join(f"{a}-{b}" for a, b in SHAPES) + " |")  # fmt: skip
    print("|---" * (1 + len(BANDS) + len(SHAPES)) + "|")
    for kind, group in groups.items():
        if group:
            numbers = np.median([np.concatenate([f.contrast, f.shape]) for f in group], axis=0)
            print(f"| {kind} ({len(group)}) | " + " | ".join(f"{x:.2f}" for x in numbers) + " |")
    for title, labels, which in (("all pixels", "whole", 0), ("without cores", "masked", 1)):
        print(f"\n| {title} | Teff | log g | [Fe/H] | VMIC | chi2 | " + " | ".join(SHOWN) + " |")
        print("|---" * (6 + len(SHOWN)) + "|")
        for kind, group in groups.items():
            if group:
                print(_row(kind, group, attrgetter(labels), which))


def _row(kind: str, group: Sequence[Examined], labels: Callable[[Examined], dict[str, float]], which: int) -> str:
    def of(name: str) -> tuple[float, float]:
        return _middle(np.array([labels(f)[name] for f in group]))

    teff = of("TEFF")
    main = [f"{of(name)[0]:+.2f} ± {of(name)[1]:.2f}" for name in ("LOGG", "FE_H", "VMIC")]
    chi2 = np.median([f.chi2[which] for f in group])
    rest = [f"{of(name)[0]:+.2f}" for name in SHOWN]
    cells = [f"{kind} ({len(group)})", f"{teff[0]:+.0f} ± {teff[1]:.0f}", *main, f"{chi2:.1f}", *rest]
    return "| " + " | ".join(cells) + " |"


def line_list(paths: Sequence[str], table: str, without: str | None) -> LineList:
    """The list as it is ("listed"), or corrected by the shipped table or a file; one of `PARTS` is left out."""
    lines = read_line_list(paths)
    atoms = lines.z2 == 0
    if without == "levels":
        widths = np.where(atoms, classical_radiative(lines.wave_vacuum), lines.gamma_rad)
        lines = replace(lines, gamma_rad=widths.astype(np.float32))
    if without == "molecules":
        lines = lines.select(atoms)
    if table == "listed":
        return lines
    known = StarCalibration.read(None if table == "shipped" else table)
    if without == "single lines":
        known = replace(known, lines=known.lines[:0])
    if without == "bands":
        known = replace(known, bands=known.bands[:0])
    if without == "veil":
        faint = known.veil.copy()
        faint["gf_change"] = NO_VEIL
        known = replace(known, veil=faint)
    return known.apply(lines)


def degraded(data: Path, name: str) -> KnownStar:
    """A high-resolution star with the line spread function and pixels of MILES; its flux is not absolute."""
    wave, flux, bad = observed(data, name)
    step = float(np.median(np.diff(wave)))
    even = np.arange(wave[0], wave[-1], step)
    width = MILES_FWHM / FWHM / step
    smooth = gaussian_filter1d(np.interp(even, wave[~bad], flux[~bad]), width)
    near_bad = gaussian_filter1d(np.interp(even, wave, bad.astype(float)), width)
    at = np.arange(wave[0] + 15.0, wave[-1] - 15.0, STEP)
    values = np.where(np.interp(at, even, near_bad) > 1e-2, 0.0, np.interp(at, even, smooth))
    known = HIGH_RESOLUTION[name]
    return KnownStar(name, at, values, np.array(known.labels), np.array(known.errors), True)


def selected(args: argparse.Namespace) -> list[KnownStar]:
    """The stars that the arguments ask for."""
    if args.stars == "highres":
        return [degraded(args.data, name) for name in HIGH_RESOLUTION]
    if args.stars == "benchmark" and args.fold is None:
        return [s for s in miles(args.data) if s.fundamental and s.name not in DOUBTFUL]
    stars = chosen(args.data, args.atmospheres)
    if args.fold is not None:
        stars = [s for s in stars[args.fold :: 2] if s.fundamental or args.stars == "all"]
    return stars


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--atmospheres", required=True)
    parser.add_argument("--line-list", nargs="+", required=True)
    parser.add_argument("--lines", default="shipped")
    parser.add_argument("--stars", choices=("benchmark", "all", "highres"), default="benchmark")
    parser.add_argument("--without", choices=PARTS)
    parser.add_argument("--fold", type=int, choices=(0, 1))
    parser.add_argument("--work", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    stars = selected(args)
    if args.work:
        args.work.mkdir(parents=True, exist_ok=True)
    tasks = [(star, args.work / f"{star.name.replace(' ', '_')}.pickle" if args.work else None) for star in stars]
    lines = line_list(args.line_list, args.lines, args.without)
    with ProcessPoolExecutor(args.workers, initializer=start, initargs=(args.atmospheres, lines)) as pool:
        models = list(tqdm(pool.map(synthesized, tasks), total=len(tasks)))
    results = [examine(star, model) for star, model in zip(stars, models)]
    for star, f in sorted(zip(stars, results), key=lambda x: (CLASSES.index(x[0].kind), x[0].labels[0])):
        whole, masked = (
            " ".join(f"{found[n]:+.{digits}f}" for n, digits in (("TEFF", 0), ("LOGG", 2), ("FE_H", 2), ("VMIC", 2)))
            for found in (f.whole, f.masked)
        )
        print(f"{star.name:14s} {star.kind:18s} {star.labels.round(2)} contrast {f.contrast.round(2)} shape "
              f"{f.shape.round(2)} | all pixels {whole} | without cores {masked} | chi2 {f.chi2[1]:.1f}")  # fmt: skip
    tell(stars, results)


if __name__ == "__main__":
    main()
