"""Taking the biases that a calibration knows out of a catalogue.

A label becomes raw - bias; its error the root of err^2 + (error of the bias)^2 + (external scatter)^2. Raw
values and errors stay as `<LABEL>_RAW` and `<LABEL>_ERR_RAW`; `<LABEL>_CALFLAG` says where the references do
not reach. Columns on request follow their labels: percentiles are shifted with the value, [X/H] is that of the
calibrated [X/Fe] and [Fe/H].

====  ===============================================================================================
bit   meaning
====  ===============================================================================================
1     outside the references on one of the axes Teff, logg, [Fe/H], or in a gap of them
2     no reference star near in all three at once: the correction rests on the trends being additive
4     the correction's own error is larger than 0.1 dex (100 K, 0.2 km/s)
8     not calibrated: no reference constrains this label, or a coordinate is missing; value = raw
16    no reference states values of this label: only differences are calibrated, the zero point is not
====  ===============================================================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.table import Column, Table
from numpy.typing import NDArray

from calibration.catalog import CALIBRATED_LABELS, CALIBRATION_KEY, Catalog
from calibration.store import Calibration
from phdlspec.columns import (
    ON_HYDROGEN,
    PERCENTILES,
    ColumnRole,
    calibration_columns,
    column_name,
    columns_with,
)
from phdlspec.columns import Column as ColumnOf
from phdlspec.errors import UserError

Values = NDArray[Any]

OUTSIDE, SPARSE, UNCERTAIN, UNCALIBRATED, RELATIVE = 1, 2, 4, 8, 16
_ERROR_LIMIT = {"TEFF": 100.0, "VMIC": 0.2}
_CHUNK = 50_000


def check_applicable(catalog: Catalog, calibration: Calibration) -> None:
    """Raise `UserError` unless the calibration was learned for the checkpoint and solar scale of the
    catalogue."""
    if catalog.emulator_hash != calibration.emulator_hash:
        raise UserError(
            f"{catalog.path}: was made by the emulator checkpoint {catalog.emulator_hash[:12]}, the "
            f"calibration is for "
            f"{calibration.emulator_hash[:12]}; learn a calibration from a catalogue of this checkpoint"
        )
    if calibration.solar_scale != str(catalog.table.meta.get("SOLSCALE")):
        raise UserError(f"{catalog.path}: solar scale differs from that of the calibration, {calibration.solar_scale}")


def correct(catalog: Catalog, calibration: Calibration) -> Catalog:
    """The calibrated catalogue; its table is the given one, changed in place.

    Returns a `Catalog` whose header names the calibration (key CALIBID), so that it is not calibrated again.
    """
    check_applicable(catalog, calibration)
    table = catalog.table
    present = [name for name in CALIBRATED_LABELS if name in table.colnames]
    x = catalog.coordinates()
    known = np.isfinite(x.sum(axis=1))
    bias, error, flag = evaluate(calibration, [n for n in present if n in calibration.labels], x, known)
    for name in present:
        _replace(catalog, name, bias.get(name), error.get(name), flag.get(name), calibration)
    _follow(catalog, present)
    table.meta[CALIBRATION_KEY] = calibration.identity
    table.meta["CALDATE"] = calibration.created
    return Catalog(catalog.path, table, catalog.emulator_hash)


def evaluate(
    calibration: Calibration, names: list[str], x: Values, known: Values
) -> tuple[dict[str, Values], dict[str, Values], dict[str, Values]]:
    """Bias, its error (float32) and flag (uint8) of each label at raw coordinates x (n, 3); NaN where not
    `known`."""
    size = len(x)
    bias = {name: np.full(size, np.nan, dtype=np.float32) for name in names}
    error = {name: np.full(size, np.nan, dtype=np.float32) for name in names}
    flag = {name: np.full(size, UNCALIBRATED, dtype=np.uint8) for name in names}
    rows = np.flatnonzero(known)
    for start in range(0, len(rows), _CHUNK):
        at = rows[start : start + _CHUNK]
        place = calibration.calibrated_coordinates(x[at])
        design = calibration.basis.design(place)
        for name in names:
            label = calibration.labels[name]
            bias[name][at], error[name][at] = label.bias(design)
            bits = np.where(label.coverage.covers_axes(place), 0, OUTSIDE).astype(np.uint8)
            bits[~label.coverage.near(place)] |= SPARSE
            bits[error[name][at] > _ERROR_LIMIT.get(name, 0.1)] |= UNCERTAIN
            if not label.has_zero_point:
                bits |= RELATIVE
            flag[name][at] = bits
    return bias, error, flag


def _replace(
    catalog: Catalog,
    name: str,
    bias: Values | None,
    error: Values | None,
    flag: Values | None,
    calibration: Calibration,
) -> None:
    """Put one label's calibrated value in the place of the raw one, which moves to `_RAW`."""
    table, new = catalog.table, calibration_columns(name)
    error_name = column_name(name, ColumnRole.ERROR)
    _add(table, new[ColumnRole.RAW], np.array(table[name]), table[name].unit)
    if error_name in table.colnames:
        _add(table, new[ColumnRole.RAW_ERROR], np.array(table[error_name]), table[error_name].unit)
    if bias is None or error is None or flag is None:
        flag = np.full(len(table), UNCALIBRATED, dtype=np.uint8)
    else:
        dtype = table[name].dtype
        shift = np.where(np.isfinite(bias), bias, 0.0)
        _set(table, name, (catalog.values(name) - shift).astype(dtype))
        if error_name in table.colnames:
            extra = np.where(np.isfinite(error), error, 0.0) ** 2 + calibration.labels[name].scatter ** 2
            extra = np.where(np.isfinite(bias), extra, 0.0)
            _set(table, error_name, np.sqrt(catalog.values(error_name) ** 2 + extra).astype(dtype))
    _add(table, new[ColumnRole.CALIBRATION_FLAG], flag)


def _follow(catalog: Catalog, corrected: list[str]) -> None:
    """Move the columns that were made of labels which have been corrected along with these."""
    table = catalog.table
    shift, extra = {}, {}  # of the value, and of the error squared
    for name in corrected:
        raw, error = (column_name(name, role) for role in (ColumnRole.RAW, ColumnRole.RAW_ERROR))
        shift[name] = np.nan_to_num(catalog.values(name) - catalog.values(raw))
        now = catalog.values(column_name(name, ColumnRole.ERROR)) if error in table.colnames else np.zeros(len(table))
        extra[name] = np.nan_to_num(now**2 - catalog.values(error) ** 2) if error in table.colnames else now
    for column in columns_with((PERCENTILES, ON_HYDROGEN)):
        if column.parameter not in shift or column.name not in table.colnames:
            continue
        if column.role is ColumnRole.PERCENTILE:
            _set(table, column.name, (catalog.values(column.name) + shift[column.parameter]).astype(column.dtype))
        elif column.role is ColumnRole.ON_HYDROGEN and "FE_H" in shift:
            value, names = catalog.values(column.name), (column.parameter, "FE_H")
            if column.key == "x_h":
                value = value + sum(shift[name] for name in names)
            else:
                value = np.sqrt((value**2 + sum(extra[name] for name in names)).clip(0.0))
            _set(table, column.name, value.astype(column.dtype))


def _add(table: Table, column: ColumnOf, values: Values, unit: object = None) -> None:
    table.add_column(Column(values, name=column.name, unit=unit, description=column.comment))


def _set(table: Table, name: str, values: Values) -> None:
    """Replace the values of a column and keep its unit and description."""
    old = table[name]
    table.replace_column(name, Column(values, name=name, unit=old.unit, description=old.description))
