"""Gaia XP continuous coefficients from the files that people have, divided by the flux in G.

CSV and ECSV (gzipped or not) are read row by row, for Gaia's own files have hundreds of thousands of them; FITS,
VOTable and Parquet as a whole. An array may be an array or a string, "(1.0, 2.0)" or "[1.0,2.0]". The correlations of
the coefficients' errors are not used: the model is told their diagonal alone, as by the authors.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from phdlspec.datadriven.scatter_vae.xp_network import COEFFICIENTS
from phdlspec.errors import UserError, first_line
from phdlspec.tables import find_column, number_column, read_any_table, text_column

EACH = COEFFICIENTS // 2  # of BP, and of RP
G_ZERO_POINT = 25.6873668671  # mag, Gaia DR3, Vega
NORMALISATIONS = ("gflux", "power")
TEXT_ENDINGS = (".csv", ".csv.gz", ".ecsv", ".ecsv.gz")
TABLE_ENDINGS = (*TEXT_ENDINGS, ".fits", ".fit", ".fits.gz", ".fit.gz", ".vot", ".xml", ".parquet")
_ARRAYS = tuple(f"{arm}_{what}" for what in ("coefficients", "coefficient_errors") for arm in ("bp", "rp"))
_FLUX, _MAGNITUDE = "phot_g_mean_flux", "phot_g_mean_mag"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class XPSet:
    """XP coefficients of N sources.

    sources : (N,) source_id as text. coefficients, errors : (N, 110), 55 of BP and 55 of RP, as published; NaN where
    there are none. g_flux : (N,) e-/s, NaN where unknown. reasons : (N,) why a source cannot be used, '' where it can.
    """

    sources: tuple[str, ...]
    coefficients: Array
    errors: Array
    g_flux: Array
    reasons: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def readable(self) -> NDArray[np.bool_]:
        """(N,) True where there are coefficients and errors."""
        return np.array([not reason for reason in self.reasons], dtype=bool)

    def take(self, rows: NDArray[Any]) -> XPSet:
        """Some of its sources, by index or mask."""
        rows = np.arange(len(self))[rows]
        return XPSet(
            tuple(self.sources[i] for i in rows), self.coefficients[rows], self.errors[rows], self.g_flux[rows],
            tuple(self.reasons[i] for i in rows),
        )  # fmt: skip

    def with_photometry(self, path: str | Path) -> XPSet:
        """The G flux of a table with source_id and phot_g_mean_flux or phot_g_mean_mag."""
        table = read_any_table(path)
        column = find_column(table, "source_id")
        if column is None:
            raise UserError(f"{path}: no column source_id; its columns are {' '.join(table.colnames)}")
        flux = dict(zip(text_column(table, column), _g_flux_of(table, path)))
        return replace(self, g_flux=np.array([flux.get(s, old) for s, old in zip(self.sources, self.g_flux)]))

    def scaled(self, normalisation: str) -> tuple[Array, Array, tuple[str, ...]]:
        """Coefficients and errors (N, 110) over the flux in G ("gflux") or over the root of the sum of their squares
        ("power", for sources without photometry), and the reasons (N,) why a source has none."""
        reasons = list(self.reasons)
        if normalisation == "gflux":
            divisor = self.g_flux
            for i in np.flatnonzero(~(divisor > 0)):
                value = divisor[i]
                told = f"a G flux of {value:.4g}" if np.isfinite(value) else "no G flux"
                reasons[i] = reasons[i] or (
                    f"source {self.sources[i]}: {told}, expected a positive phot_g_mean_flux or phot_g_mean_mag (in "
                    "the table or with --photometry), or a model trained with --normalise power"
                )
        else:
            divisor = np.sqrt(np.nansum(self.coefficients**2, axis=1))
        safe = np.where(np.array([not r for r in reasons]), divisor, np.nan)[:, None]
        return self.coefficients / safe, self.errors / safe, tuple(reasons)


def read_xp(paths: Sequence[str | Path]) -> XPSet:
    """Read tables of XP continuous coefficients, one after the other.

    Columns: source_id, bp_coefficients, rp_coefficients, bp_coefficient_errors, rp_coefficient_errors, and
    phot_g_mean_flux or phot_g_mean_mag where there is one. A row that cannot be used is kept with a reason. Raises
    `UserError` for a file that is no such table, and where no row can be used.
    """
    rows = [row for path in paths for row in _rows(Path(path))]
    if not rows:
        raise UserError(f"{paths[0]}: no rows, expected XP continuous coefficients")
    sources, values, errors, flux, reasons = zip(*rows)
    if all(reasons):
        raise UserError(f"{paths[0]}: none of the {len(rows)} rows can be used; the first: {reasons[0]}")
    return XPSet(sources, np.stack(values), np.stack(errors), np.array(flux, dtype=float), reasons)


def is_xp(path: str | Path) -> bool:
    """Whether a file is a table of XP continuous coefficients, by its ending and the names of its columns."""
    path = Path(path)
    if not (path.is_file() and path.name.lower().endswith(TABLE_ENDINGS)):
        return False
    try:
        return "bp_coefficients" in _column_names(path)
    except (UserError, OSError, ValueError):
        return False


_Row = tuple[str, Array, Array, float, str]


def _rows(path: Path) -> Iterator[_Row]:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file, expected a table of XP continuous coefficients")
    if not path.name.lower().endswith(TABLE_ENDINGS):
        raise UserError(f"{path}: expected XP coefficients as {' '.join(TABLE_ENDINGS)}")
    names = {name.lower(): name for name in _column_names(path)}
    for needed in ("source_id", *_ARRAYS):
        if needed not in names:
            what = "no errors of the coefficients" if "errors" in needed else "no table of XP continuous coefficients"
            raise UserError(f"{path}: {what}, the column {needed} is missing; its columns are {' '.join(names)}")
    for record in _records(path, names):
        yield _parsed(record)


def _column_names(path: Path) -> list[str]:
    name = path.name.lower()
    if name.endswith(TEXT_ENDINGS):
        with _text(path) as file:
            return list(_reader(file, path).fieldnames or ())
    if name.endswith(".parquet"):
        return list(_parquet().ParquetFile(path).schema_arrow.names)
    return list(_table(path).colnames)


def _records(path: Path, names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Rows with lower-case names, of the columns that are needed."""
    wanted = [n for n in ("source_id", *_ARRAYS, _FLUX, _MAGNITUDE) if n in names]
    ending = path.name.lower()
    if ending.endswith(TEXT_ENDINGS):
        with _text(path) as file:
            for row in _reader(file, path):
                yield {name: row[names[name]] for name in wanted}
        return
    if ending.endswith(".parquet"):
        for batch in _parquet().ParquetFile(path).iter_batches(1000, columns=[names[n] for n in wanted]):
            for row in batch.to_pylist():
                yield {name: row[names[name]] for name in wanted}
        return
    table = _table(path)
    for row in table:
        yield {name: row[names[name]] for name in wanted}


