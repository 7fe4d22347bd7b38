"""Do latents learned without labels tell alpha-rich from alpha-poor stars of one [M/H]? (after Laroche & Speagle 2025)

Giants of two sequences: [alpha/M] of 0.25 at all [M/H], or 0.05 - 0.1 [M/H], with a scatter of 0.03; half of the stars
each, the rich ones poorer in metals on average. A classifier (the share of rich stars among the 25 nearest ones, on
half of the stars, applied to the other half) sees the latents, or [M/H], or Teff, log g and [M/H], the labels with the
errors of a survey (50 K, 0.1, 0.05). LAMOST-like spectra are emulated; XP-like ones take the shape of the network of
scripts/vae_xp_mocks.py times what alpha does to the emulated flux at the resolution of XP. Where the information sits:
the same with the model looking at one part of the spectrum only.

    python scripts/vae_alpha.py --form spectrum --count 1200
    python scripts/vae_alpha.py --form xp --xp XP_FOLDER --count 20000
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree
from vae_xp_mocks import WAVE, XPMocks

import phdlspec
from phdlspec.datadriven.dataset import read_dataset
from phdlspec.datadriven.scatter_vae import SpectrumSettings, XPSettings, train_spectra, train_xp
from phdlspec.datadriven.scatter_vae.pretraining import ALPHA, emulated_spectra
from phdlspec.datadriven.scatter_vae.xp_table import XPSet
from phdlspec.wavelength import LAMOST_WAVE

NEIGHBOURS = 25
SNR = 80.0
PARTS = {
    "3750-4500": (3750, 4500), "4500-5100": (4500, 5100), "5100-5300, Mg b": (5100, 5300), "5300-5800": (5300, 5800),
    "6000-6860": (6000, 6860), "8370-8940, Ca triplet": (8370, 8940),
}  # fmt: skip


def giants(count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Teff, log g, [M/H], [alpha/M] (N, 4), and which are alpha-rich (N,)."""
    rich = np.arange(count) % 2 == 0
    metals = np.clip(np.where(rich, random.normal(-0.35, 0.25, count), random.normal(-0.1, 0.2, count)), -1.0, 0.4)
    alpha = np.where(rich, 0.25, 0.05 - 0.1 * metals) + random.normal(0.0, 0.03, count)
    teff = random.uniform(4450.0, 5150.0, count)
    logg = 2.4 + (teff - 4800.0) / 400.0 + 0.6 * metals + random.normal(0.0, 0.15, count)
    return np.column_stack([teff, logg, metals, alpha]), rich


def theta_of(stars: np.ndarray, alpha: bool = True) -> np.ndarray:
    """Labels of the emulator (N, L)."""
    labels = phdlspec.LabelSet()
    theta = np.tile(labels.complete({"TEFF": 4800.0, "LOGG": 2.4}), (len(stars), 1))
    for name, column in (("TEFF", 0), ("LOGG", 1), ("FE_H", 2)):
        theta[:, labels.index(name)] = stars[:, column]
    for name in ALPHA if alpha else ():
        theta[:, labels.index(name)] = stars[:, 3]
    return np.clip(theta, labels.lower + 1e-3, labels.upper - 1e-3)


def accuracy(features: np.ndarray, rich: np.ndarray, learned: np.ndarray) -> float:
    """Share of the stars not learned from that are told right, of features (N, K)."""
    features = (features - features[learned].mean(axis=0)) / features[learned].std(axis=0)
    nearest = cKDTree(features[learned]).query(features[~learned], NEIGHBOURS)[1]
    return float(np.mean((rich[learned][nearest].mean(axis=1) > 0.5) == rich[~learned]))


def by_labels(stars: np.ndarray, rich: np.ndarray, learned: np.ndarray, random: np.random.Generator) -> None:
    """Print what labels with errors say."""
    measured = stars + random.normal(size=stars.shape) * [50.0, 0.1, 0.05, 0.05]
    for name, columns in (("[M/H]", [2]), ("Teff, log g, [M/H]", [0, 1, 2]), ("the same and [alpha/M]", [0, 1, 2, 3])):
        print(f"| {name} | {accuracy(measured[:, columns], rich, learned):.3f} |")


def spectra(count: int, seed: int) -> None:
    """LAMOST-like."""
    random = np.random.default_rng(seed)
    stars, rich = giants(count, random)
    learned = np.arange(count) % 4 < 2
    data = read_dataset(list(emulated_spectra(theta_of(stars), seed, np.full(count, SNR))), grid=LAMOST_WAVE)
    model = train_spectra(data.take(learned), SpectrumSettings(latents=8, mocks=0))
    explained, _ = model.explain(data)
    print(f"LAMOST-like, S/N {SNR:g}, {count} stars, 8 latents\n\n| classifier on | right |\n|---|---|")
    print(f"| latents | {accuracy(explained.latents.numpy(), rich, learned):.3f} |")
    by_labels(stars, rich, learned, random)
    wave = model.wave[model.used]
    for name, (low, high) in PARTS.items():
        latents = model.explain(data, (wave < low) | (wave > high))[0].latents.numpy()
        print(f"| latents from {name} Å alone | {accuracy(latents, rich, learned):.3f} |")


def xp(count: int, seed: int, folder: Path, epochs: int) -> None:
    """XP-like."""
    random = np.random.default_rng(seed)
    stars, rich = giants(count, random)
    mocks = XPMocks(folder)
    values, errors = mocks.coefficients(mocks.shapes(stars[:, :3]) * effect_of_alpha(stars), random)
    data = XPSet(tuple(map(str, range(count))), values, errors, np.ones(count), ("",) * count)
    learned = np.arange(count) % 4 < 2
    model = train_xp(data.take(learned), XPSettings(epochs=epochs))
    found, _ = model.find(data)
    print(f"XP-like, {count} stars, 6 latents, {epochs} epochs\n\n| classifier on | right |\n|---|---|")
    print(f"| latents | {accuracy(found.latents, rich, learned):.3f} |")
    by_labels(stars, rich, learned, random)


def effect_of_alpha(stars: np.ndarray) -> np.ndarray:
    """What alpha multiplies the flux by (N, 343), at the resolution of XP, 1 where the emulator does not reach."""
    emulator = phdlspec.load_emulator(device="cpu")
    native = emulator.native.wave
    width = 60.0 / 2.355 / (native[-1] - native[0]) * len(native)  # 60 Å
    inside = np.abs(WAVE - 0.5 * (native[0] + native[-1])) < 0.5 * (native[-1] - native[0]) - 60.0
    factor = np.ones((len(stars), len(WAVE)))
    for start in range(0, len(stars), 64):
        part = slice(start, start + 64)
        flux = []
        for alpha in (True, False):
            theta = torch.as_tensor(theta_of(stars[part], alpha), dtype=torch.float32)
            with torch.no_grad():
                full = emulator.native_flux(theta).numpy()
            smooth = gaussian_filter1d(full, width, axis=1, truncate=3.0)
            flux.append(np.array([np.interp(WAVE, native, row) for row in smooth]))
        factor[part] = np.where(inside, flux[0] / flux[1], 1.0)
    return factor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", choices=("spectrum", "xp"), required=True)
    parser.add_argument("--count", type=int, default=1200)
    parser.add_argument("--xp", type=Path, metavar="XP_FOLDER")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.form == "spectrum":
        spectra(args.count, args.seed)
    else:
        xp(args.count, args.seed, args.xp, args.epochs)


if __name__ == "__main__":
    main()
