"""Runs that are ended by signals at random moments, resumed until they are whole, and compared bit for bit.

  python scripts/kills.py                      # twenty kills of each: the table of docs/robustness.md
  python scripts/kills.py --only grid --kills 5

A catalogue (the command, with the shipped emulator), a grid (two worker processes; a quick synthesizer stands in for
the physics), and a training on that grid. In turn SIGKILL to all processes of the run, SIGTERM and SIGINT to the first
one; every fourth while it starts, the others after new pieces of work were stored. What was stored must be there when
the run goes on, and not be made again. A run that ends before it is killed is compared and begun anew.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from astropy.io import fits
from harness import star_of_emulator, table_head, table_row
from quick_synthesis import QuickFactory

from kurucz_grids.build import build
from phdlspec.cli import main as command
from phdlspec.default_emulator import load_emulator
from phdlspec.emulator.training import Trainer
from phdlspec.emulator.training_settings import TrainingSettings
from phdlspec.gridfile import Grid
from phdlspec.io import write_lamost

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STARS, CHUNK, MODELS, SECONDS = 48, 2, 60, 0.15
SETTINGS = TrainingSettings(
    steps=400, batch=16, patches=20, vectors=12, width=24, heads=4, hidden=32, second_hidden=24, evaluations=80
)
PATIENCE = 300.0  # s for the next piece of work


@dataclass(frozen=True)
class Product:
    """Something whose making is killed. make : make it, or go on (of the folder with the inputs, and its path).
    pieces : pattern of what is stored on the way, beside it. content : what must be the same, by name."""

    name: str
    make: Callable[[Path, Path], object]
    ending: str
    pieces: str
    content: Callable[[Path], dict[str, bytes]]


# --- what is made ------------------------------------------------------------------------------------------------


def make_catalogue(folder: Path, out: Path) -> int:
    """The command, with --resume where a run was stopped."""
    again = ["--resume"] if Path(f"{out}.parts", "job.json").exists() else []
    options = ["--device", "cpu", "--chunk", str(CHUNK), "--no-report"]
    return command(["catalog", str(folder / "spectra"), "--out", str(out), *options, *again])


def catalogue_content(path: Path) -> dict[str, bytes]:
    """All columns but the computing time."""
    with fits.open(path) as hdus:
        return {
            f"{hdu.name} {name}": np.ascontiguousarray(hdu.data[name]).tobytes()
            for hdu in hdus[1:]
            for name in hdu.columns.names
            if name != "SECONDS"
        }


def make_grid(folder: Path, out: Path) -> object:
    """A grid by two workers."""
    return build({"survey": out}, MODELS, 1, QuickFactory(SECONDS), workers=2, progress=False)


def grid_content(path: Path) -> dict[str, bytes]:
    """All arrays, and what made them but for the date."""
    with h5py.File(path) as file:
        arrays = {name: np.asarray(file[name][()]) for name in file}
        about = {f"attribute {name}": str(value).encode() for name, value in file.attrs.items() if name != "created"}
        return about | {
            name: repr(values.tolist()).encode() if values.dtype == object else values.tobytes()
            for name, values in arrays.items()
        }


def make_training(folder: Path, out: Path) -> object:
    """A training whose state is saved at each evaluation."""
    trainer = Trainer(Grid(folder / "whole.h5"), SETTINGS, "cpu")
    trainer.save_every = 0.0
    return trainer.train(out, progress=False)


PRODUCTS = (
    Product("grid", make_grid, ".h5", "{}.parts/row_*.npz", grid_content),
    Product("training", make_training, ".safetensors", "{}.training", lambda path: {"file": path.read_bytes()}),
    Product("catalogue", make_catalogue, ".fits", "{}.parts/chunk_*.npz", catalogue_content),
)


def prepare(folder: Path) -> None:
    """Spectra of the shipped emulator with noise, one of them damaged, one no spectrum."""
    emulator = load_emulator(device="cpu")
    (folder / "spectra").mkdir()
    random = np.random.default_rng(1)
    for i in range(STARS):
        labels = {"TEFF": random.uniform(4500.0, 6500.0), "LOGG": random.uniform(2.0, 4.5), "FE_H": -0.3}
        write_lamost(
            star_of_emulator(emulator, labels, 60.0, i, identifier=f"{i:03d}"),
            folder / "spectra" / f"spec-{i:03d}.fits.gz",
        )
    damaged, none = (folder / "spectra" / f"spec-{i:03d}.fits.gz" for i in (7, 20))
    damaged.write_bytes(damaged.read_bytes()[:5000])
    none.write_text("no spectrum")


# --- killing -----------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of a product's runs."""

    kills: dict[str, int] = field(default_factory=lambda: {number.name: 0 for number in SIGNALS})
    stored: list[int] = field(default_factory=list)  # pieces at each kill
    lost: int = 0
    again: int = 0
    compared: int = 0
    different: list[str] = field(default_factory=list)
    ends: int = 0  # runs that came to their end

    def row(self, name: str) -> str:
        """A line of the table."""
        kills = ", ".join(f"{count} {number}" for number, count in self.kills.items())
        same = "equal" if self.compared and not self.different else f"DIFFERENT in {', '.join(self.different[:5])}"
        after = sum(count > 0 for count in self.stored)
        return table_row(name, kills, after, self.lost, self.again, self.compared, same)


