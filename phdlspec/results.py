"""The result of a fit as users hold it: what the fit found, with its files and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phdlspec.errors import UserError
from phdlspec.fitting.result import Fitted, ModelSpectrum
from phdlspec.products import read_hdf5, write_ecsv, write_hdf5
from phdlspec.report import CORNER, corner_figure, spectrum_figure, write_report, zoom_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class FitResult(Fitted):
    """What a fit found, with what made it, its files and its pictures.

    Printed, it is a table; `result["MG_FE"]` is one parameter with its error, unit and flag; `labels`, `abundances()`
    and `covariance()` are tables and arrays of all. `provenance` says what made it: versions, checkpoint, settings.

    >>> magnesium = result["[Mg/Fe]"]  # or result["MG_FE"]
    >>> magnesium.name, magnesium.unit, 0.01 < magnesium.err < 0.1, int(magnesium.flag)
    ('MG_FE', 'dex', True, 0)
    >>> result.write("star.h5").name
    'star.h5'
    >>> phdlspec.FitResult.read("star.h5")["TEFF"] == result["TEFF"]
    True
    """

    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, result: Fitted, provenance: Mapping[str, Any]) -> FitResult:
        """From what the fit returns, and what made it."""
        values = {item.name: getattr(result, item.name) for item in fields(Fitted)}
        return cls(**values, provenance=dict(provenance))

    # --- files -------------------------------------------------------------------------------------------------

    def write(self, path: str | Path) -> Path:
        """Write the table of labels (.ecsv), all that `read` needs (.h5), or the page (.html); the path."""
        path = Path(path)
        writers = {".ecsv": write_ecsv, ".h5": write_hdf5, ".hdf5": write_hdf5, ".html": write_report}
        writer = writers.get(path.suffix.lower())
        if writer is None:
            raise UserError(f"{path}: unknown format, expected a name that ends in .ecsv, .h5 or .html")
        writer(self, path, self.provenance)
        return path

    @classmethod
    def read(cls, path: str | Path) -> FitResult:
        """A result from the HDF5 that `write` or `phdlspec fit` made. Raises `UserError` for any other file."""
        values, provenance = read_hdf5(Path(path))
        return cls(**values, provenance=provenance)

    def report(self, path: str | Path) -> Path:
        """Write the page of `phdlspec fit`, one self-contained HTML; its path."""
        path = Path(path)
        return self.write(path if path.suffix.lower() == ".html" else path.with_name(f"{path.name}.html"))

    # --- pictures ----------------------------------------------------------------------------------------------

    def _model(self) -> ModelSpectrum:
        if self.spectrum is None:
            raise UserError(f"{self.title}: there is no best model in this result ({self.reason or 'not kept'})")
        return self.spectrum

    def plot(self) -> Figure:
        """The spectrum, its best model and the residuals, panel by panel."""
        return spectrum_figure(self._model())

    def plot_elements(self) -> Figure:
        """The window that says most about each of the best measured elements, and a change of 0.2 dex in it."""
        self._model()
        return zoom_figure(self)

    def corner(self, labels: Sequence[str] = CORNER) -> Figure:
        """Draws from the posterior of some parameters against each other."""
        if isinstance(labels, str):
            raise UserError(f"corner of {labels!r}: expected a list of names, as ['TEFF', 'LOGG']")
        names = [self.names[self.index(name)] for name in labels]
        if self.draws is None:
            raise UserError(f"{self.title}: there are no draws in this result ({self.reason or 'not kept'})")
        return corner_figure(self, names)
