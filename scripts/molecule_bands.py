"""Molecular bands of real stars, observed and computed without and with the lists of molecules.

    python scripts/molecule_bands.py DATA                # table of bands by class of star
    python scripts/molecule_bands.py DATA --lines        # single lines of α Tau at full resolution
    python scripts/molecule_bands.py DATA --forest       # what thinning the forest of TiO does to spectra
    python scripts/molecule_bands.py DATA --cost         # CPU seconds a model, flux with all derivatives

DATA holds linelists/, atmospheres/, highres/ and miles/. The depth of a band is 1 - F(band)/F(beside), with the mean
flux beside it brought to the band's place by a straight line, all at 2.5 Å FWHM; observed ones are flux-calibrated
(MILES) or of one echelle order and more (HARPS). Labels are fundamental (Gaia benchmark stars v3) or, for the M stars,
of the literature; nothing is fitted. Giants are computed with [C/Fe] = -0.15 and [N/Fe] = +0.30, what the first
dredge-up leaves, and metal-poor stars with [alpha/Fe] = -0.3 [Fe/H], at most 0.3.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits
from harness import table_head
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.linelists import LineList, read_line_list
from kurucz_grids.linelists import forest as forests
from kurucz_grids.linelists.star_calibration import calibrated
from kurucz_grids.synthesis import SynthesisSettings, Synthesizer
from phdlspec.lsf import NativeGrid, degrade
from phdlspec.solar import SOLAR_ABUNDANCES
from phdlspec.wavelength import vacuum_to_air

Array = NDArray[np.float64]

FWHM = 2.5  # Å, of MILES
STEP = 0.1  # Å, of the grid in air on which bands are measured
ALPHA = ("O", "Mg", "Si", "S", "Ca", "Ti")
BANDS: dict[str, tuple[tuple[float, float], tuple[tuple[float, float], ...]]] = {  # the band and beside it, Å in air
    "CN 3883": ((3866, 3883), ((3895, 3908),)),
    "CN 4215": ((4142.1, 4177.1), ((4080.1, 4117.6), (4244.1, 4284.1))),
    "CH 4300": ((4281.4, 4316.4), ((4266.4, 4282.6), (4317.6, 4335.1))),
    "C2 4737": ((4715, 4737), ((4742, 4758),)),
    "MgH 5100": ((5069.1, 5134.1), ((4895.1, 4957.6), (5301.1, 5366.1))),
    "C2 5165": ((5150, 5165), ((5108, 5122), (5195, 5203))),
    "C2 5635": ((5614, 5635), ((5590, 5603), (5637, 5650))),
    "TiO 4761": ((4763, 4790), ((4742, 4758),)),
    "TiO 4955": ((4957, 4985), ((4940, 4953),)),
    "TiO 5167": ((5187, 5203), ((5130, 5150),)),
    "TiO 5448": ((5451, 5485), ((5425, 5445),)),
    "TiO 5960": ((5938.9, 5995.9), ((5818.4, 5850.9), (6040.4, 6105.4))),
    "TiO 6159": ((6162, 6195), ((6130, 6155),)),
    "TiO 6651": ((6653, 6690), ((6630, 6649),)),
    "CaH 6830": ((6814, 6846), ((7042, 7048),)),
    "TiO 7054": ((7057, 7085), ((7042, 7048),)),
}
FULL_RESOLUTION = ((4957, 5020), (5180, 5240), (5450, 5510), (5600, 5660), (5860, 5920), (6160, 6220), (6655, 6715))
ECHELLE_FWHM = 0.12  # Å, of α Tau with its macroturbulence


@dataclass(frozen=True)
class Star:
    """A star of known Teff (K), log g, [Fe/H], and the class of the table in which it stands."""

    name: str
    kind: str
    teff: float
    logg: float
    fe_h: float

    @property
    def vmic(self) -> float:
        """Microturbulence (km/s)."""
        return 1.6 if self.logg < 3.5 else 1.0

    def abundances(self) -> dict[str, float]:
        """A(X) of all elements."""
        ratio = dict.fromkeys(ALPHA, float(np.clip(-0.3 * self.fe_h, 0.0, 0.3)))
        if self.logg < 3.5:
            ratio |= {"C": -0.15, "N": 0.30}
        metals = {e: a + self.fe_h + ratio.get(e, 0.0) for e, a in SOLAR_ABUNDANCES.items()}
        return metals | {e: SOLAR_ABUNDANCES[e] for e in ("H", "He")}


SUN = Star("Sun", "Sun", 5772.0, 4.44, 0.0)
ALDEBARAN = Star("α Tau", "α Tau", 3927.0, 1.11, -0.37)
M_STARS = ("HD060522", "HD070272", "HD192909", "HD003574", "HD168720", "HD146051", "HD119667", "HD121130", "HD151203")
M_DWARF = "HD111631"
CUT_STARS = tuple(Star(f"{kind} {teff:.0f} K", kind, teff, logg, 0.0)
                  for teff, low, high in ((3600, 1.0, 4.8), (3800, 1.2, 4.7), (4000, 1.4, 4.7), (4500, 2.2, 4.6))
                  for kind, logg in (("giant", low), ("dwarf", high)))  # fmt: skip
COST_STARS = (*CUT_STARS, Star("giant 5000 K", "giant", 5000.0, 3.0, 0.0), SUN, Star("F star", "", 7000.0, 4.2, 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    for option in ("--lines", "--forest", "--cost"):
        parser.add_argument(option, action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    atmospheres = AtmosphereGrid.load(args.data / "atmospheres" / "ck03_odfnew_grid.npz")
    if args.forest:
        study_forest(args.data, atmospheres)
    elif args.cost:
        study_cost(args.data, atmospheres)
    elif args.lines:
        study_lines(args.data, atmospheres)
    else:
        study_bands(args.data, atmospheres)


def line_list(data: Path, molecules: bool, thin_forests: bool = True) -> LineList:
    """The main list, with the lists of molecules or without."""
    paths = [data / "linelists" / "optical_3690_9300_air.npz", data / "linelists" / "moog_molecules"]
    return calibrated(read_line_list(paths if molecules else paths[:1], thin_forests=thin_forests))


def computed(synthesizer: Synthesizer, atmospheres: AtmosphereGrid, star: Star) -> tuple[Array, Array]:
    """Air wavelengths (Å) and absolute flux of a star at the synthesis' own resolution."""
    atmosphere = atmospheres.interpolate(star.teff, star.logg, star.fe_h)
    model = synthesizer.prepare_atmosphere(atmosphere, star.abundances(), star.vmic, derivatives=False)
    spectrum = synthesizer.solve(model)
    return vacuum_to_air(spectrum.wave.numpy()), (spectrum.flux * spectrum.continuum).double().numpy()


