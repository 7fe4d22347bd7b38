"""Lower the oscillator strengths of lines that the Sun shows to be too strong in a list.

The Sun (HARPS) and the list's Sun (5772 K, log g 4.44, vmic 1.0, solar abundances) are compared line by line. A line is
corrected where it makes most of the absorption at its centre
and the model absorbs significantly more than the Sun; its log gf is lowered until both agree. Nothing is raised. Left
alone are lines outside the observed range, molecules, elements beyond zinc, and lines with hyperfine or isotopic
components or marked as good in the list: their strengths were measured in laboratories.

    python scripts/solar_oscillator_strengths.py --atmospheres A.npz --line-list L.npz --sun Sun_HARPS.fits \\
        --out kurucz_grids/data/solar_gf.csv
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from benchmark_stars import harps_sun
from numpy.typing import NDArray

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.linelists import read_line_list
from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.synthesis import Settings, Synthesizer
from phdlspec.lsf import NativeGrid, degrade
from phdlspec.wavelength import air_to_vacuum

SUN = {"TEFF": 5772.0, "LOGG": 4.44, "VMIC": 1.0}
RESOLVING_POWER = 60_000.0  # of macroturbulence, rotation and spectrograph together
HALF_WIDTH = 0.10  # Å over which absorption is compared
COMPONENTS = 0.15  # Å over which components of one line are taken together
DOMINANT = 0.6  # share of a line in the absorption at its centre
LEAST_DEPTH = 0.01  # mean absorption over the window
EXCESS = 0.15  # relative excess of the model that is corrected ...
LEAST_EXCESS = 0.006  # ... if it is at least so much of the continuum
HEAVIEST = 30
LABORATORY = ("LM_good", "LM_hfs")  # sources of the columnar list
LEAST_CHANGE, MOST_CHANGE = -0.1, -3.0  # dex
ITERATIONS = 6

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Groups:
    """Lines with their components: member (N,) group of each line; wave, size, share (G,) in the local absorption."""

    member: NDArray[np.intp]
    wave: Array
    size: NDArray[np.intp]
    share: Array


def group_lines(lines: LineList, strength: Array) -> Groups:
    """Components of a line have one species and one lower level and follow each other closely."""
    level = np.round(lines.elow_ev.astype(float), 2)
    order = np.lexsort((lines.wave_vacuum, level, lines.species_index))
    wave, species, level = lines.wave_vacuum[order], lines.species_index[order], level[order]
    new = (np.diff(species) != 0) | (np.diff(level) != 0) | (np.diff(wave) > COMPONENTS)
    number = np.concatenate([[0], np.cumsum(new)])
    total = np.bincount(number, strength[order])
    centre = np.bincount(number, strength[order] * wave) / np.maximum(total, 1e-300)
    member = np.empty(len(order), dtype=np.intp)
    member[order] = number
    # All lines whose centres lie in the window of a group compete with it.
    by_wave = np.argsort(lines.wave_vacuum)
    cumulative = np.concatenate([[0.0], np.cumsum(strength[by_wave])])
    sorted_wave = lines.wave_vacuum[by_wave]
    near = cumulative[np.searchsorted(sorted_wave, centre + HALF_WIDTH)]
    near = near - cumulative[np.searchsorted(sorted_wave, centre - HALF_WIDTH)]
    return Groups(member, centre, np.bincount(number), total / np.maximum(near, 1e-300))


def open_to_change(lines: LineList, path: str) -> NDArray[np.bool_]:
    """Lines (N,) whose oscillator strength may be wrong: light atoms, not from laboratories."""
    light = (lines.z2 == 0) & (lines.z1 <= HEAVIEST)
    with np.load(path) as archive:
        rows = archive["lines"]
    rows = rows[np.isin(rows["src"].astype(str), LABORATORY)]
    known = np.sort(air_to_vacuum(rows["wl_air"]))
    place = np.searchsorted(known, lines.wave_vacuum - 1e-4)
    nearest = known[np.minimum(place, len(known) - 1)]
    return light & (np.abs(nearest - lines.wave_vacuum) > 1e-4)


def levelled(observed: Array, model: Array, wave: Array) -> Array:
    """The observed flux over a continuum that follows the model's highest points."""
    centres = np.arange(wave[0], wave[-1], 8.0)
    level = np.full(len(centres), np.nan)
    for i, centre in enumerate(centres):
        near = np.abs(wave - centre) < 12.0
        high = near & np.isfinite(observed) & (model >= max(np.quantile(model[near], 0.8), 0.85))
        if high.sum() > 50:
            level[i] = np.median(observed[high] / model[high])
    good = np.isfinite(level)
    return observed / np.interp(wave, centres[good], level[good])


