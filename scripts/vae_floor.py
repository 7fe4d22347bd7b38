"""Does the scatter of ScatterVAE serve as a floor of the error in the fit of physics? Stars fitted with and without it.

The floor is the median scatter of the spectra at each wavelength at rest, added to the emulator's own error. Real
spectra of stars observed more than once: scatter of the differences, also over the reported error. Mocks of the
emulator: (fit - truth), also over the error.

    python scripts/vae_floor.py lamost repeats/ --who repeats.csv --stars 16 --mocks 24
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table
from harness import star_of_emulator, table_head
from lamost_repeats import compare, pairs_of, robust

import phdlspec
from phdlspec.catalog.inputs import expand_inputs, read_reference
from phdlspec.cores import CorePriors
from phdlspec.datadriven.dataset import read_dataset
from phdlspec.datadriven.scatter_vae import load_spectrum_model
from phdlspec.emulator.emulator import Emulator
from phdlspec.likelihood import ErrorFloor
from phdlspec.spectrum import Spectrum

LABELS = ("TEFF", "LOGG", "FE_H", "C_FE", "NA_FE", "MG_FE", "SI_FE", "CA_FE", "TI_FE", "CR_FE", "MN_FE", "NI_FE")
INFORMATIVE = 0.2


def with_floor(emulator: Emulator, wave: np.ndarray, scatter: np.ndarray) -> Emulator:
    """The emulator with a scatter (P,) at rest wavelengths (P,), vacuum Å, added to its error."""
    own: Callable[[torch.Tensor, torch.Tensor], ErrorFloor] = emulator.error_floor

    def error_floor(at: torch.Tensor, theta: torch.Tensor) -> ErrorFloor:
        floor = own(at, theta)
        more = torch.as_tensor(np.interp(at.cpu().numpy(), wave, scatter)).to(floor.sigma)
        return ErrorFloor(torch.hypot(floor.sigma.expand(len(more), -1), more), floor.factor)

    emulator.error_floor = error_floor  # type: ignore[method-assign, assignment]
    return emulator


def mocks(count: int) -> tuple[list[Spectrum], list[dict[str, float]]]:
    """LAMOST mocks of the emulator's own stars, S/N 60, and their labels."""
    emulator = phdlspec.load_emulator(device="cpu")
    cores = CorePriors.shipped(emulator.metadata["grid"])
    random = np.random.default_rng(5)
    truths = []
    for _ in range(count):
        logg = random.uniform(2.0, 4.6)
        teff = random.uniform(4500.0, 5200.0) if logg < 3.5 else random.uniform(5000.0, 6500.0)
        varied = {name: random.normal(0.0, 0.1) for name in LABELS[3:]}
        truths.append({"TEFF": teff, "LOGG": logg, "FE_H": random.normal(-0.3, 0.3), **varied})
    spectra = [
        star_of_emulator(emulator, t, 60.0, i, logg=t["LOGG"], cores=cores, identifier=f"mock{i}")
        for i, t in enumerate(truths)
    ]
    return spectra, truths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("spectra", nargs="+")
    parser.add_argument("--who", type=Path, required=True, help="table with the columns obsid and star")
    parser.add_argument("--stars", type=int, default=16)
    parser.add_argument("--mocks", type=int, default=24)
    args = parser.parse_args()
    torch.set_num_threads(1)

    who = Table.read(args.who)
    who = who[np.isin(who["star"], list(dict.fromkeys(who["star"]))[: args.stars])]
    wanted = {str(obsid) for obsid in who["obsid"]}
    real = [s for s in map(read_reference, expand_inputs(args.spectra)) if str(s.meta.get("OBSID")) in wanted]
    model = load_spectrum_model(args.model)
    scatter = model.explain(read_dataset(real, grid=model.wave))[0].scatter.numpy()
    floor = model.wave[model.used], np.median(scatter, axis=0)
    print(f"scatter of the model: median {np.median(floor[1]):.4f}, largest {floor[1].max():.4f} of the continuum")
    made, truths = mocks(args.mocks)
    catalogs = {}
    for name in ("the emulator's error", "and the scatter"):
        emulator = phdlspec.load_emulator(device="cpu")
        emulator = emulator if name.startswith("the ") else with_floor(emulator, *floor)
        start = time.process_time()
        catalogs[name] = phdlspec.fit_many([*real, *made], emulator, bridge="none")
        print(f"{name}: {(time.process_time() - start) / (len(real) + len(made)):.1f} s of CPU a star", flush=True)
    show_repeats({name: c[: len(real)] for name, c in catalogs.items()}, who)
    show_mocks({name: c[len(real) :] for name, c in catalogs.items()}, truths)


def show_repeats(catalogs: dict[str, Table], who: Table) -> None:
    """Scatter of pairs, and over the error."""
    names = list(catalogs)
    print(f"\nrepeats: median |difference| and scatter over error\n\n{table_head('label', 'pairs', *names)}")
    pairs = {name: pairs_of(c, who) for name, c in catalogs.items()}
    for label in LABELS:
        rows = [compare(catalogs[n], pairs[n], np.arange(len(pairs[n])), label, INFORMATIVE) for n in names]
        size = [
            np.nanmedian(np.abs(np.diff(np.asarray(catalogs[n][label], dtype=float)[pairs[n]], axis=1))) for n in names
        ]
        cells = " | ".join(f"{s:.3g}, {r.ratio:.2f}" if len(r.pull) else "" for s, r in zip(size, rows))
        print(f"| {label} | {len(rows[0].pull)} | {cells} |")


def show_mocks(catalogs: dict[str, Table], truths: list[dict[str, float]]) -> None:
    """Size of (fit - truth), and over the error."""
    print(f"\nmocks: 68% of |fit - truth| and over error\n\n{table_head('label', *catalogs)}")
    for label in LABELS:
        truth = np.array([t[label] for t in truths])
        cells = []
        for catalog in catalogs.values():
            value, error = (np.asarray(catalog[label + end], dtype=float) for end in ("", "_ERR"))
            good = np.isfinite(value) & (
                np.asarray(catalog[f"{label}_CRLB"]) < INFORMATIVE * (1e3 if label == "TEFF" else 1)
            )
            off = (value - truth)[good]
            cells.append(f"{robust(off):.3g}, {robust(off / error[good]):.2f}" if good.sum() > 4 else "")
        print(f"| {label} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
