"""What a command says on standard error while it works: warnings, more with --verbose, only errors with --quiet.

Messages hold what files say and are called: control characters among it never reach the terminal.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from phdlspec.errors import plain, printable

LEVELS = {"--verbose": logging.DEBUG, "--quiet": logging.ERROR}
HELP = "--verbose: tell more of what is done; --quiet: no progress bars, errors alone (with every command)"
_OURS = ("phdlspec", "kurucz_grids", "calibration")


class PlainFormatter(logging.Formatter):
    """One line a message, without control characters; tracebacks, which --verbose shows, keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The message in one line."""
        return plain(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        """The traceback, line by line."""
        return "\n".join(map(printable, super().formatException(ei).split("\n")))  # type: ignore[arg-type]


class _StandardError(logging.StreamHandler):  # type: ignore[type-arg]  # takes none before Python 3.11
    # Standard error as it is when something is told, which progress bars and tests replace.
    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def say(text: object, file: TextIO | None = None) -> None:
    """Print lines of text for whoever gave a command: what is in files, and what they are called, obeyed by no
    terminal."""
    print("\n".join(map(printable, str(text).split("\n"))), file=file or sys.stdout)


def without_loudness(arguments: Sequence[str]) -> tuple[list[str], int]:
    """The arguments without --verbose and --quiet, and the level of the log that they ask for."""
    asked = [argument for argument in arguments if argument in LEVELS]
    level = LEVELS[asked[-1]] if asked else logging.WARNING
    return [argument for argument in arguments if argument not in LEVELS], level


def begin(level: int) -> None:
    """Send the log of our packages to standard error from this level on."""
    if level >= logging.ERROR:
        os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported, which the commands do
    handler = _StandardError()
    form = "%(asctime)s %(name)s: %(message)s" if level < logging.INFO else "%(message)s"
    handler.setFormatter(PlainFormatter(form, "%H:%M:%S"))
    for name in _OURS:
        logger = logging.getLogger(name)
        for old in [h for h in logger.handlers if isinstance(h.formatter, PlainFormatter)]:
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.setLevel(level)


def level() -> int:
    """The level of the log as it is, for worker processes."""
    return logging.getLogger(_OURS[0]).getEffectiveLevel()
