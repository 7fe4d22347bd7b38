"""Errors of an emulator on models it never saw: flux, derivatives, leakage, by region and wavelength; and its speed.

In the same run: the blend of first-order Taylor expansions from the nearest training models, which any network has to
beat. Prints Markdown and writes a figure.

    python scripts/emulator_accuracy.py grid.h5 --split test --figure docs/figures/emulator_accuracy.png
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from baselines import label_widths, taylor_blend
from harness import table_head

from phdlspec import load_emulator
from phdlspec.continuum import continuum_basis
from phdlspec.emulator.emulator import Emulator
from phdlspec.emulator.judging import judging_grid, seen
from phdlspec.emulator.model_error import reference_bounds
from phdlspec.gridfile import Grid

REGIONS = {"TEFF": (3600, 4000, 4500, 5250, 6250, 8000), "LOGG": (0, 2, 3.5, 5.2), "FE_H": (-4, -2.5, -1.5, -0.5, 0.5)}
MEASURABLE = 0.2  # dex, bound at S/N 100
QUIET = 0.02  # of a derivative's peak (smoothed): below it, the label does not live in a pixel


def leakage(change: np.ndarray, truth: np.ndarray) -> float:
    """Share of the energy of a derivative outside the pixels where the ab initio one lives."""
    reach = np.convolve(np.abs(truth), np.ones(15) / 15, mode="same")
    quiet = reach < QUIET * reach.max()
    return float((change[quiet] ** 2).sum() / max((change**2).sum(), 1e-30))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid")
    parser.add_argument("--emulator")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    grid, emulator = Grid(args.grid), load_emulator(args.emulator, args.device)
    native, rows = emulator.native, grid.rows(args.split)
    train = grid.rows("train")[: emulator.metadata["training"]["models"]]
    width = label_widths(grid, train)
    names = grid.label_names
    unit = 0.5 * (emulator.labels.upper - emulator.labels.lower)[: len(names)]
    wave = judging_grid(native).wave
    residuals, blends, errors, leaks, bounds = [], [], [], [], []
    continuum, span = torch.as_tensor(continuum_basis(wave)), torch.as_tensor(2.0 * unit)
    for row in rows:
        theta = torch.as_tensor(np.append(grid.labels[row], 0.0)[None], dtype=torch.float32, device=emulator.device)
        flux, by_label = emulator.native_flux_and_jacobian(theta)
        truth = seen(torch.as_tensor(grid.flux(int(row))), native)
        residuals.append((seen(flux[0].cpu(), native) - truth).numpy())
        blend = torch.as_tensor(taylor_blend(grid, train, grid.labels[row], width)[0], dtype=torch.float32)
        blends.append((seen(blend, native) - truth).numpy())
        exact = seen(torch.as_tensor(grid.jacobian(int(row))), native).numpy()
        guess = seen(by_label[0].T.cpu(), native).numpy()
        errors.append(np.linalg.norm(guess - exact, axis=1) / np.maximum(np.linalg.norm(exact, axis=1), 1e-30))
        told, changes = truth.double(), torch.as_tensor(exact, dtype=torch.float64)
        bounds.append(reference_bounds(told, changes, wave, continuum, span).numpy())
        leaks.append([leakage(g * u, e * u) for g, e, u in zip(guess, exact, unit)])
    r, b = np.array(residuals), np.array(blends)
    rms, rms_blend = np.sqrt((r**2).mean(1)), np.sqrt((b**2).mean(1))
    print(f"{len(rows)} models of the {args.split} part, {len(train)} training models, R = 1800, 3800-9000 Å\n")
    print(table_head("", "median rms", "95%", "mean absolute"))
    for name, values, all_pixels in (("emulator", rms, r), ("Taylor blend", rms_blend, b)):
        high, absolute = np.quantile(values, 0.95), np.abs(all_pixels).mean()
        print(f"| {name} | {np.median(values):.2e} | {high:.2e} | {absolute:.2e} |")
    print("\n| region | models | median rms | 95% |\n|---|---|---|---|")
    column = {name: grid.labels[rows, names.index(name)] for name in ("TEFF", "LOGG", "FE_H")}
    for name, edges in REGIONS.items():
        for low, high in zip(edges[:-1], edges[1:]):
            use = (column[name] >= low) & (column[name] < high)
            if use.sum() > 2:
                middle, most = np.quantile(rms[use], (0.5, 0.95))
                print(f"| {name} {low} to {high} | {use.sum()} | {middle:.1e} | {most:.1e} |")
    print("\n| wavelength | rms over models | median model |\n|---|---|---|")
    for low, high in ((3800, 4000), (4000, 4500), (4500, 5000), (5000, 6000), (6000, 7500), (7500, 9000)):
        use = (wave >= low) & (wave < high)
        square = (r[:, use] ** 2).mean(1)
        print(f"| {low}-{high} Å | {np.sqrt(square.mean()):.1e} | {np.sqrt(np.median(square)):.1e} |")
    error, leak, bound = (np.median(x, axis=0) for x in (errors, leaks, bounds))
    print("\n| label | median error of the derivative | leakage | bound at S/N 100 |\n|---|---|---|---|")
    for name, e, k, c in zip(names, error, leak, bound):
        print(f"| {name} | {100 * e:.1f}% | {100 * k:.1f}% | {c:.2g} |")
    aimed = np.array([n in ("TEFF", "VMIC") or c < MEASURABLE for n, c in zip(names, bound)])
    print(f"\n{(error[aimed] <= 0.08).sum()} of the {aimed.sum()} labels bound below {MEASURABLE} dex within 8%")
    speed(emulator)
    if args.figure:
        draw(args.figure, wave, r, rms, column)


def speed(emulator: Emulator) -> None:
    """Spectra a second on LAMOST's pixels in batches of 256, and the cost of the Jacobian in forward passes."""
    theta = torch.as_tensor(emulator.labels.complete({})[None], dtype=torch.float32).repeat(256, 1).to(emulator.device)

    def seconds(function: Callable[[], object], repeats: int) -> float:
        function()
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        if emulator.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / repeats

    with torch.no_grad():
        native = seconds(lambda: emulator.native_flux(theta), 5) / 256
        observed = seconds(lambda: emulator.flux(theta), 3) / 256
    jacobian = seconds(lambda: emulator.flux_and_jacobian(theta[:16]), 2) / 16
    print(f"\n{emulator.device}, {torch.get_num_threads()} threads: {1 / native:.0f} native spectra/s,")
    print(f"{1 / observed:.0f}/s on LAMOST's pixels; a full Jacobian costs {jacobian / observed:.0f} forward passes")


def draw(path: Path, wave: np.ndarray, r: np.ndarray, rms: np.ndarray, column: dict[str, np.ndarray]) -> None:
    """Errors over the Kiel diagram, against [Fe/H], and along the wavelength."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7), layout="constrained")
    parts = figure.subplot_mosaic([["Kiel", "metals"], ["wave", "wave"]])
    dots = parts["Kiel"].scatter(column["TEFF"], column["LOGG"], c=np.log10(rms), s=16)
    parts["Kiel"].set(xlabel="Teff (K)", ylabel="log g")
    parts["Kiel"].invert_xaxis()
    parts["Kiel"].invert_yaxis()
    figure.colorbar(dots, label="log10 rms")
    parts["metals"].semilogy(column["FE_H"], rms, ".")
    parts["metals"].set(xlabel="[Fe/H]", ylabel="rms of the flux, R = 1800")
    for q, label in ((0.5, "median"), (0.9, "90%")):
        parts["wave"].semilogy(wave, np.quantile(np.abs(r), q, axis=0), lw=0.6, label=f"{label} of |error|")
    parts["wave"].legend()
    parts["wave"].set(xlabel="wavelength (Å)", ylabel="error of the flux")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
