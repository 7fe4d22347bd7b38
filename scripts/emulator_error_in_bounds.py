"""How much the emulator's own error widens the Cramer-Rao bounds, and whether that is as much as it shifts labels.

Printed for each parameter, over models that the emulator has not seen: bounds with its error over those of the pixel
noise alone, median and largest; what that claims of its error, the square root of what is added to the squared bound,
over the bound; and how far a fit moves if the emulator's flux is replaced by the model's, to first order, over what is
claimed (68% quantile, which should be one): larger than one means an error that is too small, smaller a cautious one.

    python scripts/emulator_error_in_bounds.py grid.h5 --split test --snr 100 --n 91
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from harness import table
from mock_study import choose, emulated, robust
from tqdm import tqdm

from phdlspec import load_emulator
from phdlspec.cores import CorePriors
from phdlspec.emulator.emulator import Emulator
from phdlspec.fitting.bounds import cramer_rao
from phdlspec.fitting.coordinates import Coordinates
from phdlspec.fitting.preparation import observations, prepare
from phdlspec.fitting.problem import Problem
from phdlspec.gridfile import Grid
from phdlspec.likelihood import Likelihood
from phdlspec.lsf import NativeGrid
from phdlspec.mock import mock_lamost
from phdlspec.spectrum import Spectrum

BROADENING = 10.0  # km/s
LARGEST = 0.2  # dex (200 K), bound of a label that counts


def _problems(emulator: Emulator, spectrum: Spectrum, labels: np.ndarray) -> tuple[Problem, Problem, torch.Tensor]:
    """A star's problem with pixel noise alone, with the emulator's error too, and its labels (33,) as coordinates."""
    data = observations([prepare(spectrum, emulator.native)], emulator.device)
    coordinates = Coordinates.around(emulator.labels, torch.zeros(1, dtype=torch.float64), 0.1)
    parameters = torch.zeros(1, len(coordinates.names), dtype=torch.float64)
    parameters[0, : len(labels)] = torch.as_tensor(labels)
    z = coordinates.coordinates(parameters)
    pure = Problem.of(emulator, data, coordinates)
    continuum = pure.likelihood.continuum(pure.flux(z))
    floor = emulator.error_floor(torch.as_tensor(spectrum.wave[None]), parameters)
    return pure, pure.with_likelihood(Likelihood.of(data, pure.likelihood.blocks, floor, continuum)), z


def bounds(
    emulator: Emulator, spectrum: Spectrum, labels: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Names (D,) of the parameters and their bounds (D,) with the emulator's error and without, at labels (33,)."""
    pure, whole, z = _problems(emulator, spectrum, labels)
    with_it, without = (cramer_rao(p.expand(z), pure.coordinates)[0].numpy() for p in (whole, pure))
    return pure.coordinates.names, with_it, without


def shift(emulator: Emulator, model: Spectrum, emulated: Spectrum, labels: np.ndarray) -> np.ndarray:
    """By how much the fit of a model is off its fit to the emulator's spectrum with the same noise (D,), at labels."""
    _, whole, z = _problems(emulator, emulated, labels)
    there = whole.expand(z)
    pull = _problems(emulator, model, labels)[1].expand(z).gradient - there.gradient
    moved = torch.linalg.solve(there.hessian, pull[..., None])[..., 0] * whole.coordinates.scales(z)
    return np.asarray(moved[0].numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--emulator")
    parser.add_argument("--snr", type=float, default=100.0)
    parser.add_argument("--n", type=int, default=24)
    args = parser.parse_args()
    torch.set_num_threads(1)
    grid, emulator = Grid(args.grid), load_emulator(args.emulator, "cpu")
    native, cores = NativeGrid.from_wave(grid.wave, grid.resolving_power), CorePriors.shipped(grid.attrs)
    found, names = [], tuple[str, ...]()
    for i, row in enumerate(tqdm(choose(grid, args.split, args.n), disable=None)):
        labels = np.append(grid.labels[row], BROADENING)
        model, guess = (
            mock_lamost(flux, native, labels[0], args.snr, i, vbroad=BROADENING, resolution_scale=1.0, logg=labels[1],
                        cores=cores)
            for flux in (grid.flux(int(row)), emulated(emulator, grid.labels[row]))
        )  # fmt: skip
        names, with_it, without = bounds(emulator, model, labels)
        found.append((with_it, without, shift(emulator, model, guess, labels)))
    print(f"{len(found)} models of the {args.split} part, SNR {args.snr:g}")
    rows = []
    for name, with_it, without, moved in zip(names, *np.array(found).transpose(1, 2, 0)):
        limit = LARGEST * (1000.0 if name == "TEFF" else 100.0 if name in ("RV", "VBROAD") else 1.0)
        use = with_it < limit
        if use.sum() < 8:
            continue
        ratio = with_it[use] / without[use]
        claimed = np.sqrt(np.maximum(with_it**2 - without**2, 0.0))[use]
        over = float(np.median(claimed / with_it[use]))
        rows.append((name, use.sum(), np.median(ratio), ratio.max(), over, robust(moved[use] / claimed)))
    print(table(("parameter", "models", "bound / pure", "largest", "claimed / bound", "shift / claimed"), rows))


if __name__ == "__main__":
    main()
