"""Rows of a catalogue: from fit results to arrays, and from arrays to the FITS table with units and comments."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.fitting.result import NUISANCES, PARAMETER_UNITS, FitResult
from phdlspec.flags import LABEL_WORDS, STAR_WORDS
from phdlspec.labels import LabelSet

NAMES: tuple[str, ...] = tuple(PARAMETER_UNITS)
_PER_LABEL = {
    "value": ("", "posterior mean"), "err": ("_ERR", "posterior standard deviation"),
    "crlb": ("_CRLB", "Cramer-Rao bound, all else marginalised"),
    "label_flag": ("_FLAG", "bits, see LFLAG in the header"),
}  # fmt: skip
_META = {"OBSID": "S", "RA": "f8", "DEC": "f8", "SNRG": "f4", "Z": "f4", "CLASS": "S", "SUBCLASS": "S"}
_DIAGNOSTICS = {
    "pareto_k": ("PARETO_K", "shape of the importance weights' tail; above 0.63 the fast posterior is doubtful"),
    "ess": ("ESS", "effective number of draws of the posterior"),
    "outliers": ("NOUTLIER", "pixels left out because no noise explains them"),
    "red_arm_km_s": ("RED_SHIFT", "velocity of the last arm against the first, km/s, taken out"),
    "velocity_significance": ("RV_SIG", "sigma by which the velocity stands above any other"),
}
_TEXT = ("OBSID", "FILE", "CLASS", "SUBCLASS", "mode", "stop_reason", "reason")
_CORRELATION_UNIT = 127.0
_FITS_BLOCK = 2880

Arrays = dict[str, NDArray]


def to_arrays(results: Sequence[FitResult], references: Sequence[str]) -> Arrays:
    """Results of a chunk as arrays (n, ...), the form in which chunks are stored."""
    n, size = len(results), len(NAMES)
    arrays: Arrays = {name: np.full((n, size), np.nan) for name in ("value", "err", "crlb")}
    arrays["label_flag"] = np.zeros((n, size), dtype=np.int16)
    arrays["correlation"] = np.zeros((n, size * (size - 1) // 2), dtype=np.int8)
    lower = np.tril_indices(size, -1)
    for row, result in enumerate(results):
        place = [NAMES.index(name) for name in result.names]
        for name in ("value", "err", "crlb", "label_flag"):
            arrays[name][row, place] = getattr(result, name)
        full = np.zeros((size, size))
        with np.errstate(all="ignore"):
            full[np.ix_(place, place)] = np.nan_to_num(result.covariance / np.outer(result.err, result.err))
        arrays["correlation"][row] = np.rint(full[lower].clip(-1, 1) * _CORRELATION_UNIT)
    arrays["FILE"] = _text(references)
    for name, kind in _META.items():
        values = [result.meta.get(name) for result in results]
        if kind == "S":
            arrays[name] = _text(["" if v is None else str(v) for v in values])
        else:
            arrays[name] = np.array([_number(v) for v in values], dtype=kind)
    for name in ("flag", "npix"):
        arrays[name] = np.array([getattr(result, name) for result in results], dtype=np.int32)
    for name in ("chi2", "rchi2", "snr"):
        arrays[name] = np.array([_number(getattr(result, name)) for result in results], dtype=np.float32)
    for name in _DIAGNOSTICS:
        arrays[name] = np.array([_number(r.diagnostics.get(name)) for r in results], dtype=np.float32)
    for name in ("mode", "reason", "stop_reason"):
        arrays[name] = _text([getattr(result, name) for result in results])
    arrays["seconds"] = np.array([sum(r.seconds.values()) for r in results], dtype=np.float32)
    return arrays


def _text(values: Sequence[str]) -> NDArray[np.str_]:
    # FITS tables hold ASCII alone; a file's name or a reason may not.
    plain = [str(v).replace("Å", "A").encode("ascii", "backslashreplace").decode() for v in values]
    return np.array(plain, dtype=np.str_)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def to_table(arrays: Mapping[str, NDArray]) -> Table:
    """The catalogue's table of the rows of all chunks, with units and descriptions."""
    table = Table()

    def add(name: str, values: NDArray, description: str, unit: str = "") -> None:
        table[name] = values
        table[name].description = description
        if unit:
            table[name].unit = unit

    add("OBSID", arrays["OBSID"], "identifier in the survey")
    add("FILE", arrays["FILE"], "where the spectrum came from")
    add("RA", arrays["RA"], "right ascension", "deg")
    add("DEC", arrays["DEC"], "declination", "deg")
    add("SNR", arrays["snr"], "median signal-to-noise ratio per used pixel")
    add("SNRG", arrays["SNRG"], "signal-to-noise ratio in g, of the file's header")
    add("CLASS", arrays["CLASS"], "class of the file's header")
    add("SUBCLASS", arrays["SUBCLASS"], "subclass of the file's header")
    labels = LabelSet()
    words = {label.name: label.description for label in labels}
    words |= {"RV": "radial velocity in the frame of the wavelengths", "LN_RESOLUTION": "ln factor on the resolution"}
    for name in ("RV", *labels.names, *(n for n, _ in NUISANCES if n != "RV")):
        i = NAMES.index(name)
        for field, (suffix, what) in _PER_LABEL.items():
            values = arrays[field][:, i]
            kind = np.int16 if field == "label_flag" else np.float32
            unit = "" if field == "label_flag" else PARAMETER_UNITS[name]
            add(name + suffix, values.astype(kind), words[name] if not suffix else f"{name}: {what}", unit)
    add("CHI2", arrays["chi2"], "of the best model")
    add("RCHI2", arrays["rchi2"], "chi2 per degree of freedom")
    add("NPIX", arrays["npix"], "pixels used")
    for field, (name, description) in _DIAGNOSTICS.items():
        add(name, arrays[field], description)
    add("MODE", arrays["mode"], "what was really done: fast, hmc, emcee, none")
    add("STOP", arrays["stop_reason"], "why the optimiser stopped")
    add("FLAG", arrays["flag"], "bits, see SFLAG in the header; 0 is good")
    add("REASON", arrays["reason"], "why there is no result")
    add("SECONDS", arrays["seconds"], "share of the computing time", "s")
    return table


