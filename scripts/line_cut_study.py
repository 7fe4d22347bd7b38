"""What the cut of weak lines and the treatment of scattering do to the flux and to the differential spectra.

    python scripts/line_cut_study.py --atmospheres A.npz --line-list L.npz --star sun

The same prepared model is solved with the two cuts of the shipped grid (which lines, and how far a profile is
followed), each ten times higher and ten times lower, and with both a hundred times lower: the reference. Printed at
R = 1800, in windows: rms and mean difference of the flux from the reference, and the relative L2 difference of
derivatives. `--scattering` compares continuum scattering with the same opacity counted as absorption.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import torch

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.atmospheres import Atmosphere
from kurucz_grids.linelists import LineList, read_line_list
from kurucz_grids.stellar_model import StellarModel
from kurucz_grids.synthesis import SynthesisSettings, Synthesizer
from phdlspec.labels import GRID_LABELS
from phdlspec.lsf import NativeGrid, degrade
from phdlspec.solar import SOLAR_ABUNDANCES

STARS = {  # Teff, logg, [M/H], vmic (km/s)
    "sun": (5777.0, 4.44, 0.0, 1.0),
    "giant": (4500.0, 2.0, 0.0, 1.6),
    "metal-poor giant": (4500.0, 1.0, -2.0, 1.8),
}
WINDOWS = ((3900.0, 4000.0), (4250.0, 4350.0), (5100.0, 5200.0), (6450.0, 6550.0), (8100.0, 8200.0))
SCATTERING_WINDOWS = tuple((low, low + 100.0) for low in np.arange(3900.0, 4500.0, 100.0))
FACTORS = ((1.0, 1.0), (10.0, 1.0), (0.1, 1.0), (1.0, 10.0), (1.0, 0.1), (0.01, 0.01))  # of line and profile cut
LABELS = ("VMIC", "FE_H", "C_FE", "MG_FE", "TI_FE")


def solve(
    synthesizer: Synthesizer, model: StellarModel, lines: LineList, settings: SynthesisSettings, low: float, high: float
) -> tuple[np.ndarray, int, float]:
    """Flux and derivatives (33, P) at R = 1800 with other settings, the number of lines, CPU seconds."""
    other = Synthesizer(None, lines, settings) if settings != synthesizer.settings else synthesizer
    begun = time.process_time()
    spectrum = other.solve(model)
    seconds = time.process_time() - begun
    assert spectrum.jacobian is not None
    out = NativeGrid(low, 1.0 / 7200.0, int(np.log(high / low) * 7200), 1800.0)
    both = torch.cat([spectrum.flux[None], spectrum.jacobian])
    seen = degrade(both, 1.0 / settings.points, float(spectrum.wave[0]), float("inf"), out).numpy()
    return seen, spectrum.n_lines, seconds


def prepared(
    lines: LineList, atmosphere: Atmosphere, star: tuple[float, ...], low: float, high: float
) -> tuple[Synthesizer, StellarModel]:
    """Our synthesis for a window with its margins, and the star's model."""
    settings = SynthesisSettings(wave_min=low * 0.998, wave_max=high * 1.002, compiled=False)
    synthesizer = Synthesizer(None, lines, settings)
    abundances = {e: a + (0.0 if e in ("H", "He") else star[2]) for e, a in SOLAR_ABUNDANCES.items()}
    return synthesizer, synthesizer.prepare_atmosphere(atmosphere, abundances, star[3])


def difference(a: np.ndarray, b: np.ndarray) -> str:
    """Relative L2 difference in per cent."""
    return f"{100 * np.linalg.norm(a - b) / np.linalg.norm(b):.2f}%"


def study_cut(lines: LineList, atmosphere: Atmosphere, star: tuple[float, ...]) -> None:
    """Print a table of windows and cuts."""
    heads = ("window (Å)", "cut of lines", "of profiles", "lines", "CPU s", "flux rms", "mean", "largest", *LABELS)
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for low, high in WINDOWS:
        synthesizer, model = prepared(lines, atmosphere, star, low, high)
        base = synthesizer.settings
        cuts = [replace(base, line_cut=base.line_cut * f, window_cut=base.window_cut * g) for f, g in FACTORS]
        results = [solve(synthesizer, model, lines, cut, low, high) for cut in cuts]
        reference = results[-1][0]
        rows = [1 + GRID_LABELS.index(name) for name in LABELS]
        for cut, (spectra, number, seconds) in zip(cuts, results):
            error = spectra[0] - reference[0]
            cells = [difference(spectra[k], reference[k]) for k in rows]
            print(
                f"| {low:.0f}-{high:.0f} | {cut.line_cut:.0e} | {cut.window_cut:.0e} | {number} | {seconds:.1f} | "
                f"{np.sqrt(np.mean(error**2)):.5f} | {error.mean():+.5f} | {np.abs(error).max():.5f} | "
                f"{' | '.join(cells)} |", flush=True,
            )  # fmt: skip


def study_scattering(lines: LineList, atmosphere: Atmosphere, star: tuple[float, ...]) -> None:
    """Print the effect of continuum scattering by window."""
    print("| window (Å) | mean depth | flux rms | mean | largest | " + " | ".join(LABELS) + " |")
    print("|---" * (5 + len(LABELS)) + "|")
    for low, high in SCATTERING_WINDOWS:
        synthesizer, model = prepared(lines, atmosphere, star, low, high)
        with_scattering, *_ = solve(synthesizer, model, lines, synthesizer.settings, low, high)
        without, *_ = solve(synthesizer, model, lines, replace(synthesizer.settings, scattering=False), low, high)
        error = without[0] - with_scattering[0]
        rows = [1 + GRID_LABELS.index(name) for name in LABELS]
        cells = [difference(without[k], with_scattering[k]) for k in rows]
        print(
            f"| {low:.0f}-{high:.0f} | {1 - with_scattering[0].mean():.3f} | {np.sqrt(np.mean(error**2)):.4f} | "
            f"{error.mean():+.4f} | {np.abs(error).max():.4f} | {' | '.join(cells)} |", flush=True,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atmospheres", required=True)
    parser.add_argument("--line-list", nargs="+", required=True)
    parser.add_argument("--star", choices=STARS, default="sun")
    parser.add_argument("--scattering", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    star = STARS[args.star]
    atmosphere = AtmosphereGrid.load(args.atmospheres).interpolate(*star[:3])
    study = study_scattering if args.scattering else study_cut
    study(read_line_list(args.line_list), atmosphere, star)


if __name__ == "__main__":
    main()
