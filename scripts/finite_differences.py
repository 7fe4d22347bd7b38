"""Our differential spectra against finite differences of our own synthesis, in windows, at R = 1800.

    python scripts/finite_differences.py --atmospheres A.npz --line-list L.npz --star sun [--everywhere]

With --everywhere the window is all of 3700-9100 Å, for all labels. Prints for each window and label the relative L2
difference, the slope, and the rms of the derivative, in Markdown.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from harness import table_head

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.linelists import read_line_list
from kurucz_grids.synthesis import SynthesisSettings, Synthesizer
from phdlspec.labels import GRID_LABELS
from phdlspec.lsf import NativeGrid, degrade

STARS = {
    "sun": {"TEFF": 5777.0, "LOGG": 4.44, "VMIC": 1.0},
    "giant": {"TEFF": 4530.0, "LOGG": 2.1, "VMIC": 1.6, "FE_H": -0.3},
    "warm": {"TEFF": 7000.0, "LOGG": 4.0, "VMIC": 1.6},
    "cool-dwarf": {"TEFF": 4200.0, "LOGG": 4.7, "VMIC": 0.8, "FE_H": 0.3},
    "turn-off": {"TEFF": 6250.0, "LOGG": 4.0, "VMIC": 1.5, "FE_H": -1.0},
}
WINDOWS = ((5150.0, 5200.0), (4280.0, 4420.0), (3900.0, 4000.0), (4820.0, 4900.0), (6530.0, 6600.0))
EVERYWHERE = 3700.0, 9100.0
STEPS = {"TEFF": 10.0, "VMIC": 0.05, "LOGG": 0.02, "FE_H": 0.02}  # others 0.05 dex: far above the rounding errors
LABELS = "TEFF LOGG VMIC FE_H C_FE N_FE O_FE NA_FE MG_FE SI_FE CA_FE TI_FE CR_FE NI_FE".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atmospheres", required=True)
    parser.add_argument("--line-list", required=True)
    parser.add_argument("--star", choices=STARS, default="sun")
    parser.add_argument("--labels", nargs="+")
    parser.add_argument("--everywhere", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    atmospheres, line_list = AtmosphereGrid.load(args.atmospheres), read_line_list(args.line_list)
    theta = GRID_LABELS.complete(STARS[args.star])
    print(table_head("window", "label", "difference", "slope", "rms of derivative"))
    labels = args.labels or (GRID_LABELS.names if args.everywhere else LABELS)
    for low, high in [EVERYWHERE] if args.everywhere else WINDOWS:
        cuts: dict[str, Any] = {} if args.everywhere else {"line_cut": 1e-4, "window_cut": 1e-4}
        settings = replace(SynthesisSettings(wave_min=low, wave_max=high), **cuts)
        synthesizer = Synthesizer(atmospheres, line_list, settings)
        size = int((np.log(high / low) - 0.004) * 7200)
        out = NativeGrid(low * np.exp(0.002), 1.0 / 7200.0, size, 1800.0)

        def seen(spectra: torch.Tensor, low: float = low, out: NativeGrid = out) -> np.ndarray:
            return degrade(spectra, 1.0 / 150_000.0, low, float("inf"), out).numpy()

        whole = synthesizer.synthesize(theta).jacobian
        assert whole is not None
        jacobian = seen(whole)
        for name in labels:
            column, step = GRID_LABELS.index(name), STEPS.get(name, 0.05)
            offset = np.zeros(len(theta))
            offset[column] = step
            ends = [seen(synthesizer.synthesize(theta + sign * offset, False).flux) for sign in (1, -1)]
            difference = (ends[0] - ends[1]) / (2.0 * step)
            ours = jacobian[column]
            error = np.linalg.norm(ours - difference) / np.linalg.norm(difference)
            slope = float(ours @ difference / (difference @ difference))
            rms = np.sqrt(np.mean(difference**2))
            print(f"| {low:.0f}-{high:.0f} | {name} | {100 * error:.2f}% | {slope:.3f} | {rms:.4f} |", flush=True)


if __name__ == "__main__":
    main()