def _text(path: Path) -> IO[str]:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _reader(file: IO[str], path: Path) -> csv.DictReader[str]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a row's correlations alone are tens of thousands of characters
    comments, first = [], ""
    try:
        for line in file:
            if not line.startswith("#"):
                first = line
                break
            comments.append(line)
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as text ({first_line(error)})") from error
    ecsv = any("%ECSV" in line for line in comments)
    comma = not ecsv or any("delimiter: ','" in line for line in comments)
    delimiter = "," if comma else " "
    names = [n.strip() for n in next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])]
    return csv.DictReader(file, fieldnames=names, delimiter=delimiter, skipinitialspace=True)


def _table(path: Path) -> Table:
    return read_any_table(path)


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "Parquet needs pyarrow: install phdlspec with the extra [parquet], or give CSV or FITS"
        ) from error
    return pyarrow.parquet


def _parsed(record: Mapping[str, Any]) -> _Row:
    source = str(record["source_id"]).strip()
    found = {name: _array(record[name]) for name in _ARRAYS}
    values, errors = (np.full(COEFFICIENTS, np.nan) for _ in range(2))
    reason = _wrong(source, found)
    if not reason:
        values = np.concatenate([found["bp_coefficients"], found["rp_coefficients"]])
        errors = np.concatenate([found["bp_coefficient_errors"], found["rp_coefficient_errors"]])
    return source, values, errors, _g_flux(record), reason


def _wrong(source: str, found: Mapping[str, Array]) -> str:
    """Why the arrays of a source cannot be used; '' where they can."""
    for name, values in found.items():
        if len(values) == 0:
            return f"source {source}: {name} is empty"
        if len(values) != EACH:
            why = "truncated ones cannot be used, ask for all" if len(values) < EACH else "is this another release?"
            return f"source {source}: {len(values)} values in {name}, expected {EACH}; {why}"
        if not np.isfinite(values).all():
            return f"source {source}: {name} has values that are no numbers"
        if name.endswith("errors") and not (values > 0).all():
            return f"source {source}: {name} has values that are not positive"
    return ""


def _array(value: Any) -> Array:
    if isinstance(value, (str, bytes)):
        text = (value.decode() if isinstance(value, bytes) else value).strip().strip("()[]{}")
        try:
            return np.array([float(part) for part in text.split(",") if part.strip()])
        except ValueError:
            return np.full(EACH, np.nan)
    if value is None or value is np.ma.masked:
        return np.empty(0)
    return np.asarray(np.ma.filled(np.ma.asarray(value, dtype=float), np.nan), dtype=float).ravel()


def _g_flux(record: Mapping[str, Any]) -> float:
    flux = _number(record.get(_FLUX))
    if np.isfinite(flux):
        return flux
    return float(10.0 ** (-0.4 * (_number(record.get(_MAGNITUDE)) - G_ZERO_POINT)))


def _number(value: Any) -> float:
    try:
        return float("nan") if value is None or value is np.ma.masked else float(value)
    except (TypeError, ValueError):
        return float("nan")


def _g_flux_of(table: Table, path: str | Path) -> Array:
    flux, magnitude = (find_column(table, name) for name in (_FLUX, _MAGNITUDE))
    if flux is not None:
        return number_column(table, flux, path)
    if magnitude is None:
        raise UserError(f"{path}: neither {_FLUX} nor {_MAGNITUDE}; its columns are {' '.join(table.colnames)}")
    return np.asarray(10.0 ** (-0.4 * (number_column(table, magnitude, path) - G_ZERO_POINT)))


def xp_table(
    sources: Sequence[Any], coefficients: ArrayLike, errors: ArrayLike, g_flux: ArrayLike | None = None
) -> Table:
    """A table that `read_xp` reads, of coefficients and errors (N, 110)."""
    values, sigma = (np.asarray(x, dtype=float) for x in (coefficients, errors))
    table = Table({"source_id": list(sources)})
    for name, part in zip(_ARRAYS, (values[:, :EACH], values[:, EACH:], sigma[:, :EACH], sigma[:, EACH:])):
        table[name] = part
    if g_flux is not None:
        table[_FLUX] = np.asarray(g_flux, dtype=float)
    return table
