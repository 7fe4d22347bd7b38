"""Our Sun against the observed one (HARPS, UVES) and against two other codes, at R = 1800.

    python scripts/sun_comparison.py ../shared/data --figure docs/figures/sun_comparison.png

Prints Markdown tables: rms of observed minus model by window of 100 Å, for our model (ATLAS9 interpolated to the
Sun's parameters) and for those of pyKurucz and Turbospectrum; our model on their atmosphere against theirs,
differential spectra included; and the same with our line list made step by step into what theirs seems to be (the
list's own log gf, Unsöld's widths in place of those of Anstee, Barklem & O'Mara, no C2). The observed continuum is a
broken line with a knot every 100 Å, fitted to observed = model x continuum, so a model is judged by its lines alone;
the velocity is fitted too.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from benchmark_stars import harps_sun, uves_sun
from matplotlib.gridspec import SubplotSpec
from numpy.typing import NDArray
from tqdm import tqdm

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.atmospheres import Atmosphere, read_atmospheres
from kurucz_grids.linelists import LineList, read_line_list
from kurucz_grids.linelists.damping import UNSOLD_EXPONENT, unsold_vdw, upper_level_ev
from kurucz_grids.linelists.star_calibration import calibrated
from kurucz_grids.synthesis import SynthesisSettings, Synthesizer
from phdlspec.labels import ELEMENTS
from phdlspec.lsf import NativeGrid, broaden, degrade
from phdlspec.solar import SOLAR_ABUNDANCES
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

Array = NDArray[np.float64]

SUN = (5772.0, 4.438, 0.0)
VMIC = 1.0  # km/s
CODES = {"pyKurucz": "pk", "Turbospectrum": "ts"}
FLUXES = {"pyKurucz": "base_pk300k", "Turbospectrum": "base_ts"}
RESPONSES = ("C", "Na", "Mg", "Si", "Ca", "Ti", "Fe")
CODE_ATMOSPHERE = "at12_aaaaa_t05770g4.44.atm"
CODE_VMIC = 2.0  # km/s, that of the atmosphere
RESOLVING_POWER, OBSERVED_POWER = 1800.0, 100_000.0
RANGE = (3800.0, 8990.0)  # Å, vacuum
KNOTS = 100.0  # Å
TELLURIC = 6850.0  # Å; beyond, oxygen of the Earth's air covers the Sun
STRONG_LINES = (4251.3, 4261.7, 4273.0, 4384.8, 4704.3, 4892.9, 4921.9, 4958.9, 5166.2, 5174.1, 5185.0, 5234.4, 5891.6)
CORE = 1.5  # Å
ZOOMS = ((4270.0, 4420.0, "G band, Hγ"), (5130.0, 5290.0, "Mg b"), (6480.0, 6640.0, "Hα"))


def observed(wave: Array, flux: Array, out: Array) -> Array:
    """The observed spectrum at R = 1800 on `out`; NaN within 10 Å of a gap, beyond the ends and under tellurics."""
    good = np.isfinite(flux)
    seen = broaden(wave[good], flux[good], RESOLVING_POWER, out, OBSERVED_POWER)
    ends = wave[good]
    for left, right in zip(ends[:-1], ends[1:]):
        if right - left > 1.0:
            seen[(out > left - 10.0) & (out < right + 10.0)] = np.nan
    seen[out > TELLURIC] = np.nan
    return seen


def hats(wave: Array) -> Array:
    """(P, K) hat functions with a knot every 100 Å: a broken line in wavelength."""
    knots = np.arange(wave[0], wave[-1] + KNOTS, KNOTS)
    return np.clip(1.0 - np.abs(wave[:, None] - knots) / KNOTS, 0.0, None)


def normalised(seen: Array, model: Array, wave: Array) -> Array:
    """The observed flux over its continuum, NaN where it is not observed."""
    good = np.isfinite(seen)
    basis = hats(wave)
    basis = basis[:, basis[good].sum(0) > 0]
    coefficients, *_ = np.linalg.lstsq(basis[good] * model[good, None], seen[good], rcond=None)
    return seen / (basis @ coefficients)


def velocity(seen: Array, model: Array, wave: Array) -> float:
    """Velocity of the observed spectrum (km/s): to first order, with the continuum fitted beside it."""
    y = normalised(seen, model, wave)
    slope = np.gradient(model, np.log(wave))
    good = np.isfinite(y)
    return float(-SPEED_OF_LIGHT_KM_S * (slope[good] @ (y - model)[good]) / (slope[good] @ slope[good]))


def unsold_widths(lines: LineList) -> LineList:
    """The list with Unsöld's van der Waals widths where it has those of Anstee, Barklem & O'Mara."""
    excitation = lines.elow_ev.astype(float)
    width = unsold_vdw(lines.z1.astype(int), lines.charge.astype(int), excitation,
                       upper_level_ev(lines.wave_vacuum, excitation))  # fmt: skip
    calculated = (lines.z2 == 0) & (lines.vdw_exponent != UNSOLD_EXPONENT)
    return replace(
        lines,
        gamma_vdw=np.where(calculated, width, lines.gamma_vdw),
        vdw_exponent=np.where(calculated, UNSOLD_EXPONENT, lines.vdw_exponent),
    )


def without_c2(lines: LineList) -> LineList:
    """The list without the Swan bands."""
    return lines.select((lines.z1 != 6) | (lines.z2 != 6))


def line_lists(path: Path) -> dict[str, LineList]:
    """Our list, and step by step what that of the other codes seems to be."""
    own = read_line_list(path)
    unsold = unsold_widths(own)
    return {
        "ours": calibrated(own),
        "log gf of the list": own,
        "and Unsöld's widths": unsold,
        "and no C2": without_c2(unsold),
    }


def spectrum(lines: LineList, atmosphere: Atmosphere, vmic: float, out: NativeGrid) -> tuple[Array, tuple[str, ...]]:
    """Flux and derivatives (33, P) of the Sun, seen on `out`; the labels of the derivatives."""
    synthesizer = Synthesizer(None, lines, SynthesisSettings())
    result = synthesizer.solve(synthesizer.prepare_atmosphere(atmosphere, SOLAR_ABUNDANCES, vmic))
    assert result.jacobian is not None
    both = torch.cat([result.flux[None], result.jacobian])
    seen = (
        degrade(both, 1.0 / SynthesisSettings().points, float(result.wave[0]), float("inf"), out).numpy().astype(float)
    )
    return seen, result.label_names


def rms(x: Array) -> float:
    """Root mean square of what is finite."""
    return float(np.sqrt(np.nanmean(x**2)))


def print_observed(wave: Array, spectra: dict[str, Array], models: dict[str, Array]) -> None:
    """Rms of observed minus model by window; for ours also the contrast, slope of observed on model depth."""
    residuals, contrast = {}, {}
    for source, seen in spectra.items():
        for name, model in models.items():
            y = normalised(seen, model, wave)
            residuals[source, name] = y - model
            contrast[source, name] = y
    heads = [f"{source}: {name}" for source in spectra for name in models]
    print("| window (Å) | mean depth | " + " | ".join(heads) + " | contrast, ours |")
    print("|---" * (len(heads) + 3) + "|")
    ours = models["ours"]
    edges = np.arange(np.ceil(wave[0] / KNOTS) * KNOTS, wave[-1], KNOTS)
    for low, high in [*zip(edges, edges + KNOTS), (4200.0, 6800.0)]:
        inside = (wave >= low) & (wave < high)
        first = next((s for s in spectra if np.isfinite(spectra[s][inside]).mean() > 0.6), None)
        if first is None:
            continue
        cells = [f"{rms(r[inside]):.4f}" if np.isfinite(r[inside]).mean() > 0.6 else "" for r in residuals.values()]
        use = inside & np.isfinite(contrast[first, "ours"])
        slope = np.polyfit(ours[use], contrast[first, "ours"][use], 1)[0]
        print(f"| {low:.0f}-{high:.0f} | {1 - ours[inside].mean():.3f} | {' | '.join(cells)} | {slope:.2f} |")


def print_strong_lines(wave: Array, seen: Array, models: dict[str, Array]) -> None:
    """Observed minus model in the cores of strong lines, for each of our line lists."""
    print("\n| our list | 4200-6800: rms | " + " | ".join(f"{line:.0f}" for line in STRONG_LINES) + " |")
    print("|---" * (len(STRONG_LINES) + 2) + "|")
    for name, model in models.items():
        residual = normalised(seen, model, wave) - model
        cells = [f"{np.nanmean(residual[np.abs(wave - line) < CORE]):+.3f}" for line in STRONG_LINES]
        print(f"| {name} | {rms(residual[(wave > 4200) & (wave < 6800)]):.4f} | {' | '.join(cells)} |")


def print_flux(wave: Array, ours: Array, codes: dict[str, Array]) -> None:
    """Our flux against that of the other codes, and theirs against each other."""
    flux = {"ours": ours, **{code: codes[name] for code, name in FLUXES.items()}}
    print("\n| window (Å) | ours - pyKurucz | ours - Turbospectrum | pyKurucz - Turbospectrum |\n|---|---|---|---|")
    for low, high in ((4000, 4200), (4200, 5000), (5000, 6000), (6000, 7000), (7000, 8400), (8400, 8800),
                      (4200, 8400), (4000, 8800)):  # fmt: skip
        inside = (wave >= low) & (wave < high)
        pairs = (("ours", "pyKurucz"), ("ours", "Turbospectrum"), ("pyKurucz", "Turbospectrum"))
        cells = [(flux[a] - flux[b])[inside] for a, b in pairs]
        print(f"| {low}-{high} | " + " | ".join(f"{rms(d):.4f} (mean {d.mean():+.4f})" for d in cells) + " |")


def print_lists(wave: Array, models: dict[str, Array], labels: tuple[str, ...], codes: dict[str, Array]) -> None:
    """Flux and derivatives (33, P) of each of our line lists against the other codes."""
    inside = (wave >= 4200) & (wave < 8400)
    print(f"\n| our list | code | rms | mean | vmic | slope, correlation: {' | '.join(RESPONSES)} |")
    print("|---" * (len(RESPONSES) + 5) + "|")
    for name, model in models.items():
        rows = dict(zip(labels, model[1:, inside]))
        rows["FE_FE"] = rows["FE_H"] - sum(rows[f"{e.upper()}_FE"] for e in ELEMENTS)
        for code, key in CODES.items():
            difference = model[0, inside] - codes[FLUXES[code]][inside]
            vmic = CODE_VMIC - rows["VMIC"] @ difference / (rows["VMIC"] @ rows["VMIC"])
            cells = []
            for element in RESPONSES:
                mine, reference = rows[f"{element.upper()}_FE"], codes[f"{key}_{element}_0.1"][inside] / 0.1
                slope = mine @ reference / (reference @ reference)
                cells.append(f"{slope:.2f}, {np.corrcoef(mine, reference)[0, 1]:.4f}")
            level = f"{rms(difference):.4f} | {difference.mean():+.4f} | {vmic:.2f}"
            print(f"| {name} | {code} | {level} | {' | '.join(cells)} |")


def draw(path: Path, wave: Array, seen: Array, model: Array) -> None:
    """Observed, model and residual: the whole range and three zooms."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    y = normalised(seen, model, wave)
    ink, ours, soft = "#222222", "#d1495b", "#8d99ae"
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": soft})
    figure = plt.figure(figsize=(11, 7.4), layout="constrained")
    grid = figure.add_gridspec(4, 3, height_ratios=(3, 1.1, 3, 1.1))

    def panel(place: SubplotSpec, below: SubplotSpec, low: float, high: float, title: str) -> None:
        inside = (wave >= low) & (wave <= high)
        top = figure.add_subplot(place)
        top.plot(wave[inside], y[inside], color=ink, lw=1.1, label="observed (HARPS)")
        top.plot(wave[inside], model[inside], color=ours, lw=0.9, label="ours (docs/grids.md)")
        top.set_title(title, loc="left", fontsize=9.5)
        top.tick_params(labelbottom=False)
        bottom = figure.add_subplot(below, sharex=top)
        bottom.axhline(0.0, color=soft, lw=0.7)
        bottom.fill_between(wave[inside], 0.0, 100 * (y - model)[inside], color=ours, alpha=0.55, lw=0)
        bottom.set_ylim(-9.0, 9.0)
        bottom.set_xlim(low, high)
        if low in (RANGE[0], ZOOMS[0][0]):
            top.set_ylabel("flux / continuum")
            bottom.set_ylabel("residual (%)")
            bottom.set_xlabel("vacuum wavelength (Å)", loc="left", color=soft)
        if low == RANGE[0]:
            top.legend(frameon=False, loc="lower right", ncols=2)

    end = wave[np.isfinite(y)][-1]
    whole = f"The Sun at R = 1800: rms of the residual {100 * rms((y - model)[wave > 4200]):.1f}% at 4200-{end:.0f} Å"
    panel(grid[0, :], grid[1, :], RANGE[0], end, whole)
    for column, (low, high, title) in enumerate(ZOOMS):
        panel(grid[2, column], grid[3, column], low, high, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with atmospheres, highres, linelists, reference_spectra")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(args.data / "reference_spectra" / "sun_two_codes_R1800.npz") as archive:
        codes = {name: archive[name] for name in archive.files}
    inside = (codes["wl_vac"] > RANGE[0]) & (codes["wl_vac"] < RANGE[1])
    codes = {name: values[inside] for name, values in codes.items()}
    out = NativeGrid.from_wave(codes["wl_vac"], RESOLVING_POWER)
    wave = out.wave
    lists = line_lists(args.data / "linelists" / "optical_3690_9300_air.npz")
    sun = AtmosphereGrid.load(args.data / "atmospheres" / "ck03_odfnew_grid.npz").interpolate(*SUN)
    ours = {name: spectrum(lines, sun, VMIC, out)[0][0] for name, lines in lists.items()}
    theirs = read_atmospheres(args.data / "atmospheres" / "native" / CODE_ATMOSPHERE)[0]
    on_theirs = {}
    for name, lines in tqdm(lists.items(), desc="on their atmosphere"):
        on_theirs[name], labels = spectrum(lines, theirs, CODE_VMIC, out)
    spectra = {}
    for source, read in (("HARPS", harps_sun), ("UVES", uves_sun)):
        raw_wave, raw = read(args.data / "highres")
        speed = velocity(observed(raw_wave, raw, wave), ours["ours"], wave)
        print(f"{source}: velocity {speed:+.2f} km/s, taken out")
        spectra[source] = observed(raw_wave / (1.0 + speed / SPEED_OF_LIGHT_KM_S), raw, wave)
    print_observed(wave, spectra, {"ours": ours["ours"], **{code: codes[name] for code, name in FLUXES.items()}})
    print_strong_lines(wave, spectra["HARPS"], ours)
    print_flux(wave, on_theirs["ours"][0], codes)
    print_lists(wave, on_theirs, labels, codes)
    if args.figure:
        draw(args.figure, wave, spectra["HARPS"], ours["ours"])


if __name__ == "__main__":
    main()
