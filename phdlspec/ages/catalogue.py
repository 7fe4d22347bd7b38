"""Stars of a catalogue: Teff, log g, [M/H] with their covariance, a part of the rows at a time.

Catalogues of `phdlspec catalog` keep the correlations of all parameters in a second table (CORRELATION, int8 in units
of 1/127, lower triangles by rows). Any other table with TEFF, LOGG, FE_H and their errors is read too; its labels then
count as independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.ages.composition import metallicity_slope, metallicity_term
from phdlspec.ages.flags import AgeFlag
from phdlspec.ages.stars import AgeStars, no_photometry
from phdlspec.aliases import error_of
from phdlspec.columns import PARAMETER_UNITS
from phdlspec.errors import UserError
from phdlspec.fits_files import check_fits
from phdlspec.flags import usable
from phdlspec.foreign import reading
from phdlspec.labels import label_of
from phdlspec.tables import FITS_ENDINGS, find_column, number_column, read_any_table, text_column

Array = NDArray[np.float64]

MAIN = ("TEFF", "LOGG", "FE_H")
ALPHA_ELEMENTS = ("MG_FE", "SI_FE", "CA_FE")
_OVERALL = ("M_H", "MH", "[M/H]", "METALLICITY")  # what isochrones are made for: taken as it is
_ALPHA = ("ALPHA_FE", "ALPHA_M", "ALPHAFE", "A_FE", "[alpha/Fe]")
_IDS = ("OBSID", "SOURCE_ID", "GAIA_SOURCE_ID", "GAIADR3_SOURCE_ID", "APOGEE_ID", "TMASS_ID", "KIC", "DESIG", "NAME",
        "STAR", "ID", "FILE")  # fmt: skip
_CORRELATION_UNIT = 1.0 / 127.0
_LABEL_BAD = 3  # at the bound of its range, or set by the prior


@dataclass(frozen=True)
class LabelKind:
    """Which labels are used. suffix : of their columns; words : for the output."""

    suffix: str
    words: str


class AgeCatalogue:
    """A catalogue opened for ages.

    Parameters
    ----------
    path : the file, FITS or any table, or a table in memory
    raw : use the labels before calibration

    Attributes
    ----------
    kind : which labels are used
    has_covariance : True where the file holds correlations
    """

    def __init__(self, path: str | Path | Table, raw: bool = False):
        self.path = Path("the table" if isinstance(path, Table) else path)
        self._table, self._triangles, self.header = _of(path) if isinstance(path, Table) else _open(self.path)
        self.has_covariance = self._triangles is not None
        self.kind = self._kind(raw)
        self._names = {name: self._find(name) for name in MAIN}
        self._errors = {name: self._error_of(self._names[name], name) for name in MAIN}
        self._alpha = [
            name for name in ALPHA_ELEMENTS if self._has(name + self.kind.suffix) and self._has(f"{name}_ERR")
        ]

    def __len__(self) -> int:
        return len(self._table)

    @property
    def columns(self) -> list[str]:
        """Names of its columns."""
        return list(self._table.colnames)

    @property
    def table(self) -> Table:
        """The table itself, numbers on disk until they are used."""
        return self._table

    def identifiers(self) -> dict[str, NDArray[np.str_]]:
        """The columns that may name a star in another table."""
        return {name: text_column(self._table, name) for name in _IDS if self._has(name)}

    def stars(self, start: int, stop: int) -> tuple[AgeStars, dict[str, Array]]:
        """Stars of the rows start <= row < stop without photometry, and FE_H, ALPHA_FE and M_H (n,) that were used."""
        part = self._table[start:stop]
        names = [*MAIN, *self._alpha]
        values = np.column_stack([number_column(part, self._column(name), self.path) for name in names])
        errors = np.column_stack([number_column(part, self._error(name), self.path) for name in names])
        errors[~(errors > 0)] = np.nan
        covariance = self._covariance(part, start, stop, names, errors)
        labels, covariance, alpha = self._metallicity(part, values, covariance)
        flag = np.zeros(len(part), dtype=np.int64)
        if not self.has_covariance:
            flag |= int(AgeFlag.NO_COVARIANCE)
        if self._has("FLAG"):
            good = usable(np.nan_to_num(number_column(part, "FLAG", self.path)).astype(np.int64))
            flag |= np.where(good, 0, int(AgeFlag.LABELS_FLAGGED))
        used = {"FE_H": values[:, 2], "ALPHA_FE": alpha, "M_H": labels[:, 2]}
        return AgeStars(labels, covariance, no_photometry(len(part)), flag), used

    # --- columns -----------------------------------------------------------------------------------------------

    def _has(self, name: str) -> bool:
        return name in self._table.colnames

    def _kind(self, raw: bool) -> LabelKind:
        calibrated = "TEFF_RAW" in self._table.colnames
        if raw and calibrated:
            return LabelKind("_RAW", "raw (before calibration)")
        if calibrated:
            return LabelKind("", f"calibrated ({self.header.get('CALIBID', 'calibration not named')})")
        if "EMUHASH" in self.header:
            return LabelKind("", "raw (not calibrated)")
        return LabelKind("", "as the table gives them")

    def _find(self, name: str) -> str:
        own = name + self.kind.suffix
        found = own if self._has(own) else next((c for c in self._table.colnames if label_of(c) == name), None)
        if found is None and name == "FE_H":
            found = find_column(self._table, *_OVERALL)
        if found is None:
            raise UserError(
                f"{self.path}: no column {name}; expected a catalogue of phdlspec, or a table with TEFF, LOGG, FE_H "
                "and TEFF_ERR, LOGG_ERR, FE_H_ERR"
            )
        return found

    def _error_of(self, column: str, name: str) -> str:
        base = column.removesuffix(self.kind.suffix)
        found = find_column(self._table, f"{base}_ERR{self.kind.suffix}") or error_of(self._table, base, name)
        if found is None:
            raise UserError(
                f"{self.path}: column {column} has no {base}_ERR beside it; an age needs the labels' errors"
            )
        return found

    def _column(self, name: str) -> str:
        return self._names[name] if name in self._names else name + self.kind.suffix

    def _error(self, name: str) -> str:
        if name in self._errors:
            return self._errors[name]
        raw = f"{name}_ERR{self.kind.suffix}"
        return raw if self._has(raw) else f"{name}_ERR"

    # --- covariance and metallicity ----------------------------------------------------------------------------

    def _covariance(self, part: Table, start: int, stop: int, names: list[str], errors: Array) -> Array:
        variances = np.einsum("ni,ij->nij", errors**2, np.eye(len(names)))
        if self._triangles is None:
            return np.asarray(variances)
        # A calibration adds to the errors what is not correlated: the correlations belong to the errors before it.
        before = errors.copy()
        for k, name in enumerate(names):
            if self._has(f"{name}_ERR_RAW"):
                before[:, k] = number_column(part, f"{name}_ERR_RAW", self.path)
        place = [list(PARAMETER_UNITS).index(name) for name in names]
        stored = np.asarray(self._triangles[start:stop], dtype=float) * _CORRELATION_UNIT
        for a in range(len(names)):
            for b in range(a):
                i, j = max(place[a], place[b]), min(place[a], place[b])
                variances[:, a, b] = stored[:, i * (i - 1) // 2 + j] * before[:, a] * before[:, b]
                variances[:, b, a] = variances[:, a, b]
        return np.asarray(variances)

    def _metallicity(self, part: Table, values: Array, covariance: Array) -> tuple[Array, Array, Array]:
        """Labels (n, 3) with [M/H] in place of [Fe/H], their covariance, and [alpha/Fe] (n,), NaN where unknown."""
        n, size = values.shape
        weight = np.zeros((n, size))
        for k, name in enumerate(self._alpha, start=3):
            good = np.isfinite(values[:, k]) & np.isfinite(covariance[:, k, k])
            if self._has(f"{name}_FLAG"):
                good &= (np.nan_to_num(number_column(part, f"{name}_FLAG", self.path)).astype(int) & _LABEL_BAD) == 0
            weight[good, k] = 1.0 / covariance[good, k, k]
        total = weight.sum(axis=1)
        weight /= np.where(total > 0, total, 1.0)[:, None]
        alpha = np.where(total > 0, (weight * np.nan_to_num(values)).sum(axis=1), np.nan)
        own = find_column(part, *_ALPHA)
        extra = np.zeros(n)
        if not self._alpha and own:
            alpha = number_column(part, own, self.path)
            error = error_of(part, own)
            sigma = np.nan_to_num(number_column(part, error, self.path)) if error else np.zeros(n)
            extra = (metallicity_slope(np.nan_to_num(alpha)) * np.where(np.isfinite(alpha), sigma, 0.0)) ** 2
        if self._names["FE_H"] in _OVERALL or self._names["FE_H"].upper() in _OVERALL:
            alpha, weight, extra = np.full(n, np.nan), np.zeros((n, size)), np.zeros(n)  # it is in it already
        known = np.nan_to_num(alpha)
        jacobian = np.zeros((n, 3, size))
        jacobian[:, [0, 1, 2], [0, 1, 2]] = 1.0
        jacobian[:, 2, 3:] = metallicity_slope(known)[:, None] * weight[:, 3:]
        unused = (jacobian == 0).all(axis=1)
        clean = np.where(unused[:, :, None] | unused[:, None, :], 0.0, covariance)
        result = jacobian @ clean @ jacobian.transpose(0, 2, 1)
        result[:, 2, 2] += extra
        labels = values[:, :3].copy()
        labels[:, 2] += np.where(np.isfinite(alpha), metallicity_term(known), 0.0)
        return labels, result, alpha


def _of(table: Table) -> tuple[Table, Any, dict[str, Any]]:
    return table, None, {str(k).upper(): v for k, v in table.meta.items()}


def _open(path: Path) -> tuple[Table, Any, dict[str, Any]]:
    """The table, its triangles of correlations (None where there are none that fit), the header."""
    if not path.name.lower().endswith(FITS_ENDINGS):
        return _of(read_any_table(path))
    if not path.is_file():
        raise UserError(f"{path}: there is no such file, expected a catalogue")
    check_fits(path)
    with reading(path):
        hdus = fits.open(path, memmap=True)
        names = [hdu.name for hdu in hdus]
        if "CATALOG" not in names:
            hdus.close()
            return _of(read_any_table(path))
        table = Table.read(path, hdu="CATALOG", memmap=True, mask_invalid=False)
        table.convert_bytestring_to_unicode()
    header = {str(k).upper(): v for k, v in table.meta.items()}
    if "CORRELATION" not in names:
        return table, None, header
    triangles = hdus["CORRELATION"].data["CORRELATION"]
    size = len(PARAMETER_UNITS)
    if triangles.shape != (len(table), size * (size - 1) // 2):
        raise UserError(
            f"{path}: its correlations are of {triangles.shape[-1]} pairs, {size * (size - 1) // 2} expected; the "
            "catalogue was made by another version of phdlspec, make it again or remove the table CORRELATION"
        )
    return table, triangles, header
