"""Spectra computed elsewhere (SYNTHE, pyKurucz, Korg, Turbospectrum, PySME ...) brought into the layout of
`grid`.

Two shapes of input are read:

* one file of arrays (npz or HDF5): `wave` (M,), `flux` (N, M), optionally `continuum` (N, M), `jacobian` (N,
  L, M) per label unit of the normalised flux, and `labels` (N, L) with `label_names` (L,); the labels may be
  in a table of their own instead;
* a folder of spectra, one file each: text or npy of two or three columns, wavelength (Å), flux and, if it is
  not normalised, continuum; the label table names the file of each row in a column `FILE`.

A label table is anything that `astropy.table.Table.read` knows (ECSV, CSV, FITS ...). Its columns are the
names of the label table; missing [X/Fe] are scaled solar, a missing VMIC is the typical one. What an array
cannot tell must be said: whether wavelengths are in air or vacuum, and the resolving power that the spectra
have.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from kurucz_grids.grid import (
    CONTINUUM_WAVE,
    FORMS,
    GRID_LABELS,
    Form,
    collect,
    degrade_to,
    grid_attributes,
    make_manifest,
)
from kurucz_grids.parts import Parts
from kurucz_grids.sampling import split_rows
from phdlspec.errors import UserError, first_line
from phdlspec.wavelength import air_to_vacuum

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Spectrum:
    """One spectrum as found: wave (M,) Å, flux (M,), continuum (M,) or None, jacobian (L, M) or None."""

    wave: Array
    flux: Array
    continuum: Array | None
    jacobian: Array | None


@dataclass(frozen=True)
class _Source:
    """Labels (N, 32) and the spectra that belong to them, read one by one."""

    labels: Array
    has_jacobian: bool
    spectra: Iterator[_Spectrum]


def import_grid(
    source: str | Path,
    out: str | Path,
    *,
    medium: str,
    resolving_power: float,
    origin: str,
    label_table: str | Path | None = None,
    form: str = "survey",
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Make a grid of spectra from elsewhere.

    Parameters
    ----------
    source : file of arrays, or folder of spectra (see the module). out : the HDF5 file.
    medium : "air" or "vacuum", of the source's wavelengths. resolving_power : wave / FWHM of the source's
    spectra,
        `inf` for unbroadened ones. origin : code, atmospheres and line list in words, kept in the file.
    label_table : table of labels, where `source` does not hold them.
    form : "survey" or "full". seed : of the split into training, validation and test.

    Raises `UserError`, one sentence, for input that does not fit. A spectrum that fails (not finite, too
    short) becomes a row with a reason.
    """
    source, out = Path(source), Path(out)
    if medium not in ("air", "vacuum"):
        raise UserError(f"the medium is {medium!r}, expected 'air' or 'vacuum': it cannot be guessed")
    if form not in FORMS:
        raise UserError(f"there is no form {form!r}, expected one of {', '.join(FORMS)}")
    target = FORMS[form]
    if not resolving_power > target.resolving_power:
        raise UserError(
            f"{source}: spectra of R = {resolving_power:g} cannot make the {form} form of "
            f"R = {target.resolving_power:g}; compute them at a higher resolving power"
        )
    if out.exists() or Parts(out).exists():
        raise UserError(f"{out}: exists already, remove it or choose another --out")
    found = _open_source(source, None if label_table is None else Path(label_table))
    parts = Parts(out)
    with parts.lock():
        provenance = {
            "origin": origin,
            "imported_from": source.name,
            "imported_sha256": _checksum(source),
            "imported_medium": medium,
            "imported_resolving_power": resolving_power,
        }
        attrs = grid_attributes(target, provenance, seed)
        split = split_rows(len(found.labels), seed)
        parts.write_manifest(
            make_manifest(attrs, target.wave, has_jacobian=found.has_jacobian), found.labels, split
        )
        spectra = tqdm(found.spectra, total=len(found.labels), desc="import", disable=not progress)
        for i, spectrum in enumerate(spectra):
            try:
                flux, continuum, jacobian = _convert(spectrum, medium, resolving_power, target)
            except ValueError as error:
                parts.write_failure(i, str(error))
            else:
                parts.write_row(i, found.labels[i], flux, continuum, jacobian)
        if not parts.rows():
            reason = next(iter(parts.failures().values()), "it holds no spectrum")
            parts.remove()
            raise UserError(f"{source}: no spectrum could be imported: {reason}")
        return collect(out)


