"""What many files of spectra do not say, as options of every command that reads spectra."""

from __future__ import annotations

import argparse

from phdlspec.io.table import MEDIA

RESOLVING_POWER_HELP = "number, LAMOST, DESI, SDSS, MILES, or table with wave, resolving_power"


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --medium and --resolving-power."""
    parser.add_argument("--resolving-power", type=number_or_name, metavar="R", help=RESOLVING_POWER_HELP)
    parser.add_argument("--medium", choices=MEDIA, help="of tables that do not say it")


def number_or_name(text: str) -> float | str:
    """The number that a resolving power is given as, or the survey or table that tells it."""
    try:
        return float(text)
    except ValueError:
        return text
