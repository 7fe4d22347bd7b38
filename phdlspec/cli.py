"""The command `phdlspec`: it only finds the module of a subcommand and turns a `UserError` into one line."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from phdlspec import __version__
from phdlspec.errors import UserError

# Each module has HELP (one line), add_arguments(parser) and run(args) -> exit code.
SUBCOMMANDS: dict[str, str] = {
    "fit": "phdlspec.commands.fit",
    "catalog": "phdlspec.commands.catalog",
    "calibrate": "calibration.command",
    "emulate": "phdlspec.commands.emulate",
    "grid": "kurucz_grids.command",
    "train": "phdlspec.commands.train",
    "info": "phdlspec.commands.info",
}


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="phdlspec",
        description="Stellar labels with honest uncertainties from low-resolution spectra.",
        epilog="phdlspec COMMAND --help explains each command with examples.",
    )
    parser.add_argument("--version", action="version", version=f"phdlspec {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module_name in SUBCOMMANDS.items():
        module = importlib.import_module(module_name)
        subparser = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 done, 1 a mistake of input (one line on standard error), 2 a usage error."""
    args = build_parser().parse_args(argv)
    try:
        return args.run(args)
    except UserError as error:
        print(f"phdlspec {args.command}: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a file that no reader of ours knew how to name: unreadable, a folder, a full disk
        print(f"phdlspec {args.command}: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"phdlspec {args.command}: stopped; what was finished is kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
