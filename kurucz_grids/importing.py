"""Spectra computed elsewhere (SYNTHE, pyKurucz, Korg, Turbospectrum, PySME ...) brought into the layout of
`phdlspec.gridfile`. What is read is described in `foreign_spectra`.

An import that was interrupted goes on with the same command.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from kurucz_grids.checking import ENVELOPE, envelope
from kurucz_grids.foreign_spectra import ForeignSpectrum, SpectrumSource, checksum, open_source
from kurucz_grids.grid_writer import collect, degrade_to, grid_attributes, make_manifest
from kurucz_grids.sampling import split_rows
from phdlspec.errors import UserError
from phdlspec.gridfile import CONTINUUM_WAVE, FORMS, SpectrumForm
from phdlspec.gridfile.parts import GridParts
from phdlspec.wavelength import air_to_vacuum

Array = NDArray[np.float64]


def import_grid(
    source: str | Path, out: str | Path, *, medium: str, resolving_power: float, origin: str,
    label_table: str | Path | None = None, form: str = "survey", seed: int = 0, progress: bool = True,
) -> Path:  # fmt: skip
    """Make a grid of spectra from elsewhere.

    Parameters
    ----------
    source : file of arrays, or folder of spectra (see the module). out : the HDF5 file.
    medium : "air" or "vacuum", of the source's wavelengths. resolving_power : wave / FWHM of the source's spectra,
        `inf` for unbroadened ones. origin : code, atmospheres and line list in words, kept in the file.
    label_table : table of labels, where `source` does not hold them.
    form : "survey" or "full". seed : of the split into training, validation and test.

    Raises `UserError`, one sentence, for input that does not fit. A spectrum that fails (not finite, too
    short) becomes a row with a reason. What an interrupted import has done is kept for the next call.

    >>> from phdlspec.wavelength import log_grid
    >>> wave = log_grid(3680.0, 9130.0, 1 / 40_000)
    >>> np.savez("spectra.npz", wave=wave, flux=np.ones((2, wave.size)), label_names=["TEFF", "LOGG", "FE_H"],
    ...          labels=[[5777.0, 4.4, 0.0], [4500.0, 2.0, -1.0]])
    >>> kurucz_grids.import_grid("spectra.npz", "imported.h5", medium="vacuum", resolving_power=np.inf,
    ...                          origin="an example", progress=False).name
    'imported.h5'
    """
    source, out, table = Path(source), Path(out), None if label_table is None else Path(label_table)
    target = _checked_form(source, out, medium, resolving_power, form)
    try:
        found = open_source(source, table)
        provenance = {
            "origin": origin, "imported_from": source.name, "imported_sha256": checksum(source),
            "imported_labels_sha256": "" if table is None else checksum(table), "imported_medium": medium,
            "imported_resolving_power": resolving_power,
        }  # fmt: skip
    except OSError as error:
        raise UserError(f"{error.filename or source}: cannot be read ({error.strerror or error})") from error
    parts = GridParts(out)
    with parts.lock():
        _begin(parts, found, target, provenance, seed)
        _write_rows(parts, found, medium, resolving_power, target, progress)
        if not parts.rows():
            reason = next(iter(parts.failures().values()), "it holds no spectrum")
            parts.remove()
            raise UserError(f"{source}: no spectrum could be imported: {reason}")
        return collect(out)


def _checked_form(source: Path, out: Path, medium: str, resolving_power: float, form: str) -> SpectrumForm:
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
    if out.exists():
        raise UserError(f"{out}: exists already, remove it or choose another --out")
    return target


def _begin(
    parts: GridParts, found: SpectrumSource, target: SpectrumForm, provenance: Mapping[str, Any], seed: int
) -> None:
    """Begin the folder of rows, or make sure that those in it are of the same import."""
    manifest = make_manifest(grid_attributes(target, provenance, seed), target.wave, has_jacobian=found.has_jacobian)
    if not parts.exists():
        parts.write_manifest(manifest, found.labels, split_rows(len(found.labels), seed))
    elif not _same_import(parts.manifest(), manifest):
        raise UserError(
            f"{parts.folder}: holds an unfinished grid of other spectra or options, remove the folder or choose "
            "another --out"
        )


def _write_rows(
    parts: GridParts, found: SpectrumSource, medium: str, resolving_power: float, target: SpectrumForm, progress: bool
) -> None:
    """Write the rows that are not yet there: spectra, or why there is none."""
    done = parts.whole_rows()
    for i in tqdm(range(len(found.labels)), desc="import", disable=not progress):
        if i in done:
            continue
        try:
            flux, continuum, jacobian = _convert(found.read(i), medium, resolving_power, target)
        except (ValueError, UserError) as error:
            parts.write_failure(i, str(error))
        else:
            parts.write_row(i, found.labels[i], flux, continuum, jacobian)


def _same_import(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two manifests are of one import, at whatever time it was begun."""

    def what(manifest: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in manifest["attrs"].items() if name != "created"}

    return what(before) == what(now)


