"""The grid file: normalised spectra with all their differential spectra.

```
/                       attrs: format="phdlspec-grid", version=1, form, solar_scale, code_version, created,
│                       seed, resolving_power, dlnlam, medium="vacuum", checksums of line list and
│                       atmospheres, settings
├── wave                (P,) float64            vacuum Å, log-uniform
├── label_names         (L,) str ; label_units  (L,) str
├── labels              (N, L) float64
├── flux                (N, P) float32          flux over continuum
├── continuum           (N, Pc) float32         erg/cm2/s/Å at the stellar surface, NaN where unknown
├── continuum_wave      (Pc,) float64           vacuum Å
├── jacobian            (N, L, P) int16         d flux / d label = jacobian_scale * jacobian, label units
├── jacobian_scale      (N, L) float32          (both are absent in imported grids without derivatives)
├── done                (N,) uint8              1: the row is complete
├── reason              (N,) str                why a row is not
└── split               (N,) uint8              0 train, 1 validation, 2 test
```
L = 32: the label table without VBROAD, which is a convolution. Two forms share the layout: *full*
(R = 12,000, 1/30,000 in ln wave) can be convolved to R = 1300-6000; *survey* (R = 3500, 1/8750, P = 7909) to
R up to 2800.

The file is only ever replaced as a whole. While a grid is being made its rows lie in `grid.h5.parts/` (see
`parts`), where `Grid` reads them as well.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kurucz_grids.parts import Parts, disk_errors
from phdlspec import __version__
from phdlspec.errors import UserError, first_line
from phdlspec.labels import LABELS, LabelSet
from phdlspec.solar import SOLAR_SCALE

if TYPE_CHECKING:
    from typing_extensions import Buffer

FORMAT, VERSION = "phdlspec-grid", 1
WAVE_MIN, WAVE_MAX = 3690.0, 9110.0  # vacuum Å
CONTINUUM_WAVE: NDArray[np.float64] = np.geomspace(WAVE_MIN, WAVE_MAX, 272)
GRID_LABELS = LabelSet(LABELS[:-1])  # VBROAD is a convolution, not a property of the model
SPLITS = {"train": 0, "validation": 1, "test": 2}
_COMPRESSION: dict[str, Any] = {"compression": "gzip", "compression_opts": 3, "shuffle": True}


@dataclass(frozen=True)
class Form:
    """Resolution and sampling at which spectra are stored."""

    name: str
    resolving_power: float
    dlnlam: float

    @property
    def wave(self) -> NDArray[np.float64]:
        """Wavelengths (P,) from `WAVE_MIN` to at least `WAVE_MAX`, vacuum Å."""
        steps = math.ceil(math.log(WAVE_MAX / WAVE_MIN) / self.dlnlam)
        return WAVE_MIN * np.exp(self.dlnlam * np.arange(steps + 1))


FORMS: dict[str, Form] = {
    "full": Form("full", 12_000.0, 1 / 30_000),
    "survey": Form("survey", 3_500.0, 1 / 8_750),
}


def degrade_to(
    form_wave: NDArray[np.float64],
    resolving_power: float,
    wave: NDArray[np.float64],
    spectra: ArrayLike,
    r_in: float = math.inf,
) -> NDArray[np.float32]:
    """Spectra (..., N) on a log-uniform grid `wave` with resolving power `r_in`, at `form_wave`: (..., P)."""
    import torch

    from phdlspec.lsf import NativeGrid, degrade

    source = NativeGrid.from_wave(wave, r_in)
    target = NativeGrid.from_wave(form_wave, resolving_power)
    values = torch.as_tensor(spectra).to(torch.float32)
    return degrade(values, source.dlnlam, source.wave0, r_in, target).cpu().numpy()


def grid_attributes(form: Form, provenance: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
    """The attributes that say what made a grid; nested or unusual values become JSON text."""
    attributes: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "form": form.name,
        "resolving_power": form.resolving_power,
        "dlnlam": form.dlnlam,
        "medium": "vacuum",
        "solar_scale": SOLAR_SCALE,
        "code_version": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seed": -1 if seed is None else seed,
    }
    for name, value in provenance.items():
        plain = isinstance(value, (str, bool, int, float))
        attributes.setdefault(name, value if plain else json.dumps(value, default=str))
    return attributes


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
        self._parts: Parts | None = None
        if self.path.is_dir():
            raise UserError(f"{self.path}: a folder, expected the HDF5 file of a grid")
        if self.path.is_file():
            self._open_file()
        elif Parts(self.path).exists():
            self._open_parts(Parts(self.path))
        else:
            raise UserError(f"{self.path}: there is no such grid; `phdlspec grid build --out` makes one")

    def _open_file(self) -> None:
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
                    f"{self.path}: grid layout {self.attrs['version']}, this program knows {VERSION}; "
                    "update phdlspec"
                )
            self.wave = file["wave"][:]
            self.continuum_wave = file["continuum_wave"][:]
            self.label_names = tuple(name.decode() for name in file["label_names"][:])
            self.label_units = tuple(name.decode() for name in file["label_units"][:])
            self.labels = file["labels"][:]
            self.split = file["split"][:]
            self.done = file["done"][:].astype(bool)
            self.reason = np.array([text.decode() for text in file["reason"][:]], dtype=object)
            self.has_jacobian = "jacobian" in file
            by_row = ["flux", "continuum", "done", "split", "reason", *(["jacobian_scale"] * self.has_jacobian)]
            sizes = {len(self.labels), *(len(file[name]) for name in by_row)}
        except (KeyError, OSError, RuntimeError, AttributeError, TypeError, ValueError) as error:
            self.close()
            why = first_line(error)
            raise UserError(f"{self.path}: a damaged grid ({why}); make or copy it again") from error
        except UserError:
            self.close()
            raise
        if len(sizes) != 1 or file["flux"].shape[1] != len(self.wave):
            self.close()
            raise UserError(f"{self.path}: a damaged grid (arrays differ in length); make or copy it again")

    def _open_parts(self, parts: Parts) -> None:
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
        return self._read("jacobian", rows).astype(np.float32) * scale[..., None]

    def _read(self, name: str, rows: int | ArrayLike) -> NDArray:
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

    def raw_row(self, i: int) -> dict[str, NDArray]:
        """The arrays of a row as they are stored, the derivatives as int16 and scale."""
        if self._parts is not None:
            return self._parts.read_row(i)
        names = ["flux", "continuum", *(["jacobian", "jacobian_scale"] if self.has_jacobian else [])]
        return {"labels": self.labels[i], **{name: self._read(name, i) for name in names}}

    def manifest(self) -> dict[str, Any]:
        """What `Parts.write_manifest` needs to make a grid of the same kind."""
        return {
            "attrs": self.attrs,
            "wave": self.wave.tolist(),
            "continuum_wave": self.continuum_wave.tolist(),
            "label_names": list(self.label_names),
            "label_units": list(self.label_units),
            "has_jacobian": self.has_jacobian,
        }


def make_manifest(
    attrs: Mapping[str, Any],
    wave: NDArray[np.float64],
    continuum_wave: NDArray[np.float64] = CONTINUUM_WAVE,
    label_set: LabelSet = GRID_LABELS,
    has_jacobian: bool = True,
) -> dict[str, Any]:
    """The manifest of a grid in the making: see `Grid.manifest`."""
    return {
        "attrs": dict(attrs),
        "wave": np.asarray(wave).tolist(),
        "continuum_wave": np.asarray(continuum_wave).tolist(),
        "label_names": list(label_set.names),
        "label_units": [label.unit for label in label_set],
        "has_jacobian": has_jacobian,
    }


def collect(path: str | Path, keep_parts: bool = False) -> Path:
    """Make the HDF5 file out of the rows in `path.parts/` and of an existing (shorter) file at `path`.

    The file is written beside and renamed; the parts are removed only then, and only if every row of the
    table is done or failed. Raises `UserError` where there is nothing to collect, and `DiskFullError` with
    everything kept.
    """
    path = Path(path)
    parts = Parts(path)
    if not parts.exists():
        raise UserError(f"{path}: there is no grid in the making here ({parts.folder} is missing)")
    manifest = parts.manifest()
    labels, split = parts.labels()
    finished, failures = parts.rows(), parts.failures()
    before = Grid(path) if path.is_file() else None
    old = {int(i) for i in before.rows() if i < len(labels)} if before is not None else set()
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with disk_errors(path):
            with temporary.open("w+b", buffering=0) as raw:
                disk = _Disk(raw)
                with h5py.File(disk, "w") as file:
                    _create(file, manifest, labels, split)
                    for i in range(len(labels)):
                        if i in finished:
                            _put(file, i, parts.read_row(i))
                        elif i in old and before is not None:
                            _put(file, i, before.raw_row(i))
                        elif before is not None and i < len(before) and i not in failures:
                            failures[i] = before.reason[i]
                        file["reason"][i] = "" if file["done"][i] else failures.get(i, "")
                        if disk.error is not None:
                            break
                disk.raise_error()
                os.fsync(raw.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        if before is not None:
            before.close()
    missing = [i for i in range(len(labels)) if not (i in finished or i in old or failures.get(i))]
    if not keep_parts and not missing:
        parts.remove()
    return path


class _Disk(io.RawIOBase):
    """A file for HDF5 to write to, whose errors are raised by us.

    HDF5 does not survive a write that fails (it crashes when it is closed): the first error is kept, and what
    is written after it goes nowhere.
    """

    def __init__(self, raw: io.FileIO):
        super().__init__()
        self._raw = raw
        self.error: OSError | None = None

    def raise_error(self) -> None:
        if self.error is not None:
            raise self.error

    def write(self, data: Buffer) -> int:
        view = memoryview(data).cast("B")
        written = 0
        while self.error is None and written < len(view):
            try:
                written += self._raw.write(view[written:]) or 0
            except OSError as error:
                self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._raw.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def readinto(self, data: Buffer) -> int:
        return self._raw.readinto(data) or 0

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def flush(self) -> None:
        self._raw.flush()


def _create(file: h5py.File, manifest: Mapping[str, Any], labels: NDArray, split: NDArray) -> None:
    file.attrs.update(manifest["attrs"])
    n, n_labels = labels.shape
    n_wave, n_continuum = len(manifest["wave"]), len(manifest["continuum_wave"])
    text = h5py.string_dtype()
    file["wave"] = np.array(manifest["wave"])
    file["continuum_wave"] = np.array(manifest["continuum_wave"])
    file.create_dataset("label_names", data=manifest["label_names"], dtype=text)
    file.create_dataset("label_units", data=manifest["label_units"], dtype=text)
    file["labels"] = labels
    file["split"] = split
    file["done"] = np.zeros(n, dtype=np.uint8)
    file.create_dataset("reason", shape=(n,), dtype=text)
    for name in ("wave", "continuum_wave"):
        file[name].attrs["unit"] = "Angstrom"
    file["continuum"] = np.full((n, n_continuum), np.nan, dtype=np.float32)
    file["continuum"].attrs["unit"] = "erg/cm2/s/Angstrom"
    file.create_dataset("flux", (n, n_wave), np.float32, chunks=(1, n_wave), fillvalue=np.nan, **_COMPRESSION)
    if manifest["has_jacobian"]:
        file.create_dataset(
            "jacobian", (n, n_labels, n_wave), np.int16, chunks=(1, n_labels, n_wave), **_COMPRESSION
        )
        file["jacobian_scale"] = np.zeros((n, n_labels), dtype=np.float32)


def _put(file: h5py.File, i: int, row: Mapping[str, NDArray]) -> None:
    for name in ("flux", "continuum", "jacobian", "jacobian_scale"):
        if name in row:
            file[name][i] = row[name]
    file["done"][i] = 1


def _gather(dataset: h5py.Dataset, rows: NDArray[np.int64]) -> NDArray:
    # h5py's selection by a long list is slow: row by row is faster where a chunk is a row.
    values = np.empty((len(rows), *dataset.shape[1:]), dataset.dtype)
    for k, i in enumerate(rows):
        dataset.read_direct(values, np.s_[int(i)], np.s_[k])
    return values


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
