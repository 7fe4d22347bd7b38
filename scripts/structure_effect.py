"""What the structure's answer to abundances does to spectra at R = 1800.

    python scripts/structure_effect.py --atmospheres atlas9.npz --line-list L

Stars with [X/Fe] = +0.4 for the alpha elements that have a label are computed with the structure that this makes and
with the scaled solar one. Prints by band the rms change of the normalised flux by the structure, beside that by the
abundances at a fixed structure, and the change of the absolute flux by either, in Markdown.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from harness import table_head

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.linelists import read_line_list
from kurucz_grids.stellar_model import StellarModel
from kurucz_grids.synthesis import Synthesizer
from phdlspec.labels import GRID_LABELS, STRUCTURE
from phdlspec.lsf import NativeGrid, degrade
from phdlspec.solar import SOLAR_ABUNDANCES

STARS = {
    "giant": {"TEFF": 4500.0, "LOGG": 1.5, "VMIC": 1.8, "FE_H": -1.5},
    "dwarf": {"TEFF": 5250.0, "LOGG": 4.5, "VMIC": 1.0, "FE_H": -1.0},
    "rich giant": {"TEFF": 4286.0, "LOGG": 1.6, "VMIC": 1.7, "FE_H": -0.5},
    "turn-off": {"TEFF": 6250.0, "LOGG": 4.0, "VMIC": 1.5, "FE_H": -1.5},
}
BANDS = ((3800.0, 4200.0), (4200.0, 4840.0), (4890.0, 5500.0), (5500.0, 6500.0), (6600.0, 8400.0), (8400.0, 8900.0))
ALPHA = ("O_FE", "MG_FE", "SI_FE", "S_FE", "CA_FE", "TI_FE")
OUT = NativeGrid(3720.0, 1.0 / 7200.0, 6300, 1800.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atmospheres", required=True)
    parser.add_argument("--line-list", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    atmospheres = AtmosphereGrid.load(args.atmospheres)
    synthesizer = Synthesizer(atmospheres, read_line_list(args.line_list))

    def seen(model: StellarModel) -> tuple[np.ndarray, np.ndarray]:
        spectrum = synthesizer.solve(model)
        both = torch.stack([spectrum.flux, spectrum.flux * spectrum.continuum / spectrum.continuum.mean()])
        scale = float(spectrum.continuum.mean())
        flux, absolute = degrade(both, 1.0 / 150_000.0, float(spectrum.wave[0]), float("inf"), OUT).numpy()
        return flux, absolute * scale

    wave = OUT.wave0 * np.exp(OUT.dlnlam * np.arange(OUT.size))
    print(
        table_head(
            "star",
            "band (Å)",
            "normalised flux, rms: abundances",
            "structure",
            "absolute flux: abundances",
            "structure",
        )
    )
    for name, star in STARS.items():
        rich = {**star, **dict.fromkeys(ALPHA, 0.4)}
        theta = dict(zip(GRID_LABELS.names, GRID_LABELS.complete(rich)))
        abundances = {
            element: a + (0.0 if element in ("H", "He") else star["FE_H"]) + theta.get(f"{element.upper()}_FE", 0.0)
            for element, a in SOLAR_ABUNDANCES.items()
        }
        solar = atmospheres.interpolate(*(star[label] for label in STRUCTURE))
        base, both = (seen(synthesizer.prepare(labels, derivatives=False)) for labels in (star, rich))
        still = seen(synthesizer.prepare_atmosphere(solar, abundances, star["VMIC"], derivatives=False))
        for low, high in BANDS:
            band = (wave > low) & (wave < high)
            rms = [np.sqrt(np.mean((a[0] - b[0])[band] ** 2)) for a, b in ((still, base), (both, still))]
            total = [a[1][band].sum() / b[1][band].sum() - 1.0 for a, b in ((still, base), (both, still))]
            values = f"{rms[0]:.4f} | {rms[1]:.4f} | {total[0]:+.3f} | {total[1]:+.3f}"
            print(f"| {name} | {low:.0f}-{high:.0f} | {values} |", flush=True)


if __name__ == "__main__":
    main()
