"""The command `phdlspec`: it finds the module of the subcommand, imports that one alone and turns a `UserError` into
one line."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from phdlspec import __version__, console
from phdlspec.errors import UserError, plain


@dataclass(frozen=True)
class Command:
    """A subcommand: its module, with a docstring, `add_arguments(parser)` and `run(args)` -> exit code; one line of
    help."""

    module: str
    help: str


COMMANDS: dict[str, Command] = {
    "fit": Command("phdlspec.commands.fit", "fit single spectra"),
    "catalog": Command("phdlspec.commands.catalog", "fit many spectra into a catalogue"),
    "ages": Command("phdlspec.commands.ages", "ages and masses of the stars of a catalogue, from isochrones"),
    "calibrate": Command("calibration.command", "learn, apply and report calibrations of catalogues"),
    "bridge": Command("phdlspec.commands.bridge", "what real stars teach about the models: learn, check"),
    "emulate": Command("phdlspec.commands.emulate", "emulate spectra of given labels"),
    "grid": Command(
        "kurucz_grids.command", "make, import, check and describe grids of synthetic spectra; fetch what they need"
    ),
    "train": Command("phdlspec.commands.train", "train an emulator on a grid"),
    "lux": Command("phdlspec.commands.lux", "learn labels from stars whose labels are known, and apply them"),
    "vae": Command("phdlspec.commands.vae", "explain spectra without labels, find strange ones"),
    "desa": Command("phdlspec.commands.desa", "spectra and light curves of stars in one embedding"),
    "info": Command("phdlspec.commands.info", "versions, and what made a file"),
}


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The parser with all subcommands; only the chosen one is imported and has its arguments."""
    parser = argparse.ArgumentParser(
        prog="phdlspec",
        description="Stellar labels with honest uncertainties from low-resolution spectra.",
        epilog=f"phdlspec COMMAND --help explains each command with examples. {console.HELP}.",
    )
    parser.add_argument("--version", action="version", version=f"phdlspec {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.help, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == chosen:
            module = importlib.import_module(command.module)
            subparser.description = module.__doc__
            subparser.epilog = f"{console.HELP}."
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 done, 1 a mistake of input (one line on standard error), 2 a usage error."""
    argv, level = console.without_loudness(sys.argv[1:] if argv is None else argv)
    console.begin(level)
    warnings.filterwarnings("ignore", module=r"torch(\.|$)")  # of its own future, which no user can act upon
    chosen = next((argument for argument in argv if not argument.startswith("-")), None)
    args = build_parser(chosen).parse_args(argv)
    try:
        return int(args.run(args))
    except UserError as error:
        print(f"phdlspec {args.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a file that no reader of ours knew how to name: unreadable, a folder, a full disk
        told = plain(f"{error.filename or 'a file'}: {error.strerror or error}")
        print(f"phdlspec {args.command}: {told}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"phdlspec {args.command}: stopped; what was finished is kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
