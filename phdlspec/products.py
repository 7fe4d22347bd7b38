"""Results on disk: an ECSV of labels and an HDF5 of everything else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phdlspec.errors import UserError
from phdlspec.fitting.result import FitResult
from phdlspec.flags import label_words, star_words

FORMAT = "phdlspec-fit"


def write_ecsv(result: FitResult, path: str | Path, provenance: Mapping[str, Any]) -> None:
    """One row per parameter: label, value, err, p16, p50, p84, crlb, flag, unit, comment; the rest is in the header."""
    path = Path(path)
    table = result.labels.copy()
    table["comment"] = ["; ".join(label_words(int(flag))) for flag in result.label_flag]
    table.meta = {
        "file": result.path, "flag": result.flag, "flag_words": star_words(result.flag), "reason": result.reason,
        "mode": result.mode, "stop_reason": result.stop_reason, "chi2": result.chi2, "rchi2": result.rchi2,
        "npix": result.npix, "snr": result.snr, "diagnostics": dict(result.diagnostics),
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()}, **provenance,
    }  # fmt: skip
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        table.write(temporary, format="ascii.ecsv", overwrite=True)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_hdf5(result: FitResult, path: str | Path, provenance: Mapping[str, Any]) -> None:
    """Parameters, covariance, draws, best model, continuum and masks of one star.

    ```
    /            attrs: format, file, flag, reason, mode, provenance (JSON), diagnostics (JSON)
    ├── names (D,) str; value, err, p16, p50, p84, crlb (D,); label_flag (D,); covariance (D, D)
    ├── draws (N, D)                     equally weighted draws from the posterior
    └── spectrum/ wave, flux, sigma, model, continuum, normalised (P,); used, outlier (P,) bool; jacobian (P, D)
    ```
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs["format"] = FORMAT
            for name in ("path", "flag", "reason", "mode", "stop_reason", "chi2", "npix", "snr"):
                file.attrs["file" if name == "path" else name] = getattr(result, name)
            file.attrs["provenance"] = json.dumps(dict(provenance), default=str)
            file.attrs["diagnostics"] = json.dumps(dict(result.diagnostics))
            file["names"] = [name.encode() for name in result.names]
            for name in ("value", "err", "p16", "p50", "p84", "crlb", "label_flag", "covariance"):
                file[name] = getattr(result, name)
            if result.draws is not None:
                file.create_dataset("draws", data=result.draws.astype(np.float32), compression="gzip")
            if result.spectrum is not None:
                group = file.create_group("spectrum")
                for name, values in vars(result.spectrum).items():
                    kind = np.float64 if name == "wave" else np.bool_ if values.dtype == bool else np.float32
                    group.create_dataset(name, data=values.astype(kind), compression="gzip")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)
