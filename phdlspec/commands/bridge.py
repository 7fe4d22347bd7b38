"""What real stars teach about the models: a bridge from ab initio spectra to real ones.

  phdlspec bridge learn miles.h5 --labels literature.ecsv --out bridge.safetensors
  phdlspec bridge check bridge.safetensors held_out.h5 --labels fundamental.ecsv --out check/
  phdlspec catalog dr10/ --bridge bridge.safetensors --out catalogue.fits

SPECTRA are files, folders, patterns, lists of paths or packed HDF5, as for `phdlspec catalog`. The table has FILE or
OBSID (or RA and DEC), TEFF, LOGG and FE_H with their errors (TEFF_ERR ...), and any other labels that are known; STAR,
where it is there, names the star. A bridge belongs to the emulator that it was learned with.

`learn` fits every star at its labels (a second a star) and writes what the models lack in features narrower than about
100 Å, as a smooth function of Teff, log g and [Fe/H], with its covariance; what is broader is the instrument's. `check`
fits stars that it was not learned from, without labels, with and without it: DIR/check.html, check.ecsv (one row a
star).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from phdlspec.bridge.check import write_check
from phdlspec.bridge.learn import learn
from phdlspec.bridge.references import ReferenceStar, read_references
from phdlspec.commands.reading import add_reading_arguments
from phdlspec.console import say
from phdlspec.default_emulator import load_emulator
from phdlspec.emulator.bridge import Bridge, described
from phdlspec.emulator.emulator import Emulator
from phdlspec.errors import UserError
from phdlspec.files import only_writer
from phdlspec.fitting.settings import FitSettings
from phdlspec.tensor_file import check_model_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare learn and check."""
    actions = parser.add_subparsers(dest="action", metavar="learn|check", required=True)
    learning = actions.add_parser("learn", help="learn a bridge from stars with known labels")
    learning.add_argument("--out", required=True, type=Path, metavar="BRIDGE", help="safetensors file to write")
    learning.add_argument(
        "--rounds", type=int, default=1, help="1: labels held; 2: and free once, which lets them drift (default 1)"
    )
    _add_common(learning)
    check = actions.add_parser("check", help="stars that it was not learned from, with and without it")
    check.add_argument("bridge", metavar="BRIDGE")
    check.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the page and its table")
    _add_common(check)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spectra", nargs="+", metavar="SPECTRA", help="files, folders, patterns, lists, packed HDF5")
    parser.add_argument("--labels", required=True, metavar="TABLE", help="TEFF, LOGG, FE_H with errors, by FILE, OBSID")
    parser.add_argument("--emulator", metavar="CKPT", help="checkpoint of `phdlspec train` (default: the shipped one)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (default 1)")
    add_reading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run one action; 0 when done."""
    return {"learn": _learn, "check": _check}[args.action](args)


def _learn(args: argparse.Namespace) -> int:
    check_model_name(args.out)
    if args.rounds < 1:
        raise UserError(f"--rounds {args.rounds}: expected at least 1")
    emulator = load_emulator(args.emulator, args.device)
    with only_writer(args.out):
        stars = _stars(args, emulator)
        bridge = learn(stars, emulator, FitSettings(mode="fast", seed=args.seed), args.rounds, progress=True)
        bridge.write(args.out)
    say("\n  ".join([f"{args.out}:", *described(bridge.metadata)]))
    return 0


def _check(args: argparse.Namespace) -> int:
    bridge = Bridge.read(args.bridge)
    emulator = load_emulator(args.emulator, args.device)
    stars = _stars(args, emulator)
    say(write_check(bridge, args.bridge, stars, emulator, FitSettings(mode="fast", seed=args.seed), args.out))
    return 0


def _stars(args: argparse.Namespace, emulator: Emulator) -> list[ReferenceStar]:
    stars, left_out = read_references(args.spectra, args.labels, emulator.labels, args.medium, args.resolving_power)
    if left_out:
        say(f"{len(left_out)} of {len(left_out) + len(stars)} spectra are not used; the first: {left_out[0]}")
    return stars
