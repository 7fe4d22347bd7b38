"""Where a training keeps what it has finished, so that a run that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class TrainingFolder:
    """Files of one training in a folder, named after a digest of data and settings: those of another are not read.

    With no folder nothing is kept.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any], *arrays: NDArray[Any]):
        self.folder = folder
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        self._digest = digest.hexdigest()[:16]

    def state(self, key: str) -> Path | None:
        """The file of one network."""
        return None if self.folder is None else self.folder / f"{self._digest}_{key}.safetensors"

    def finish(self) -> None:
        """Remove all that was kept."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