def _convert(
    spectrum: _Spectrum, medium: str, resolving_power: float, form: Form
) -> tuple[NDArray, NDArray, NDArray | None]:
    wave = air_to_vacuum(spectrum.wave) if medium == "air" else spectrum.wave
    flux = spectrum.flux
    if not (np.isfinite(wave).all() and np.isfinite(flux).all()):
        raise ValueError("the spectrum holds values that are not finite")
    if len(wave) < 2 or not (np.diff(wave) > 0).all():
        raise ValueError("the wavelengths do not increase")
    want = form.wave
    if wave[0] > want[0] or wave[-1] < want[-1]:
        raise ValueError(
            f"the spectrum covers {wave[0]:.1f}-{wave[-1]:.1f} Å (vacuum), expected "
            f"{want[0]:.1f}-{want[-1]:.1f} Å"
        )
    continuum = np.full(len(CONTINUUM_WAVE), np.nan)
    if spectrum.continuum is not None:
        if not (spectrum.continuum > 0).all():
            raise ValueError("the continuum is not positive everywhere")
        flux = flux / spectrum.continuum
        continuum = np.interp(CONTINUUM_WAVE, wave, spectrum.continuum)
    if np.median(flux) > 2 or flux.max() > 20:
        raise ValueError("the flux is not normalised: give the continuum as well")
    stack = flux[None] if spectrum.jacobian is None else np.concatenate([flux[None], spectrum.jacobian])
    if not np.isfinite(stack).all():
        raise ValueError("the derivatives hold values that are not finite")
    grid, stack = _log_uniform(wave, stack, resolving_power, form)
    low = degrade_to(want, form.resolving_power, grid, stack, resolving_power)
    return low[0], continuum, None if spectrum.jacobian is None else low[1:]


def _log_uniform(wave: Array, stack: Array, resolving_power: float, form: Form) -> tuple[Array, Array]:
    """The spectra on a log-uniform grid: as they are if they lie on one, else interpolated."""
    steps = np.diff(np.log(wave))
    if np.ptp(steps) < 1e-3 * steps.mean():
        return wave, stack
    kernel = math.sqrt(1 / form.resolving_power**2 - 1 / resolving_power**2) / 2.355
    if steps.max() > kernel:
        raise ValueError(
            f"the wavelength step reaches {steps.max():.1e} in ln(wave), expected at most {kernel:.1e} "
            f"for R = {form.resolving_power:g}"
        )
    step = min(np.quantile(steps, 0.05), kernel / 2)
    grid = wave[0] * np.exp(step * np.arange(int(np.log(wave[-1] / wave[0]) / step) + 1))
    grid = np.append(grid, grid[-1] * np.exp(step))
    return grid, np.stack([np.interp(grid, wave, values) for values in stack])