HEAD = table_head(
    "product", "kills", "with pieces stored", "pieces lost", "made twice", "products", "with an uninterrupted one"
)  # fmt: skip


def _child(product: Product, folder: Path, out: Path) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(folder / "log.txt", "a") as log:
        os.dup2(log.fileno(), 2)
        os.dup2(log.fileno(), 1)
    with contextlib.suppress(KeyboardInterrupt):
        product.make(folder, out)


def _pieces(product: Product, out: Path) -> dict[str, int]:
    """Stored pieces and when they were written."""
    found = {}
    for path in out.parent.glob(product.pieces.format(out.name)):
        with contextlib.suppress(FileNotFoundError):
            found[path.name] = path.stat().st_mtime_ns
    return found


def kill_once(
    product: Product, folder: Path, out: Path, number: int, random: np.random.Generator, tally: Tally
) -> bool:
    """Begin or go on, and end it by a signal; False where it came to its end before."""
    before = _pieces(product, out)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(product, folder, out))
    process.start()
    assert process.pid is not None
    until = time.monotonic() + (random.uniform(0.2, 4.0) if number % 4 == 3 else PATIENCE)
    while process.is_alive() and time.monotonic() < until and (number % 4 == 3 or _pieces(product, out) == before):
        time.sleep(0.005)
    time.sleep(random.uniform(0.0, 0.6))
    which = SIGNALS[number % len(SIGNALS)]
    if process.is_alive():
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if which is signal.SIGKILL else os.kill)(process.pid, which)
    process.join(60.0)
    if out.exists():
        return False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # none should be left
    after = _pieces(product, out)
    tally.kills[which.name] += 1
    tally.stored.append(len(after))
    if "*" in product.pieces:  # the one state of a training is written anew
        tally.lost += len(before.keys() - after.keys())
        tally.again += sum(after.get(name, time_written) != time_written for name, time_written in before.items())
    else:
        tally.lost += bool(before) and not after
    return True


def finish(product: Product, folder: Path, out: Path, whole: dict[str, bytes], tally: Tally) -> None:
    """Go on to the end and compare."""
    if not out.exists():
        product.make(folder, out)
    found = product.content(out)
    tally.compared += 1
    tally.different += [name for name in whole.keys() | found.keys() if whole.get(name) != found.get(name)]


def trial(product: Product, folder: Path, kills: int, seed: int) -> Tally:
    """Kill a product's making so many times."""
    reference = folder / f"whole{product.ending}"
    if not reference.exists():
        product.make(folder, reference)
    whole, random, tally = product.content(reference), np.random.default_rng(seed), Tally()
    round_ = 0
    out = folder / f"killed-0{product.ending}"
    while sum(tally.kills.values()) < kills:
        if not kill_once(product, folder, out, sum(tally.kills.values()) + tally.ends, random, tally):
            tally.ends += 1
            finish(product, folder, out, whole, tally)
            round_ += 1
            out = folder / f"killed-{round_}{product.ending}"
    finish(product, folder, out, whole, tally)
    return tally


def main() -> int:
    """Run it; 1 where something was lost or differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each product")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="products whose name begins so")
    args = parser.parse_args()
    chosen = [product for product in PRODUCTS if product.name.startswith(args.only)]
    rows, bad = [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        make_grid(folder, folder / "whole.h5")
        for product in chosen:
            tally = trial(product, folder, args.kills, args.seed)
            rows.append(tally.row(product.name))
            bad += tally.lost + tally.again + len(tally.different)
            print(rows[-1], flush=True)
    print("\n".join([HEAD, *rows]))
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main())
