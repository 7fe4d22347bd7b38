"""Emulated stars as LAMOST would see them, read like real ones: what a network learns from before it sees real stars.

The population is wide rather than likely: dwarfs and giants of all temperatures and metallicities of the emulator,
with alpha elements that follow metallicity and scatter, other elements that scatter, rotation, and the noise, resolving
power by fibre and continuum of `phdlspec.mock`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from phdlspec.cores import CorePriors
from phdlspec.datadriven.dataset import Dataset, read_dataset
from phdlspec.default_emulator import load_emulator
from phdlspec.labels import LabelSet
from phdlspec.mock import mock_lamost
from phdlspec.spectrum import Spectrum

ALPHA = ("O_FE", "MG_FE", "SI_FE", "S_FE", "CA_FE", "TI_FE")
SNR_RANGE = (30.0, 500.0)
_BATCH = 64

Array = NDArray[np.float64]


def population(count: int, seed: int, labels: LabelSet) -> Array:
    """Labels (N, L) of a wide population within the emulator's bounds."""
    random = np.random.default_rng(seed)
    giant = random.random(count) < 0.4
    teff = np.where(giant, random.uniform(3900.0, 5800.0, count), random.uniform(3900.0, 7900.0, count))
    giants_logg = (teff - 4000.0) / 1600.0 * 3.0 + 0.7 + random.normal(0.0, 0.4, count)
    dwarfs_logg = 4.6 - (teff - 4500.0) / 3000.0 * 0.6 + random.normal(0.0, 0.2, count)
    metal_poor = random.random(count) < 0.15
    fe_h = np.where(metal_poor, random.uniform(-2.8, -0.6, count), random.normal(-0.2, 0.3, count))
    logg = np.where(giant, giants_logg, dwarfs_logg)
    alpha = np.interp(fe_h, [-1.0, 0.0], [0.3, 0.0]) + random.normal(0.0, 0.1, count)
    theta = np.tile(labels.complete({}), (count, 1))
    vmic = 1.1 + 2e-4 * (teff - 5500.0) - 0.4 * (logg - 4.0) + random.normal(0.0, 0.2, count)
    slow = random.random(count) < 0.8
    vbroad = np.where(slow, random.gamma(2.0, 3.0, count), random.uniform(0.0, 60.0, count))
    for name, values in (("TEFF", teff), ("LOGG", logg), ("FE_H", fe_h), ("VMIC", vmic), ("VBROAD", vbroad)):
        theta[:, labels.index(name)] = values
    for name in (n for n in labels.names if n.endswith("_FE")):
        centre = alpha if name in ALPHA else 0.0
        theta[:, labels.index(name)] = centre + random.normal(0.0, 0.12, count)
    return np.clip(theta, labels.lower + 1e-3, labels.upper - 1e-3)


def emulated_spectra(theta: Array, seed: int, snr: Array, progress: bool = False) -> Iterator[Spectrum]:
    """LAMOST mocks at rest of stars with labels (N, L) and signal-to-noise ratios (N,), from the shipped emulator."""
    emulator = load_emulator(device="cpu")
    cores = CorePriors.shipped(emulator.metadata["grid"])
    teff, logg, vbroad = (theta[:, emulator.labels.index(name)] for name in ("TEFF", "LOGG", "VBROAD"))
    for start in tqdm(range(0, len(theta), _BATCH), desc="emulating", disable=not progress):
        with torch.no_grad():
            rows = torch.as_tensor(theta[start : start + _BATCH], dtype=torch.float32)
            native = emulator.native_flux(rows).double().numpy()
        for i, flux in enumerate(native, start=start):
            yield mock_lamost(
                flux,
                emulator.native,
                teff[i],
                snr[i],
                seed * 1_000_003 + i,
                vbroad=vbroad[i],
                logg=logg[i],
                cores=cores,
                identifier=f"mock{i}",
            )


def emulated_stars(count: int, seed: int, grid: Array, progress: bool = False) -> Dataset:
    """A data set of emulated stars on the grid (P,), vacuum Å."""
    random = np.random.default_rng(seed)
    theta = population(count, seed, LabelSet())
    snr = np.exp(random.uniform(np.log(SNR_RANGE[0]), np.log(SNR_RANGE[1]), count))
    return read_dataset(list(emulated_spectra(theta, seed, snr, progress)), grid=grid)
