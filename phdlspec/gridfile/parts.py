"""A grid in the making: one small file a row, so that a kill at any moment loses and doubles nothing.

```
grid.h5.parts/
    manifest.json        what makes the grid: attributes, wavelengths, label names
    labels.npy           (N, L) float64
    split.npy            (N,) uint8
    row_0000017.npz      one finished row: labels, flux, continuum, jacobian (int16) and its scale
    failed_0000018.txt   the reason why a row has no spectrum
    lock                 held by the build that writes here
```
Each file is written under a temporary name, flushed to the disk and renamed: it is whole or it is not there.
A row that is computed twice is the same file. `kurucz_grids.grid_writer.collect` makes the HDF5 file out of it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phdlspec.errors import UserError

log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_QUANTA = 32767


class DiskFullError(UserError):
    """No space left: what was written before is whole, and the same command goes on from there."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` in writing `path` into a sentence. HDF5 tells of a full disk in its message only."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL or "No space left" in str(error) or "File too large" in str(error):
            raise DiskFullError(
                f"{path}: the disk is full; every finished model is kept, make room and give the same "
                "command again"
            ) from error
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have `write(file)` make a file that appears under its name only when it is whole and on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def quantise(jacobian: ArrayLike) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Derivatives (L, P) as int16 and scale (L,): `scale[:, None] * int16`, good to 1.5e-5 of the peak."""
    jacobian = np.asarray(jacobian, dtype=np.float64)
    scale = (np.abs(jacobian).max(axis=-1) / _QUANTA).astype(np.float32)
    divisor = np.where(scale > 0, scale, 1.0)[:, None]
    return np.clip(np.rint(jacobian / divisor), -_QUANTA, _QUANTA).astype(np.int16), scale


class Parts:
    """The folder of finished rows beside a grid that is being made."""

    def __init__(self, grid_path: str | Path):
        self.grid_path = Path(grid_path)
        self.folder = self.grid_path.with_name(self.grid_path.name + ".parts")

    def exists(self) -> bool:
        """Whether there is a grid in the making."""
        return (self.folder / "manifest.json").is_file()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one build; another is refused. The lock goes when its process dies."""
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = (self.folder / "lock").open("w")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    f"{self.grid_path}: another build or import is writing this grid, wait for it or "
                    "choose another --out"
                ) from error
            for leftover in self.folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
            if not self.exists():
                self._refuse_orphans()
            try:
                yield
            finally:
                if self.folder.is_dir() and not self.exists():
                    self.remove()

    def _refuse_orphans(self) -> None:
        # A removal that was killed leaves rows without a manifest. They are in the grid then.
        if not (self.rows() or self.failures()):
            return
        if not self.grid_path.is_file():
            raise UserError(
                f"{self.folder}: holds models, but no manifest.json that tells what they were made of; put it back, "
                "remove the folder, or choose another --out"
            )
        for path in self._rows_and_failures():
            path.unlink(missing_ok=True)

    def _rows_and_failures(self) -> list[Path]:
        return [*self.folder.glob("row_*.npz"), *self.folder.glob("failed_*.txt")]

    def write_manifest(self, manifest: dict[str, Any], labels: NDArray, split: NDArray) -> None:
        """Store what makes the grid; the manifest, which tells that the folder is in use, comes last."""
        write_atomically(self.folder / "labels.npy", lambda file: np.save(file, labels))
        write_atomically(self.folder / "split.npy", lambda file: np.save(file, split))
        text = json.dumps(manifest, indent=1).encode()
        write_atomically(self.folder / "manifest.json", lambda file: file.write(text))

    def manifest(self) -> dict[str, Any]:
        """What `write_manifest` stored."""
        try:
            return json.loads((self.folder / "manifest.json").read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder}: no whole manifest.json ({error}); build again") from error

    def labels(self) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """Labels (N, L) and split (N,)."""
        try:
            return np.load(self.folder / "labels.npy"), np.load(self.folder / "split.npy")
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder}: no whole label table ({error}); build again") from error

    def row_path(self, i: int) -> Path:
        """File of a finished row."""
        return self.folder / f"row_{i:07d}.npz"

    def _failure_path(self, i: int) -> Path:
        return self.folder / f"failed_{i:07d}.txt"

    def write_row(
        self, i: int, labels: NDArray, flux: ArrayLike, continuum: ArrayLike, jacobian: ArrayLike | None
    ) -> None:
        """Store a finished row: labels (L,), flux (P,), continuum (Pc,), jacobian (L, P) or `None`."""
        arrays: dict[str, NDArray] = {
            "labels": np.asarray(labels, dtype=np.float64),
            "flux": np.asarray(flux, dtype=np.float32),
            "continuum": np.asarray(continuum, dtype=np.float32),
        }
        if jacobian is not None:
            arrays["jacobian"], arrays["jacobian_scale"] = quantise(jacobian)
        write_atomically(self.row_path(i), lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]

    def write_failure(self, i: int, reason: str) -> None:
        """Store why row i has no spectrum."""
        text = " ".join(reason.split())
        write_atomically(self._failure_path(i), lambda file: file.write(text.encode()))

    def forget_failures(self, rows: Iterable[int]) -> None:
        """Let rows that failed be tried again."""
        for i in rows:
            self._failure_path(i).unlink(missing_ok=True)

    def rows(self) -> set[int]:
        """Indices of the finished rows."""
        return {int(path.stem[4:]) for path in self.folder.glob("row_*.npz")}

    def failures(self) -> dict[int, str]:
        """Reasons of the rows that failed, and have not succeeded since."""
        found = {int(path.stem[7:]): path for path in self.folder.glob("failed_*.txt")}
        finished = self.rows()
        return {i: path.read_text() for i, path in sorted(found.items()) if i not in finished}

    def drop_damaged(self) -> int:
        """Remove rows whose files are not whole (a crash of the machine); the number of them."""
        damaged = 0
        for i in self.rows():
            try:
                zipfile.ZipFile(self.row_path(i)).close()
            except (zipfile.BadZipFile, OSError):
                log.warning("%s is damaged: the row will be computed again", self.row_path(i))
                self.row_path(i).unlink()
                damaged += 1
        return damaged

    def read_row(self, i: int) -> dict[str, NDArray]:
        """The arrays of a finished row."""
        try:
            with np.load(self.row_path(i), allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise UserError(f"{self.row_path(i)}: damaged ({error}); remove it and build again") from error

    def remove(self) -> None:
        """Remove what is ours, the manifest first: what is left after a kill is no grid in the making.

        The folder goes too, unless it holds something else.
        """
        (self.folder / "manifest.json").unlink(missing_ok=True)
        for path in [*self._rows_and_failures(), *(self.folder / name for name in ("labels.npy", "split.npy", "lock"))]:
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()