def mean_near(values: Array, wave: Array, centre: Array) -> Array:
    """Mean of values (P,) within `HALF_WIDTH` of centres (G,); NaN where a value is missing or none is there."""
    low, high = np.searchsorted(wave, centre - HALF_WIDTH), np.searchsorted(wave, centre + HALF_WIDTH)
    finite = np.isfinite(values)
    missing = np.concatenate([[0], np.cumsum(~finite)])
    cumulative = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    count = high - low
    with np.errstate(all="ignore"):
        mean = (cumulative[high] - cumulative[low]) / count
    return np.where((count > 5) & (missing[high] == missing[low]), mean, np.nan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atmospheres", required=True)
    parser.add_argument("--line-list", required=True, help="columnar npz")
    parser.add_argument("--sun", type=Path, required=True, help="Sun_HARPS.fits")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    atmospheres, lines = AtmosphereGrid.load(args.atmospheres), read_line_list(args.line_list)
    sun_wave, sun_flux = harps_sun(args.sun.parent)
    low, high = float(sun_wave[0]) + 5.0, float(sun_wave[-1]) - 5.0
    lines = lines.within(low - 10.0, high + 10.0)
    change = np.zeros(len(lines))
    out = NativeGrid(low, 1.0 / 300_000.0, int(np.log(high / low) * 300_000), RESOLVING_POWER)
    observed = np.interp(out.wave, sun_wave, sun_flux)
    allowed = open_to_change(lines, args.line_list)
    for iteration in range(ITERATIONS + 1):
        current = replace(lines, loggf=lines.loggf + change)
        synthesizer = Synthesizer(atmospheres, current, Settings(wave_min=low - 5.0, wave_max=high + 5.0))
        prepared = synthesizer.prepare(SUN, derivatives=False)
        model = degrade(
            synthesizer.solve(prepared).flux[None], 1.0 / synthesizer.settings.points, low - 5.0,
            float("inf"), out,
        )[0].double().numpy()  # fmt: skip
        strength = np.zeros(len(lines))
        strength[np.isin(lines.species, synthesizer.line_list.species_names)] = synthesizer.line_strengths(prepared)
        groups = group_lines(lines, strength)
        absorbed = 1.0 - model
        seen = 1.0 - levelled(observed, model, out.wave)
        ours, suns = mean_near(absorbed, out.wave, groups.wave), mean_near(seen, out.wave, groups.wave)
        excess = ours - suns
        free = (groups.size == 1) & (np.bincount(groups.member, allowed) > 0)
        least = np.maximum(EXCESS * ours, LEAST_EXCESS)
        wrong = free & (groups.share > DOMINANT) & (ours > LEAST_DEPTH) & (excess > least)
        total = np.nanmean(absorbed), np.nanmean(seen)
        print(f"iteration {iteration}: {wrong.sum()} lines too strong; absorption {total[0]:.4f}, Sun {total[1]:.4f}")
        if iteration == ITERATIONS:
            break
        step = np.log10(np.log1p(-suns.clip(2e-3, 0.95)) / np.log1p(-ours.clip(2e-3, 0.95)))
        step = np.where(wrong, np.nan_to_num(step), 0.0).clip(-0.7, 0.0)
        change = np.maximum(change + step[groups.member], MOST_CHANGE)
    kept = change < LEAST_CHANGE
    write(args.out, lines, change, kept, args)


def write(path: Path, lines: LineList, change: Array, kept: NDArray[np.bool_], args: argparse.Namespace) -> None:
    """The table as CSV, its header saying what made it."""
    with path.open("w") as file:
        file.write("# Oscillator strengths lowered to what the Sun (HARPS) allows; made by\n")
        file.write("# scripts/solar_oscillator_strengths.py from the list of checksum " + lines.checksum[:16] + "\n")
        file.write("wave_vacuum,species,elow_ev,loggf,change\n")
        for i in np.flatnonzero(kept):
            file.write(
                f"{lines.wave_vacuum[i]:.4f},{lines.species[i]},{lines.elow_ev[i]:.3f},{lines.loggf[i]:.3f},"
                f"{change[i]:.2f}\n"
            )
    print(f"{path}: {kept.sum()} lines, median change {np.median(change[kept]):.2f} dex")


if __name__ == "__main__":
    main()
