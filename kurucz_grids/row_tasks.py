"""What a worker does: make its synthesizer once, then a row a task, and store it."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kurucz_grids.grid_store import GridStore
from kurucz_grids.synthesizers import ModelSynthesizer, SynthesizerFactory
from phdlspec.errors import UserError
from phdlspec.files import DiskFullError, tells_of_full_disk
from phdlspec.items import digest

_SYNTHESIZERS: dict[str, ModelSynthesizer] = {}  # of this process


@dataclass(frozen=True)
class RowWork:
    """How rows are made and where they go; sent along with every task."""

    factory: SynthesizerFactory
    stores: tuple[GridStore, ...]


def describe(work: RowWork) -> Mapping[str, Any]:
    """The provenance of the synthesizer's spectra, which is made by the way."""
    return dict(_synthesizer(work.factory).provenance)


def make_row(work: RowWork, i: int, labels: NDArray[np.float64]) -> None:
    """Synthesise one model, labels (32,), and store it in all forms."""
    synthesizer = _synthesizer(work.factory)
    try:
        spectrum = synthesizer.synthesize(labels)
    except UserError:
        raise
    except Exception as error:
        if tells_of_full_disk(error):
            folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir()
            raise DiskFullError(
                f"{folder}: the disk is full, and torch's compiler needs room there; make some, or name another "
                "folder in TORCHINDUCTOR_CACHE_DIR, and give the same command again"
            ) from error
        raise
    for store in work.stores:
        store.write(i, labels, spectrum)


def _synthesizer(factory: SynthesizerFactory) -> ModelSynthesizer:
    key = digest(pickle.dumps(factory))
    if key not in _SYNTHESIZERS:
        _SYNTHESIZERS[key] = factory()
    return _SYNTHESIZERS[key]
