"""Make the shipped emulator again, end to end: grid, training, validation, example. Seeds are fixed.

    python scripts/rebuild_default_model.py --atmospheres ck03_odfnew_grid.npz --line-list optical_3690_9300_air.npz \\
        moog_molecules --work DIR --stars DATA [--calibrate]

The grid is the first 1,101 models of seed 1 and, of the first 2,769, those of 3600 to 4700 K, which are the hardest;
1,335 train. Training has three stages, each on from the one before, as the shipped model's had while its grid grew;
what differed then is the validation part that chooses the weights, which had 39 models in the first stage, 56 in the
second and 71 in the third. The bridge from models to real stars is learned from the stars of MILES in the folder of
--stars. With --calibrate the table of line data that real stars want is made again first, from the same
folder. Every step goes on where it was stopped. On two cores a model takes three to four seconds, an hour and a half in
all; training takes an hour and a quarter of one of them, the bridge ten minutes.
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
MODELS, COOL_MODELS, COOL = "1101", "2769", ("3600", "4700")  # of the grid; K
STAGES = (  # training models, steps, learning rate
    ("580", "20000", "5e-3"),
    ("880", "26000", "4e-3"),
    ("1335", "34000", "4e-3"),
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
    run(*build, *physics, "--n", MODELS)
    run(*build, *physics, "--n", COOL_MODELS, "--teff", *COOL)
    run(*build, *physics, "--n", COOL_MODELS, "--collect")
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