def _open_source(source: Path, label_table: Path | None) -> _Source:
    if source.is_dir():
        if label_table is None:
            raise UserError(f"{source}: a folder of spectra needs --labels, a table with a column FILE")
        labels, files = _read_labels(label_table)
        if files is None:
            raise UserError(f"{label_table}: has no column FILE that names the spectrum of each row")
        missing = [name for name in files if not (source / name).is_file()]
        if missing:
            raise UserError(f"{source}: has no file {missing[0]}, which {label_table} names")
        return _Source(labels, False, (_read_single(source / name) for name in files))
    arrays = _read_arrays(source)
    if label_table is not None:
        labels, _ = _read_labels(label_table)
    elif "labels" in arrays and "label_names" in arrays:
        names = [n.decode() if isinstance(n, bytes) else str(n) for n in np.atleast_1d(arrays["label_names"])]
        columns = _numbers(arrays["labels"], "labels", source)
        if columns.ndim != 2 or columns.shape[1] != len(names):
            raise UserError(f"{source}: labels have shape {columns.shape}, expected (N, {len(names)})")
        labels = _complete(dict(zip(names, columns.T)), str(source))
    else:
        raise UserError(f"{source}: holds no labels with label_names; give a table with --labels")
    for name in ("wave", "flux"):
        if name not in arrays:
            raise UserError(f"{source}: has no array {name!r}, expected wave (M,) and flux (N, M)")
    n, size = len(labels), np.shape(arrays["wave"])[-1]
    shapes = {"flux": (n, size), "continuum": (n, size), "jacobian": (n, len(GRID_LABELS), size)}
    for name, shape in shapes.items():
        if name in arrays and np.shape(arrays[name]) != shape:
            raise UserError(f"{source}: {name} has shape {np.shape(arrays[name])}, expected {shape}")

    def spectra() -> Iterator[_Spectrum]:
        wave = np.asarray(arrays["wave"], dtype=float)
        for i in range(n):
            each = {k: np.asarray(arrays[k][i], float) if k in arrays else None for k in shapes}
            flux = each["flux"]
            assert flux is not None
            yield _Spectrum(wave, flux, each["continuum"], each["jacobian"])

    return _Source(labels, "jacobian" in arrays, spectra())


def _read_arrays(source: Path) -> dict[str, Any]:
    if not source.is_file():
        raise UserError(f"{source}: there is no such file or folder")
    try:
        if h5py.is_hdf5(source):
            with h5py.File(source, "r") as file:
                return {name: file[name][()] for name in file if isinstance(file[name], h5py.Dataset)}
        with np.load(source, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise UserError(
            f"{source}: neither a whole npz nor HDF5 file ({error}); single spectra go into a folder"
        ) from error


def _read_single(path: Path) -> _Spectrum:
    """Two or three columns; what cannot be read has no wavelengths, and its row gets a reason."""
    try:
        if path.suffix == ".npy":
            columns = np.load(path, allow_pickle=False)
            columns = columns if columns.shape[0] <= 3 else columns.T
        else:
            delimiter = "," if path.suffix == ".csv" else None
            columns = np.loadtxt(path, delimiter=delimiter, unpack=True, ndmin=2)
    except (OSError, ValueError, EOFError):
        return _Spectrum(np.empty(0), np.empty(0), None, None)
    if columns.ndim != 2 or len(columns) not in (2, 3):
        return _Spectrum(np.empty(0), np.empty(0), None, None)
    return _Spectrum(columns[0], columns[1], columns[2] if len(columns) == 3 else None, None)


def _read_labels(path: Path) -> tuple[Array, list[str] | None]:
    from astropy.table import Table

    if not path.is_file():
        raise UserError(f"{path}: there is no such table of labels")
    try:
        table = Table.read(path)
    except Exception as error:  # astropy's readers raise whatever their format raises
        raise UserError(f"{path}: not a table that astropy reads ({first_line(error)})") from error
    columns = {
        name.upper(): _numbers(table[name], name, path)
        for name in table.colnames
        if name.upper() in GRID_LABELS
    }
    names = {name.upper(): name for name in table.colnames}
    files = [str(name) for name in table[names["FILE"]]] if "FILE" in names else None
    return _complete(columns, str(path)), files


def _numbers(values: Any, name: str, path: Path) -> Array:
    try:
        return np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {name} holds text, expected numbers ({first_line(error)})") from error


def _complete(columns: dict[str, Array], where: str) -> Array:
    for name in ("TEFF", "LOGG", "FE_H"):
        if name not in columns:
            raise UserError(f"{where}: the labels have no {name}; expected at least TEFF, LOGG and FE_H")
    for name, values in columns.items():
        GRID_LABELS.index(name)
        if not np.isfinite(values).all():
            raise UserError(f"{where}: {name} of row {np.isfinite(values).argmin() + 1} is missing or not finite")
    rows = zip(*columns.values())
    labels = [GRID_LABELS.complete(dict(zip(columns, map(float, row)))) for row in rows]
    if not labels:
        raise UserError(f"{where}: there is no row of labels")
    return np.array(labels)


def _checksum(source: Path) -> str:
    digest = hashlib.sha256()
    files = sorted(p for p in source.iterdir() if p.is_file()) if source.is_dir() else [source]
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
