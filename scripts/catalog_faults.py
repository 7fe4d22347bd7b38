"""Kill and fault tests of catalogues, with a quick deterministic fitter in the place of the fit.

  python scripts/catalog_faults.py kill  --stars 300 --kills 20
  python scripts/catalog_faults.py fault --stars 120

`kill` ends a run with SIGKILL at random moments, resumes it until it is whole, and compares it with an uninterrupted
one. `fault` damages a tenth of the files in twelve ways and compares the good stars with those of an undamaged run.
What is tested is reading, storing and resuming; the fitter's answer depends on the pixels of its spectrum alone.
"""

from __future__ import annotations

import argparse
import gzip
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

import phdlspec.catalog.chunks as chunks_module
from phdlspec.catalog import CatalogJob, expand_inputs, make_catalog
from phdlspec.catalog.rows import NAMES
from phdlspec.emulator.emulator import Emulator
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import FitSettings
from phdlspec.io import write_lamost
from phdlspec.lsf import NativeGrid
from phdlspec.mock import mock_lamost
from phdlspec.spectrum import Spectrum

GRID = NativeGrid(3690.0, 1.0 / 8750.0, 7909, 3500.0)
SECONDS_PER_STAR = 0.01


def quick_fit(spectra: Sequence[Spectrum], emulator: Emulator, settings: FitSettings) -> list[Fitted]:
    """Results that depend on the pixels of each spectrum alone."""
    results = []
    for spectrum in spectra:
        time.sleep(SECONDS_PER_STAR)
        value = np.random.default_rng(int(np.abs(spectrum.flux).sum() * 1e3)).normal(size=len(NAMES))
        err = np.ones(len(NAMES))
        flag = np.zeros(len(NAMES), dtype=int)
        results.append(
            Fitted(
                NAMES, value, err, value - err, value, value + err, err, flag, np.diag(err), mode="fast",
                chi2=1.0, npix=3000, snr=spectrum.snr, path=spectrum.path, meta=spectrum.meta,
            )
        )  # fmt: skip
    return results


def make_files(folder: Path, count: int) -> list[Path]:
    """Mock LAMOST files, each with its own noise."""
    paths = []
    for i in range(count):
        path = folder / f"spec-{i:05d}.fits.gz"
        write_lamost(mock_lamost(np.ones(GRID.size), GRID, 5500.0, 50.0, i, identifier=f"{i:05d}"), path)
        paths.append(path)
    return paths


def same_rows(first: Table, second: Table, rows: np.ndarray) -> bool:
    """True where all columns but the computing time agree in these rows."""
    names = [name for name in first.colnames if name not in ("SECONDS", "FILE")]
    return all(np.array_equal(first[n][rows], second[n][rows], equal_nan=first[n].dtype.kind == "f") for n in names)


def catalogue(folder: Path, out: Path, resume: bool = False, chunk: int = 4) -> Table:
    """Run the catalogue of a folder with the quick fitter."""
    chunks_module.fit_batch = quick_fit  # type: ignore[assignment]
    job = CatalogJob(tuple(expand_inputs([folder])), str(out), FitSettings(mode="fast"), device="cpu", chunk=chunk)
    return make_catalog(job, resume=resume, progress=False)


def kill_test(folder: Path, work: Path, count: int, kills: int, seed: int) -> bool:
    """SIGKILL at random moments; True where the resumed catalogue equals the uninterrupted one."""
    make_files(folder, count)
    whole = catalogue(folder, work / "whole.fits")
    out, random, done = work / "killed.fits", np.random.default_rng(seed), []
    parts = Path(f"{out}.parts")
    context = multiprocessing.get_context("fork")
    for _ in range(kills):
        begin = len(list(parts.glob("chunk_*.npz")))
        process = context.Process(target=catalogue, args=(folder, out, parts.exists()))
        process.start()
        more = random.integers(0, 4)
        while process.is_alive() and len(list(parts.glob("chunk_*.npz"))) < begin + more:
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.1))
        if process.is_alive() and process.pid:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        done.append(len(list(parts.glob("chunk_*.npz"))))
        if process.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"the run ended by itself ({process.exitcode}) after {len(done)} kills")
    resumed = catalogue(folder, out, resume=parts.exists())
    equal = len(resumed) == count and same_rows(whole, resumed, np.arange(count))
    files = list(map(str, resumed["FILE"]))
    print(f"{kills} kills, finished chunks of 4 after each: {done}")
    print(f"{len(files)} rows, {len(set(files))} different files, equal to the uninterrupted catalogue: {equal}")
    return equal and len(set(files)) == count


def _fill(column: str, value: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with fits.open(path) as hdus:
            copy = fits.HDUList([hdu.copy() for hdu in hdus])
        copy["COADD"].data[column][:] = value
        copy.writeto(path, overwrite=True)

    return damage


def _without_weights(path: Path) -> None:
    with fits.open(path) as hdus:
        columns = [column for column in hdus["COADD"].columns if column.name != "IVAR"]
        copy = fits.HDUList([hdus[0].copy(), fits.BinTableHDU.from_columns(columns, name="COADD")])
    copy.writeto(path, overwrite=True)


def _bare(path: Path) -> None:
    fits.PrimaryHDU().writeto(path, overwrite=True)


def _link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone.fits.gz"))


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for i in range(len(data) // 2, len(data) // 2 + 64):
        data[i] ^= 255
    path.write_bytes(bytes(data))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty file": lambda p: p.write_bytes(b""),
    "cut off": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "bytes flipped": _flipped,
    "text": lambda p: p.write_text("no spectrum\n"),
    "gzipped text": lambda p: p.write_bytes(gzip.compress(b"no spectrum\n")),
    "no data": _bare,
    "all flux NaN": _fill("FLUX", np.nan),
    "no weight": _fill("IVAR", 0.0),
    "negative weight": _fill("IVAR", -1.0),
    "wavelengths NaN": _fill("WAVELENGTH", np.nan),
    "no column of weights": _without_weights,
    "a link to nothing": _link_to_nothing,
}


def fault_test(folder: Path, work: Path, count: int) -> bool:
    """A tenth damaged; True where every good star has its result and every bad one a row with a reason."""
    paths = make_files(folder, count)
    whole = catalogue(folder, work / "whole.fits", chunk=32)
    damaged = np.arange(0, count, 10)
    kinds = list(DAMAGE)
    for i, row in enumerate(damaged):
        DAMAGE[kinds[i % len(kinds)]](paths[row])
    listing = work / "all.txt"
    listing.write_text("\n".join(map(str, paths)))
    table = catalogue(listing, work / "damaged.fits", chunk=32)
    reasons = np.asarray(table["REASON"]).astype(str)
    good = np.setdiff1d(np.arange(count), damaged)
    for i, row in enumerate(damaged):
        print(f"{kinds[i % len(kinds)]:18s} FLAG {table['FLAG'][row]:5d}  {reasons[row].replace(str(folder), '.')}")
    equal = len(table) == count and same_rows(whole, table, good)
    explained = all(reasons[damaged]) and not any(reasons[good])
    print(f"{len(good)} good stars equal to the undamaged run: {equal}; {len(damaged)} bad ones explained: {explained}")
    return equal and explained


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test", choices=("kill", "fault"))
    parser.add_argument("--stars", type=int, default=300)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, work = Path(name) / "spectra", Path(name) / "work"
        folder.mkdir()
        work.mkdir()
        if args.test == "kill":
            return 0 if kill_test(folder, work, args.stars, args.kills, args.seed) else 1
        return 0 if fault_test(folder, work, args.stars) else 1


if __name__ == "__main__":
    raise SystemExit(main())
