"""The catalogue to be calibrated: a table with its header, checked once, and its stars found by identifier or
position."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.columns import ColumnRole, column_name
from phdlspec.errors import UserError
from phdlspec.flags import usable
from phdlspec.labels import GRID_LABELS, STRUCTURE
from phdlspec.solar import SOLAR_SCALE
from phdlspec.tables import find_column, number_column, read_any_table

AXES: tuple[str, ...] = STRUCTURE
HASH_KEY, SCALE_KEY, CALIBRATION_KEY = "EMUHASH", "SOLSCALE", "CALIBID"
CALIBRATED_LABELS: tuple[str, ...] = GRID_LABELS.names


@dataclass(frozen=True)
class Catalog:
    """A catalogue of raw labels.

    Attributes
    ----------
    path : where it came from, for messages.
    table : astropy Table, one row a star.
    emulator_hash : of the checkpoint that made it.

    >>> len(calibration.Catalog.from_table(catalogue).table) == len(catalogue)
    True
    """

    path: Path
    table: Table
    emulator_hash: str

    def __len__(self) -> int:
        return len(self.table)

    @classmethod
    def from_table(cls, table: Table, path: str | Path = "catalogue") -> Catalog:
        """Check a table: labels of the axes, the checkpoint's hash, the solar scale, not calibrated yet."""
        path = Path(path)
        header = {str(key).upper(): value for key, value in table.meta.items()}
        missing = [name for name in AXES if name not in table.colnames]
        if missing:
            raise UserError(f"{path}: no column {missing[0]}, expected a catalogue of phdlspec with TEFF, LOGG, FE_H")
        if CALIBRATION_KEY in header or any(
            column_name(name, ColumnRole.RAW) in table.colnames for name in CALIBRATED_LABELS
        ):
            raise UserError(f"{path}: is calibrated already (it has _RAW columns); calibrate the raw catalogue")
        if not header.get(HASH_KEY):
            raise UserError(f"{path}: its header does not name the emulator checkpoint ({HASH_KEY})")
        if header.get(SCALE_KEY) != SOLAR_SCALE:
            raise UserError(
                f"{path}: its solar scale is {header.get(SCALE_KEY) or 'not stated'}, expected "
                f"{SCALE_KEY} = {SOLAR_SCALE}"
            )
        return cls(path, table, str(header[HASH_KEY]))

    @classmethod
    def read(cls, path: str | Path) -> Catalog:
        """Read and check a catalogue file."""
        return cls.from_table(read_any_table(path), path)

    def take(self, rows: NDArray[Any]) -> Catalog:
        """The catalogue of some of its rows."""
        return Catalog(self.path, self.table[rows], self.emulator_hash)

    def values(self, name: str) -> NDArray[np.float64]:
        """A column (n,), NaN where missing."""
        return number_column(self.table, name, self.path)

    def coordinates(self) -> NDArray[np.float64]:
        """TEFF, LOGG, FE_H as (n, 3)."""
        return np.column_stack([self.values(name) for name in AXES])

    def label(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Value and error, each (n,); NaN where the label or its star is flagged, or the error is not
        positive."""
        if name not in self.table.colnames:
            return np.full(len(self), np.nan), np.full(len(self), np.nan)
        error_name = column_name(name, ColumnRole.ERROR)
        if error_name not in self.table.colnames:
            raise UserError(f"{self.path}: column {name} has no {error_name} beside it")
        value, error = self.values(name).copy(), self.values(error_name)
        bad = ~(error > 0) | ~self.usable()
        flag = column_name(name, ColumnRole.FLAG)
        if flag in self.table.colnames:
            bad |= self.values(flag) != 0
        value[bad] = np.nan
        return value, error

    def usable(self) -> NDArray[np.bool_]:
        """Stars (n,) whose flags forbid nothing."""
        if "FLAG" not in self.table.colnames:
            return np.ones(len(self), dtype=bool)
        return usable(np.nan_to_num(self.values("FLAG"), nan=1.0).astype(np.int64))

    def snr(self) -> NDArray[np.float64]:
        """The signal-to-noise ratio (n,), NaN where the catalogue has none."""
        name = find_column(self.table, "SNR", "SNRG", "SNR_G")
        return self.values(name) if name else np.full(len(self), np.nan)
