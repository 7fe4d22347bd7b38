"""Line data as real stars want them: the shipped table of corrections, applied to a line list.

`scripts/calibrate_lines.py` fits oscillator strengths and van der Waals widths of all lines to spectra of stars with
known labels. What it finds is shipped as one table of three parts:

* LINES: single atomic lines. A correction names the line's own log gf as listed and leaves any other alone.
* BANDS: molecules, by bins of wavelength; a correction holds where the list's lines absorb as much there as those that
  it was measured with.
* VEIL: what is added, the lines that no list has (`veil`), by class of excitation and bin of wavelength; with them
  comes SiH A-X (`silicon_hydride`), where a list lacks it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from kurucz_grids.linelists.linelist import LineList
from kurucz_grids.linelists.silicon_hydride import BAND, silicon_hydride
from kurucz_grids.linelists.veil import bins, veil
from phdlspec.errors import UserError
from phdlspec.files import replacing
from phdlspec.fits_files import open_fits
from phdlspec.foreign import reading

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

PARTS: Mapping[str, tuple[str, ...]] = {
    "LINES": ("species", "wave_vacuum", "elow_ev", "loggf", "gf_change", "vdw_change", "gf_error"),
    "BANDS": ("species", "wave_min", "strength", "gf_change", "gf_error"),
    "VEIL": ("elow_ev", "wave_min", "gf_change", "gf_error"),
}
BAND_WIDTH = 50.0  # Å, of the bins of molecules
WAVE_TOLERANCE, ENERGY_TOLERANCE, GF_TOLERANCE = 0.005, 0.01, 0.02  # Å, eV, dex: the same line
STRENGTH_TOLERANCE = 0.1  # dex: the same band
_TEMPERATURE_EV = 4000.0 / 11604.518  # kT at which bands are compared


@dataclass(frozen=True)
class StarCalibration:
    """The table of corrections; changes and errors in dex, wavelengths in vacuum Å.

    `lines`, `bands`, `veil` have the columns of `PARTS`; `made` says how it was made, by keyword of the FITS header.
    """

    lines: Table
    bands: Table
    veil: Table
    made: Mapping[str, str]

    @classmethod
    def read(cls, path: str | Path | None = None) -> StarCalibration:
        """Read a table, by default the shipped one. Raises `UserError` where the file is none or lacks a column."""
        path = Path(str(resources.files("kurucz_grids") / "data" / "lines.fits.gz")) if path is None else Path(path)
        try:
            with reading(path), open_fits(path) as file:
                parts = [Table.read(file, hdu=name) for name in PARTS if name in file]
                made = {card.keyword: str(card.value) for card in file[0].header.cards if card.keyword.startswith("X")}
        except UserError as error:
            raise UserError(f"{path}: not a table of corrections to lines ({error})") from error
        for part, (name, columns) in zip(parts, PARTS.items()):
            missing = [column for column in columns if column not in part.colnames]
            if missing:
                raise UserError(f"{path}: {name} lacks the column {missing[0]}; expected {', '.join(columns)}")
        if len(parts) < len(PARTS):
            raise UserError(f"{path}: not a table of corrections to lines; expected the parts {', '.join(PARTS)}")
        lines, bands, added = parts
        return cls(lines, bands, added, made)

    def write(self, path: str | Path) -> None:
        """Write as FITS; the file appears when it is whole. Raises `UserError` where it cannot be written."""
        primary = fits.PrimaryHDU()
        for keyword, value in self.made.items():
            primary.header[keyword] = value
        tables = [fits.table_to_hdu(table) for table in (self.lines, self.bands, self.veil)]
        for table, name in zip(tables, PARTS):
            table.name = name
        with replacing(path) as temporary:
            fits.HDUList([primary, *tables]).writeto(temporary, overwrite=True)

    def apply(self, lines: LineList) -> LineList:
        """The corrected list, with the lines that are added."""
        loggf, vdw = lines.loggf.astype(float), lines.gamma_vdw.astype(float)
        row, line = self.matches(lines)
        loggf[line] += self.lines["gf_change"][row]
        vdw[line] *= 10.0 ** self.lines["vdw_change"][row]
        found = len(np.unique(row))
        log.info("%s: %d of %d lines of the calibration on stars found", lines.path, found, len(self.lines))
        loggf += self._band_changes(lines)
        corrected = replace(lines, loggf=loggf.astype(np.float32), gamma_vdw=vdw.astype(np.float32))
        hydride = _without_band(silicon_hydride(), lines)
        hydride = replace(hydride, loggf=(hydride.loggf + self._band_changes(hydride)).astype(np.float32))
        added = veil(np.asarray(self.veil["gf_change"], dtype=float).reshape(-1, bins()))
        whole = LineList.joined([corrected, hydride, added], lines.path)
        return replace(whole, medium=lines.medium)

    def matches(self, lines: LineList) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows (M,) of `lines` of the table and the lines (M,) of a list that they are about.

        A line is told by species, wavelength, lower level and log gf, and is matched once.
        """
        table = self.lines
        first, last = (
            np.searchsorted(lines.wave_vacuum, np.asarray(table["wave_vacuum"]) + sign * WAVE_TOLERANCE)
            for sign in (-1, 1)
        )
        count = last - first
        row = np.repeat(np.arange(len(table)), count)
        line = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
        position = {name: i for i, name in enumerate(lines.species_names)}
        species = np.array([position.get(str(name), -1) for name in table["species"]], dtype=int)
        same = lines.species_index[line] == species[row]
        same &= np.abs(lines.elow_ev[line] - np.asarray(table["elow_ev"])[row]) < ENERGY_TOLERANCE
        same &= np.abs(lines.loggf[line] - np.asarray(table["loggf"])[row]) < GF_TOLERANCE
        row, line = row[same], line[same]
        _, once = np.unique(line, return_index=True)
        return row[once], line[once]

    def _band_changes(self, lines: LineList) -> Array:
        change = np.zeros(len(lines))
        measured = {(str(b["species"]), int(b["wave_min"])): b for b in self.bands}
        for species, low, which, strength in bands_of(lines):
            band = measured.get((species, low))
            if band is not None and abs(strength - band["strength"]) < STRENGTH_TOLERANCE:
                change[which] = band["gf_change"]
        return change


def calibrated(lines: LineList) -> LineList:
    """The list with the shipped corrections (`StarCalibration`) and added lines."""
    return StarCalibration.read().apply(lines)


def bands_of(lines: LineList) -> list[tuple[str, int, NDArray[np.intp], float]]:
    """Species, lower edge (Å), lines and log10 of the strength at 4000 K of every molecule in every bin."""
    molecular = np.flatnonzero(lines.z2 > 0)
    edge = (lines.wave_vacuum[molecular] // BAND_WIDTH).astype(np.int64)
    key, which = np.unique(lines.species_index[molecular].astype(np.int64) * 100_000 + edge, return_inverse=True)
    order = np.argsort(which, kind="stable")
    found = []
    for number, members in zip(key, np.split(molecular[order], np.cumsum(np.bincount(which))[:-1])):
        weight = 10.0 ** lines.loggf[members].astype(float) * np.exp(-lines.elow_ev[members] / _TEMPERATURE_EV)
        low = int(number % 100_000 * BAND_WIDTH)
        found.append((lines.species_names[number // 100_000], low, members, float(np.log10(weight.sum()))))
    return found


def _without_band(added: LineList, lines: LineList) -> LineList:
    # Nothing is added to a list that has the band itself.
    near = lines.within(*BAND)
    has = bool(np.any(near.species == added.species_names[0]))
    return added.select(np.zeros(len(added), dtype=bool)) if has else added
