"""Results on disk: an ECSV of labels and an HDF5 of everything else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phdlspec.errors import UserError, first_line
from phdlspec.files import replacing
from phdlspec.fitting.result import Fitted, Given, ModelSpectrum
from phdlspec.flags import label_words, star_words
from phdlspec.foreign import is_there
from phdlspec.hdf5_check import check_hdf5

FORMAT = "phdlspec-fit"
ARRAYS = ("value", "err", "p16", "p50", "p84", "crlb", "label_flag")


def write_ecsv(result: Fitted, path: str | Path, provenance: Mapping[str, Any]) -> None:
    """One row per parameter: label, value, err, p16, p50, p84, crlb, flag, unit, comment; the rest is in the header."""
    path = Path(path)
    table = result.labels.copy()
    table["comment"] = ["; ".join(label_words(int(flag))) for flag in result.label_flag]
    told = {
        "file": result.path, "flag": result.flag, "flag_words": star_words(result.flag), "reason": result.reason,
        "mode": result.mode, "stop_reason": result.stop_reason, "chi2": result.chi2, "rchi2": result.rchi2,
        "npix": result.npix, "snr": result.snr,
        "warnings": [str(words) for words in result.meta.get("WARNINGS", ())],
        "given": [str(given) for given in result.given], "diagnostics": dict(result.diagnostics),
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()}, **provenance,
    }  # fmt: skip
    table.meta = _writable(told)
    with replacing(path) as temporary:
        table.write(temporary, format="ascii.ecsv", overwrite=True)


def write_hdf5(result: Fitted, path: str | Path, provenance: Mapping[str, Any]) -> None:
    """Parameters, covariance, draws, best model, continuum and masks of one star.

    ```
    /            attrs: format, file, flag, reason, mode, stop_reason, chi2, npix, snr; as JSON: provenance,
    │                   diagnostics, seconds, meta (what the spectrum's file says)
    ├── names (D,) str; value, err, p16, p50, p84, crlb (D,); label_flag (D,); covariance (D, D)
    ├── draws (N, D)                     equally weighted draws from the posterior
    └── spectrum/ wave, flux, sigma, model, continuum, normalised (P,); used, outlier (P,) bool; jacobian (P, D);
                  plain (P,): normalised without the bridge, where there is one
    ```
    """
    path = Path(path)
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"] = FORMAT
        for name in ("path", "flag", "reason", "mode", "stop_reason", "chi2", "npix", "snr"):
            file.attrs["file" if name == "path" else name] = getattr(result, name)
        told = {"provenance": provenance, "diagnostics": result.diagnostics, "seconds": result.seconds,
                "meta": result.meta}  # fmt: skip
        for name, values in told.items():
            file.attrs[name] = json.dumps(dict(values), default=_plain)
        file.attrs["given"] = json.dumps([asdict(given) for given in result.given])
        if result.crlb_alone is not None:
            file["crlb_alone"] = result.crlb_alone
        file["names"] = [name.encode() for name in result.names]
        for name in ARRAYS:
            file[name] = getattr(result, name)
        file["covariance"] = result.cov
        if result.draws is not None:
            file.create_dataset("draws", data=result.draws.astype(np.float32), compression="gzip")
        if result.spectrum is not None:
            group = file.create_group("spectrum")
            for name, values in vars(result.spectrum).items():
                if values is None:
                    continue
                kind = np.float64 if name == "wave" else np.bool_ if values.dtype == bool else np.float32
                group.create_dataset(name, data=values.astype(kind), compression="gzip")


def _writable(value: Any) -> Any:
    # Names of files that are not in the system's encoding, and all else that UTF-8 cannot hold, escaped.
    if isinstance(value, Mapping):
        return {_writable(key): _writable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_writable(item) for item in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    # numpy's scalars as numbers, anything else as text.
    return value.item() if isinstance(value, np.generic) else str(value)


def read_hdf5(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of a `Fitted` that `write_hdf5` wrote, and its provenance. Raises `UserError` for other files."""
    if path.suffix.lower() not in (".h5", ".hdf5"):
        raise UserError(f"{path}: expected the .h5 of a fit, which has all of it; QTable.read reads its .ecsv")
    if not is_there(path):
        raise UserError(f"{path}: there is no such file, expected the .h5 of a fit")
    check_hdf5(path)
    try:
        with h5py.File(path) as file:
            attrs = dict(file.attrs)
            if attrs.get("format") != FORMAT:
                raise UserError(f"{path}: HDF5, but no result of a fit (format {FORMAT!r} expected)")
            values: dict[str, Any] = {name: file[name][()] for name in ARRAYS}
            values["cov"] = file["covariance"][()]
            values["crlb_alone"] = file["crlb_alone"][()] if "crlb_alone" in file else None
            values["names"] = tuple(name.decode() for name in file["names"][()])
            values["draws"] = file["draws"][()].astype(np.float64) if "draws" in file else None
            values["spectrum"] = _model_of(file["spectrum"]) if "spectrum" in file else None
        values |= {name: str(attrs["file" if name == "path" else name]) for name in ("path", "reason", "mode")}
        values |= {"flag": int(attrs["flag"]), "npix": int(attrs["npix"]), "stop_reason": str(attrs["stop_reason"])}
        values["given"] = tuple(Given(**given) for given in json.loads(attrs.get("given", "[]")))
        values |= {"chi2": float(attrs["chi2"]), "snr": float(attrs["snr"])}
        values |= {name: json.loads(attrs.get(name, "{}")) for name in ("diagnostics", "seconds", "meta")}
        return values, json.loads(attrs["provenance"])
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged or half-written ({first_line(error)}); fit the star again") from error


def _model_of(group: h5py.Group) -> ModelSpectrum:
    arrays = {name: data[()] for name, data in group.items()}
    kept = ("used", "outlier", "jacobian")
    return ModelSpectrum(**{n: a if n in kept else a.astype(np.float64) for n, a in arrays.items()})
