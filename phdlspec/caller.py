"""What a caller's program may have set for itself, out of the way while ours computes.

torch's default type, its modes without gradients, and what numpy does about floating-point errors belong to the whole
process or thread; results must not depend on them, and they are as they were afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
import torch

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")

_LOCK = threading.Lock()
_inside = 0  # calls that are under way, in all threads
_before = torch.float32


@contextmanager
def _usual_type() -> Iterator[None]:
    # The default type is one for all threads: the first sets it, the last puts it back.
    global _inside, _before
    with _LOCK:
        if not _inside:
            _before = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if not _inside:
                torch.set_default_dtype(_before)


def undisturbed(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """The function, with the usual settings of torch and numpy while it runs."""

    @wraps(function)
    def call(*args: Arguments.args, **options: Arguments.kwargs) -> Returned:
        with (
            _usual_type(),
            torch.inference_mode(False),
            np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"),
        ):
            return function(*args, **options)

    return call
