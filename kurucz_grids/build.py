"""Building a grid: worker processes synthesise one model each at a time and store it; any kill is survived.

The parent hands out rows and watches; a worker makes its synthesizer once, through a picklable factory, and
writes its rows itself (`parts`). What dies, dies alone: a worker that is killed or crashes is replaced and
its row tried once more, a model that fails becomes a row with a reason, and a second call of `build` goes on
where the first stopped, however it stopped.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.grid_writer import collect, degrade_to, grid_attributes, make_manifest
from kurucz_grids.linelists import read_line_list
from kurucz_grids.linelists.solar_gf import with_solar_gf
from kurucz_grids.sampling import Contains, sample_labels, split_rows
from kurucz_grids.synthesis import Settings, Synthesizer
from phdlspec.errors import UserError
from phdlspec.gridfile import CONTINUUM_WAVE, FORMS, Form, Grid
from phdlspec.gridfile.parts import DiskFullError, Parts
from phdlspec.labels import GRID_LABELS

log = logging.getLogger(__name__)

ATTEMPTS = 2  # of a row whose worker dies
HOPELESS = 8  # the build stops when the first so many models all fail
# The checksum of the line list speaks for its place and its medium.
MAY_DIFFER = {"created", "code_version", "line_list", "line_list_medium"}
_TEFF = GRID_LABELS.index("TEFF")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class FineSpectrum(Protocol):
    """What a synthesizer returns: see `kurucz_grids.synthesis.SyntheticSpectrum`.

    wave (P,) vacuum Å, log-uniform, unbroadened; flux (P,) over continuum; continuum (P,) erg/cm2/s/Å;
    jacobian (32, P) of the flux over continuum. Arrays or tensors.
    """

    @property
    def wave(self) -> Any: ...
    @property
    def flux(self) -> Any: ...
    @property
    def continuum(self) -> Any: ...
    @property
    def jacobian(self) -> Any: ...


class ModelSynthesizer(Protocol):
    """Spectra of labels, with `provenance`: what determines them (checksums, settings)."""

    @property
    def provenance(self) -> Mapping[str, Any]: ...

    def synthesize(self, labels: NDArray[np.float64], /) -> FineSpectrum:
        """The spectrum of labels (32,)."""
        ...


SynthesizerFactory = Callable[[], ModelSynthesizer]


@dataclass(frozen=True)
class KuruczFactory:
    """Makes the synthesizer of this package from file names: picklable, as worker processes need it.

    line_list : one file or folder, or several. medium : "air" or "vacuum" where the line list does not say it, else
    None. solar_gf : lower oscillator strengths to what the Sun allows (`linelists.solar_gf`).
    """

    atmospheres: str
    line_list: str | tuple[str, ...]
    device: str = "cpu"
    settings: Mapping[str, Any] = field(default_factory=dict)
    medium: str | None = None
    solar_gf: bool = True

    def __call__(self) -> ModelSynthesizer:
        lines = read_line_list(self.line_list, self.medium)
        return Synthesizer(
            AtmosphereGrid.load(self.atmospheres),
            with_solar_gf(lines) if self.solar_gf else lines,
            Settings(**self.settings),
            device=self.device,
        )


@dataclass(frozen=True)
class BuildReport:
    """What a build did: rows in the grid, done before, made now, failed; seconds it took."""

    total: int
    before: int
    made: int
    failed: int
    seconds: float


def build(
    outputs: Mapping[str, str | Path],
    n: int,
    seed: int,
    factory: SynthesizerFactory,
    *,
    workers: int = 1,
    contains: Contains | None = None,
    retry_failed: bool = False,
    row_timeout: float = 1800.0,
    threads: int = 1,
    teff_range: tuple[float, float] = (-math.inf, math.inf),
    progress: bool = True,
) -> BuildReport:
    """Make (or go on with, or extend) a grid of n models.

    Parameters
    ----------
    outputs : form (`"survey"`, `"full"`) -> path of its HDF5 file; several are made in one run.
    n, seed : number of models and seed of the labels. A greater n than before extends the grid.
    factory : called once in each worker; must be picklable.
    workers : processes, each with `threads` threads.
    contains : `contains(teff, logg, fe_h)`, where atmospheres exist.
    retry_failed : try failed rows again. row_timeout : seconds after which a model is given up.
    teff_range : K; only models within it are made now, the others are left for a later call.

    Raises
    ------
    UserError : other labels, line list or settings than the rows that exist; a disk that is full; a
        synthesizer that cannot be made or fails for every model. KeyboardInterrupt : stopped by SIGINT or
        SIGTERM. In all cases the finished rows stay and the same call goes on.
    """
    for number, what in ((n, "models"), (workers, "workers"), (threads, "threads a worker")):
        if number < 1:
            raise UserError(f"{number} {what} were asked for, expected at least one")
    if seed < 0:
        raise UserError(f"the seed is {seed}, expected a number that is not negative")
    for path in map(Path, outputs.values()):
        if path.is_dir() or not path.name:
            raise UserError(f"{path}: a folder, expected the name of an HDF5 file to write")
    started = time.monotonic()
    labels = sample_labels(n, seed, contains)
    low, high = teff_range
    wanted = np.flatnonzero((labels[:, _TEFF] >= low) & (labels[:, _TEFF] <= high)).tolist()
    if not wanted:
        raise UserError(f"none of the {n} models lies at {low:g}-{high:g} K, expected a range with models, low first")
    stores = [_Store(FORMS[name], Path(path)) for name, path in outputs.items()]
    with ExitStack() as stack:
        for store in stores:
            stack.enter_context(store.parts.lock())
        states = [store.prepare(labels, seed, retry_failed) for store in stores]
        done = set.intersection(*(state.done for state in states))
        failed = set.intersection(*(state.failed for state in states)) - done
        todo = [i for i in wanted if i not in done and i not in failed]
        made = 0
        if not todo:
            _refuse_other_origin(stores, factory)
        else:
            stack.enter_context(_interruptible())
            crew = stack.enter_context(_Crew(factory, stores, workers, threads, row_timeout))
            n_before = len(wanted) - len(todo)
            bar = stack.enter_context(
                tqdm(total=len(wanted), initial=n_before, desc="models", unit="model", disable=not progress)
            )
            made = _run(crew, stores, labels, seed, todo, bar, first=not done)
        for store in stores:
            if store.parts.exists():
                collect(store.path)
    return BuildReport(n, len(done), made, len(todo) - made + len(failed), time.monotonic() - started)


def _refuse_other_origin(stores: Sequence[_Store], factory: SynthesizerFactory) -> None:
    """Where nothing is to be made, no worker tells what its spectra would be made of."""
    try:
        provenance = factory().provenance
    except Exception as error:  # as of a worker's: whatever it is, it has to be one sentence
        raise UserError(f"the synthesizer cannot be made: {_sentence(error)}") from error
    for store in stores:
        store.refuse_other_origin(provenance)


@dataclass(frozen=True)
class _State:
    done: set[int]
    failed: set[int]


@dataclass(frozen=True)
class _Store:
    """One form of the grid: where it lies and what is in it."""

    form: Form
    path: Path

    @property
    def parts(self) -> Parts:
        return Parts(self.path)

    def prepare(self, labels: NDArray[np.float64], seed: int, retry_failed: bool) -> _State:
        """What is there already; refuses a grid of other labels."""
        if not self.path.is_file() and not self.parts.exists():
            return _State(set(), set())
        done: set[int] = set()
        failed: set[int] = set()
        if self.parts.exists():
            self.parts.drop_damaged()
        if self.path.is_file():
            with Grid(self.path) as grid:
                self._check_form(grid.attrs)
                self._check_labels(grid.labels, labels, grid.attrs.get("seed"), seed)
                done |= set(map(int, grid.rows()))
                failed |= {i for i in range(len(grid)) if not grid.done[i] and grid.reason[i]}
        if self.parts.exists():
            before = self.parts.manifest()["attrs"]
            self._check_form(before)
            self._check_labels(self.parts.labels()[0], labels, before.get("seed"), seed)
            done |= self.parts.rows()
            failed |= set(self.parts.failures())
        return _State(done, set() if retry_failed else failed - done)

    def _check_form(self, before: Mapping[str, Any]) -> None:
        if before.get("form") != self.form.name:
            raise UserError(
                f"{self.path}: holds the {before.get('form')} form and {self.form.name} was asked for; give its --form "
                "or choose another --out"
            )

    def _check_labels(self, before: NDArray, labels: NDArray, seed_before: Any, seed: int) -> None:
        if len(before) > len(labels):
            raise UserError(
                f"{self.path}: holds {len(before)} models and {len(labels)} were asked for; give --n "
                f"{len(before)} or more, or another --out"
            )
        if not np.array_equal(before, labels[: len(before)]):
            raise UserError(
                f"{self.path}: was made with other labels (seed {seed_before}, now {seed}, or other "
                "atmospheres); repeat its settings or choose another --out"
            )

    def begin(self, labels: NDArray[np.float64], seed: int, provenance: Mapping[str, Any]) -> None:
        """Write the manifest; refuses to mix spectra of other origin."""
        before = self.refuse_other_origin(provenance)
        attrs = dict(before) if before is not None else grid_attributes(self.form, provenance, seed)
        split = split_rows(len(labels), seed)
        self.parts.write_manifest(make_manifest(attrs, self.form.wave), labels, split)

    def refuse_other_origin(self, provenance: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The attributes of the grid that is there, if any; `UserError` where its spectra were made of other things."""
        if self.parts.exists():
            before: Mapping[str, Any] = self.parts.manifest()["attrs"]
        elif self.path.is_file():
            with Grid(self.path) as grid:
                before = grid.attrs
        else:
            return None
        now = grid_attributes(self.form, provenance, before.get("seed"))
        for name in now.keys() - MAY_DIFFER:
            if name == "chemistry" and name not in before:  # not recorded by the first grids
                continue
            if before.get(name) != now[name]:
                raise UserError(
                    f"{self.path}: was made with {name} = {before.get(name)}, now {now[name]}; repeat its settings, "
                    "with the version of phdlspec that made it, or choose another --out"
                )
        return before

    def write(self, i: int, labels: NDArray[np.float64], spectrum: FineSpectrum) -> None:
        """Degrade a spectrum to this form and store it; `ValueError` where it is not finite."""
        wave = np.asarray(_numpy(spectrum.wave), dtype=float)
        stack = torch.cat(
            [
                torch.as_tensor(spectrum.flux, dtype=torch.float32)[None],
                torch.as_tensor(spectrum.jacobian, dtype=torch.float32),
            ]
        )
        low = degrade_to(self.form.wave, self.form.resolving_power, wave, stack, math.inf)
        continuum = np.interp(CONTINUUM_WAVE, wave, _numpy(spectrum.continuum))
        names = ("flux", *(f"derivative by {name}" for name in GRID_LABELS.names))
        for name, values in zip(names, low):
            _refuse_unless_finite(name, values, self.form.wave)
        _refuse_unless_finite("continuum", continuum, CONTINUUM_WAVE)
        self.parts.write_row(i, labels, low[0], continuum, low[1:])


