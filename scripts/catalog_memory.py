"""Peak resident memory of catalogues of more and more stars.

    python scripts/catalog_memory.py --quick 100 1000 10000 --real 32 64

With the quick fitter of `catalog_faults.py` what is measured is reading, storing and joining, which must not grow with
the number of files; the real fit adds the constant part of one chunk. Each catalogue is made by a process of its own;
the peaks are those of the kernel (VmHWM), so Linux is needed. The quick runs read 100 different files under as many
names as are asked for.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from catalog_faults import make_files, quick_fit
from harness import table_head
from least_squares_comparison import mock_stars

import phdlspec.catalog.chunks as chunks_module
import phdlspec.catalog.run as run_module
from phdlspec import load_emulator
from phdlspec.catalog import CatalogJob, expand_inputs, make_catalog
from phdlspec.fitting.settings import FitSettings
from phdlspec.io import write_lamost

DIFFERENT = 100  # files of the quick runs that are not copies


def peak() -> float:
    """Largest resident memory of this process so far, MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024.0


def measure(folder: Path, out: Path, quick: bool) -> tuple[float, float, float, float]:
    """Peaks (MB) with the emulator loaded, when all chunks are stored, and with the table written; seconds."""
    torch.set_num_threads(1)
    load_emulator(device="cpu")
    peaks = [peak()]
    if quick:
        chunks_module.fit_batch = quick_fit  # type: ignore[assignment]
    write = run_module._write

    def noting_the_peak(*args: Any) -> None:
        peaks.append(peak())
        write(*args)

    run_module._write = noting_the_peak  # type: ignore[assignment]
    start = time.time()
    job = CatalogJob(tuple(expand_inputs([folder])), str(out), FitSettings(mode="fast"), device="cpu")
    make_catalog(job, progress=False)
    return peaks[0], peaks[1], peak(), time.time() - start


def report(folder: Path, out: Path, quick: bool) -> None:
    """Measure in a process of its own and print a row of the table."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        loaded, stored, joined, seconds = pool.apply(measure, (folder, out, quick))
    count = len(list(folder.iterdir()))
    print(
        f"| {'quick' if quick else 'real'} | {count} | {loaded:.0f} | {stored:.0f} | {joined:.0f} "
        f"| {out.stat().st_size / 2**20:.1f} | {seconds:.0f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", type=int, nargs="*", default=[100, 1000, 10000], help="stars of the quick runs")
    parser.add_argument("--real", type=int, nargs="*", default=[32, 64], help="stars of the runs with the real fit")
    args = parser.parse_args()
    print(
        table_head(
            "fitter", "stars", "MB, emulator loaded", "MB, all chunks stored", "MB, table written", "catalogue MB", "s"
        )
    )
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for folder in ("different", *(f"quick{n}" for n in args.quick), *(f"real{n}" for n in args.real)):
            (work / folder).mkdir()
        files = make_files(work / "different", min(DIFFERENT, max(args.quick, default=0)))
        for count in args.quick:
            for i in range(count):
                os.link(files[i % len(files)], work / f"quick{count}" / f"spec-{i:05d}.fits.gz")
            report(work / f"quick{count}", work / f"quick{count}.fits", quick=True)
        for count in args.real:
            for i, spectrum in enumerate(mock_stars(load_emulator(device="cpu"), count, 100.0, 1)):
                write_lamost(spectrum, work / f"real{count}" / f"spec-{i:05d}.fits.gz")
            report(work / f"real{count}", work / f"real{count}.fits", quick=False)


if __name__ == "__main__":
    main()
