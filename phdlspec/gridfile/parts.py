"""A grid in the making: one small file a row, so that a kill at any moment loses and doubles nothing.

```
grid.h5.parts/
    manifest.json        what makes the grid: attributes, wavelengths, label names
    labels.npy           (N, L) float64
    split.npy            (N,) uint8
    row_0000017.npz      one finished row: labels, flux, continuum, jacobian (int16), jacobian_scale (`phdlspec.items`)
    failed_0000018.txt   the reason why a row has no spectrum
```
A row that is computed twice is the same file. Each says to which manifest and which labels it belongs, and carries a
checksum; what others put into the folder stays. `kurucz_grids.grid_writer.collect` makes the HDF5 file out of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phdlspec.errors import UserError
from phdlspec.files import disk_errors, only_writer, parts_folder, remove_leftovers, write_text, writing
from phdlspec.items import Arrays, ItemFolder, WrongItem, checksum, digest, item_indices, item_path

KEPT = "every finished model is kept"
_QUANTA = 32767
_LONGEST = 500  # characters of a reason


def quantise(jacobian: ArrayLike) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Derivatives (L, P) as int16 and scale (L,): `scale[:, None] * int16`, good to 1.5e-5 of the peak."""
    jacobian = np.asarray(jacobian, dtype=np.float64)
    scale = (np.abs(jacobian).max(axis=-1) / _QUANTA).astype(np.float32)
    divisor = np.where(scale > 0, scale, 1.0)[:, None]
    return np.clip(np.rint(jacobian / divisor), -_QUANTA, _QUANTA).astype(np.int16), scale


class GridParts:
    """The folder of finished rows beside a grid that is being made.

    job : what `job` was in another process, so that a worker need not read the manifest.
    """

    def __init__(self, grid_path: str | Path, job: str = ""):
        self.grid_path, self._job = Path(grid_path), job
        self.folder = parts_folder(self.grid_path)

    def exists(self) -> bool:
        """Whether there is a grid in the making."""
        return self._manifest_path.is_file()

    @property
    def _manifest_path(self) -> Path:
        return self.folder / "manifest.json"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the grid for one build or import; another is refused. The lock goes when its process dies."""
        with only_writer(self.grid_path):
            with disk_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
            if not self.exists():
                self._refuse_orphans()
            try:
                yield
            finally:
                if self.folder.is_dir() and not self.exists():
                    self.remove()

    def _refuse_orphans(self) -> None:
        # A removal that was killed leaves rows without a manifest. They are in the grid then.
        if not (self.rows() or self._failed()):
            return
        if not self.grid_path.is_file():
            raise UserError(
                f"{self.folder}: holds models, but no manifest.json that tells what they were made of; put it back, "
                "remove the folder, or choose another --out"
            )
        for path in self._rows_and_failures():
            path.unlink(missing_ok=True)

    def _rows_and_failures(self) -> list[Path]:
        return [*map(self.row_path, self.rows()), *map(self._failure_path, self._failed())]

    # --- what makes the grid -----------------------------------------------------------------------------------

    def write_manifest(self, manifest: dict[str, Any], labels: NDArray[Any], split: NDArray[Any]) -> None:
        """Store what makes the grid; the manifest, which tells that the folder is in use, comes last."""
        for name, values in (("labels.npy", labels), ("split.npy", split)):
            with writing(self.folder / name, KEPT) as file:
                np.save(file, values)
        write_text(self._manifest_path, json.dumps({**manifest, "table": _table(labels, split)}, indent=1), KEPT)
        for name in ("job", "_labels"):
            self.__dict__.pop(name, None)

    def manifest(self) -> dict[str, Any]:
        """What `write_manifest` stored. Raises `UserError` where it is not whole."""
        manifest = self._stored()
        manifest.pop("table", None)  # it grows, and what was computed stays what it was
        return manifest

    def _stored(self) -> dict[str, Any]:
        try:
            manifest = json.loads(self._manifest_path.read_text(encoding="utf-8"))
            problem = _wrong_in_manifest(manifest)
        except (OSError, ValueError, RecursionError) as error:
            problem = str(error)
        if problem:
            raise UserError(
                f"{self._manifest_path}: not whole ({problem}); put it back, or remove the folder and build again"
            )
        return dict(manifest)

    def labels(self) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """Labels (N, L) and split (N,). Raises `UserError` where they are not whole."""
        try:
            labels, split = (np.load(self.folder / name, allow_pickle=False) for name in ("labels.npy", "split.npy"))
            whole = (
                labels.ndim == 2 and labels.dtype == float and np.isfinite(labels).all()
                and split.shape == labels.shape[:1] and split.dtype == np.uint8
            )  # fmt: skip
        except Exception:  # bytes that were changed raise whatever they look like
            whole = False
        if not whole or self._stored().get("table", _table(labels, split)) != _table(labels, split):
            raise UserError(
                f"{self.folder}: labels.npy and split.npy are no whole table; put them back, or remove the folder and "
                "build again"
            )
        return labels, split

    # --- rows --------------------------------------------------------------------------------------------------

    @property
    def _items(self) -> ItemFolder:
        return ItemFolder(self.folder, "row", self.job, KEPT)

    @cached_property
    def job(self) -> str:
        """Digest of what makes the grid, which every row carries."""
        return self._job or digest(json.dumps(self.manifest(), sort_keys=True))

    def row_path(self, i: int) -> Path:
        """File of a finished row."""
        return item_path(self.folder, "row", i)

    def write_row(
        self, i: int, labels: NDArray[Any], flux: ArrayLike, continuum: ArrayLike, jacobian: ArrayLike | None
    ) -> None:
        """Store a finished row: labels (L,), flux (P,), continuum (Pc,), jacobian (L, P) or `None`."""
        arrays: Arrays = {
            "labels": np.asarray(labels, dtype=np.float64),
            "flux": np.asarray(flux, dtype=np.float32),
            "continuum": np.asarray(continuum, dtype=np.float32),
        }
        if jacobian is not None:
            arrays["jacobian"], arrays["jacobian_scale"] = quantise(jacobian)
        self._items.write(i, _made_of(arrays["labels"]), arrays)

    def rows(self) -> set[int]:
        """Indices of the finished rows, by the names of their files."""
        return item_indices(self.folder, "row")

    def whole_rows(self) -> set[int]:
        """Indices of the finished rows that are what they should be; others are removed, with a line that says why."""
        manifest, (labels, _) = self.manifest(), self.labels()
        return self._items.whole([*map(_made_of, labels)], lambda _, arrays: _wrong_in_row(arrays, manifest))

    def read_row(self, i: int) -> Arrays:
        """The arrays of a finished row. Raises `UserError` where it is not what it should be."""
        try:
            return self._items.read(i, _made_of(self._labels[i]))
        except WrongItem as error:
            raise UserError(f"{self.row_path(i)}: {error}; give the command that builds the grid again") from error

    # --- failures ----------------------------------------------------------------------------------------------

    def _failure_path(self, i: int) -> Path:
        return item_path(self.folder, "failed", i, ".txt")

    def _failed(self) -> set[int]:
        return item_indices(self.folder, "failed", ".txt")

    @cached_property
    def _labels(self) -> NDArray[np.float64]:
        return self.labels()[0]

    def write_failure(self, i: int, reason: str) -> None:
        """Store why row i has no spectrum."""
        write_text(self._failure_path(i), _plain(reason), KEPT)

    def forget_failures(self, rows: Iterable[int]) -> None:
        """Let rows that failed be tried again."""
        for i in rows:
            self._failure_path(i).unlink(missing_ok=True)

    def failures(self) -> dict[int, str]:
        """Reasons of the rows that failed, and have not succeeded since."""
        failed = sorted(self._failed() - self.rows())
        return {i: _plain(self._failure_path(i).read_text(errors="replace")) or "unknown" for i in failed}

    def remove(self) -> None:
        """Remove what is ours, the manifest first: what is left after a kill is no grid in the making.

        The folder goes too, unless it holds something else.
        """
        self._manifest_path.unlink(missing_ok=True)
        for path in [*self._rows_and_failures(), *(self.folder / name for name in ("labels.npy", "split.npy"))]:
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def _table(labels: NDArray[Any], split: NDArray[Any]) -> str:
    return checksum({}, {"labels": labels, "split": split})


def _made_of(labels: NDArray[np.float64]) -> str:
    return digest(labels.tobytes())


def _plain(text: str) -> str:
    """A reason in one line without control characters."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:_LONGEST]


