"""Train an emulator on a grid of spectra with their derivatives.

  phdlspec train grid.h5 --out emulator.safetensors
  phdlspec train grid.h5 --out emulator.safetensors --steps 100000 --device cuda
  phdlspec train grid.h5 --out better.safetensors --start emulator.safetensors --steps 10000 --learning-rate 2e-3

The grid may still be growing: the models that are done are used. Stop it at any time; the same command goes on as long
as the grid has not grown. The bar shows the error of the flux and of the derivatives on the training models; at the end
the errors on the validation models are printed. The test part of the grid is not looked at (see scripts/).
"""

from __future__ import annotations

import argparse
from dataclasses import fields

from phdlspec.console import say
from phdlspec.emulator.checkpoint import load_checkpoint
from phdlspec.emulator.training import Trainer
from phdlspec.emulator.training_settings import TrainingSettings
from phdlspec.errors import UserError
from phdlspec.gridfile import Grid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("grid", metavar="GRID", help="HDF5 of `phdlspec grid build`, finished or being made")
    parser.add_argument("--out", required=True, metavar="CKPT", help="the checkpoint to write (safetensors)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--start", metavar="CKPT", help="train a checkpoint on, for instance when the grid has grown")
    parser.add_argument("--models", type=int, metavar="N", help="use only the first N training models")
    for item in fields(TrainingSettings):
        option = "--" + item.name.replace("_", "-")
        kind = type(item.default)
        parser.add_argument(option, type=kind, default=item.default, metavar=kind.__name__.upper(),
                            help=f"default {item.default}")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    grid = Grid(args.grid)
    settings = TrainingSettings(**{item.name: getattr(args, item.name) for item in fields(TrainingSettings)})
    if args.models is not None and args.models < 1:
        raise UserError(f"--models is {args.models}, expected one or more")
    rows = grid.rows("train")[: args.models]
    start = load_checkpoint(args.start) if args.start else None
    trainer = Trainer(grid, settings, args.device, rows, start)
    summary = trainer.train(args.out).summary()
    say(f"{args.out}: trained on {len(trainer.rows)} models")
    say(
        f"validation ({summary['models']} models, R = 1800, 3800-9000 Å): flux rms {summary['flux_rms_median']:.1e} "
        f"(median), {summary['flux_rms_p95']:.1e} (95%)"
    )
    errors = " ".join(f"{n} {100 * e:.0f}" for n, e in summary["derivative_error_median"].items())
    say(f"relative error of the derivatives, per cent: {errors}")
    return 0