def blurred(wave: Array, flux: Array, fwhm: float, grid: Array) -> Array:
    """Flux on an even grid of air wavelengths, brought to a width `fwhm` (Å)."""
    return gaussian_filter1d(np.interp(grid, wave, flux), fwhm / 2.3548 / (grid[1] - grid[0]))


def depth(wave: Array, flux: Array, band: str) -> float:
    """Depth of a band of `BANDS`; NaN where the spectrum does not cover it."""
    inner, sides = BANDS[band]

    def mean(window: tuple[float, float]) -> float:
        inside = (wave >= window[0]) & (wave <= window[1])
        covered = wave[0] <= window[0] and wave[-1] >= window[1]
        return float(np.mean(flux[inside])) if covered and inside.any() else np.nan

    centres = [(a + b) / 2 for a, b in sides]
    level = np.interp((inner[0] + inner[1]) / 2, centres, [mean(side) for side in sides])
    return 1.0 - mean(inner) / float(level)


def echelle(path: Path, star_wave: Array, star_flux: Array) -> tuple[Array, Array]:
    """Air wavelengths and flux of a spectrum with linear wavelengths, brought to rest by the computed one."""
    with fits.open(path) as hdus:
        header, flux = hdus[0].header, np.asarray(hdus[0].data, dtype=float)
    wave = header["CRVAL1"] + header["CDELT1"] * np.arange(len(flux))
    good = np.isfinite(flux) & (flux > 0)
    grid = np.exp(np.arange(np.log(6080.0), np.log(6240.0), 1e-6))  # 0.3 km/s
    ours, theirs = (detrended(np.log(np.maximum(np.interp(grid, *x), 1e-9))) for x in
                    ((star_wave, star_flux), (wave[good], flux[good])))  # fmt: skip
    shifts = np.arange(-150, 151)
    best = shifts[np.argmax([np.corrcoef(ours[200:-200], np.roll(theirs, -s)[200:-200])[0, 1] for s in shifts])]
    return wave[good] / np.exp(best * 1e-6), flux[good]


