"""Reading a grid: the finished file, or the rows done so far of one that is being made (`layout` draws the file)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from phdlspec.errors import UserError, first_line
from phdlspec.foreign import is_there
from phdlspec.gridfile.layout import FORMAT, SPLITS, VERSION, check_layout
from phdlspec.gridfile.parts import GridParts
from phdlspec.hdf5_check import check_hdf5
from phdlspec.labels import LabelSet


class Grid:
    """A grid, open for reading: a finished HDF5 file, or the rows done so far of one that is being made.

    Attributes
    ----------
    wave : (P,) vacuum Å. labels : (N, L). label_names, label_units : (L,). split, done : (N,). reason : (N,)
    continuum_wave : (Pc,). attrs : what made it. has_jacobian : whether differential spectra are there.

    Raises `UserError` for a file that is missing, damaged, or no grid.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._parts: GridParts | None = None
        if not is_there(self.path) and self.path.is_dir():
            raise UserError(f"{self.path}: a folder, expected the HDF5 file of a grid")
        if self.path.is_file():
            self._open_file()
        elif GridParts(self.path).exists():
            self._open_parts(GridParts(self.path))
        else:
            raise UserError(f"{self.path}: there is no such grid; `phdlspec grid build --out` makes one")

    def _open_file(self) -> None:
        check_hdf5(self.path, whole=False)
        try:
            file = h5py.File(self.path, "r")
        except OSError as error:
            raise UserError(
                f"{self.path}: damaged, half-written or not HDF5 ({first_line(error)}); expected a grid "
                "made by `phdlspec grid build`, make or copy it again"
            ) from error
        self._file = file
        try:
            self.attrs = {name: _plain(value) for name, value in file.attrs.items()}
            if self.attrs.get("format") != FORMAT:
                raise UserError(f"{self.path}: HDF5, but not a grid of spectra (its format is no {FORMAT!r})")
            if int(self.attrs["version"]) > VERSION:
                raise UserError(
                    f"{self.path}: grid layout {self.attrs['version']}, this program knows {VERSION}; update phdlspec"
                )
            check_layout(file)
            self.wave = file["wave"][:]
            self.continuum_wave = file["continuum_wave"][:]
            self.label_names = tuple(name.decode() for name in file["label_names"][:])
            self.label_units = tuple(name.decode() for name in file["label_units"][:])
            self.labels = file["labels"][:]
            self.split = file["split"][:]
            self.done = file["done"][:].astype(bool)
            self.reason = np.array([text.decode() for text in file["reason"][:]], dtype=object)
            self.has_jacobian = "jacobian" in file
        except (KeyError, OSError, RuntimeError, AttributeError, TypeError, ValueError) as error:
            self.close()
            why = first_line(error)
            raise UserError(f"{self.path}: a damaged grid ({why}); make or copy it again") from error
        except UserError:
            self.close()
            raise

    def _open_parts(self, parts: GridParts) -> None:
        self._parts = parts
        manifest = parts.manifest()
        self.attrs = dict(manifest["attrs"])
        self.wave = np.array(manifest["wave"])
        self.continuum_wave = np.array(manifest["continuum_wave"])
        self.label_names = tuple(manifest["label_names"])
        self.label_units = tuple(manifest["label_units"])
        self.has_jacobian = bool(manifest["has_jacobian"])
        self.labels, self.split = parts.labels()
        n = len(self.labels)
        self.done = np.zeros(n, dtype=bool)
        self.done[[i for i in parts.rows() if i < n]] = True
        self.reason = np.full(n, "", dtype=object)
        for i, reason in parts.failures().items():
            if i < n:
                self.reason[i] = reason

    def __enter__(self) -> Grid:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_done(self) -> int:
        """Number of complete rows."""
        return int(self.done.sum())

    @property
    def finished(self) -> bool:
        """Whether this is the HDF5 file, not a grid in the making."""
        return self._file is not None

    @property
    def resolving_power(self) -> float:
        """Wave / FWHM of the spectra."""
        return float(self.attrs["resolving_power"])

    @cached_property
    def label_set(self) -> LabelSet:
        """The labels of the columns, with the bounds of the label table."""
        table = LabelSet()
        return LabelSet(tuple(table[name] for name in self.label_names))

    def rows(self, split: str | int | None = None) -> NDArray[np.int64]:
        """Indices of the complete rows, of one part of the grid (`"train"`, `"validation"`, `"test"`)."""
        chosen = self.done
        if split is not None:
            if isinstance(split, str) and split not in SPLITS:
                raise UserError(f"there is no part {split!r} of a grid, expected one of {', '.join(SPLITS)}")
            chosen = chosen & (self.split == (SPLITS[split] if isinstance(split, str) else split))
        return np.flatnonzero(chosen)

    def flux(self, rows: int | ArrayLike) -> NDArray[np.float32]:
        """Normalised flux: (P,) of one row, (n, P) of several."""
        return self._read("flux", rows)

    def continuum(self, rows: int | ArrayLike) -> NDArray[np.float32]:
        """Continuum flux at `continuum_wave`, erg/cm2/s/Å: (Pc,) or (n, Pc)."""
        return self._read("continuum", rows)

    def jacobian(self, rows: int | ArrayLike) -> NDArray[np.float32]:
        """d flux / d label in label units: (L, P) of one row, (n, L, P) of several."""
        if not self.has_jacobian:
            raise UserError(f"{self.path}: this grid has no differential spectra (it was imported without)")
        scale = self._read("jacobian_scale", rows)
        return np.asarray(self._read("jacobian", rows).astype(np.float32) * scale[..., None])

    def _read(self, name: str, rows: int | ArrayLike) -> NDArray[Any]:
        index = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        if not self.done[index].all():
            missing = int(index[~self.done[index]][0])
            raise UserError(f"{self.path}: row {missing} is not complete {self.reason[missing]}".rstrip())
        if self._parts is not None:
            values = np.stack([self._parts.read_row(int(i))[name] for i in index])
        else:
            assert self._file is not None
            unique, inverse = np.unique(index, return_inverse=True)
            try:
                dataset = self._file[name]
                values = dataset[unique] if len(unique) < 64 else _gather(dataset, unique)
            except (OSError, RuntimeError) as error:
                raise UserError(
                    f"{self.path}: row {index[0]} cannot be read ({first_line(error)}); the file is damaged"
                ) from error
            values = values[inverse]
        return values[0] if np.ndim(rows) == 0 else values

    def raw_row(self, i: int) -> dict[str, NDArray[Any]]:
        """The arrays of a row as they are stored, the derivatives as int16 and scale."""
        if self._parts is not None:
            return self._parts.read_row(i)
        names = ["flux", "continuum", *(["jacobian", "jacobian_scale"] if self.has_jacobian else [])]
        return {"labels": self.labels[i], **{name: self._read(name, i) for name in names}}

    def manifest(self) -> dict[str, Any]:
        """What `GridParts.write_manifest` needs to make a grid of the same kind."""
        return {
            "attrs": self.attrs,
            "wave": self.wave.tolist(),
            "continuum_wave": self.continuum_wave.tolist(),
            "label_names": list(self.label_names),
            "label_units": list(self.label_units),
            "has_jacobian": self.has_jacobian,
        }


def _gather(dataset: h5py.Dataset, rows: NDArray[np.int64]) -> NDArray[Any]:
    # h5py's selection by a long list is slow: row by row is faster where a chunk is a row.
    values = np.empty((len(rows), *dataset.shape[1:]), dataset.dtype)
    for k, i in enumerate(rows):
        dataset.read_direct(values, np.s_[int(i)], np.s_[k])
    return values


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