def _wrong_in_manifest(manifest: Any) -> str:
    """What is the matter with a manifest, "" for nothing."""

    def numbers(values: Any) -> bool:
        return isinstance(values, list) and len(values) > 1 and all(isinstance(v, (int, float)) for v in values)

    def texts(values: Any) -> bool:
        return isinstance(values, list) and bool(values) and all(isinstance(v, str) for v in values)

    if not isinstance(manifest, dict):
        return "it is no table of names and values"
    holds: dict[str, Callable[[Any], bool]] = {
        "attrs": lambda v: isinstance(v, dict), "wave": numbers, "continuum_wave": numbers, "label_names": texts,
        "label_units": texts, "has_jacobian": lambda v: isinstance(v, bool),
    }  # fmt: skip
    wrong = [name for name, right in holds.items() if not right(manifest.get(name))]
    return f"{wrong[0]!r} is missing or of another kind" if wrong else ""


def _wrong_in_row(arrays: Arrays, manifest: dict[str, Any]) -> str:
    """What is the matter with the arrays of a row, "" for nothing."""
    n_labels, n_wave = len(manifest["label_names"]), len(manifest["wave"])
    shapes: dict[str, tuple[int, ...]] = {
        "labels": (n_labels,), "flux": (n_wave,), "continuum": (len(manifest["continuum_wave"]),)
    }  # fmt: skip
    if manifest["has_jacobian"]:
        shapes |= {"jacobian": (n_labels, n_wave), "jacobian_scale": (n_labels,)}
    for name, shape in shapes.items():
        if name not in arrays or arrays[name].shape != shape:
            return f"its {name} is missing or of another shape"
        if name != "continuum" and not np.isfinite(arrays[name]).all():  # of imported spectra it may be unknown
            return f"its {name} is not finite"
    return ""
