"""Make the shipped emulator again, end to end: grid, training, validation, example. Seeds are fixed.

    python scripts/rebuild_default_model.py --atmospheres ck03_odfnew_grid.npz --line-list optical_3690_9300_air.npz \\
        --work DIR [--models 649] [--sun Sun_HARPS.fits]

Training has two stages, as the shipped model's had while its grid grew: the first 346 training models, then all of
them from there on at a lower rate. With --sun the table of oscillator strengths that the Sun allows is made again
first. Every step goes on where it was stopped. On two cores a model takes three to five seconds, training half an hour.
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


def run(*command: str) -> None:
    """Run a command of ours, or stop with its exit code."""
    print("$", " ".join(command), flush=True)
    code = subprocess.run([sys.executable, *command], check=False).returncode
    if code:
        sys.exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atmospheres", required=True)
    parser.add_argument("--line-list", required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the grid and the checkpoint")
    parser.add_argument("--sun", help="HARPS spectrum of the Sun, to make kurucz_grids/data/solar_gf.csv again")
    parser.add_argument("--models", type=int, default=649, help="of the grid")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    grid, checkpoint = args.work / "grid.h5", args.work / "emulator.safetensors"
    physics = ("--atmospheres", args.atmospheres, "--line-list", args.line_list)
    if args.sun:
        table = Path(kurucz_grids.__file__).parent / "data" / "solar_gf.csv"
        run(str(SCRIPTS / "solar_oscillator_strengths.py"), *physics, "--sun", args.sun, "--out", str(table))
    run("-m", "phdlspec.cli", "grid", "build", "--n", str(args.models), "--seed", "1", "--out", str(grid), *physics,
        "--workers", str(args.workers))  # fmt: skip
    run("-m", "phdlspec.cli", "grid", "check", str(grid))
    first = args.work / "first_stage.safetensors"
    for stage in (
        ("--out", str(first), "--models", "346", "--steps", "36000", "--evaluations", "30", "--patience", "30"),
        ("--out", str(checkpoint), "--start", str(first), "--steps", "8000", "--learning-rate", "2e-3",
         "--evaluations", "20", "--patience", "20"),
    ):  # fmt: skip
        run("-m", "phdlspec.cli", "train", str(grid), *stage, "--seed", "1", "--device", args.device)
    shipped = Path(phdlspec.__file__).parent / "data" / "default.safetensors"
    shutil.copy(checkpoint, shipped)
    run(str(SCRIPTS / "make_example.py"), *physics)
    run(str(SCRIPTS / "emulator_accuracy.py"), str(grid), "--split", "test")
    run(str(SCRIPTS / "mock_study.py"), str(grid), "--split", "test", "--n", "300")
    print(f"{shipped}: made again; write the printed tables into docs/")


if __name__ == "__main__":
    main()
