"""Which spectra are of hot stars? By the strength of their Balmer lines, whatever the survey says of their temperature.

Some stars with the lines of an A star have a temperature of 6500 K there. First printed is how strong the lines of
emulated stars are, by temperature; then the spectra with stronger lines than half of the emulated stars have at
`--teff`. `--hot` and `--cool` write lists of these and of the others, to train on.

    python scripts/vae_hot.py all.txt --hot hot.txt --cool train.txt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from harness import table_head

from phdlspec.catalog.inputs import expand_inputs
from phdlspec.datadriven.dataset import read_dataset
from phdlspec.datadriven.scatter_vae.balmer import balmer_strength
from phdlspec.datadriven.scatter_vae.pretraining import emulated_stars, population
from phdlspec.labels import LabelSet
from phdlspec.wavelength import LAMOST_WAVE

BESIDE = 100.0  # K


def emulated_strength(count: int, limits: list[float]) -> dict[float, np.ndarray]:
    """Balmer strengths (Å) of `count` emulated stars within `BESIDE` of each temperature (K)."""
    labels = LabelSet()
    teff = population(count, 0, labels)[:, labels.index("TEFF")]
    strength = balmer_strength(emulated_stars(count, 0, LAMOST_WAVE))
    return {limit: strength[np.abs(teff - limit) < BESIDE] for limit in limits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spectra", nargs="+")
    parser.add_argument("--teff", type=float, default=7500.0)
    parser.add_argument("--mocks", type=int, default=4000)
    parser.add_argument("--hot", type=Path, help="where their names go")
    parser.add_argument("--cool", type=Path, help="where the names of the others go")
    args = parser.parse_args()

    temperatures = sorted({5500.0, 6000.0, 6500.0, 7000.0, 7700.0, args.teff})
    emulated = emulated_strength(args.mocks, temperatures)
    print(table_head("Teff", "emulated stars", "5%", "median", "95%, Å"))
    for teff, strength in emulated.items():
        low, median, high = np.nanquantile(strength, [0.05, 0.5, 0.95])
        print(f"| {teff:.0f} | {len(strength)} | {low:.1f} | {median:.1f} | {high:.1f} |")
    limit = float(np.nanmedian(emulated[args.teff]))
    data = read_dataset(args.spectra, grid=LAMOST_WAVE)
    strength = np.nan_to_num(balmer_strength(data))
    hot = strength > limit
    print(f"\n{hot.sum()} of {len(data)} spectra have lines stronger than {limit:.2f} Å\n")
    for row in np.argsort(-strength)[: hot.sum()]:
        print(f"{Path(data.files[row]).name}: {strength[row]:.1f} Å, S/N {data.snr[row]:.0f}")
    names = np.array(expand_inputs(args.spectra))
    for path, rows in ((args.hot, hot), (args.cool, ~hot)):
        if path:
            path.write_text("".join(f"{name}\n" for name in names[rows]))


if __name__ == "__main__":
    main()
