"""How many stars are done, those under way by the share of their work.

Workers say it in files of a line beside the chunks, `CATALOG.parts/under_way_0000012`, so that it works wherever they
are; what is in them is shown and nothing else depends on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

OFTEN = 0.5  # s between two looks
_PREFIX = "under_way_"
_FORMAT = "{l_bar}{bar}| {n:.1f}/{total} stars [{elapsed}<{remaining}{postfix}]"


class StarBar:
    """A bar of stars on the terminal; a context manager."""

    def __init__(self, total: int, initial: int = 0, shown: bool = True):
        self._total, self._done = total, float(initial)
        self._bar = tqdm(total=total, initial=initial, disable=not shown, bar_format=_FORMAT)
        self._heard = 0.0

    def __enter__(self) -> StarBar:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def finished(self, stars: int) -> None:
        """So many stars more are done."""
        self._done += stars
        self._show(self._done, "")

    def under_way(self, stage: str, stars: float) -> None:
        """Work that is worth so many stars has been done besides; the stage it is in."""
        if time.monotonic() - self._heard > OFTEN:
            self._show(self._done + stars, stage)

    def listener(self, stars: int) -> Callable[[str, float], None]:
        """What is told of the share of the work on so many stars, shown."""
        return lambda stage, share: self.under_way(stage, share * stars)

    def clear(self) -> None:
        """Make room for other lines."""
        self._bar.clear()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def _show(self, stars: float, stage: str) -> None:
        self._heard = time.monotonic()
        self._bar.n = min(stars, self._total)
        self._bar.set_postfix_str(stage, refresh=False)
        self._bar.refresh()


class Heartbeat:
    """The file in which a worker says how far it is with a chunk."""

    def __init__(self, folder: Path, index: int):
        self._path = folder / f"{_PREFIX}{index:07d}"
        self._said = 0.0

    def say(self, stage: str, stars: float) -> None:
        """The stage, and the work done in units of stars."""
        if time.monotonic() - self._said > OFTEN:
            self._said = time.monotonic()
            with suppress(OSError):  # nothing depends on it
                self._path.write_text(f"{stars:.2f} {stage}", encoding="utf-8")

    def end(self) -> None:
        """Take the file away."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def remove_heartbeats(folder: Path) -> None:
    """Take away the files of workers that are no more."""
    for path in folder.glob(f"{_PREFIX}*"):
        path.unlink(missing_ok=True)


def heard(folder: Path) -> tuple[str, float]:
    """What workers say of chunks that are under way: a stage, and the work done in units of stars."""
    stage, stars = "", 0.0
    for path in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError, ValueError):  # it is being written, or has just gone
            number, stage = path.read_text(encoding="utf-8").split(" ", 1)
            stars += float(number)
    return stage, stars
