"""What became of a task."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from phdlspec.errors import UserError

log = logging.getLogger(__name__)

Key = TypeVar("Key")
LONGEST = 500  # characters of a reason


class TaskFailed(Exception):
    """A task that gave nothing, and why, in a sentence."""


class TimeIsUp(TaskFailed):
    """A task that was given up after its time."""


class WorkerDied(TaskFailed):
    """A task whose worker died, again and again."""


@dataclass(frozen=True)
class Outcome(Generic[Key]):
    """The value of the task `key`, or the error in its place: the function's own `UserError`, else `TaskFailed`."""

    key: Key
    value: Any = None
    error: UserError | TaskFailed | None = None


class Runner(Protocol):
    """Runs tasks: see `Processes` and `Cluster`."""

    @property
    def workers(self) -> int:
        """Workers that run tasks at the same time."""
        ...

    def run(
        self,
        function: Callable[..., Any],
        tasks: Iterable[tuple[Key, tuple[Any, ...]]],
        waiting: Callable[[], object] = lambda: None,
        time_limit: float | None = None,
    ) -> Iterator[Outcome[Key]]:
        """An outcome for every task (key, arguments), as they end.

        waiting : called about once a second. time_limit : s, after which a process that works on a task is killed.
        """
        ...


def attempt(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, UserError | TaskFailed | None]:
    """In a worker: the value or the error. No other exception travels: many cannot be unpickled."""
    try:
        return function(*arguments), None
    except UserError as error:
        return None, error
    except Exception as error:  # whatever it is, it is this task's
        log.debug("a task failed", exc_info=True)
        return None, TaskFailed(sentence(error))


def sentence(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())[:LONGEST]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