def _refuse_unless_finite(name: str, values: NDArray, wave: NDArray[np.float64]) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        where = wave[bad]
        raise ValueError(f"the {name} is not finite in {bad.sum()} pixels, {where[0]:.1f}-{where[-1]:.1f} Å")


def _numpy(values: Any) -> NDArray:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _run(
    crew: _Crew, stores: Sequence[_Store], labels: NDArray, seed: int, todo: Sequence[int], bar: tqdm, first: bool
) -> int:
    """Hand out the rows until all are done or failed; the number done. `first` : there are no rows yet."""
    queue = list(reversed(todo))  # popped from the end
    attempts: dict[int, int] = {}
    made, failures, begun = 0, 0, False

    def fail(i: int, reason: str) -> None:
        nonlocal failures
        failures += 1
        log.warning("model %d failed: %s", i, reason)
        for store in stores:
            store.parts.write_failure(i, reason)
        bar.update()
        if made == 0 and (failures >= HOPELESS or (first and failures == len(todo))):
            for store in stores:  # it is not the models that are to blame
                store.parts.forget_failures(todo)
            raise UserError(f"the first {failures} models all failed, the last because of: {reason}")

    while made + failures < len(todo):
        for worker, event, payload in crew.events():
            if event == "ready":
                if not begun:
                    for store in stores:
                        store.begin(labels, seed, payload)
                    begun = True
            elif event == "broken":
                raise UserError(f"the synthesizer cannot be made: {payload}")
            elif event == "disk":
                raise DiskFullError(payload)
            elif event == "done":
                made += 1
                bar.update()
            elif event == "failed":
                i, reason = payload
                fail(i, reason)
            elif event == "died":
                i, reason = payload
                if i is not None and reason.startswith("no result"):
                    fail(i, reason)
                elif i is not None:
                    attempts[i] = attempts.get(i, 0) + 1
                    if attempts[i] < ATTEMPTS:
                        log.warning("a worker died on model %d (%s): once more", i, reason)
                        queue.append(i)
                    else:
                        fail(i, f"the worker process died {ATTEMPTS} times: {reason}")
                continue
            if queue and worker.idle:
                i = queue.pop()
                worker.give(i, labels[i])
        for worker in crew.idle():
            if queue and begun:
                i = queue.pop()
                worker.give(i, labels[i])
    return made


