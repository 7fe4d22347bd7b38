"""What workers are told to do in the tests: importable by them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from phdlspec.errors import UserError

_MEMORY: list[int] = []


class Unpicklable(Exception):
    """Goes into a pickle and does not come out."""

    def __init__(self, one: int, two: int):
        super().__init__(f"{one} and {two}")


def do(what: str, *more: object) -> object:
    """Work, or fail in one of many ways."""
    if what == "die once" and not (mark := Path(str(more[0]))).exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "leave":
        os._exit(0)
    if what == "hang":
        time.sleep(1000)
    if what == "raise":
        raise Unpicklable(1, 2)
    if what == "refuse":
        raise UserError("a sentence")
    if what == "exit":
        raise SystemExit(3)
    if what == "remember":
        _MEMORY.append(os.getpid())
        return len(_MEMORY)
    if what == "threads":
        import torch

        return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]
    if what == "lock":  # a worker that dies with the pipe's lock in its hands is what a pool fears most
        import gc

        from pebble.pool.channel import WorkerChannel

        (channel,) = (thing for thing in gc.get_objects() if isinstance(thing, WorkerChannel))
        mark = Path(str(more[0]))
        if not mark.exists():
            mark.touch()
            channel.mutex.acquire()
            os.kill(os.getpid(), signal.SIGKILL)
    return what
