"""Building a grid: workers synthesise one model each at a time and store it; any kill is survived.

The workers (`phdlspec.work`: processes here, or a Dask cluster) write their rows themselves (`row_tasks`). What dies,
dies alone: a worker that is killed or crashes is replaced and its row tried once more, a model that fails becomes a row
with a reason, and a second call of `build` goes on where the first stopped, however it stopped.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from kurucz_grids.grid_store import GridStore, RowStates
from kurucz_grids.grid_writer import collect
from kurucz_grids.row_tasks import RowWork, describe, make_row
from kurucz_grids.sampling import Contains, sample_labels
from kurucz_grids.synthesizers import SynthesizerFactory
from phdlspec.errors import UserError
from phdlspec.files import DiskFullError
from phdlspec.gridfile import FORMS
from phdlspec.labels import GRID_LABELS
from phdlspec.work import Cluster, Processes, Runner, attempt, refuse_in_worker

log = logging.getLogger(__name__)

HOPELESS = 8  # the build stops when the first so many models all fail
_TEFF = GRID_LABELS.index("TEFF")


@dataclass(frozen=True)
class BuildReport:
    """What a build did: rows in the grid, done before, made now, failed; seconds it took."""

    total: int
    before: int
    made: int
    failed: int
    seconds: float


def build(
    outputs: Mapping[str, str | Path], n: int, seed: int, factory: SynthesizerFactory, *, workers: int = 1,
    scheduler: str | None = None, contains: Contains | None = None, retry_failed: bool = False,
    row_timeout: float = 1800.0, threads: int = 1, teff_range: tuple[float, float] = (-math.inf, math.inf),
    progress: bool = True,
) -> BuildReport:  # fmt: skip
    """Make (or go on with, or extend) a grid of n models.

    Parameters
    ----------
    outputs : form (`"survey"`, `"full"`) -> path of its HDF5 file; several are made in one run.
    n, seed : number of models and seed of the labels. A greater n than before extends the grid.
    factory : called once in each worker; must be picklable.
    workers : processes, each with `threads` threads. scheduler : address of a Dask cluster that works instead.
    contains : `contains(teff, logg, fe_h)`, where atmospheres exist.
    retry_failed : try failed rows again. row_timeout : seconds after which a process gives a model up.
    teff_range : K; only models within it are made now, the others are left for a later call.

    Raises
    ------
    UserError : other labels, line list or settings than the rows that exist; a disk that is full; a
        synthesizer that cannot be made or fails for every model. KeyboardInterrupt : stopped by SIGINT or
        SIGTERM. In all cases the finished rows stay and the same call goes on.
    """
    refuse_in_worker()
    _check(outputs, n, seed, workers, threads)
    started = time.monotonic()
    labels = sample_labels(n, seed, contains)
    wanted = _within(labels, teff_range)
    stores = tuple(GridStore(FORMS[name], Path(path)) for name, path in outputs.items())
    with ExitStack() as stack:
        for store in stores:
            stack.enter_context(store.parts.lock())
        rows = RowStates.common([store.prepare(labels, seed, retry_failed) for store in stores])
        todo = [i for i in wanted if i not in rows.done and i not in rows.failed]
        made = 0
        if todo:
            runner: Cluster | Processes = Cluster(scheduler) if scheduler else Processes(workers, threads)
            bar = tqdm(total=len(wanted), initial=len(wanted) - len(todo), unit="model", disable=not progress)
            with _interruptible(), bar, runner:
                run = _BuildRun(runner, RowWork(factory, stores), bar, row_timeout)
                made = run.make(labels, seed, todo, first=not rows.done)
        else:
            _refuse_other_origin(stores, factory)
        for store in stores:
            if store.parts.exists():
                collect(store.path)
    return BuildReport(n, len(rows.done), made, len(todo) - made + len(rows.failed), time.monotonic() - started)


def _check(outputs: Mapping[str, str | Path], n: int, seed: int, workers: int, threads: int) -> None:
    for number, what in ((n, "models"), (workers, "workers"), (threads, "threads a worker")):
        if number < 1:
            raise UserError(f"{number} {what} were asked for, expected at least one")
    if seed < 0:
        raise UserError(f"the seed is {seed}, expected a number that is not negative")
    for path in map(Path, outputs.values()):
        if path.is_dir() or not path.name:
            raise UserError(f"{path}: a folder, expected the name of an HDF5 file to write")


def _within(labels: NDArray[np.float64], teff_range: tuple[float, float]) -> list[int]:
    """Indices of the models within a range of Teff (K)."""
    low, high = teff_range
    wanted: list[int] = np.flatnonzero((labels[:, _TEFF] >= low) & (labels[:, _TEFF] <= high)).tolist()
    if not wanted:
        raise UserError(
            f"none of the {len(labels)} models lies at {low:g}-{high:g} K, expected a range with models, low first"
        )
    return wanted


def _refuse_other_origin(stores: Sequence[GridStore], factory: SynthesizerFactory) -> None:
    """Where nothing is to be made, no worker tells what its spectra would be made of."""
    provenance, error = attempt(describe, (RowWork(factory, ()),))
    if error is not None:
        raise UserError(f"the synthesizer cannot be made: {error}")
    for store in stores:
        store.refuse_other_origin(provenance)


class _BuildRun:
    """Rows on their way through the workers."""

    def __init__(self, runner: Runner, work: RowWork, bar: tqdm[Any], time_limit: float):
        self._runner, self._work, self._bar, self._time_limit = runner, work, bar, time_limit
        self._made, self._failures = 0, 0

    def make(self, labels: NDArray[np.float64], seed: int, todo: Sequence[int], first: bool) -> int:
        """Have all rows of `todo` made or failed; the number made. `first` : there are no rows yet."""
        self._say("workers begin")
        provenance = self._provenance()
        self._work = replace(
            self._work, stores=tuple(store.begin(labels, seed, provenance) for store in self._work.stores)
        )
        self._say("models")
        tasks = ((i, (self._work, i, labels[i])) for i in todo)
        for outcome in self._runner.run(make_row, tasks, self._bar.refresh, self._time_limit):
            if isinstance(outcome.error, DiskFullError):
                raise outcome.error
            if outcome.error is None:
                self._made += 1
            else:
                self._fail(outcome.key, str(outcome.error))
                hopeless = self._failures >= HOPELESS or (first and self._failures == len(todo))
                if self._made == 0 and hopeless:
                    for store in self._work.stores:  # it is not the models that are to blame
                        store.parts.forget_failures(todo)
                    raise UserError(
                        f"the first {self._failures} models all failed, the last because of: {outcome.error}"
                    )
            self._bar.update()
        return self._made

    def _provenance(self) -> Mapping[str, Any]:
        """What the workers' spectra are made of; each of them is asked, so that all begin at once."""
        tasks = ((k, (self._work,)) for k in range(self._runner.workers))
        outcomes = list(self._runner.run(describe, tasks, self._bar.refresh))
        for outcome in outcomes:
            if outcome.error is not None:
                raise UserError(f"the synthesizer cannot be made: {outcome.error}")
        found: Mapping[str, Any] = outcomes[0].value
        for outcome in outcomes:
            different = sorted(name for name in found if outcome.value.get(name) != found[name])
            if different:
                raise UserError(
                    f"the workers do not agree on {different[0]}; give all of them the same files and versions"
                )
        return found

    def _fail(self, i: int, reason: str) -> None:
        self._failures += 1
        log.warning("model %d failed: %s", i, reason)
        for store in self._work.stores:
            store.parts.write_failure(i, reason)

    def _say(self, what: str) -> None:
        self._bar.set_description(what)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM stop the build as Ctrl-C does (in the main thread, where signals are handled)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
