"""Make the shipped emulator again, end to end: grid, training, validation, example. Seeds are fixed.

    python scripts/rebuild_default_model.py --atmospheres ck03_odfnew_grid.npz --line-list optical_3690_9300_air.npz \\
        moog_molecules --work DIR --stars DATA [--calibrate]

The grid is the first 1,303 models of seed 1 and, because cool stars are the hardest, those up to 4700, 4600 and 4250 K
of the first 3,182, 4,900 and 12,425: 3,152 models, of which 2,774 train. Training has five stages, each on from the one
before, as the shipped model's had while its grid grew; an early stage then had other models than the first ones of the
whole grid, which it has here, and fewer for validation. The bridge from models to real stars is learned from the stars
of MILES in the folder of --stars. With --calibrate the table of line data that real stars want is made again first,
from the same folder. Every step goes on where it was stopped. On two cores a model takes three to four seconds, three
hours in all; training takes two hours of one of them, the bridge ten minutes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import kurucz_grids
import phdlspec

SCRIPTS = Path(__file__).parent
# Models of the grid, and the Teff (K) that are computed of them.
GRID: tuple[tuple[str, tuple[str, str] | None], ...] = (
    ("1303", None),
    ("3182", ("3600", "4700")),
    ("4900", ("3600", "4600")),
    ("12425", ("3600", "4250")),
)
STAGES = (  # training models, steps, learning rate
    ("580", "20000", "5e-3"),
    ("880", "26000", "4e-3"),
    ("1335", "34000", "4e-3"),
    ("2141", "34000", "4e-3"),
    ("2774", "34000", "4e-3"),
)


def run(*command: str) -> None:
    """Run a command of ours, or stop with its exit code."""
    print("$", " ".join(command), flush=True)
    code = subprocess.run([sys.executable, *command], check=False).returncode
    if code:
        sys.exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atmospheres", required=True)
    parser.add_argument("--line-list", nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the grid and the checkpoint")
    parser.add_argument("--stars", required=True, help="folder of real spectra, with miles/, stelib/ and highres/")
    parser.add_argument("--calibrate", action="store_true", help="make the table of line data again first")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    grid = args.work / "grid.h5"
    physics = ("--atmospheres", args.atmospheres, "--line-list", *args.line_list)
    if args.calibrate:
        table = Path(kurucz_grids.__file__).parent / "data" / "lines.fits.gz"
        work = str(args.work / "lines")
        run(str(SCRIPTS / "calibrate_lines.py"), args.stars, *physics, "--work", work, "--out", str(table))
    build = ("-m", "phdlspec.cli", "grid", "build", "--seed", "1", "--out", str(grid), "--workers", str(args.workers))
    for models, teff in GRID:
        run(*build, *physics, "--n", models, *(("--teff", *teff) if teff else ()))
    run(*build, *physics, "--n", GRID[-1][0], "--collect")
    run("-m", "phdlspec.cli", "grid", "check", str(grid))
    for i, (models, steps, rate) in enumerate(STAGES):
        before, out = args.work / f"stage{i - 1}.safetensors", args.work / f"stage{i}.safetensors"
        start = ("--start", str(before)) if i else ()
        run("-m", "phdlspec.cli", "train", str(grid), "--out", str(out), *start, "--models", models, "--steps", steps,
            "--learning-rate", rate, "--evaluations", "20", "--patience", "30", "--seed", "1",
            "--device", args.device)  # fmt: skip
    checkpoint = args.work / f"stage{len(STAGES) - 1}.safetensors"
    shipped = Path(phdlspec.__file__).parent / "data" / "default.safetensors"
    shutil.copy(checkpoint, shipped)
    packed, bridge = args.work / "stars", shipped.with_name("bridge.safetensors")
    run(str(SCRIPTS / "bridge_study.py"), "pack", args.stars, "--out", str(packed))
    run("-m", "phdlspec.cli", "bridge", "learn", str(packed / "miles.h5"), "--labels", str(packed / "labels.ecsv"),
        "--out", str(bridge))  # fmt: skip
    run(str(SCRIPTS / "make_example.py"), *physics, "--figure", str(SCRIPTS.parent / "docs/figures/example_zooms.png"))
    run(str(SCRIPTS / "emulator_accuracy.py"), str(grid), "--split", "test")
    run(str(SCRIPTS / "mock_study.py"), str(grid), "--split", "test", "--n", "300")
    print(f"{shipped}: made again; write the printed tables into docs/")


if __name__ == "__main__":
    main()
