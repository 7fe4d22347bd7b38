"""A spectrum in a plain table: ECSV, CSV, text or a FITS table, one pixel a row; or one spectrum a row of a FITS table.

Text without names of columns must have three: wavelength, flux and its error.

Columns are recognised by name in any case:

    wavelength       wave, wavelength, lambda, lam, wave_vac, wave_air, ... ; loglam, log_wave for log10 of Å
    flux             flux, flam, f_lambda, norm_flux, normalized_flux, ...
    uncertainty      ivar, inverse_variance, or err, error, flux_err, sigma, uncertainty, ...
    mask             mask (True = bad), optional; else quality, dq, pixel_flags, ... (not 0 = bad), which is told
    resolving power  resolving_power, optional

The unit of the wavelength is that of the column; a column without one must hold Å. Whether wavelengths are in
air or in vacuum is never guessed: the column's name ends in _air or _vac, or the table's metadata has MEDIUM
(or WAVE_MEDIUM), or VACUUM = T/F, or the caller says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.io.ascii import InconsistentTableError
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.errors import UserError, first_line
from phdlspec.fits_files import DAMAGED, is_true
from phdlspec.resolution import ResolvingPower, resolving_power_at
from phdlspec.spectrum import Spectrum
from phdlspec.tables import find_column
from phdlspec.wavelength import air_to_vacuum

WAVE_NAMES = ("wave", "wavelength", "lambda", "lam", "wl", "ll", "spectral_axis")
LOG_WAVE_NAMES = ("loglam", "log_wave", "logwave", "loglambda", "log_wavelength")
MEDIUM_SUFFIXES = {"_vac": "vacuum", "_vacuum": "vacuum", "_air": "air"}
FLUX_NAMES = ("flux", "flam", "f_lambda", "flux_density", "norm_flux", "normalized_flux", "normalised_flux")
IVAR_NAMES = ("ivar", "inverse_variance", "flux_ivar", "invvar")
ERROR_NAMES = ("err", "error", "flux_err", "flux_error", "e_flux", "sigma", "uncertainty", "flux_unc", "std")
MASK_NAMES = ("mask", "bad")
QUALITY_NAMES = (
    "and_mask", "andmask", "dq", "qual", "quality", "pixel_flags", "pixel_flag", "pixmask", "bitmask", "flags", "flag",
)  # fmt: skip
_NOT_TAKEN = ("or_mask", "ormask", "good")  # bad in any exposure is most of a spectrum; of the other polarity
_MOST_BAD = 0.5  # of the pixels; a column of quality that is not 0 in more is of another convention
RESOLVING_POWER_NAMES = ("resolving_power",)
MEDIA = ("air", "vacuum")
_SPELLINGS = {
    u.AA: ("angstrom", "ang", "a", "angstroem", "ångström"), u.nm: ("nanometer", "nanometre"),
    u.um: ("micron", "micrometer", "micrometre"),
}  # fmt: skip
_NAMELESS = ("wave", "flux", "err")
_POWER_KEYS = ("RESOLVING_POWER", "RESPOWER")
MAX_TEXT, MAX_LINE = 1 << 28, 1 << 20  # bytes of a table, characters of its first line
_BEGIN = 1 << 16  # characters in which the names of columns stand
_TRUTH = {"true": 1.0, "t": 1.0, "yes": 1.0, "1": 1.0, "false": 0.0, "f": 0.0, "no": 0.0, "0": 0.0}


def read(path: Path, medium: str | None = None, resolving_power: ResolvingPower | None = None) -> Spectrum:
    """The spectrum of an ECSV, CSV or text file."""
    text = _text(path)
    try:
        table = Table.read(text, format="ascii.ecsv") if text.startswith("# %ECSV") else _plain_text(text, path)
    except (*DAMAGED, InconsistentTableError) as error:
        raise UserError(f"{path}: not a FITS file and not a table in ECSV or CSV ({first_line(error)})") from error
    return from_table(table, str(path), medium, resolving_power)


def _text(path: Path) -> str:
    """The text of a file that may hold a spectrum; no byte-order mark is part of it."""
    size = path.stat().st_size
    if size > MAX_TEXT:
        raise UserError(f"{path}: {size:.2g} bytes and not FITS, expected a table of at most {MAX_TEXT:.2g}")
    try:
        with path.open(encoding="utf-8-sig") as file:
            if len(file.readline(MAX_LINE)) == MAX_LINE:
                raise UserError(f"{path}: its first line does not end, expected the names of columns")
            file.seek(0)
            return file.read(MAX_TEXT)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not a FITS file and not a table in ECSV or CSV (it is not text; unpack it if it is compressed)"
        ) from error


def _plain_text(text: str, path: Path) -> Table:
    """A table separated by commas or blanks, its columns named in the first line or, three of them, not at all."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise UserError(f"{path}: no line in it but comments, expected a table with wavelength, flux and uncertainty")
    kind = "csv" if "," in lines[0] else "basic"
    words = lines[0].replace(",", " ").split()
    if not all(map(_is_number, words)):
        return Table.read(lines, format=f"ascii.{kind}")
    if len(words) != len(_NAMELESS):
        raise UserError(
            f"{path}: {len(words)} columns without names, expected three (wavelength, flux and its error), or names in "
            "the first line"
        )
    separators = {"delimiter": ","} if kind == "csv" else {}
    return Table.read(lines, format="ascii.no_header", names=_NAMELESS, **separators)


