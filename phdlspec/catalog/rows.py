"""Rows of a catalogue: from fit results to arrays, and from arrays to the FITS table with units and comments."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.columns import ON_REQUEST, PARAMETER_UNITS, QUANTITIES, Column, ColumnRole, Origin, columns_with
from phdlspec.errors import ascii_text
from phdlspec.fitting.result import Fitted
from phdlspec.flags import LABEL_WORDS, STAR_WORDS
from phdlspec.labels import ELEMENTS, abundance_name
from phdlspec.tables import table_hdu

NAMES: tuple[str, ...] = tuple(PARAMETER_UNITS)
_ABUNDANCES = tuple(abundance_name(element) for element in ELEMENTS)
_OF_STAR = tuple(column for column in columns_with(ON_REQUEST) if not column.parameter)
_TEXT = tuple(column.name for column in _OF_STAR if column.dtype == "U")
_CORRELATION_UNIT = 127.0
_FITS_BLOCK = 2880

Values = NDArray[Any]
Arrays = dict[str, Values]


def to_arrays(results: Sequence[Fitted], references: Sequence[str]) -> Arrays:
    """Results of a chunk as arrays, the form in which chunks are stored: what is told of each parameter (n, D) under
    its field, x_h and x_h_err (n, 28), lower triangles of the correlations (n, D (D - 1) / 2) as int8, all else (n,)
    under its column."""
    arrays = _of_parameters(results)
    for column in _OF_STAR:
        values = [_found(column, result, reference) for result, reference in zip(results, references)]
        if column.dtype == "U":
            arrays[column.name] = _text(["" if value is None else str(value) for value in values])
        else:
            with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
                arrays[column.name] = np.array([_number(value) for value in values]).astype(column.dtype)
    return arrays


def _of_parameters(results: Sequence[Fitted]) -> Arrays:
    n, size = len(results), len(NAMES)
    arrays: Arrays = {
        q.field: np.zeros((n, size), q.dtype) if q.role is ColumnRole.FLAG else np.full((n, size), np.nan)
        for q in QUANTITIES
    }
    arrays["x_h"], arrays["x_h_err"] = np.full((2, n, len(ELEMENTS)), np.nan, dtype=np.float32)
    arrays["correlation"] = np.zeros((n, size * (size - 1) // 2), dtype=np.int8)
    lower = np.tril_indices(size, -1)
    for row, result in enumerate(results):
        place = [NAMES.index(name) for name in result.names]
        arrays["x_h"][row], arrays["x_h_err"][row] = result.on_hydrogen()
        for quantity in QUANTITIES:
            arrays[quantity.field][row, place] = getattr(result, quantity.field)
        full = np.zeros((size, size))
        with np.errstate(all="ignore"):
            full[np.ix_(place, place)] = np.nan_to_num(result.cov / np.outer(result.err, result.err))
        arrays["correlation"][row] = np.rint(full[lower].clip(-1, 1) * _CORRELATION_UNIT)
    return arrays


def _found(column: Column, result: Fitted, reference: str) -> Any:
    """What a result says for a column of the star; None where it does not say it."""
    if column.origin is Origin.REFERENCE:
        return reference
    if column.origin is Origin.META:
        return result.meta.get(column.key)
    if column.origin is Origin.DIAGNOSTICS:
        return result.diagnostics.get(column.key)
    return getattr(result, column.key)


def _text(values: Sequence[str]) -> NDArray[np.str_]:
    return np.array([ascii_text(str(value)) for value in values], dtype=np.str_)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def to_table(arrays: Mapping[str, Values], groups: Collection[str] = ()) -> Table:
    """The catalogue's table of the rows of all chunks, with units and descriptions.

    groups : of columns on request (`phdlspec.columns.ON_REQUEST`).
    """
    table = Table()
    for column in columns_with(groups):
        if column.parameter:
            place = (_ABUNDANCES if column.role is ColumnRole.ON_HYDROGEN else NAMES).index(column.parameter)
            with np.errstate(over="ignore"):
                values = arrays[column.key][:, place].astype(column.dtype)
        else:
            values = arrays[column.name]
        table[column.name] = values
        table[column.name].description = column.comment
        if column.unit:
            table[column.name].unit = column.unit
    return table


def write_fits(
    chunks: Callable[[], Iterator[Arrays]], path: str | Path, header: Mapping[str, Any], groups: Collection[str] = ()
) -> None:
    """The FITS file: the table, and the lower triangles of the correlation matrices as int8 (unit 1/127).

    `chunks` gives the chunks in order, anew at each call: they are gone through three times, one in memory at a time,
    so that the size of a catalogue does not matter. groups : of columns on request.
    """
    size, widths = _extent(chunks())
    with open(path, "wb") as file:
        file.write(_bytes(fits.PrimaryHDU()))
        _append(file, (_table_hdu(arrays, widths, header, groups) for arrays in chunks()), size)
        _append(file, (_triangles_hdu(arrays["correlation"]) for arrays in chunks()), size)


def _extent(chunks: Iterator[Arrays]) -> tuple[int, dict[str, int]]:
    # Number of rows, and the greatest length of each column of text.
    size, widths = 0, dict.fromkeys(_TEXT, 1)
    for arrays in chunks:
        size += len(arrays["FLAG"])
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


def _table_hdu(
    arrays: Arrays, widths: Mapping[str, int], header: Mapping[str, Any], groups: Collection[str]
) -> fits.BinTableHDU:
    same = {name: a.astype(f"U{widths[name]}") if name in widths else a for name, a in arrays.items()}
    table = to_table(same, groups)
    rows = table_hdu(table, "catalogue")
    rows.name = "CATALOG"
    for key, value in header.items():
        text = ascii_text(str(value))  # FITS headers hold nothing else
        if len(key) > 8 or len(text) > 60:
            rows.header.add_history(f"{key}: {text}")
        else:
            rows.header[key.upper()] = text if isinstance(value, str) else value
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


def covariance(path: str, row: int) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Names (D,) and covariance (D, D) of one star of a FITS catalogue, correlations good to 0.004."""
    with fits.open(path) as hdus:
        star, triangle = hdus["CATALOG"].data[row], hdus["CORRELATION"].data["CORRELATION"][row]
        err = np.array([star[f"{name}_ERR"] for name in NAMES], dtype=float)
    matrix = np.eye(len(NAMES))
    matrix[np.tril_indices(len(NAMES), -1)] = triangle / _CORRELATION_UNIT
    matrix = matrix + np.tril(matrix, -1).T
    return NAMES, matrix * np.outer(err, err)
