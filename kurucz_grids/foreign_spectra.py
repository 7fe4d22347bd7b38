"""Spectra computed elsewhere, as they lie on disk: files of arrays, folders of spectra, tables of labels.

Two shapes of input are read:

* one file of arrays (npz or HDF5): `wave` (M,), `flux` (N, M), optionally `continuum` (N, M), and `labels` (N,
  L) with `label_names` (L,); the labels may be in a table of their own instead. `jacobian` (N, 32, M), per label
  unit of the normalised flux, is optional too; `jacobian_names` (32,) tells the order of its labels, which is
  that of `label_names` if these are all 32;
* a folder of spectra, one file each: text or npy of two or three columns, wavelength (Å), flux and, if it is
  not normalised, continuum; the label table names the file of each row in a column `FILE`.

A label table is anything that `astropy.table.Table.read` knows (ECSV, CSV, FITS ...). Its columns are the
names of the label table in any case, in units of their own if the table tells them; missing [X/Fe] are scaled
solar, a missing VMIC is the typical one. Columns that look like labels but are none are refused, others are
ignored. What an array cannot tell must be said: whether wavelengths are in air or vacuum, and the resolving
power that the spectra have.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from astropy import units as u
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.errors import UserError, first_line
from phdlspec.hdf5_check import check_hdf5
from phdlspec.labels import GRID_LABELS, STRUCTURE

Array = NDArray[np.float64]

log = logging.getLogger(__name__)

# What a star may have at most: beyond are mistakes of unit (kK, log Teff) or of column.
_POSSIBLE = {"TEFF": (1000.0, 100_000.0), "LOGG": (-2.0, 10.0), "VMIC": (0.0, 30.0), "FE_H": (-10.0, 2.0)}
_POSSIBLE_RATIO = (-5.0, 5.0)  # [X/Fe]
# Names of labels that are not in the table: [M/H], [alpha/Fe], other elements, and known ones spelled otherwise.
_LIKE_LABEL = re.compile(r"\[?([A-Z]{1,2}[_/ ](FE|H|M)|(FE|M)H|[A-Z]{1,2}FE|ALPHA.*)\]?|T_EFF|LOG_G|V_MIC|VTURB|XI")
_BROADENING = ("VBROAD", "VSINI", "VROT", "VMAC")  # a convolution: spectra come without


@dataclass(frozen=True)
class ForeignSpectrum:
    """One spectrum as found: wave (M,) Å, flux (M,), continuum (M,) or None, jacobian (L, M) or None."""

    wave: Array
    flux: Array
    continuum: Array | None
    jacobian: Array | None


@dataclass(frozen=True)
class SpectrumSource:
    """Labels (N, 32), and `read(i)` for the spectrum that belongs to row i (`ValueError` with the reason if it
    is no spectrum)."""

    labels: Array
    has_jacobian: bool
    read: Callable[[int], ForeignSpectrum]


def open_source(source: Path, label_table: Path | None) -> SpectrumSource:
    """Labels and spectra of a file of arrays or a folder. Raises `UserError`, or `OSError` for what cannot be read."""
    if source.is_dir():
        return _open_folder(source, label_table)
    arrays = _read_arrays(source)
    names = _names(arrays, "label_names", source)
    if label_table is not None:
        labels, _ = _read_labels(label_table)
    elif names is not None and "labels" in arrays:
        columns = _numbers(arrays["labels"], "labels", source)
        if columns.ndim != 2 or columns.shape[1] != len(names):
            raise UserError(f"{source}: labels have shape {columns.shape}, expected (N, {len(names)})")
        labels = _complete(list(zip(names, columns.T)), source)
    else:
        raise UserError(f"{source}: holds no labels with label_names; give a table with --labels")
    for name in ("wave", "flux"):
        if name not in arrays:
            raise UserError(f"{source}: has no array {name!r}, expected wave (M,) and flux (N, M)")
    wave = _numbers(arrays["wave"], "wave", source)
    if wave.ndim != 1:
        raise UserError(
            f"{source}: wave has shape {wave.shape}, expected (M,), the same for all spectra; those with "
            "wavelengths of their own go into a folder"
        )
    n, size = len(labels), len(wave)
    order = None
    if "jacobian" in arrays:
        order = _jacobian_order(_names(arrays, "jacobian_names", source) or names, source)
    shapes = {"flux": (n, size), "continuum": (n, size), "jacobian": (n, len(order or ()), size)}
    for name, shape in shapes.items():
        if name in arrays and np.shape(arrays[name]) != shape:
            raise UserError(f"{source}: {name} has shape {np.shape(arrays[name])}, expected {shape}")
        if name in arrays and arrays[name].dtype.kind not in "fiu":
            raise UserError(f"{source}: {name} is of type {arrays[name].dtype}, expected real numbers")

    def read(i: int) -> ForeignSpectrum:
        continuum = np.asarray(arrays["continuum"][i], float) if "continuum" in arrays else None
        jacobian = None if order is None else np.asarray(arrays["jacobian"][i][order], float)
        return ForeignSpectrum(wave, np.asarray(arrays["flux"][i], float), continuum, jacobian)

    return SpectrumSource(labels, order is not None, read)


def _open_folder(source: Path, label_table: Path | None) -> SpectrumSource:
    if label_table is None:
        raise UserError(f"{source}: a folder of spectra needs --labels, a table with a column FILE")
    labels, files = _read_labels(label_table)
    if files is None:
        raise UserError(f"{label_table}: has no column FILE that names the spectrum of each row")
    if not all(files):
        raise UserError(f"{label_table}: FILE of row {files.index('') + 1} is missing")
    missing = [name for name in files if not (source / name).is_file()]
    if missing:
        raise UserError(f"{source}: has no file {missing[0]}, which {label_table} names")
    return SpectrumSource(labels, False, lambda i: _read_single(source / files[i]))


def _names(arrays: Mapping[str, Any], key: str, source: Path) -> list[str] | None:
    """Names of labels in upper case."""
    if key not in arrays:
        return None
    values = np.atleast_1d(arrays[key])
    if values.ndim != 1 or values.dtype.kind not in "SUO":
        raise UserError(f"{source}: {key} holds {values.dtype} of shape {values.shape}, expected names (L,)")
    return [(n.decode() if isinstance(n, bytes) else str(n)).strip().upper() for n in values]


def _jacobian_order(names: list[str] | None, source: Path) -> list[int]:
    """Where in the jacobian the derivative by each label of the table lies."""
    if names is None or sorted(names) != sorted(GRID_LABELS.names):
        missing = [name for name in GRID_LABELS.names if name not in (names or ())]
        given = "has no names" if names is None else f"lacks {missing[0]}" if missing else "has other names as well"
        raise UserError(
            f"{source}: the order of the jacobian is not known: it {given}, expected each of the "
            f"{len(GRID_LABELS)} labels once in jacobian_names (or label_names)"
        )
    return [names.index(name) for name in GRID_LABELS.names]


def _read_arrays(source: Path) -> dict[str, Any]:
    if not source.is_file():
        raise UserError(f"{source}: there is no such file or folder")
    try:
        if h5py.is_hdf5(source):
            check_hdf5(source)
            with h5py.File(source, "r") as file:
                return {name: file[name][()] for name in file if isinstance(file[name], h5py.Dataset)}
        with np.load(source, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and h5py raise whatever the damage makes of the file
        raise UserError(
            f"{source}: neither a whole npz nor HDF5 file ({first_line(error)}); single spectra go into a folder"
        ) from error


def _read_single(path: Path) -> ForeignSpectrum:
    """Two or three columns; raises `ValueError` with the reason for anything else."""
    try:
        if path.suffix == ".npy":
            columns = np.load(path, allow_pickle=False)
            if columns.ndim == 2 and columns.shape[0] > columns.shape[1]:
                columns = columns.T
        else:
            delimiter = "," if path.suffix == ".csv" else None
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*contained no data")
                columns = np.loadtxt(path, delimiter=delimiter, unpack=True, ndmin=2)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not text, expected two or three columns of numbers") from error
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path.name} cannot be read ({first_line(error)})") from error
    if columns.size == 0:
        raise ValueError(f"{path.name} holds no numbers")
    if columns.ndim != 2 or len(columns) not in (2, 3):
        held = f"{len(columns)} columns" if columns.ndim == 2 else f"an array of shape {columns.shape}"
        raise ValueError(f"{path.name} holds {held}, expected two or three: wavelength, flux and continuum")
    if columns.dtype.kind not in "fiu":
        raise ValueError(f"{path.name} is of type {columns.dtype}, expected real numbers")
    wave, flux, *continuum = columns.astype(float)
    return ForeignSpectrum(wave, flux, continuum[0] if continuum else None, None)


def _read_labels(path: Path) -> tuple[Array, list[str] | None]:
    """Labels (N, 32) and, if the table has a column FILE, the names of the spectra, "" where one is missing."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such table of labels")
    try:
        table = Table.read(path)
    except Exception as error:  # astropy's readers raise whatever their format raises
        raise UserError(f"{path}: not a table that astropy reads ({first_line(error)})") from error
    columns, files = [], None
    for column in table.colnames:
        name = column.upper()
        if name == "FILE":
            files = ["" if value is np.ma.masked else str(value).strip() for value in table[column]]
        elif name in GRID_LABELS or name in _BROADENING:
            values = _numbers(table[column], column, path)
            columns.append((name, _in_label_unit(values, table[column].unit, name, path)))
        elif _LIKE_LABEL.fullmatch(name):
            raise UserError(f"{path}: {column} is not in the label table{_hint(name)}; rename or remove the column")
    return _complete(columns, path), files


