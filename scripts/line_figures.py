"""What the calibration of lines on stars did: wings and depths in the Sun and alpha Tau, changes by source.

    python scripts/line_figures.py DATA --atmospheres atlas9.npz --line-list LIST... --out docs/figures/lines.png

The figure has strong lines of Fe I, Cr I and Mn I at the full resolution of HARPS: observed, computed from the list
with classical radiative widths (as it was before), with the widths of the levels, and with the shipped table. The
printed tables are the rms of observed minus computed in each window, and the changes of log gf by species with their
prior. Both stars are among those that the table was fitted to.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from calibrate_lines import CALCULATED, DEX, LABORATORY, Lines
from matplotlib.axes import Axes
from numpy.typing import NDArray
from reference_spectra import high_resolution

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.line_calibration import projection
from kurucz_grids.linelists import LineList, read_line_list
from kurucz_grids.linelists.damping import classical_radiative
from kurucz_grids.linelists.star_calibration import StarCalibration
from kurucz_grids.synthesis import SynthesisSettings, Synthesizer
from phdlspec.wavelength import air_to_vacuum

Array = NDArray[np.float64]

STARS = ("Sun", "alf Tau")
WINDOWS = {  # air Å
    "Fe I 5269": (5264.5, 5275.0), "Cr I 5206": (5201.0, 5211.0), "Mn I 4823": (4819.0, 4828.0),
    "Fe I 5447": (5441.0, 5452.0),
}  # fmt: skip
EDGE = 6.0  # Å that are synthesized beside a window: wings of lines outside
SPECIES = ("Fe", "Fe+", "Ti", "Ti+", "Cr", "Mn", "Ni", "Co", "V", "Sc+", "Ca", "Mg", "Si", "Na", "Ce+", "Nd+")


@dataclass(frozen=True)
class Variant:
    """One choice of line data, its name and colour in the figure."""

    name: str
    colour: str
    lines: LineList


def variants(paths: list[str]) -> list[Variant]:
    """Line data before, with widths of levels, and calibrated."""
    listed = read_line_list(paths)
    classical = classical_radiative(listed.wave_vacuum)
    atoms = listed.z2 == 0
    before = replace(listed, gamma_rad=np.where(atoms, classical, listed.gamma_rad).astype(np.float32))
    return [
        Variant("classical widths", "tab:orange", before),
        Variant("widths of the levels", "tab:blue", listed),
        Variant("calibrated on stars", "tab:red", StarCalibration.read().apply(listed)),
    ]


def computed(
    atmospheres: AtmosphereGrid, lines: LineList, labels: Array, low: float, high: float
) -> tuple[Array, Array]:
    """Vacuum wavelengths and normalised flux between two wavelengths (Å)."""
    settings = SynthesisSettings(wave_min=low - EDGE, wave_max=high + EDGE)
    near = lines.select((lines.wave_vacuum > low - 60.0) & (lines.wave_vacuum < high + 60.0))
    spectrum = Synthesizer(atmospheres, near, settings).synthesize(labels)
    return spectrum.wave.numpy(), spectrum.flux.double().numpy()


def compared(ax: Axes, data: Path, star: str, window: str, grid: AtmosphereGrid, kinds: list[Variant]) -> list[float]:
    """Draw one window of one star; rms of observed minus computed of each variant."""
    low, high = (float(x) for x in air_to_vacuum(np.array(WINDOWS[window])))
    reference = high_resolution(data, star)
    inside = (reference.wave > low) & (reference.wave < high)
    wave, observed = reference.wave[inside], reference.flux[inside]
    left = []
    for number, kind in enumerate(kinds):
        native, flux = computed(grid, kind.lines, reference.labels, low, high)
        model = projection(native, wave, reference.gaussian[inside], reference.vsini) @ flux
        good = np.isfinite(observed)
        shape = np.polyfit(wave[good] - low, observed[good] / model[good], 1)  # the local continuum
        level = np.polyval(shape, wave - low)
        if number == len(kinds) - 1:
            ax.plot(wave, observed / level, "k", lw=1.4, label="observed")
        ax.plot(wave, model, color=kind.colour, lw=0.9, label=kind.name)
        left.append(float(np.sqrt(np.nanmean((observed / level - model) ** 2))))
    ax.set_title(f"{'α Tau' if star == 'alf Tau' else star}, {window}", fontsize=9)
    return left


def changes(paths: list[str]) -> None:
    """Print the changes of log gf by species and prior, of lines that changed."""
    lines, table = Lines.assembled(paths), StarCalibration.read()
    row, line = table.matches(lines.lines)
    prior = lines.gf_prior[lines.member[line]]
    change, name = np.asarray(table.lines["gf_change"])[row], np.asarray(table.lines["species"]).astype(str)[row]
    print("\n| species | prior (dex) | lines told | median change | 16% to 84% | raised |\n" + "|---" * 6 + "|")
    for species in SPECIES:
        for width in (LABORATORY, CALCULATED):
            mine = change[(name == species) & np.isclose(prior, width)]
            if len(mine) > 20:
                low, middle, high = np.percentile(mine, [16, 50, 84])
                print(f"| {species} | {width / DEX:.2f} | {len(mine)} | {middle:+.3f} | {low:+.2f} to {high:+.2f} | "
                      f"{100 * np.mean(mine > 0):.0f}% |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--atmospheres", required=True)
    parser.add_argument("--line-list", nargs="+", required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    grid, kinds = AtmosphereGrid.load(args.atmospheres), variants(args.line_list)
    figure, axes = plt.subplots(len(WINDOWS), len(STARS), figsize=(11, 2.4 * len(WINDOWS)), layout="constrained")
    print("| star, window | " + " | ".join(k.name for k in kinds) + " |\n" + "|---" * (1 + len(kinds)) + "|")
    for column, star in enumerate(STARS):
        for row, window in enumerate(WINDOWS):
            left = compared(axes[row, column], args.data, star, window, grid, kinds)
            print(f"| {star}, {window} | " + " | ".join(f"{x:.3f}" for x in left) + " |", flush=True)
    axes[0, 0].legend(fontsize=7, loc="lower left")
    figure.supxlabel("vacuum wavelength (Å)")
    figure.supylabel("normalised flux")
    if args.out:
        figure.savefig(args.out, dpi=110)
    changes(args.line_list)


if __name__ == "__main__":
    main()
