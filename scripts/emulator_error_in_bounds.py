"""How much the emulator's own error widens the Cramer-Rao bounds: bounds with it over those of the pixel noise alone.

python scripts/emulator_error_in_bounds.py grid.h5 --split test --snr 100 --n 24
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from mock_study import choose

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


def bounds(
    emulator: Emulator, spectrum: Spectrum, labels: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Names (D,) of the parameters and their bounds (D,) with the emulator's error and without, at labels (33,)."""
    data = observations([prepare(spectrum, emulator.native)], emulator.device)
    coordinates = Coordinates.around(emulator.labels, torch.zeros(1, dtype=torch.float64), 0.1)
    parameters = torch.zeros(1, len(coordinates.names), dtype=torch.float64)
    parameters[0, : len(labels)] = torch.as_tensor(labels)
    z = coordinates.coordinates(parameters)
    pure = Problem.of(emulator, data, coordinates)
    continuum = pure.likelihood.continuum(pure.flux(z))
    floor = emulator.error_floor(torch.as_tensor(spectrum.wave[None]), parameters)
    whole = pure.with_likelihood(Likelihood.of(data, pure.likelihood.blocks, floor, continuum))
    with_it, without = (cramer_rao(p.expand(z), coordinates)[0].numpy() for p in (whole, pure))
    return coordinates.names, with_it, without


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
    ratios: list[np.ndarray] = []
    names: tuple[str, ...] = ()
    for i, row in enumerate(choose(grid, args.split, args.n)):
        labels = np.append(grid.labels[row], BROADENING)
        flux = grid.flux(int(row))
        mock = mock_lamost(
            flux, native, labels[0], args.snr, i, vbroad=BROADENING, resolution_scale=1.0, logg=labels[1], cores=cores
        )
        names, with_it, without = bounds(emulator, mock, labels)
        ratios.append(with_it / without)
    table = np.array(ratios)
    print(f"{len(table)} models of the {args.split} part, SNR {args.snr:g}: median (largest) of the ratio")
    for name, column in zip(names, table.T):
        print(f"  {name:14s}{np.nanmedian(column):.2f} ({np.nanmax(column):.2f})")


if __name__ == "__main__":
    main()
