"""Workers of a Dask cluster: whole machines that share a file system with this one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from queue import Empty, SimpleQueue
from typing import Any

from phdlspec import __version__
from phdlspec.errors import UserError, first_line
from phdlspec.work.outcome import Key, Outcome, TaskFailed, WorkerDied, attempt, sentence

_Task = tuple[Key, tuple[Any, ...]]  # key and arguments

_ONE_AT_A_TIME = threading.Lock()  # a Dask worker may have many threads; SMElib and torch's transforms want one


class ClusterError(UserError):
    """A cluster whose workers cannot do any of the tasks."""


class Cluster:
    """Runs tasks on the cluster whose scheduler answers at `address`; a context manager.

    Raises `UserError` where none answers. Tasks of a worker that dies are given to others, as often as the scheduler
    allows (`distributed.scheduler.allowed-failures`). There is no time limit: a thread cannot be stopped.
    """

    def __init__(self, address: str):
        try:
            from distributed import Client
        except ImportError as error:
            raise UserError("--scheduler needs Dask: install phdlspec with the extra [cluster]") from error
        connect: Any = Client  # untyped, and Dask need not be installed
        try:
            self._client = connect(address, timeout="20s")
        except (OSError, ValueError) as error:
            raise UserError(f"{address}: no Dask scheduler answers there ({first_line(error)})") from error
        self.address = address
        self._entered = ExitStack()

    @property
    def workers(self) -> int:
        """Worker processes at this moment, at least one."""
        return max(1, len(self._client.scheduler_info(n_workers=-1)["workers"]))

    def __enter__(self) -> Cluster:
        self._entered.enter_context(self._client)
        return self

    def __exit__(self, *exc: object) -> None:
        self._entered.close()

    def run(
        self,
        function: Callable[..., Any],
        tasks: Iterable[tuple[Key, tuple[Any, ...]]],
        waiting: Callable[[], object] = lambda: None,
        time_limit: float | None = None,
    ) -> Iterator[Outcome[Key]]:
        """See `Runner.run`; there is no time limit. Raises `UserError` where the scheduler goes."""
        suspects = []
        for task, outcome in self._together(function, tasks, waiting):
            if isinstance(outcome.error, WorkerDied):
                suspects.append(task)
            else:
                yield outcome
        for suspect in suspects:  # Dask blames a death on all that the worker held: alone, the guilty one is told
            for _, outcome in self._together(function, [suspect], waiting):
                yield outcome

    def _together(
        self, function: Callable[..., Any], tasks: Iterable[_Task[Key]], waiting: Callable[[], object]
    ) -> Iterator[tuple[_Task[Key], Outcome[Key]]]:
        folder = os.getcwd()
        ended: SimpleQueue[Any] = SimpleQueue()
        running: dict[Any, _Task[Key]] = {}
        for task in tasks:
            future = self._client.submit(_attempt_in, folder, __version__, function, task[1], pure=False)
            running[future] = task
            future.add_done_callback(ended.put)
        while running:
            waiting()
            with suppress(Empty):
                future = ended.get(timeout=1.0)
                task = running.pop(future)
                yield task, self._outcome(task[0], future)

    def _outcome(self, key: Key, future: Any) -> Outcome[Key]:
        from distributed import KilledWorker

        try:
            value, error = future.result()
        except KilledWorker as killed:
            why = f"the workers of the cluster died on it again and again ({first_line(killed)})"
            return Outcome(key, error=WorkerDied(why))
        except CancelledError as cancelled:
            raise UserError(
                f"{self.address}: the scheduler of the cluster is gone; what was finished is kept, give the same "
                "command again"
            ) from cancelled
        except Exception as other:  # a worker without this package, a function that cannot be sent
            return Outcome(key, error=TaskFailed(sentence(other)))
        if isinstance(error, ClusterError):
            raise error
        return Outcome(key, value, error)


def _attempt_in(
    folder: str, version: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> tuple[Any, UserError | TaskFailed | None]:
    # A cluster's workers are elsewhere; relative paths are those of the caller.
    if version != __version__:
        return None, ClusterError(f"a worker of the cluster runs phdlspec {__version__}, this is {version}; update it")
    with _ONE_AT_A_TIME:
        try:
            os.chdir(folder)
        except OSError as error:
            return None, ClusterError(
                f"{folder}: a worker of the cluster cannot enter this folder ({error.strerror}); the output must be "
                "made in a folder that all workers share"
            )
        return attempt(function, arguments)
