"""How much of an error is Monte Carlo noise? The same spectra fitted with two seeds; CPU seconds a star.

    python scripts/seed_noise.py DATA/lamost/dr10/*.fits.gz --every 25

It serves the code of the first stage too, with its own emulator, for a comparison of speed at the same time:

    git worktree add first 0f67b66; PYTHONPATH=first python scripts/seed_noise.py DATA/lamost/dr10/*.fits.gz --every 25
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from phdlspec import load_emulator, read_spectrum
from phdlspec.fitting.driver import FitSettings, fit_batch

CHUNK = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spectra", nargs="+")
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    emulator = load_emulator(None, "cpu")
    spectra = [read_spectrum(path) for path in sorted(args.spectra)[:: args.every]]
    fit_batch(spectra[:1], emulator, FitSettings(mode="fast"))  # tables that are made once
    start, found = time.process_time(), []
    for seed in (1, 2):
        settings = FitSettings(mode="fast", seed=seed)
        parts = (spectra[i : i + CHUNK] for i in range(0, len(spectra), CHUNK))
        found.append([result for part in parts for result in fit_batch(part, emulator, settings)])
    seconds = (time.process_time() - start) / (2 * len(spectra))
    off = np.array([(a.value - b.value) / a.err for a, b in zip(*found)])
    ratio = np.array([b.err / a.err for a, b in zip(*found)])
    by_star = np.sqrt((off**2).mean(1))
    print(f"{len(spectra)} spectra, {seconds:.2f} CPU s a star and fit")
    rms = np.sqrt((off**2).mean())
    print(f"two seeds: differences over the error rms {rms:.3f} (median star {np.median(by_star):.3f}, worst "
          f"{by_star.max():.3f}); ratio of errors {ratio.mean():.3f} ± {ratio.std():.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
