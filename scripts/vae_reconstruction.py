"""How well ScatterVAE rebuilds spectra that it has not learned from, beside components and the physics model.

Noise-weighted chi2 per pixel, on the pixels that all have, at rest: the model; as many principal components as latents,
learned from the same spectra by weighted least squares, and plain ones of spectra whose gaps are filled with the mean,
both fitted to each spectrum by weighted least squares; the fit of `phdlspec fit` with its own continuum and velocity,
whose residuals go through the same interpolation. Then the calibration of noise and scatter by wavelength.

    phdlspec fit $(cat test.txt) --out fits --mode fast --no-report
    python scripts/vae_reconstruction.py lamost.safetensors test.txt --train train.txt --fits fits --figure vae.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import numpy as np
import torch

from phdlspec.datadriven.dataset import Dataset, read_dataset
from phdlspec.datadriven.rest_frame import at_rest, read_physics_fit
from phdlspec.datadriven.scatter_vae import SpectrumModel, load_spectrum_model
from phdlspec.datadriven.scatter_vae.basis import principal_components, project_onto
from phdlspec.datadriven.scatter_vae.calibration import HIT_SIGMA
from phdlspec.spectrum import stem_of

BINS = 12
BOOTSTRAPS = 400


def plain_components(flux: torch.Tensor, ivar: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and components of spectra whose gaps are filled with the mean."""
    good = (ivar > 0).float()
    mean = (flux * good).sum(0) / good.sum(0).clamp_min(1.0)
    torch.manual_seed(0)
    return mean, torch.svd_lowrank(torch.where(ivar > 0, flux - mean, 0.0), q=count, niter=8)[2]