def detrended(values: Array) -> Array:
    """Without what is wider than some 40 Å at 6000 Å on a grid of 1e-6 in the logarithm."""
    return values - gaussian_filter1d(values, 3000.0)


def miles_stars(data: Path) -> tuple[list[Star], Array, dict[str, Array]]:
    """Cool stars of the even half of MILES with labels, its air wavelengths, fluxes by name."""
    table = np.load(data / "miles" / "miles_even.npz")
    stars, fluxes = [], {}
    for name, flux, literature, benchmark in zip(
        table["name"], table["flux"], table["labels_literature"], table["labels_gaia_benchmark_v3"]
    ):
        known = bool(np.isfinite(benchmark).all())
        teff, logg, fe_h = map(float, benchmark if known else literature)
        kind = "dwarfs 4300-4800 K" if logg > 3.5 else "giants 4200-4800 K" if teff > 4100 else "giants 3900-4100 K"
        if name in M_STARS:
            kind = "M giants, 3640-3900 K"
        if name == M_DWARF:
            kind = "M dwarf, 3785 K"
        if name in (*M_STARS, M_DWARF) or (known and teff < 4800 and fe_h > -0.7):
            stars.append(Star(str(name), kind, teff, logg, fe_h))
            fluxes[str(name)] = np.asarray(flux, dtype=float)
    return stars, table["wave_air"], fluxes


def study_bands(data: Path, atmospheres: AtmosphereGrid) -> None:
    """Print depths by class of star: observed, computed with the main list, computed with the lists of molecules."""
    stars, wave, fluxes = miles_stars(data)
    grid = np.arange(3700.0, 7400.0, STEP)
    depths: dict[str, dict[str, list[float]]] = {star.name: {} for star in (SUN, ALDEBARAN, *stars)}
    for which, molecules in (("before", False), ("after", True)):
        synthesizer = Synthesizer(None, line_list(data, molecules), SynthesisSettings(wave_max=7450.0))
        for star in (SUN, ALDEBARAN, *stars):
            own = computed(synthesizer, atmospheres, star)
            depths[star.name][which] = [depth(grid, blurred(*own, FWHM, grid), band) for band in BANDS]
            if star in (SUN, ALDEBARAN):
                file = "Sun_HARPS.fits" if star is SUN else "HARPS.GBOG_alfTau.fits"
                seen = echelle(data / "highres" / file, *own)
                inside = grid[(grid > seen[0][0] + 10) & (grid < seen[0][-1] - 10)]
                depths[star.name]["observed"] = [depth(inside, blurred(*seen, FWHM, inside), band) for band in BANDS]
            else:
                depths[star.name]["observed"] = [depth(wave, fluxes[star.name], band) for band in BANDS]
    print_bands((SUN, ALDEBARAN, *stars), depths)


def print_bands(stars: Sequence[Star], depths: dict[str, dict[str, list[float]]]) -> None:
    """Medians over the stars of each class."""
    kinds = list(dict.fromkeys(star.kind for star in stars))
    members = {kind: [star.name for star in stars if star.kind == kind] for kind in kinds}
    print("| band | " + " | ".join(f"{kind} ({len(members[kind])})" for kind in kinds) + " |")
    print("|---" * (len(kinds) + 1) + "|")
    for k, band in enumerate(BANDS):
        cells = []
        for kind in kinds:
            observed, before, after = (
                np.median([depths[name][which][k] for name in members[kind]])
                for which in ("observed", "before", "after")
            )
            cells.append("" if np.isnan(observed) else f"{observed:.3f}: {before:.3f} → {after:.3f}")
        print(f"| {band} | {' | '.join(cells)} |")


