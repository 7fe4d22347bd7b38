"""How well could double lines be told at all? The likelihood-ratio test of a pair against its single star.

For each spectrum that the model has not learned from its reconstruction f stands for the star, and the variance of
noise and scatter for the error. The pair is f with itself, displaced (light ratio 0.4 to 1), the change d = pair - f.
With normal errors of covariance C the best of all tests has a statistic whose means differ by
D = sqrt(d' C^-1 d) of its own scatter, and the area under its curve is Phi(D / sqrt 2), here averaged over the stars.

1. The star is known: C is diagonal.
2. Known but for the resolving power of its fibre, which scatters by 15% (rank one: the change of f with it).
3. Unknown: the latents are free within their prior (C = V + J J', J the derivative of f with the latents).

    python scripts/vae_double_limit.py lamost test.txt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from harness import table
from scipy.ndimage import shift as shifted
from scipy.stats import norm

from phdlspec.datadriven.dataset import read_dataset
from phdlspec.datadriven.scatter_vae import load_spectrum_model
from phdlspec.datadriven.scatter_vae.inference import latent_slopes
from phdlspec.mock import FIBRE_SCATTER
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

VELOCITIES = (100.0, 150.0, 200.0)  # km/s
LIGHT_RATIO = (0.4, 1.0)
RESOLVING_POWER = 1800.0
_REACH = 4  # pixels on either side that must be there


def pairs_of(flux: np.ndarray, pixels: float, random: np.random.Generator) -> np.ndarray:
    """Spectra (N, P), each put together with itself, so many pixels apart."""
    answer = np.empty_like(flux)
    for row, star in enumerate(flux):
        ratio = random.uniform(*LIGHT_RATIO)
        share = ratio / (1.0 + ratio)
        one, two = (shifted(star, by, order=3, mode="nearest") for by in (-pixels * share, pixels * (1.0 - share)))
        answer[row] = (1.0 - share) * one + share * two
    return answer


def detectability(change: np.ndarray, variance: np.ndarray, nuisance: np.ndarray | None = None) -> float:
    """D of one star: change, variance (P,), nuisance vectors (P, K) in units of their standard deviations."""
    plain = float((change**2 / variance).sum())
    if nuisance is None:
        return plain**0.5
    weighted = nuisance / variance[:, None]
    pull = weighted.T @ change
    lost = pull @ np.linalg.solve(np.eye(nuisance.shape[1]) + weighted.T @ nuisance, pull)
    return float(max(plain - lost, 0.0) ** 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("spectra", nargs="+", help="not of the model's training")
    parser.add_argument("--snr", type=float, default=50.0, help="least median signal-to-noise ratio")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    model = load_spectrum_model(args.model)
    data = read_dataset(args.spectra, grid=model.wave)
    known = set(model.metadata["files"])
    unknown = np.array([Path(f).name not in known for f in data.files])
    data = data.take(data.readable & unknown & (data.snr >= args.snr))
    explained, left = model.explain(data)
    flux, variance = (x.numpy().astype(float) for x in (explained.model, explained.variance))
    with torch.no_grad():
        slopes = (model.network.basis @ latent_slopes(model.network, explained.latents)).numpy().astype(float)
    whole = np.convolve(model.used, np.ones(2 * _REACH + 1), mode="same")[model.used] == 2 * _REACH + 1
    ln_wave = np.log(model.wave)
    pixel = float(np.median(np.diff(ln_wave)))
    sigma = 1.0 / RESOLVING_POWER / 2.355 / pixel  # pixels
    broader = FIBRE_SCATTER * sigma**2 * np.gradient(np.gradient(flux, axis=1), axis=1)  # df / d ln sigma
    random = np.random.default_rng(args.seed)
    rows = []
    for velocity in VELOCITIES:
        change = pairs_of(flux, velocity / SPEED_OF_LIGHT_KM_S / pixel, random) - flux
        found = []
        for star in range(len(flux)):
            use = left.good[star] & whole
            d, v = change[star][use], variance[star][use]
            nuisances = (None, broader[star][use, None], slopes[star][use])
            found.append([detectability(d, v, nuisance) for nuisance in nuisances])
        areas = norm.cdf(np.array(found) / np.sqrt(2.0)).mean(axis=0)
        rows.append([f"{velocity:.0f} km/s", *(f"{area:.3f}" for area in areas), *np.median(found, axis=0)])
    print(f"{len(data)} spectra with S/N >= {args.snr:g}\n")
    print(table(["pairs", "star known", "but for R", "star unknown", "D, median", "D, R", "D, unknown"], rows))


if __name__ == "__main__":
    main()