def may_be_spectrum(path: Path) -> bool:
    """Whether the beginning of a text file names columns of wavelength and flux, or has no names; what cannot be read
    may be one."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            begin = file.read(_BEGIN)
    except OSError:
        return True
    first = next((line for line in begin.splitlines() if line.strip() and not line.startswith("#")), "")
    words = {word.strip(" \"'").lower() for word in re.split(r"[,\s]+", first)}
    named = _wave_name(words) is not None and bool(words & set(FLUX_NAMES))
    return named or not first or all(map(_is_number, words - {""}))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def find_fits_table(hdus: fits.HDUList) -> fits.BinTableHDU | None:
    """The first table HDU with a wavelength and a flux column."""
    for hdu in hdus[1:]:
        if isinstance(hdu, (fits.BinTableHDU, fits.TableHDU)):
            names = {name.lower() for name in hdu.columns.names}
            if _wave_name(names) and names & set(FLUX_NAMES):
                return hdu
    return None


def read_fits(
    hdus: fits.HDUList,
    path: str,
    medium: str | None = None,
    resolving_power: ResolvingPower | None = None,
    row: int | None = None,
) -> Spectrum:
    """The spectrum of a FITS table: one pixel a row, or vector columns and one spectrum a row."""
    hdu = find_fits_table(hdus)
    if hdu is None:
        raise UserError(
            f"{path}: no spectrum found, expected LAMOST, SDSS, DESI or a table with "
            "wavelength, flux and uncertainty columns"
        )
    table = Table.read(hdu)
    table.meta = {**dict(hdus[0].header), **table.meta}
    vectors = [name for name in table.colnames if table[name].ndim == 2]
    if len(table) == 1 or (vectors and row is not None) or {name.lower() for name in vectors} & set(FLUX_NAMES):
        table = _of_row(table, vectors, row, path)
    return from_table(table, path, medium, resolving_power)


def _of_row(table: Table, vectors: list[str], row: int | None, path: str) -> Table:
    if row is None and len(table) > 1:
        raise UserError(f"{path}: the file holds {len(table)} spectra, name one by its row, as in '{path}[0]'")
    if not 0 <= (row or 0) < len(table):
        raise UserError(f"{path}: there is no row {row}, the file holds rows 0 to {len(table) - 1}")
    name = find_column(table, "NAME", "OBSID")
    meta = table.meta if name is None else {**table.meta, "OBSID": str(table[name][row or 0]).strip()}
    columns = {name: table[name][row or 0] for name in vectors}
    return Table(columns, units=_units(table, vectors), meta=meta)


def _units(table: Table, names: list[str]) -> dict[str, u.UnitBase]:
    return {name: table[name].unit for name in names if table[name].unit is not None}


def _wave_name(names: set[str]) -> str | None:
    """The wavelength column among lower-case names."""
    for name in (*WAVE_NAMES, *LOG_WAVE_NAMES):
        for suffix in ("", *MEDIUM_SUFFIXES):
            if name + suffix in names:
                return name + suffix
    return None


def _medium(name: str, meta: Mapping[str, object], given: str | None, path: str) -> str:
    """Air or vacuum, as the argument, the column's name or the metadata state it; a contradiction is
    refused."""
    stated: dict[str, str] = {}
    for suffix, medium in MEDIUM_SUFFIXES.items():
        if name.endswith(suffix):
            stated[f"the column name {name}"] = medium
    upper = {str(key).upper(): value for key, value in meta.items()}
    for key in ("MEDIUM", "WAVE_MEDIUM"):
        if key in upper:
            stated[f"{key} in its metadata"] = str(upper[key]).strip().lower().replace("vac", "vacuum")[:6].strip()
    if "VACUUM" in upper:
        stated["VACUUM in its metadata"] = "vacuum" if is_true(upper["VACUUM"]) else "air"
    if given is not None:
        stated["what was given (--medium, medium= in Python)"] = given
    for source, medium in stated.items():
        if medium not in MEDIA:
            raise UserError(f"{path}: {source} gives the medium as {medium!r}, expected 'air' or 'vacuum'")
    if len(set(stated.values())) > 1:
        saying = " but ".join(f"{source} says {medium}" for source, medium in stated.items())
        raise UserError(f"{path}: {saying}; make them agree")
    if not stated:
        raise UserError(
            f"{path}: it is not stated whether the wavelengths are in air or vacuum; say so with --medium air or "
            "vacuum (medium= in Python), a column named wave_air or wave_vac, or MEDIUM in the table's metadata"
        )
    return next(iter(stated.values()))


def _known_unit(unit: u.UnitBase) -> u.UnitBase:
    """The unit, also where a file spells it as astropy does not."""
    if not isinstance(unit, u.UnrecognizedUnit):
        return unit
    spelled = unit.to_string().strip().lower().rstrip("s")
    return next((known for known, spellings in _SPELLINGS.items() if spelled in spellings), unit)


def wave_in_vacuum(values: NDArray[np.float64], unit: u.UnitBase | None, medium: str, path: str) -> NDArray[np.float64]:
    """Wavelengths (P,) brought to vacuum Å; without a unit they are taken as Å, which `Spectrum` then
    checks."""
    if unit is not None and unit != u.dimensionless_unscaled:
        unit = _known_unit(unit)
        try:
            values = u.Quantity(values, unit).to_value(u.AA, u.spectral())
        except (u.UnitsError, TypeError, ValueError) as error:
            raise UserError(f"{path}: the wavelengths are in {unit}, expected a unit of length") from error
    low, high = np.nanmin(values), np.nanmax(values)
    return air_to_vacuum(values) if medium == "air" and low > 2000 and high < 30000 else values


class _Columns:
    """The columns of a spectrum's table, found whatever their capitals; `where` names it in messages."""

    def __init__(self, table: Table, where: str):
        self.table, self.where = table, where
        self.names = {name.lower(): name for name in table.colnames}

    def find(self, wanted: tuple[str, ...]) -> str | None:
        """The first of the wanted names that the table has."""
        return next((self.names[name] for name in wanted if name in self.names), None)

    def require(self, name: str | None, what: str, example: str) -> str:
        """The name; `UserError` where there is none."""
        if name is None:
            columns = ", ".join(repr(column) for column in self.table.colnames[:8]) or "none"
            raise UserError(f"{self.where}: no {what} column; its columns are {columns}, name one {example}")
        return name

    def values(self, name: str) -> NDArray[np.float64]:
        """A column (P,), NaN where it is masked."""
        column = self.table[name]
        try:
            return np.asarray(np.ma.filled(np.ma.asarray(column).astype(float), np.nan), dtype=float)
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.where}: the column {name} does not hold numbers") from error

    def mask(self) -> NDArray[np.bool_]:
        """True where a pixel is bad (P,): where the column is true, not zero or masked; all false without one."""
        name = self.find(MASK_NAMES)
        if name is None:
            return np.zeros(len(self.table), dtype=bool)
        column = np.ma.asarray(self.table[name])
        if column.dtype.kind not in "SUO":
            return np.asarray(self.values(name) != 0)
        words = [str(value.decode() if isinstance(value, bytes) else value).strip().lower() for value in column.data]
        if unknown := next((word for word in words if word not in _TRUTH), None):
            raise UserError(f"{self.where}: the column {name} holds {unknown!r}, expected True or False, or numbers")
        return np.asarray(np.array([_TRUTH[word] > 0 for word in words]) | np.ma.getmaskarray(column), dtype=bool)

    def _unit(self, name: str) -> u.UnitBase | None:
        unit = self.table[name].unit
        return None if unit is None or unit == u.dimensionless_unscaled else unit

    def _in_units_of(self, flux_name: str, name: str, power: int) -> float:
        """What a column is to be multiplied with to be in the flux's unit to this power; one that has no unit is."""
        unit, flux_unit = self._unit(name), self._unit(flux_name)
        if unit is None or flux_unit is None or str(unit) == str(flux_unit):
            return 1.0
        try:
            return float(unit.to(flux_unit**power))
        except (u.UnitsError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.where}: {name} is in {unit} and {flux_name} in {flux_unit}, expected ones that convert"
            ) from error

    def quality(self) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
        """`mask`, else the pixels (P,) where a column of quality is not 0, and what is to be told of such columns."""
        asked = self.find(MASK_NAMES)
        there = [self.names[name] for name in (*QUALITY_NAMES, *_NOT_TAKEN) if name in self.names]
        bad, told = self.mask(), []
        for name in there:
            doubt = "there is another" if asked else self._doubt(name)
            if doubt:
                told.append(f"the column {name} is not used ({doubt}); a mask is a column named mask, True = bad")
                continue
            bad, asked = np.asarray(self.values(name) != 0), name
            told.append(f"the column {name} is taken for the pixels' quality: {bad.sum()} that are not 0 are left out")
        return bad, tuple(told)

    def _doubt(self, name: str) -> str:
        # Why a column of quality cannot be taken for a mask, "" for nothing.
        if name.lower() in _NOT_TAKEN:
            return "its meaning is another"
        if np.asarray(self.table[name]).dtype.kind not in "biuf":
            return "it does not hold numbers"
        share = float(np.mean(self.values(name) != 0))
        return f"it is not 0 in {100.0 * share:.0f} % of the pixels" if share > _MOST_BAD else ""

    def ivar(self, flux_name: str) -> NDArray[np.float64]:
        """Inverse variances (P,) in the unit of the flux, from the column of them or of errors."""
        name = self.find(IVAR_NAMES)
        if name is not None:
            return self.values(name) * self._in_units_of(flux_name, name, -2)
        name = self.require(self.find(ERROR_NAMES), "uncertainty", "err or ivar")
        error = self.values(name)
        if self._unit(name) == u.percent and self._unit(flux_name) != u.percent:
            error = error / 100.0 * np.abs(self.values(flux_name))
        else:
            error = error * self._in_units_of(flux_name, name, 1)
        with np.errstate(divide="ignore"):
            return np.where(error > 0, error**-2.0, 0.0)


