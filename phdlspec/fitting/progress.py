"""How far a fit has come, for whoever wants to show it: the fit tells its stages, nobody listens by default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

Listener = Callable[[str, float], object]
"""Takes the stage in words and the share (0 to 1) of all work that is done."""

# Where the stages end, as shares of the work of a star: measured on a CPU, and rough.
ENDS = {
    "fast": {"velocity": 0.2, "look-up": 0.3, "optimise": 0.8, "posterior": 1.0},
    "full": {"velocity": 0.03, "look-up": 0.05, "optimise": 0.4, "posterior": 1.0},
}


@dataclass
class _Portion:
    """Who listens, and which part of all work is under way: its start and its share, and how far that has come."""

    listener: Listener
    mode: str
    start: float = 0.0
    share: float = 1.0
    reached: float = 0.0


_portion: ContextVar[_Portion | None] = ContextVar("portion", default=None)


@contextmanager
def listening(listener: Listener, mode: str) -> Iterator[None]:
    """Fits in this context tell the listener how far they have come."""
    token = _portion.set(_Portion(listener, mode))
    try:
        yield
    finally:
        _portion.reset(token)


@contextmanager
def portion(done: float, share: float) -> Iterator[None]:
    """What is fitted in this context is that share of the work, after `done` of it."""
    whole = _portion.get()
    if whole is None:
        yield
        return
    part = _Portion(whole.listener, whole.mode, whole.start + done * whole.share, share * whole.share)
    token = _portion.set(part)
    try:
        yield
    finally:
        _portion.reset(token)


def tell(stage: str, done: float = 0.0) -> None:
    """Say that a stage has begun, or which share of it is done."""
    part = _portion.get()
    if part is None:
        return
    ends = ENDS[part.mode]
    if stage in ends:  # others are short, or not in every fit
        begin = max((end for end in ends.values() if end < ends[stage]), default=0.0)
        part.reached = begin + (ends[stage] - begin) * min(max(done, 0.0), 1.0)
    part.listener(stage, part.start + part.share * part.reached)