def study_lines(data: Path, atmospheres: AtmosphereGrid) -> None:
    """Print how single lines of α Tau agree: slope of observed on computed ln flux, correlation, rms that is left."""
    print(table_head("window (Å)", "before: slope, correlation, rms", "after"))
    rows: dict[tuple[int, int], list[str]] = {window: [] for window in FULL_RESOLUTION}
    for molecules in (False, True):
        synthesizer = Synthesizer(None, line_list(data, molecules), SynthesisSettings(wave_min=4900.0, wave_max=6750.0))
        own = computed(synthesizer, atmospheres, ALDEBARAN)
        seen = echelle(data / "highres" / "HARPS.GBOG_alfTau.fits", *own)
        for low, high in FULL_RESOLUTION:
            grid = np.arange(low - 30.0, high + 30.0, 0.02)
            ours, theirs = np.log(blurred(*own, ECHELLE_FWHM, grid)), np.log(blurred(*seen, 0.04, grid))
            x, y = (v - gaussian_filter1d(v, 18.0 / 0.02) for v in (ours, theirs))
            inside = (grid >= low) & (grid <= high)
            x, y = x[inside], y[inside]
            slope = (x @ y) / (x @ x)
            rows[low, high].append(f"{slope:.2f}, {np.corrcoef(x, y)[0, 1]:.2f}, {np.std(y - x):.3f}")
    for (low, high), cells in rows.items():
        print(f"| {low:.0f}-{high:.0f} | {' | '.join(cells)} |")


def study_forest(data: Path, atmospheres: AtmosphereGrid) -> None:
    """Print the error of the flux at R = 1800 that thinning makes, by width of the columns."""
    whole = line_list(data, True, thin_forests=False)
    lists: dict[float, LineList] = {0.0: whole}
    for column in (1.0, forests.COLUMN, 2.0):
        forests.COLUMN = column
        lists[column] = forests.forests_thinned(whole)
    out = NativeGrid(3700.0, 1.0 / 7200.0, int(np.log(9100.0 / 3700.0) * 7200), 1800.0)
    synthesizers = {column: Synthesizer(None, lines) for column, lines in lists.items()}
    print("| star | columns (km/s) | lines listed | lines used | rms | mean | largest | worst 100 Å, rms |")
    print("|---" * 8 + "|")
    for star in CUT_STARS:
        reference = None
        for column, synthesizer in synthesizers.items():
            atmosphere = atmospheres.interpolate(star.teff, star.logg, star.fe_h)
            model = synthesizer.prepare_atmosphere(atmosphere, star.abundances(), star.vmic, derivatives=False)
            spectrum = synthesizer.solve(model)
            step = 1.0 / synthesizer.settings.points
            flux = degrade(spectrum.flux[None], step, float(spectrum.wave[0]), float("inf"), out)[0].double().numpy()
            reference = flux if reference is None else reference
            error = flux - reference
            worst = max(float(np.sqrt(np.mean(part**2))) for part in np.array_split(error, 54))
            print(f"| {star.name} | {column:g} | {len(lists[column])} | {spectrum.n_lines} | "
                  f"{np.sqrt(np.mean(error**2)):.5f} | {error.mean():+.5f} | {np.abs(error).max():.5f} | {worst:.5f} |",
                  flush=True)  # fmt: skip


def study_cost(data: Path, atmospheres: AtmosphereGrid) -> None:
    """Print CPU seconds of chemistry and of lines and transfer, with abundance derivatives, for either list."""
    print(table_head("star", "list", "lines", "chemistry", "lines and transfer"))
    for molecules in (False, True):
        synthesizer = Synthesizer(None, line_list(data, molecules))
        for star in warmed_up(COST_STARS):
            atmosphere = atmospheres.interpolate(star.teff, star.logg, star.fe_h)
            begun = time.process_time()
            model = synthesizer.prepare_atmosphere(atmosphere, star.abundances(), star.vmic)
            between = time.process_time()
            spectrum = synthesizer.solve(model)
            done = time.process_time()
            print(f"| {star.name} | {'with molecules' if molecules else 'main'} | {spectrum.n_lines} | "
                  f"{between - begun:.1f} | {done - between:.1f} |", flush=True)  # fmt: skip


def warmed_up(stars: Sequence[Star]) -> Iterable[Star]:
    """The stars after one of them, in which the kernels are compiled."""
    yield replace(stars[0], name="(compiling)")
    yield from stars


if __name__ == "__main__":
    main()