def from_table(
    table: Table, path: str = "", medium: str | None = None, resolving_power: ResolvingPower | None = None
) -> Spectrum:
    """The spectrum of an astropy table. Raises `UserError` for a missing column, unit, medium or resolving
    power."""
    columns = _Columns(table, path or "table")
    wave_name = columns.require(_wave_name(set(columns.names)), "wavelength", "wave")
    flux_name = columns.require(columns.find(FLUX_NAMES), "flux", "flux")
    columns.require(columns.find((*IVAR_NAMES, *ERROR_NAMES)), "uncertainty", "err or ivar")
    if not len(table):
        raise UserError(f"{columns.where}: the table has no rows, expected one a pixel")
    wave = _wave(columns, wave_name, _medium(wave_name, table.meta, medium, columns.where))
    flux, ivar = columns.values(flux_name), columns.ivar(flux_name)
    mask, told = columns.quality()
    meta = {str(key).upper(): value for key, value in table.meta.items() if np.isscalar(value)}
    power = _resolving_power(columns, meta, wave, resolving_power)
    order = np.argsort(wave, kind="stable")
    if isinstance(power, np.ndarray):
        power = power[order]
    about: dict[str, object] = {**meta, "OBSID": str(meta.get("OBSID", "")), "WARNINGS": told}
    return Spectrum(wave[order], flux[order], ivar[order], mask[order], power, about, path)