def write_fits(chunks: Callable[[], Iterator[Arrays]], path: str | Path, header: Mapping[str, Any]) -> None:
    """The FITS file: the table, and the lower triangles of the correlation matrices as int8 (unit 1/127).

    `chunks` gives the chunks in order, anew at each call: they are gone through three times, one in memory at a time,
    so that the size of a catalogue does not matter.
    """
    size, widths = _extent(chunks())
    with open(path, "wb") as file:
        file.write(_bytes(fits.PrimaryHDU()))
        _append(file, (_table_hdu(arrays, widths, header) for arrays in chunks()), size)
        _append(file, (_triangles_hdu(arrays["correlation"]) for arrays in chunks()), size)


def _extent(chunks: Iterator[Arrays]) -> tuple[int, dict[str, int]]:
    # Number of rows, and the greatest length of each column of text.
    size, widths = 0, dict.fromkeys(_TEXT, 1)
    for arrays in chunks:
        size += len(arrays["flag"])
        widths = {name: max(width, arrays[name].dtype.itemsize // 4) for name, width in widths.items()}
    return size, widths


def _append(file: BinaryIO, parts: Iterator[fits.BinTableHDU], size: int) -> None:
    # One table extension from parts that have the same columns.
    written = 0
    for number, part in enumerate(parts):
        row_length = part.header["NAXIS1"]
        content = _bytes(part)
        rows = row_length * part.header["NAXIS2"]
        if number == 0:
            whole = part.header.copy()
            whole["NAXIS2"] = size
            file.write(whole.tostring().encode("ascii"))
        start = len(part.header.tostring())
        file.write(content[start : start + rows])
        written += rows
    file.write(b"\0" * (-written % _FITS_BLOCK))


def _bytes(hdu: fits.PrimaryHDU | fits.BinTableHDU) -> bytes:
    # The unit as it stands in a file, header and data.
    buffer = io.BytesIO()
    if isinstance(hdu, fits.PrimaryHDU):
        hdu.writeto(buffer)
        return buffer.getvalue()
    primary = fits.PrimaryHDU()
    fits.HDUList([primary, hdu]).writeto(buffer)
    return buffer.getvalue()[len(primary.header.tostring()) :]


def _table_hdu(arrays: Arrays, widths: Mapping[str, int], header: Mapping[str, Any]) -> fits.BinTableHDU:
    table = to_table({name: a.astype(f"U{widths[name]}") if name in widths else a for name, a in arrays.items()})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The unit 'dex' could not be saved")
        rows = fits.table_to_hdu(table)
    rows.name = "CATALOG"
    for i, name in enumerate(table.colnames, start=1):
        rows.header.comments[f"TTYPE{i}"] = str(table[name].description)[:47]
        rows.header[f"TCOMM{i}"] = str(table[name].description)
    for key, value in header.items():
        text = str(value)
        if len(key) > 8 or len(text) > 60:
            rows.header.add_history(f"{key}: {text}")
        else:
            rows.header[key.upper()] = value
    for bit, text in STAR_WORDS.items():
        rows.header.add_comment(f"SFLAG {int(bit)}: {text}")
    for label_bit, text in LABEL_WORDS.items():
        rows.header.add_comment(f"LFLAG {int(label_bit)}: {text}")
    return rows


def _triangles_hdu(correlation: NDArray[np.int8]) -> fits.BinTableHDU:
    column = fits.Column(name="CORRELATION", format=f"{correlation.shape[1]}B", bzero=-128, array=correlation)
    triangles = fits.BinTableHDU.from_columns([column], name="CORRELATION")
    triangles.header["SCALE"] = (1.0 / _CORRELATION_UNIT, "correlation = SCALE * value")
    triangles.header.add_comment("lower triangles by rows, without the diagonal, of the parameters:")
    triangles.header.add_comment(" ".join(NAMES))
    return triangles


def read_catalog(path: str | Path) -> Table:
    """The table of a FITS catalogue, its numbers left on disk until they are used."""
    return Table.read(path, hdu="CATALOG", memmap=True, mask_invalid=False)


def covariance(path: str, row: int) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Names (D,) and covariance (D, D) of one star of a FITS catalogue, correlations good to 0.004."""
    with fits.open(path) as hdus:
        star, triangle = hdus["CATALOG"].data[row], hdus["CORRELATION"].data["CORRELATION"][row]
        err = np.array([star[f"{name}_ERR"] for name in NAMES], dtype=float)
    matrix = np.eye(len(NAMES))
    matrix[np.tril_indices(len(NAMES), -1)] = triangle / _CORRELATION_UNIT
    matrix = matrix + np.tril(matrix, -1).T
    return NAMES, matrix * np.outer(err, err)
