"""Files of model spectra, in forms that `astropy.table.Table.read` and `phdlspec fit` or `catalog` read.

```
.fits, one star      table SPECTRUM, one pixel a row: WAVE (vacuum Å), FLUX, ERR [AB_INITIO]
.fits, many stars    table SPECTRA, one star a row: NAME, the labels, RV, WAVE (P,), FLUX (P,), ERR (P,) [AB_INITIO]
.ecsv                one pixel a row: wave, flux, err [ab_initio]; of many stars flux_0, flux_1 ...; labels in its meta
.h5                  packed spectra (`phdlspec.catalog.inputs`); besides labels (N, L), label_names [ab_initio]
```
The flux is over the continuum and without noise; ERR says the S/N that a fit shall assume. A resolving power that is
not the same everywhere has a column RESOLVING_POWER beside the flux.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.errors import UserError
from phdlspec.files import replacing
from phdlspec.tables import table_hdu

PACKED_FORMAT, PACKED_VERSION = "phdlspec-spectra", 1
ENDINGS = (".fits", ".fits.gz", ".ecsv", ".h5", ".hdf5")


@dataclass(frozen=True)
class ModelSpectra:
    """Model spectra of N stars on the same pixels.

    wave : (P,) vacuum Å; flux : (N, P) over the continuum; names : (N,); labels : N rows, a column a label, RV (km/s)
    among them; err : number, of the flux; resolving_power : number or (P,); header : MEDIUM and what made them;
    direct : (N, P) by direct synthesis, or None.
    """

    wave: NDArray[np.float64]
    flux: NDArray[np.float32]
    names: tuple[str, ...]
    labels: Table
    err: float
    resolving_power: float | NDArray[np.float64]
    header: dict[str, Any]
    direct: NDArray[np.float32] | None = None

    def write(self, path: str | Path) -> None:
        """Write a file in the form that its name's ending says. Raises `UserError` for another ending."""
        path = Path(path)
        check_ending(path)
        with replacing(path) as part:
            if path.suffix in (".h5", ".hdf5"):
                self._write_packed(part)
            elif path.suffix == ".ecsv":
                self._by_pixel(str.lower).write(part, format="ascii.ecsv", overwrite=True)
            else:
                self._fits().writeto(part, overwrite=True)

    def _columns(self, star: int) -> dict[str, NDArray[Any]]:
        found = {"FLUX": self.flux[star], "ERR": np.full(len(self.wave), self.err, dtype=np.float32)}
        return found if self.direct is None else found | {"AB_INITIO": self.direct[star]}

    def _pixels(self) -> Table:
        table = Table({"WAVE": self.wave}, units={"WAVE": "Angstrom"})
        if np.ndim(self.resolving_power):
            table["RESOLVING_POWER"] = self.resolving_power
        return table

    def _header(self) -> dict[str, Any]:
        return self.header if np.ndim(self.resolving_power) else self.header | {"RESPOWER": self.resolving_power}

    def _by_pixel(self, case: Any = str) -> Table:
        table = self._pixels()
        table.rename_columns(table.colnames, [case(name) for name in table.colnames])
        for star in range(len(self.flux)):
            for name, values in self._columns(star).items():
                table[case(name if len(self.flux) == 1 else f"{name}_{star}")] = values
        stars = [{name: float(row[name]) for name in self.labels.colnames} for row in self.labels]
        table.meta = {case(key): value for key, value in self._header().items()}
        table.meta |= {case("NAMES"): list(self.names), case("LABELS"): stars}
        return table

    def _fits(self) -> fits.HDUList:
        if len(self.flux) == 1:
            pixels = self._by_pixel()
            pixels.meta = {}
            first = table_hdu(pixels, "spectrum")
            first.name = "SPECTRUM"
            of_stars = table_hdu(self.labels, "labels")
            of_stars.name = "LABELS"
            hdus = [first, of_stars]
        else:
            hdus = [table_hdu(self._by_star(), "spectra")]
            hdus[0].name = "SPECTRA"
        primary = fits.PrimaryHDU()
        for unit in (primary, hdus[0]):
            unit.header.update(self._header())
        return fits.HDUList([primary, *hdus])

    def _by_star(self) -> Table:
        table = self.labels.copy()
        table.add_column(np.array(self.names, dtype=np.str_), name="NAME", index=0)
        for column in self._pixels().itercols():
            table[column.name] = np.broadcast_to(column, self.flux.shape)
            table[column.name].unit = column.unit
        for name in self._columns(0):
            table[name] = np.stack([self._columns(star)[name] for star in range(len(self.flux))])
        return table

    def _write_packed(self, path: Path) -> None:
        n, pixels = self.flux.shape
        with h5py.File(path, "w") as file:
            file.attrs.update(self._header())
            file.attrs.update(
                format=PACKED_FORMAT, version=PACKED_VERSION, survey="", arms=[[self.wave[0], self.wave[-1]]]
            )
            file["wave"], file["flux"] = self.wave, self.flux
            file["ivar"] = np.full((n, pixels), self.err**-2, dtype=np.float32)
            file["mask"] = np.zeros((n, pixels), dtype=np.uint8)
            file["resolving_power"] = np.full(pixels, self.resolving_power, dtype=np.float32)
            file["obsid"] = [name.encode() for name in self.names]
            file["ra"], file["dec"] = np.full((2, n), np.nan)
            file["labels"] = np.column_stack([self.labels[name] for name in self.labels.colnames])
            file["label_names"] = [name.encode() for name in self.labels.colnames]
            if self.direct is not None:
                file["ab_initio"] = self.direct


def check_ending(path: Path) -> None:
    """Raise `UserError` unless the name says a form that is known: asked before the work."""
    if not path.name.lower().endswith(ENDINGS):
        raise UserError(f"{path}: unknown format, expected a name that ends in .fits, .ecsv or .h5")