def _hint(name: str) -> str:
    """The label that has this name but for brackets and underscores."""
    letters = re.sub("[^A-Z]", "", name)
    same = [label for label in GRID_LABELS.names if label.replace("_", "") == letters]
    return f", did you mean {same[0]}?" if same else f" ({' '.join(GRID_LABELS.names)})"


def _in_label_unit(values: Array, unit: Any, name: str, path: Path) -> Array:
    """Values of a label in the unit of the label table; a column that tells no unit is in that."""
    if unit is None or name in _BROADENING:
        return values
    expected = u.Unit(GRID_LABELS[name].unit)
    if expected == u.dex:
        expected = u.dex(u.cm / u.s**2) if name == "LOGG" else u.dex(u.one)
        if unit in (u.dex, u.one):
            return values
    try:
        return np.asarray(u.Unit(unit).to(expected, values), dtype=float)
    except (u.UnitsError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: {name} is in {unit}, expected {expected}; convert the column") from error


def _numbers(values: Any, name: str, path: Path) -> Array:
    if np.asanyarray(values).dtype.kind == "c":
        raise UserError(f"{path}: {name} holds complex numbers, expected real ones")
    try:
        return np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {name} holds text, expected numbers ({first_line(error)})") from error


def _complete(named: Sequence[tuple[str, Array]], path: Path) -> Array:
    """Labels (N, 32) from some columns of them, names in upper case."""
    columns = dict(named)
    if len(columns) < len(named):
        twice = next(name for k, (name, _) in enumerate(named) if name in dict(named[:k]))
        raise UserError(f"{path}: label {twice} is there twice (upper and lower case are one); remove one of them")
    for name in STRUCTURE:
        if name not in columns:
            raise UserError(f"{path}: the labels have no {name}; expected at least TEFF, LOGG and FE_H")
    for name, values in columns.items():
        if name not in GRID_LABELS and name not in _BROADENING:
            raise UserError(f"{path}: {name} is not in the label table{_hint(name)}; rename or remove it")
        if not np.isfinite(values).all():
            raise UserError(f"{path}: {name} of row {np.isfinite(values).argmin() + 1} is missing or not finite")
        low, high = (0.0, 0.0) if name in _BROADENING else _POSSIBLE.get(name, _POSSIBLE_RATIO)
        wrong = (values < low) | (values > high)
        if wrong.any():
            k = int(wrong.argmax())
            why = ": broadened spectra cannot be taken" if name in _BROADENING else ""
            raise UserError(f"{path}: {name} of row {k + 1} is {values[k]:g}, expected {low:g} to {high:g}{why}")
    known = [name for name in columns if name in GRID_LABELS]
    rows = zip(*(columns[name] for name in known))
    labels = np.array([GRID_LABELS.complete(dict(zip(known, map(float, row)))) for row in rows])
    if not len(labels):
        raise UserError(f"{path}: there is no row of labels")
    outside = int((~GRID_LABELS.inside(labels)).sum())
    if outside:
        log.warning("%s: %d of %d rows lie outside the bounds of the label table", path, outside, len(labels))
    return labels


def checksum(source: Path) -> str:
    """SHA-256 of a file, or of all files of a folder in the order of their names."""
    digest = hashlib.sha256()
    files = sorted(p for p in source.iterdir() if p.is_file()) if source.is_dir() else [source]
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