def _wave(columns: _Columns, name: str, medium: str) -> NDArray[np.float64]:
    """Wavelengths (P,), vacuum Å, of the column with this lower-case name."""
    values = columns.values(columns.names[name])
    if name.startswith("log"):
        return wave_in_vacuum(10.0**values, None, medium, columns.where)
    return wave_in_vacuum(values, columns.table[columns.names[name]].unit, medium, columns.where)


def _resolving_power(
    columns: _Columns, meta: Mapping[str, object], wave: NDArray[np.float64], given: ResolvingPower | None
) -> float | NDArray[np.float64]:
    """Of the argument, a column or the metadata, in this order."""
    if given is not None:
        return resolving_power_at(given, wave)
    name = columns.find(RESOLVING_POWER_NAMES)
    if name is not None:
        return columns.values(name)
    stated = next((meta[key] for key in _POWER_KEYS if key in meta), None)
    if stated is None:
        raise UserError(
            f"{columns.where}: the resolving power is not given; add a column resolving_power or RESOLVING_POWER to "
            "the table's metadata, or give it (--resolving-power R, or LAMOST for that survey's typical one)"
        )
    try:
        return float(str(stated))
    except ValueError as error:
        raise UserError(f"{columns.where}: RESOLVING_POWER in its metadata is {stated!r}, expected a number") from error