def _convert(
    spectrum: ForeignSpectrum, medium: str, resolving_power: float, form: SpectrumForm
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    wave = air_to_vacuum(spectrum.wave) if medium == "air" else spectrum.wave
    flux = spectrum.flux
    if not (np.isfinite(wave).all() and np.isfinite(flux).all()):
        raise ValueError("the spectrum holds values that are not finite")
    if len(wave) < 2 or not (np.diff(wave) > 0).all():
        raise ValueError("the wavelengths do not increase")
    want = form.wave
    if wave[0] > want[0] or wave[-1] < want[-1]:
        raise ValueError(
            f"the spectrum covers {wave[0]:.1f}-{wave[-1]:.1f} Å (vacuum), expected {want[0]:.1f}-{want[-1]:.1f} Å"
        )
    continuum = np.full(len(CONTINUUM_WAVE), np.nan)
    if spectrum.continuum is not None:
        if not ((spectrum.continuum > 0) & np.isfinite(spectrum.continuum)).all():
            raise ValueError("the continuum is not positive and finite everywhere")
        flux = flux / spectrum.continuum
        continuum = np.interp(CONTINUUM_WAVE, wave, spectrum.continuum)
    stack = flux[None] if spectrum.jacobian is None else np.concatenate([flux[None], spectrum.jacobian])
    if not np.isfinite(stack).all():
        raise ValueError("the derivatives hold values that are not finite")
    grid, stack = _log_uniform(wave, stack, resolving_power, form)
    low = degrade_to(want, form.resolving_power, grid, stack, resolving_power)
    best = envelope(low[0])
    if not ENVELOPE[0] < best < ENVELOPE[1]:
        raise ValueError(
            f"the flux is not normalised: its upper envelope is {best:.3g}, expected about 1; give the continuum "
            "as well"
        )
    return low[0], continuum, None if spectrum.jacobian is None else low[1:]


def _log_uniform(wave: Array, stack: Array, resolving_power: float, form: SpectrumForm) -> tuple[Array, Array]:
    """The spectra on a log-uniform grid: as they are if they lie on one, else interpolated."""
    steps = np.diff(np.log(wave))
    kernel = math.sqrt(1 / form.resolving_power**2 - 1 / resolving_power**2) / 2.355
    if steps.max() > kernel:
        raise ValueError(
            f"the wavelength step reaches {steps.max():.1e} in ln(wave), expected at most {kernel:.1e} "
            f"for R = {form.resolving_power:g}"
        )
    if np.ptp(steps) < 1e-3 * steps.mean():
        return wave, stack
    step = min(np.quantile(steps, 0.05), kernel / 2)
    grid = wave[0] * np.exp(step * np.arange(int(np.log(wave[-1] / wave[0]) / step) + 1))
    grid = np.append(grid, grid[-1] * np.exp(step))
    return grid, np.stack([np.interp(grid, wave, values) for values in stack])
