"""Mutational fuzz of every reader and of every file that stands between two runs.

  python scripts/fuzz.py --n 20000 --seed 1 --out fuzz.md       # all kinds; prints the table of docs/robustness.md
  python scripts/fuzz.py --only "state:" --n 5000
  python scripts/fuzz.py --again "spectrum: SDSS" 4711          # one input, with its traceback

Each input is a whole file with one to three mutations (`mutations.py`): bits, bytes, pieces and lines changed, cut,
doubled, moved; numbers and words replaced by hostile ones. It is read in a child process with a limit on time and
memory. Counted are the inputs that end in a traceback, in none within the limit, with a message that could steer a
terminal, and, of state, those that are taken though they are not what was written.
"""

from __future__ import annotations

import argparse
import collections
import logging
import random as chance
import resource
import tempfile
import time
import traceback
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from fuzz_kinds import AGAIN, Kind, kinds, quiet
from mutations import mutated
from pebble import ProcessExpired, ProcessPool

from phdlspec.errors import UserError, plain

LIMIT = 200.0  # s for one input, of which a child of its own may take 60 to look through an HDF5
RIGHT = ("read", "refused", "made again")  # what may become of an input
_MEMORY = 8 << 30  # bytes of a child


@dataclass
class Outcome:
    """What became of one input: "read", "refused", "made again", or the fault; MB that it took; seconds."""

    what: str
    told: str = ""
    memory: float = 0.0
    seconds: float = 0.0


@cache
def _whole(name: str) -> tuple[Kind, Path, dict[Path, bytes], str]:
    # A kind, the file that is changed, all files that lie around it, and what the whole one is read as.
    kind = next(kind for kind in kinds() if kind.name == name)
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    path = kind.make(folder)
    files = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return kind, path, files, str(kind.read(path))


def _resident(reset: bool = False) -> float:
    # Peak of the process's memory in MB since it was last reset.
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024.0


def begin() -> None:
    """Set a child up."""
    quiet()
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def try_one(name: str, seed: int) -> Outcome:
    """Read one mutated file of a kind."""
    kind, path, files, whole = _whole(name)
    for file, content in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    chance.seed(seed)
    path.write_bytes(mutated(files[path], np.random.default_rng(seed)))
    before, started = _resident(reset=True), time.monotonic()
    outcome = _read(kind, path, whole)
    outcome.seconds, outcome.memory = time.monotonic() - started, max(_resident() - before, 0.0)
    return outcome


def _read(kind: Kind, path: Path, whole: str) -> Outcome:
    try:
        found = str(kind.read(path))
    except UserError as error:
        message = str(error)
        return Outcome("refused" if message == plain(message) else "unfit message", message)
    except BaseException:
        return Outcome("traceback", traceback.format_exc(limit=-6))
    if not kind.state or found == whole:
        return Outcome("read")
    return Outcome("made again" if found == AGAIN else "silent difference")


@dataclass
class Tally:
    """Of one kind."""

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    memory: float = 0.0
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self.counts[outcome.what] += 1
        self.memory, self.seconds = max(self.memory, outcome.memory), max(self.seconds, outcome.seconds)

    def row(self, name: str) -> str:
        """A line of the table."""
        columns = ("read", "refused", "made again", "traceback", "hang", "unfit message", "silent difference")
        counts = " | ".join(str(self.counts[column]) for column in columns)
        return f"| {name} | {self.counts.total()} | {counts} | {self.memory:.0f} | {self.seconds:.1f} |"


HEAD = (
    "| kind | inputs | read | refused | made again | tracebacks | hangs | unfit messages | silent differences | "
    "most memory (MB) | longest (s) |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def fuzz(kind: Kind, count: int, seed: int, pool: ProcessPool) -> Tally:
    """Try so many inputs of a kind; faults are told as they come."""
    tally = Tally()
    seeds = range(seed * 1_000_003, seed * 1_000_003 + count)
    tasks = [pool.schedule(try_one, args=(kind.name, number), timeout=LIMIT) for number in seeds]
    for number, task in zip(seeds, tasks):
        try:
            outcome = task.result()
        except TookTooLong:
            outcome = Outcome("hang", seconds=LIMIT)
        except ProcessExpired as error:
            outcome = Outcome("traceback", f"the process died: {error}")
        tally.add(outcome)
        if outcome.what not in RIGHT:
            print(f"--- {kind.name} {number}: {outcome.what}\n{outcome.told}", flush=True)
    return tally


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=6000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="kinds whose name begins so")
    parser.add_argument("--without", metavar="WORD", help="leave kinds out whose name has this in it")
    parser.add_argument("--again", nargs=2, metavar=("KIND", "NUMBER"), help="one input")
    parser.add_argument("--out", type=Path, help="file for the table")
    args = parser.parse_args()
    if args.again:
        quiet()
        outcome = try_one(args.again[0], int(args.again[1]))
        print(outcome.what, outcome.told, f"{outcome.seconds:.1f} s, {outcome.memory:.0f} MB", sep="\n")
        return
    chosen = [kind for kind in kinds() if kind.name.startswith(args.only)]
    chosen = [kind for kind in chosen if not (args.without and args.without in kind.name)]
    share = args.n / sum(1.0 / kind.cost for kind in chosen)
    rows, total = [], Tally()
    with ProcessPool(max_workers=1, initializer=begin) as pool:
        for kind in chosen:
            tally = fuzz(kind, max(1, round(share / kind.cost)), args.seed, pool)
            rows.append(tally.row(kind.name))
            print(rows[-1], flush=True)
            total.counts += tally.counts
            total.memory, total.seconds = max(total.memory, tally.memory), max(total.seconds, tally.seconds)
    table = "\n".join([HEAD, *rows, total.row("**all**")])
    print(table)
    if args.out:
        args.out.write_text(table + "\n")


if __name__ == "__main__":
    main()
