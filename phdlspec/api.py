"""Fitting from Python: one spectrum or many, from files or from objects in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from phdlspec.catalog.chunks import fit_spectra
from phdlspec.catalog.inputs import expand_inputs, read_reference
from phdlspec.catalog.job import CHUNK
from phdlspec.catalog.progress import StarBar
from phdlspec.catalog.rows import to_arrays, to_table
from phdlspec.columns import columns_with
from phdlspec.default_emulator import load_emulator
from phdlspec.direct_synthesis import DirectSynthesis
from phdlspec.emulator.bridge import bridged, told
from phdlspec.emulator.emulator import Emulator
from phdlspec.errors import UserError
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.progress import listening
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import MODES, FitSettings
from phdlspec.flags import StarFlag
from phdlspec.io import from_specutils, reading
from phdlspec.io.table import from_table
from phdlspec.provenance import provenance
from phdlspec.resolution import ResolvingPower, resolving_power_at
from phdlspec.results import FitResult
from phdlspec.solar import SOLAR_SCALE
from phdlspec.spectrum import Spectrum


def as_spectrum(source: Any, medium: str | None = None, resolving_power: ResolvingPower | None = None) -> Spectrum:
    """A `Spectrum` from whatever holds one.

    Parameters
    ----------
    source : a path (`read_spectrum` tells formats apart; `coadd.fits[12]` is a row of a file with several), a
        `Spectrum`, a `specutils` object, or an astropy table with wavelength, flux and uncertainty.
    medium : "air" or "vacuum", where the source does not state it.
    resolving_power : where the source does not state it or it is to be replaced: number, arrays, table, survey's name.

    Raises
    ------
    UserError : for anything else, and for a spectrum that cannot be fitted.

    >>> star = phdlspec.as_spectrum(path, resolving_power="LAMOST")
    >>> phdlspec.as_spectrum(star) is star
    True
    """
    if isinstance(source, Spectrum):
        if resolving_power is None:
            return source
        return replace(source, resolving_power=resolving_power_at(resolving_power, source.wave))
    if isinstance(source, (str, Path)):
        with reading(str(source)):
            return read_reference(str(source), medium, resolving_power)
    if isinstance(source, Table):
        return from_table(source, medium=medium, resolving_power=resolving_power)
    if hasattr(source, "spectral_axis") and hasattr(source, "flux"):
        return from_specutils(source, resolving_power, medium)
    hint = "; fit_many takes several" if isinstance(source, (list, tuple, np.ndarray)) else ""
    raise UserError(
        f"cannot fit a {type(source).__name__}: expected a path, a phdlspec.Spectrum, a specutils object or an astropy "
        f"table{hint}"
    )


def fit(
    spectrum: Any,
    emulator: Emulator | str | Path | None = None,
    mode: str = "full",
    seed: int = 1,
    *,
    direct: DirectSynthesis | None = None,
    medium: str | None = None,
    resolving_power: ResolvingPower | None = None,
    **settings: Any,
) -> FitResult:
    """Fit one spectrum.

    Parameters
    ----------
    spectrum : a path, a `Spectrum`, a `specutils` object or an astropy table (`as_spectrum`).
    emulator : what `load_emulator` gives, or a checkpoint's path; the shipped one by default.
    mode : "fast" takes seconds; "full" samples the posterior whatever its shape. seed : of everything random.
    direct : of `load_direct_synthesis`: the best model is verified by it and, with `refine=True`, refined.
    medium, resolving_power : where the spectrum does not state them, see `as_spectrum`.
    **settings : those of `FitSettings`: sampler, priors, masks, resolution_width ...

    Returns
    -------
    FitResult, with the best model and draws from the posterior.

    Raises
    ------
    UserError : where the spectrum cannot be read or fitted, or an argument is none.

    >>> known = phdlspec.fit(path, mode="fast", known={"TEFF": 4810.0, "FE_H": (0.0, 0.3)})
    >>> known["TEFF"].err < result["TEFF"].err
    True
    """
    chosen = _settings(mode, seed, settings)
    model = _emulator(emulator)
    result = fit_batch([as_spectrum(spectrum, medium, resolving_power)], model, chosen, keep=True, direct=direct)[0]
    if result.flag & StarFlag.FAILED:
        raise UserError(result.reason)
    return FitResult.of(result, {**provenance(model, chosen, []), "command": "phdlspec.fit"})


def fit_many(
    spectra: Any,
    emulator: Emulator | str | Path | None = None,
    mode: str = "fast",
    seed: int = 1,
    *,
    medium: str | None = None,
    resolving_power: ResolvingPower | None = None,
    progress: bool = False,
    columns: Sequence[str] = (),
    **settings: Any,
) -> Table:
    """Fit many spectra in memory; a table with one row each, in their order and with a catalogue's columns.

    Parameters
    ----------
    spectra : what `fit` takes, many of them; or a folder, a pattern, a list of paths or a packed HDF5, as a string.
    progress : draw a bar. columns : more than the usual ones: some of "percentiles", "xh" ([X/H] with errors) and
        "flag-names".

    The other parameters are those of `fit`. A spectrum that cannot be read or fitted is a row with FLAG and REASON.
    For surveys the command `phdlspec catalog` stores what is finished and resumes.

    >>> catalogue = phdlspec.fit_many([spectrum, path], emulator, columns=["xh"])
    >>> len(catalogue), catalogue["MG_H"].unit == "dex"
    (2, True)
    """
    columns_with(columns)  # those that there are not are refused before the work
    chosen = _settings(mode, seed, settings)
    model = _emulator(emulator)
    sources, names = _many(spectra)
    results: list[Fitted] = []
    with StarBar(len(sources), shown=progress) as bar:
        for start in range(0, len(sources), CHUNK):
            part = [_read(s, medium, resolving_power) for s in sources[start : start + CHUNK]]
            size = len(part)
            with listening(bar.listener(size), mode):
                results += fit_spectra(part, model, chosen)
            bar.finished(size)
    table = to_table(to_arrays(results, names), columns)
    table.meta = {"EMUHASH": model.checkpoint_hash[:16], "SOLSCALE": SOLAR_SCALE, "SEED": seed}
    table.meta["BRIDGE"] = told(bridged(model, chosen.bridge))
    return table


def _many(spectra: Any) -> tuple[list[Any], list[str]]:
    """Every source and what it is called."""
    if isinstance(spectra, (str, Path)):
        found: list[Any] = list(expand_inputs([spectra]))
    elif isinstance(spectra, Iterable) and not isinstance(spectra, (Spectrum, Table)):
        found = list(spectra)
    else:
        raise UserError(f"fit_many takes many spectra, not one {type(spectra).__name__}: give a list, or use fit")
    return found, [str(s) if isinstance(s, (str, Path)) else str(getattr(s, "path", "")) for s in found]


def _read(source: Any, medium: str | None, resolving_power: ResolvingPower | None) -> Spectrum | Fitted:
    try:
        return as_spectrum(source, medium, resolving_power)
    except UserError as error:
        path = str(source) if isinstance(source, (str, Path)) else ""
        return Fitted.failed(path, str(error), StarFlag.UNREADABLE)


@lru_cache(maxsize=1)
def _shipped() -> Emulator:
    return load_emulator()


def _emulator(emulator: Any) -> Emulator:
    if isinstance(emulator, Emulator):
        return emulator
    if emulator is None:
        return _shipped()
    if emulator in MODES:
        raise UserError(f"the second argument is the emulator; the mode is given by name: mode={emulator!r}")
    if isinstance(emulator, (str, Path)):
        return load_emulator(emulator)
    raise UserError(f"emulator is a {type(emulator).__name__}, expected what load_emulator gives, or a checkpoint")


def _settings(mode: str, seed: int, given: dict[str, Any]) -> FitSettings:
    names = [item.name for item in fields(FitSettings)]
    for name in given:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f", did you mean {near[0]}?" if near else f"; they are {' '.join(names)}"
            raise UserError(f"there is no setting {name!r}{hint}")
    return FitSettings(mode=mode, seed=seed, **given)