def physics_chi2(path: Path, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Squared residual of the normalised flux at rest, and where it is (P,), of a fit; None where it has no result."""
    fit = read_physics_fit(path)
    if fit is None:
        return None
    with h5py.File(path) as file:
        names = ("wave", "flux", "model", "continuum", "used")
        wave, flux, model, continuum, used = (file[f"spectrum/{n}"][()] for n in names)
    good = used & np.isfinite(continuum) & (continuum > 0)
    left = np.where(good, (flux - model) / np.where(good, continuum, 1.0), 0.0)
    rest, inverse = at_rest(wave, 1.0 + left, good.astype(float), fit.velocity, grid)
    return (rest - 1.0) ** 2, inverse > 0


def with_physics(model: SpectrumModel, data: Dataset, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (n,) that have a fit, its squared residuals and where they are (n, P) on the model's pixels."""
    rows, squared, good = [], [], []
    for i, file in enumerate(data.files):
        path = folder / f"{stem_of(file)}.h5"
        found = physics_chi2(path, model.wave) if path.is_file() else None
        if found is not None:
            rows.append(i)
            squared.append(found[0][model.used])
            good.append(found[1][model.used])
    return np.array(rows, dtype=int), np.array(squared), np.array(good)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("spectra", nargs="+", help="not of the model's training")
    parser.add_argument("--train", nargs="+", required=True, help="the model's training spectra")
    parser.add_argument("--fits", type=Path, help="results of phdlspec fit of the spectra")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()

    model = load_spectrum_model(args.model)
    data = read_dataset(args.spectra, grid=model.wave)
    known = set(model.metadata["files"])
    data = data.take(data.readable & np.array([Path(f).name not in known for f in data.files]))
    explained, left = model.explain(data)
    flux, ivar = (torch.as_tensor(x) for x in model.arrays(data))
    seen, seen_ivar = (torch.as_tensor(x) for x in model.arrays(read_dataset(args.train, grid=model.wave)))
    count = model.network.shape.latents
    rebuilt = {
        f"ScatterVAE, {count} latents": explained.model,
        f"{count} components, weighted": project_onto(
            flux, ivar, *principal_components(seen, seen_ivar / (1.0 + seen_ivar * 1e-4), count)
        ),
        f"{count} components, plain": project_onto(flux, ivar, *plain_components(seen, seen_ivar, count)),
    }
    weight = ivar.numpy()
    chi2 = {name: (flux - x).square().numpy() * weight for name, x in rebuilt.items()}
    show("all held-out spectra", chi2, weight > 0)
    if args.fits:
        rows, squared, good = with_physics(model, data, args.fits)
        both = good & (weight[rows] > 0)
        chosen = {name: x[rows] for name, x in chi2.items()} | {"physics fit, own continuum": squared * weight[rows]}
        show("spectra with a physics fit, common pixels", chosen, both)
    found = model.find(data)
    plain = model.reference.score(found.signs, found.snr)[0] <= model.reference.threshold
    calibration(left.deviation**2, left.good, plain, model.wave[model.used], data.snr)
    if args.figure:
        draw(model, left.deviation**2, left.good, plain, chi2, args.figure)


def per_star(squared: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Mean over the good pixels of each star."""
    return np.where(good, squared, 0.0).sum(1) / good.sum(1).clip(1)


def show(title: str, chi2: dict[str, np.ndarray], good: np.ndarray) -> None:
    """A table of chi2 per pixel, and of the first one's ratio to each."""
    stars = {name: per_star(x, good) for name, x in chi2.items()}
    first = next(iter(stars.values()))
    print(
        f"\n{title}: {len(first)}\n\n| | mean | median | ours over it, median | ours lower in |\n|---|---|---|---|---|"
    )
    for name, x in stars.items():
        ratio, lower = np.median(first / x), 100 * (first < x).mean()
        print(f"| {name} | {x.mean():.2f} | {np.median(x):.3f} | {ratio:.3f} | {lower:.0f}% |")


def calibration(squared: np.ndarray, good: np.ndarray, plain: np.ndarray, wave: np.ndarray, snr: np.ndarray) -> None:
    """Mean of (x - model)^2 / (noise and scatter) by wavelength: without hits, of the stars not called strange, with
    errors from drawing the stars anew; of all pixels and stars."""
    calm = good & (squared < HIT_SIGMA**2)
    draws = np.random.default_rng(0).integers(plain.sum(), size=(BOOTSTRAPS, plain.sum()))
    print(f"\npixels beyond {HIT_SIGMA:g} sigma: {100 * (1.0 - calm.sum() / good.sum()):.3f}%, "
          f"in {(calm != good).any(1).sum()} of {len(good)} spectra")  # fmt: skip
    print(f"\n| Å | without hits, the {plain.sum()} not called strange | without hits, all | all pixels | median star |"
          "\n|---|---|---|---|---|")  # fmt: skip
    for part in (*np.array_split(np.arange(len(wave)), BINS), np.arange(len(wave))):
        sums, counts = np.where(calm, squared, 0.0)[:, part].sum(1), calm[:, part].sum(1)
        several = (sums[plain][draws].sum(1) / counts[plain][draws].sum(1)).std()
        median = np.median(per_star(squared[:, part], good[:, part]))
        print(f"| {wave[part[0]]:.0f}-{wave[part[-1]]:.0f} | "
              f"{sums[plain].sum() / counts[plain].sum():.2f} ± {several:.2f} | {sums.sum() / counts.sum():.2f} | "
              f"{squared[:, part][good[:, part]].mean():.2f} | {median:.2f} |")  # fmt: skip
    misfit = per_star(squared, calm)
    for low, high in ((0, 50), (50, 100), (100, 200), (200, np.inf)):
        some = (snr >= low) & (snr < high) & plain
        if some.any():
            mean, median = misfit[some].mean(), np.median(misfit[some])
            print(f"S/N {low}-{high}, without hits, not called strange: {some.sum()} stars, mean {mean:.2f}, "
                  f"median {median:.2f}")  # fmt: skip


def draw(
    model: SpectrumModel, squared: np.ndarray, good: np.ndarray, plain: np.ndarray, chi2: dict[str, np.ndarray],
    path: Path,
) -> None:  # fmt: skip
    """chi2 per pixel by wavelength, and the calibration."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    wave = model.wave[model.used]
    bins = np.array_split(np.arange(len(wave)), 48)
    centre = [wave[b].mean() for b in bins]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 5.5), sharex=True, layout="constrained")
    for name, x in chi2.items():
        top.semilogy(centre, [np.median(per_star(x[:, b], good[:, b])) for b in bins], label=name)
    top.set_ylabel("chi2 per pixel, median star")
    top.legend(fontsize=8)
    bottom.axhspan(0.95, 1.05, color="0.9")
    calm = good & (squared < HIT_SIGMA**2)
    for pixels, label in ((good, "all pixels"), (calm & plain[:, None], "without hits, not called strange")):
        bottom.plot(centre, [squared[:, b][pixels[:, b]].mean() for b in bins], label=label)
    bottom.set_ylim(0.5, 2.5)
    bottom.set_ylabel("mean (x - model)² / (noise + scatter)²")
    bottom.set_xlabel("rest wavelength (Å)")
    bottom.legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
