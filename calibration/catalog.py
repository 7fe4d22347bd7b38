"""The catalogue to be calibrated: a table with its header, checked once, and its stars found by identifier or
position."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from numpy.typing import NDArray

from calibration.references import Stars, refuse_duplicates
from phdlspec.columns import ColumnRole, column_name
from phdlspec.errors import UserError
from phdlspec.labels import GRID_LABELS, STRUCTURE
from phdlspec.solar import SOLAR_SCALE
from phdlspec.tables import find_column, number_column, read_any_table, text_column

AXES: tuple[str, ...] = STRUCTURE
HASH_KEY, SCALE_KEY, CALIBRATION_KEY = "EMUHASH", "SOLSCALE", "CALIBID"
CALIBRATED_LABELS: tuple[str, ...] = GRID_LABELS.names
_ID_COLUMNS = (
    "OBSID",
    "ID",
    "SOURCE_ID",
    "GAIA_SOURCE_ID",
    "GAIADR3_SOURCE_ID",
    "APOGEE_ID",
    "TMASS_ID",
    "DESIG",
    "FILE",
)


@dataclass(frozen=True)
class Catalog:
    """A catalogue of raw labels.

    Attributes
    ----------
    path : where it came from, for messages.
    table : astropy Table, one row a star.
    emulator_hash : of the checkpoint that made it.
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
            raise UserError(
                f"{path}: no column {missing[0]}, expected a catalogue of phdlspec with TEFF, LOGG, FE_H"
            )
        if CALIBRATION_KEY in header or any(
            column_name(name, ColumnRole.RAW) in table.colnames for name in CALIBRATED_LABELS
        ):
            raise UserError(
                f"{path}: is calibrated already (it has _RAW columns); calibrate the raw catalogue"
            )
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

    def take(self, rows: NDArray) -> Catalog:
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
        bad = ~(error > 0)
        for flag in ("FLAG", column_name(name, ColumnRole.FLAG)):
            if flag in self.table.colnames:
                bad |= self.values(flag) != 0
        value[bad] = np.nan
        return value, error

    def snr(self) -> NDArray[np.float64]:
        """The signal-to-noise ratio (n,), NaN where the catalogue has none."""
        name = find_column(self.table, "SNR", "SNRG", "SNR_G")
        return self.values(name) if name else np.full(len(self), np.nan)


class Matcher:
    """Finds reference stars in a catalogue.

    Parameters
    ----------
    catalog : the catalogue.
    how : "auto" (identifiers where they are known to the catalogue, else positions), "id" or "sky".
    radius_arcsec : largest separation of a match by position.
    id_column : the catalogue's column of identifiers; the default is each of the usual ones in turn.
    """

    def __init__(
        self, catalog: Catalog, how: str = "auto", radius_arcsec: float = 3.0, id_column: str | None = None
    ):
        if id_column is not None and find_column(catalog.table, id_column) is None:
            raise UserError(f"{catalog.path}: has no column {id_column} to match identifiers with")
        self.catalog, self.how, self.radius = catalog, how, radius_arcsec
        names = (id_column,) if id_column else _ID_COLUMNS
        self._columns = [found for name in names if (found := find_column(catalog.table, name))]
        self._ids = {name: text_column(catalog.table, name) for name in self._columns}
        self._sky: SkyCoord | None = None

    def find(self, stars: Stars) -> NDArray[np.intp]:
        """Catalogue row of each star (n,), -1 where there is none."""
        if self.how != "sky" and stars.ids is not None:
            for name, ids in self._ids.items():
                rows = _look_up(stars.ids, ids)
                if (rows >= 0).any():
                    refuse_duplicates(str(self.catalog.path), name, ids[np.isin(ids, stars.ids)])
                    return rows
        if self.how != "id" and stars.ra is not None and stars.dec is not None:
            return self._by_position(stars.ra, stars.dec)
        return np.full(len(stars), -1, dtype=np.intp)

    def _by_position(self, ra: NDArray, dec: NDArray) -> NDArray[np.intp]:
        table = self.catalog.table
        if find_column(table, "RA") is None or find_column(table, "DEC") is None:
            raise UserError(f"{self.catalog.path}: has no RA and DEC to match by position")
        if self._sky is None:
            own = [self.catalog.values(find_column(table, name) or name) for name in ("RA", "DEC")]
            self._sky = SkyCoord(np.nan_to_num(own[0]) * u.deg, np.nan_to_num(own[1], nan=-90.0) * u.deg)
        rows = np.full(len(ra), -1, dtype=np.intp)
        known = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
        if len(known):
            nearest, separation, _ = SkyCoord(ra[known] * u.deg, dec[known] * u.deg).match_to_catalog_sky(
                self._sky
            )
            close = separation.arcsec <= self.radius
            rows[known[close]] = nearest[close]
        return rows


def _look_up(wanted: NDArray[np.str_], known: NDArray[np.str_]) -> NDArray[np.intp]:
    order = np.argsort(known, kind="stable")
    place = np.clip(np.searchsorted(known, wanted, sorter=order), 0, max(len(known) - 1, 0))
    if not len(known):
        return np.full(len(wanted), -1, dtype=np.intp)
    rows = order[place]
    return np.where((known[rows] == wanted) & (wanted != ""), rows, -1)
