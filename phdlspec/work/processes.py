"""Worker processes of this machine, by Pebble: it ends what exceeds its time and replaces what dies.

What Pebble leaves to its caller is here: a task whose worker dies is tried once more, a pool that broke as a whole (a
worker that dies while it starts, or with a lock in its hands) is made anew, and if that happens again and again the
reason is told in a sentence, the missing main guard of a script above all.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Generic

from pebble import ProcessExpired, ProcessPool

from phdlspec import console
from phdlspec.errors import UserError
from phdlspec.work.outcome import Key, Outcome, TaskFailed, TimeIsUp, WorkerDied, attempt, sentence

log = logging.getLogger(__name__)

ATTEMPTS = 2  # of a task whose worker dies
BREAKS = 3  # of the pool in a row, after which it is hopeless
TICK = 1.0  # s
_STARTUP = 600.0  # s, more than any worker needs to begin
_UNGUARDED = 86  # exit code of a worker that was about to start workers of its own
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def refuse_in_worker() -> None:
    """End a process that is a worker still starting: its script starts workers without a main guard.

    To be called first by what starts `Processes`, before it touches a file.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(_UNGUARDED)  # `Processes` of the parent tells


@dataclass
class _Task(Generic[Key]):
    key: Key
    arguments: tuple[Any, ...]
    deaths: int = 0


class Processes:
    """Runs tasks in `workers` processes with `threads` threads each; a context manager.

    What a worker keeps in its modules' memory is there for its next task.
    """

    def __init__(self, workers: int, threads: int = 1):
        self._workers, self.threads = workers, threads
        self._context = _Spawn()
        self._pool: ProcessPool | None = None
        self._breaks = 0
        self._entered = ExitStack()

    @property
    def workers(self) -> int:
        """Number of processes."""
        return self._workers

    def __enter__(self) -> Processes:
        self._entered.enter_context(_environment({name: str(self.threads) for name in _THREAD_VARIABLES}))
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()
        self._entered.close()

    def run(
        self,
        function: Callable[..., Any],
        tasks: Iterable[tuple[Key, tuple[Any, ...]]],
        waiting: Callable[[], object] = lambda: None,
        time_limit: float | None = None,
    ) -> Iterator[Outcome[Key]]:
        """See `Runner.run`. Raises `UserError` where workers cannot even begin."""
        queue = (_Task(key, arguments) for key, arguments in tasks)
        again: list[_Task[Key]] = []
        running: dict[Future[Any], _Task[Key]] = {}
        heard = time.monotonic()
        while True:
            while len(running) < self._workers and (task := again.pop() if again else next(queue, None)) is not None:
                running[self._submit(function, task, time_limit)] = task
            if not running:
                return
            done, _ = wait(running, timeout=TICK, return_when=FIRST_COMPLETED)
            waiting()
            broken = [future for future in done if isinstance(future.exception(), BrokenProcessPool)]
            for future in done.difference(broken):
                task = running.pop(future)
                outcome = self._outcome(task, future, time_limit)
                if outcome is None:
                    again.append(task)
                else:
                    yield outcome
            if broken or not self._alive() or not (done or _patient(heard, time_limit)):
                again += running.values()
                running.clear()
                self._renew()
            if done or not running:
                heard = time.monotonic()

    def _outcome(self, task: _Task[Key], future: Future[Any], time_limit: float | None) -> Outcome[Key] | None:
        """What a task's future says; None where it is to be tried again."""
        error = future.exception()
        if error is None:
            self._breaks = 0
            value, problem = future.result()
            return Outcome(task.key, value, problem)
        if isinstance(error, ProcessExpired):
            task.deaths += 1
            cause = _cause_of_death(error.exitcode)
            if task.deaths < ATTEMPTS:
                log.warning("a worker died on task %s (%s): once more", task.key, cause)
                return None
            return Outcome(task.key, error=WorkerDied(f"the worker process died {task.deaths} times: {cause}"))
        if isinstance(error, TimeoutError):
            return Outcome(task.key, error=TimeIsUp(f"no result after {time_limit:.0f} s"))
        return Outcome(task.key, error=TaskFailed(sentence(error)))

    def _submit(self, function: Callable[..., Any], task: _Task[Key], time_limit: float | None) -> Future[Any]:
        if self._pool is None:
            self._begin()
        assert self._pool is not None
        try:
            return self._pool.schedule(attempt, args=(function, task.arguments), timeout=time_limit)
        except (RuntimeError, BrokenProcessPool) as error:  # it broke since we looked: told like those that were in it
            failed: Future[Any] = Future()
            failed.set_exception(BrokenProcessPool(str(error)))
            return failed

    def _begin(self) -> None:
        self._pool = ProcessPool(
            self._workers, initializer=_begin_worker, initargs=(console.level(),), context=self._context
        )

    def _alive(self) -> bool:
        return self._pool is not None and bool(self._pool.active)

    def _renew(self) -> None:
        unguarded, cause = self._context.unguarded(), self._context.last_cause()  # not what `_end` does to them
        self._end()
        self._breaks += 1
        if unguarded:
            raise UserError(
                "the script starts worker processes, and each of them runs the script again: put what starts them "
                'under `if __name__ == "__main__":`, or take one worker'
            )
        if self._breaks >= BREAKS:
            raise UserError(f"the worker processes die before they begin: {cause}")
        log.warning("the worker processes broke down (%s): started anew", cause)

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.stop()  # type: ignore[no-untyped-call]
            self._pool.join()
            self._pool = None


def _patient(heard: float, time_limit: float | None) -> bool:
    # A worker that is killed with a lock in its hands may leave all others waiting for it.
    return time_limit is None or time.monotonic() - heard < 2.0 * time_limit + _STARTUP


class _Spawn(SpawnContext):
    """Starts fresh interpreters and remembers how they ended, which Pebble does not tell where its pool breaks."""

    def __init__(self) -> None:
        super().__init__()
        self._started: list[SpawnProcess] = []

    def Process(self, *arguments: Any, **options: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        process = SpawnProcess(*arguments, **options)
        self._started = [*self._started[-99:], process]
        return process

    def _exit_codes(self) -> list[int]:
        codes = (process.exitcode for process in self._started if process.pid is not None)
        return [code for code in codes if code]

    def unguarded(self) -> bool:
        """Whether a worker was about to start workers itself."""
        return _UNGUARDED in self._exit_codes()

    def last_cause(self) -> str:
        """Why a worker ended last."""
        codes = self._exit_codes()
        return _cause_of_death(codes[-1]) if codes else "for no reason that they told"


def _cause_of_death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"{name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    return f"exit code {exitcode}"


def _begin_worker(log_level: int) -> None:
    console.begin(log_level)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A worker in the midst of a long task would go on with it after its parent was killed.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _leave(signum: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    atexit._run_exitfuncs()  # temporary folders are removed
    os._exit(128 + signum)


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