class _Worker:
    """A worker process as its parent sees it."""

    def __init__(self, process: multiprocessing.process.BaseProcess, connection: Connection):
        self.process, self.connection = process, connection
        self.ready = False
        self.row: int | None = None
        self.since = time.monotonic()

    @property
    def idle(self) -> bool:
        return self.ready and self.row is None

    def give(self, i: int, labels: NDArray) -> None:
        self.row, self.since = i, time.monotonic()
        try:
            self.connection.send((i, labels))
        except OSError:
            log.debug("a worker died while idle; its sentinel will tell")

    def stop(self, grace: float) -> None:
        """End the process; one that has been told to gets `grace` seconds."""
        self.process.terminate()
        self.process.join(grace)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


class _Crew:
    """Worker processes; the dead are replaced."""

    def __init__(
        self,
        factory: SynthesizerFactory,
        stores: Sequence[_Store],
        size: int,
        threads: int,
        row_timeout: float,
    ):
        self._context = multiprocessing.get_context("spawn")
        self._arguments = (factory, list(stores), threads)
        self._size, self._threads, self._row_timeout = size, threads, row_timeout
        self._workers: list[_Worker] = []
        self._stillborn = 0

    def __enter__(self) -> _Crew:
        for _ in range(self._size):
            self._hire()
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.stop(5.0)

    def _hire(self) -> None:
        parent, child = self._context.Pipe()
        process = self._context.Process(target=_work, args=(child, *self._arguments))
        with _environment({name: str(self._threads) for name in _THREAD_VARIABLES}):
            process.start()
        child.close()
        self._workers.append(_Worker(process, parent))

    def idle(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.idle]

    def events(self) -> Iterator[tuple[_Worker, str, Any]]:
        """Wait for something to happen (or a second) and tell it: (worker, event, payload)."""
        waiting: dict[Any, _Worker] = {}
        for worker in self._workers:
            waiting[worker.connection] = waiting[worker.process.sentinel] = worker
        ready = {id(waiting[key]): waiting[key] for key in wait(list(waiting), timeout=1.0)}
        for worker in ready.values():
            while True:
                try:
                    if not worker.connection.poll():
                        break
                    event, payload = worker.connection.recv()
                except (EOFError, OSError):
                    break
                if event == "ready":
                    worker.ready, self._stillborn = True, 0
                elif event in ("done", "failed"):
                    worker.row = None
                yield worker, event, payload
            if not worker.process.is_alive():
                yield self._bury(worker, _cause_of_death(worker.process.exitcode))
        for worker in [w for w in self._workers if w.row is not None]:
            if time.monotonic() - worker.since > self._row_timeout:
                yield self._bury(worker, f"no result after {self._row_timeout:.0f} s")

    def _bury(self, worker: _Worker, reason: str) -> tuple[_Worker, str, Any]:
        self._workers.remove(worker)
        worker.stop(0.5)
        if not worker.ready:
            self._stillborn += 1
            if self._stillborn >= 3:
                raise UserError(f"the worker processes die before they begin: {reason}")
        self._hire()
        return worker, "died", (worker.row, reason)


