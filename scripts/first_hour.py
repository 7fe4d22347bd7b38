"""The first hour of a new user, timed: install, a first spectrum, a first catalogue, a first calibrated one.

    python scripts/first_hour.py --work DIR
    python scripts/first_hour.py --work DIR --spectrum star.fits.gz --spectra dr10/ --reference survey.csv --no-install

Every step is the command that the documentation gives, run in an empty folder; the table says how long each took by the
clock and of the processor, and how it ended; the load of the machine stands below it. Without --spectra, sixteen mock
LAMOST stars are written first (that step is no part of the walk), and without --reference a table of their true labels
with errors stands for a survey.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table
from harness import table_head

import phdlspec
from phdlspec.cores import CorePriors

ROOT = Path(__file__).parents[1]
STARS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder to work in; it is emptied")
    parser.add_argument("--spectrum", type=Path, help="a first spectrum of one's own (default: one of the mocks)")
    parser.add_argument("--spectra", type=Path, help="folder of spectra (default: mocks)")
    parser.add_argument("--reference", type=Path, help="table of labels of some of them")
    parser.add_argument("--no-install", action="store_true", help="use what is installed")
    args = parser.parse_args()
    work = args.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    spectra, reference = args.spectra, args.reference
    if spectra is None:
        spectra, reference = mocks(work)
    one = (args.spectrum or sorted(spectra.glob("*.fits.gz"))[0]).resolve()
    command = [sys.executable, "-m", "phdlspec"] if args.no_install else [str(work / "env" / "bin" / "phdlspec")]
    load = os.getloadavg()[0]
    print(table_head("step", "clock, s", "processor, s", "ends with"))
    if not args.no_install:
        step("clone", work, ["git", "clone", "--quiet", str(ROOT), "phdlspec"])
        step("environment", work, [sys.executable, "-m", "venv", "env"])
        step("install", work, [str(work / "env" / "bin" / "pip"), "install", "--quiet", str(work / "phdlspec")])
    step("what is installed", work, [*command, "info"])
    step("first spectrum", work, [*command, "fit", str(one), "--mode", "fast", "--out", "results"])
    step("first catalogue", work, [*command, "catalog", str(spectra.resolve()), "--out", "catalogue.fits"])
    if reference is not None:
        learn = ["calibrate", "learn", "--catalog", "catalogue.fits", "--reference", str(reference.resolve())]
        step("calibration", work, [*command, *learn, "--out", "calibration.json"])
        apply = ["calibrate", "apply", "--catalog", "catalogue.fits", "--calibration", "calibration.json"]
        step("first calibrated catalogue", work, [*command, *apply, "--out", "calibrated.fits"])
    print(f"\n{os.cpu_count()} cores, load {load:.1f} before, {os.getloadavg()[0]:.1f} after")


def step(name: str, work: Path, command: list[str]) -> None:
    """Run a command and print a row of the table."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ}
    if "--no-install" not in sys.argv:
        environment.pop("PYTHONPATH", None)  # what was installed is what is tried
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, env=environment)
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    said = [line for line in (done.stdout if done.returncode == 0 else done.stderr).splitlines() if line.strip()]
    last = said[0] if done.returncode == 0 and name.startswith("first c") and said else (said[-1] if said else "")
    print(
        f"| {name} | {clock:.0f} | {spent:.0f} | {done.returncode}: {last.strip()[:90].replace('|', '/')} |", flush=True
    )


def mocks(work: Path) -> tuple[Path, Path]:
    """A folder of mock LAMOST spectra, and a table that another survey might have made of them."""
    emulator, random = phdlspec.load_emulator(device="cpu"), np.random.default_rng(1)
    cores = CorePriors.shipped(emulator.metadata["grid"])
    folder = work / "spectra"
    folder.mkdir()
    columns: dict[str, list[float]] = {name: [] for name in ("TEFF", "LOGG", "FE_H", "MG_FE")}
    for i in range(STARS):
        star = {"TEFF": random.uniform(4700, 6200), "LOGG": random.uniform(2.0, 4.6),
                "FE_H": random.uniform(-0.8, 0.3), "MG_FE": random.uniform(-0.1, 0.3)}  # fmt: skip
        theta = torch.as_tensor(emulator.labels.complete(star)[None], dtype=torch.float32)
        with torch.no_grad():
            flux = emulator.native_flux(theta)[0]
        mock = phdlspec.mock_lamost(
            flux,
            emulator.native,
            star["TEFF"],
            snr=80,
            seed=i,
            logg=star["LOGG"],
            cores=cores,
            identifier=str(1000 + i),
        )
        phdlspec.write_lamost(mock, folder / f"spec-{1000 + i}.fits.gz")
        for name, values in columns.items():
            values.append(star[name])
    table = Table({"OBSID": [str(1000 + i) for i in range(STARS)]})
    for name, error in (("TEFF", 30.0), ("LOGG", 0.04), ("FE_H", 0.03), ("MG_FE", 0.03)):
        table[name] = np.array(columns[name]) + random.normal(0.0, error, STARS)
        table[f"{name}_ERR"] = error
    table.meta["SOLSCALE"] = "Asplund2009"
    table.write(work / "reference.ecsv")
    return folder, work / "reference.ecsv"


if __name__ == "__main__":
    main()
