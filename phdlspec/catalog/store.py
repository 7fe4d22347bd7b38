"""Finished chunks on disk: a kill at any moment loses and doubles nothing.

```
CATALOG.fits.parts/
    job.json            what the catalogue is made of and how
    chunk_0000012.npz   the rows of one finished chunk
```
"""

from __future__ import annotations

import errno
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phdlspec.errors import UserError


class ChunkStore:
    """The folder beside a catalogue in the making."""

    def __init__(self, out: str | Path):
        self.out = Path(out)
        self.folder = self.out.with_name(self.out.name + ".parts")

    @property
    def begun(self) -> bool:
        """True where a run was stopped that can go on."""
        return self._description.exists()

    @property
    def _description(self) -> Path:
        return self.folder / "job.json"

    def open(self, job: dict[str, Any], resume: bool) -> None:
        """Make the folder, or go on in it. Raises `UserError` where it belongs to another job."""
        path = self._description
        if self.begun:
            try:
                before = json.loads(path.read_text())
            except ValueError as error:
                raise UserError(f"{path}: damaged ({error}); remove {self.folder} and start again") from error
            different = [key for key in job if before.get(key) != job[key]]
            if different:
                raise UserError(
                    f"{self.folder}: was left by a run with another {different[0]}; give the same options again, "
                    "choose another --out, or remove the folder"
                )
            if not resume:
                raise UserError(f"{self.folder}: a run was stopped here; add --resume to go on, or remove the folder")
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be made ({error.strerror}); choose another --out") from error
        for chunk in self.folder.glob("chunk_*.npz"):  # of an unknown job
            chunk.unlink()
        self._write(path, lambda file: file.write(json.dumps(job, indent=1).encode()))

    def path(self, index: int) -> Path:
        """File of a chunk."""
        return self.folder / f"chunk_{index:07d}.npz"

    def finished(self) -> set[int]:
        """Indices of whole chunks; damaged ones are removed and will be made again."""
        found = set()
        for path in self.folder.glob("chunk_*.npz"):
            try:
                with zipfile.ZipFile(path) as archive:
                    if archive.testzip() is None:
                        found.add(int(path.stem[6:]))
                        continue
            except Exception:  # noqa: BLE001 (bytes that were changed raise whatever they look like)
                pass
            path.unlink(missing_ok=True)
        return found

    def write(self, index: int, arrays: dict[str, NDArray]) -> None:
        """Store a finished chunk."""
        self._write(self.path(index), lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]

    def _write(self, path: Path, write) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"{path}: the disk is full; all finished chunks are kept, make room and give the command again "
                    "with --resume"
                ) from error
            raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
        finally:
            temporary.unlink(missing_ok=True)

    def chunks(self, indices: Sequence[int]) -> Iterator[dict[str, NDArray]]:
        """The rows of the chunks, in the order given, one chunk in memory at a time."""
        for index in indices:
            with np.load(self.path(index), allow_pickle=False) as file:
                yield {name: file[name] for name in file.files}

    def remove(self) -> None:
        """Remove the folder after the catalogue is written."""
        # The description goes first: killed here, the catalogue counts as finished, not as one that lacks chunks.
        self._description.unlink(missing_ok=True)
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)
        self.folder.rmdir()