def _cause_of_death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"{name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    return f"exit code {exitcode}"


def _work(
    connection: Connection, factory: SynthesizerFactory, stores: Sequence[_Store], threads: int
) -> None:
    """The life of a worker: make the synthesizer, then rows until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
    signal.signal(signal.SIGTERM, _leave)
    try:
        _serve(connection, factory, stores, threads)
    except (BrokenPipeError, ConnectionError, EOFError):
        pass  # the parent died: the rows written are safe
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _leave(signum: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the second would come while Python shuts down
    raise SystemExit  # by the front door, so that temporary folders are removed


def _serve(
    connection: Connection, factory: SynthesizerFactory, stores: Sequence[_Store], threads: int
) -> None:
    try:
        torch.set_num_threads(threads)
        synthesizer = factory()
    except Exception as error:  # whatever it is, the parent must hear of it
        connection.send(("broken", _sentence(error)))
        return
    connection.send(("ready", dict(synthesizer.provenance)))
    while True:
        i, labels = connection.recv()
        try:
            spectrum = synthesizer.synthesize(labels)
            for store in stores:
                store.write(i, labels, spectrum)
        except DiskFullError as error:
            connection.send(("disk", str(error)))
        except Exception as error:  # a model that fails is a row with a reason, never the end of the build
            log.debug("model %d", i, exc_info=True)
            connection.send(("failed", (i, _sentence(error))))
        else:
            connection.send(("done", i))


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, UserError) and text else f"{type(error).__name__}: {text}"


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


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
