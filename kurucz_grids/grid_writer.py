"""Writing grids: what says how one was made, and the HDF5 file out of the rows that are done."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from phdlspec import __version__
from phdlspec.errors import UserError
from phdlspec.files import replacing
from phdlspec.gridfile import CONTINUUM_WAVE, FORMAT, VERSION, Grid, SpectrumForm
from phdlspec.gridfile.parts import KEPT, GridParts
from phdlspec.labels import GRID_LABELS, LabelSet
from phdlspec.lsf import NativeGrid, degrade
from phdlspec.solar import SOLAR_SCALE

if TYPE_CHECKING:
    from typing_extensions import Buffer

_COMPRESSION: dict[str, Any] = {"compression": "gzip", "compression_opts": 3, "shuffle": True}


def degrade_to(
    form_wave: NDArray[np.float64],
    resolving_power: float,
    wave: NDArray[np.float64],
    spectra: ArrayLike,
    r_in: float = math.inf,
) -> NDArray[np.float32]:
    """Spectra (..., N) on a log-uniform grid `wave` with resolving power `r_in`, at `form_wave`: (..., P)."""
    source = NativeGrid.from_wave(wave, r_in)
    target = NativeGrid.from_wave(form_wave, resolving_power)
    values = torch.as_tensor(spectra).to(torch.float32)
    return degrade(values, source.dlnlam, source.wave0, r_in, target).cpu().numpy()


def grid_attributes(form: SpectrumForm, provenance: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
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
    parts = GridParts(path)
    if not parts.exists():
        raise UserError(f"{path}: there is no grid in the making here ({parts.folder} is missing)")
    manifest = parts.manifest()
    labels, split = parts.labels()
    finished, failures = parts.whole_rows(), parts.failures()
    before = Grid(path) if path.is_file() else None
    old = {int(i) for i in before.rows() if i < len(labels)} if before is not None else set()
    try:
        with replacing(path, KEPT) as temporary, temporary.open("w+b", buffering=0) as raw:
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
    finally:
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


def _create(file: h5py.File, manifest: Mapping[str, Any], labels: NDArray[Any], split: NDArray[Any]) -> None:
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
        file.create_dataset("jacobian", (n, n_labels, n_wave), np.int16, chunks=(1, n_labels, n_wave), **_COMPRESSION)
        file["jacobian_scale"] = np.zeros((n, n_labels), dtype=np.float32)


def _put(file: h5py.File, i: int, row: Mapping[str, NDArray[Any]]) -> None:
    for name in ("flux", "continuum", "jacobian", "jacobian_scale"):
        if name in row:
            file[name][i] = row[name]
    file["done"][i] = 1
