"""One page on how a model does: reconstruction and calibration by wavelength, latents coloured by labels, odd spectra.

Spectra that the model was trained on are left out, as far as it knows their names. Labels are looked at, never learned.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.datadriven.dataset import Dataset
from phdlspec.datadriven.scatter_vae.calibration import HIT_SIGMA, mean_squares
from phdlspec.datadriven.scatter_vae.residuals import SpectrumResiduals
from phdlspec.datadriven.scatter_vae.spectrum_model import SpectrumModel
from phdlspec.datadriven.scatter_vae.xp_model import XPModel
from phdlspec.datadriven.scatter_vae.xp_table import XPSet
from phdlspec.errors import UserError
from phdlspec.pages import Block, Heading, new_figure, picture, rows_of, text, write_page
from phdlspec.tables import write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 5
BINS = 24
SHOWN = 10

Array = NDArray[np.float64]


def check_spectra(model: SpectrumModel, data: Dataset, folder: str | Path, name: str) -> str:
    """Write `check.html` and `check.ecsv` (the table by wavelength) into the folder; a sentence on what was found."""
    known = set(model.metadata.get("files", ())) - {""}  # those made in memory have no names
    data = data.take(data.readable & np.array([Path(f).name not in known for f in data.files]))
    if len(data) < FEWEST:
        raise UserError(
            f"{name}: only {len(data)} spectra are not of its training, expected {FEWEST} or more that it has not seen"
        )
    explained, left = model.explain(data)
    labels = {info.name: data.values[:, i] for i, info in enumerate(data.infos)}
    odd = model.apply(data)["FILE", "SNR", "RCHI2", "ANOMALY", "ANOMALY_PCT", "SIGN", "WORST"]
    scatter = np.where(left.good, explained.scatter.cpu().numpy(), np.nan)
    latents = explained.latents.cpu().numpy()
    return _write(left, scatter, latents, labels, odd, Path(folder), name, "rest wavelength (Å)")


def check_xp(model: XPModel, data: XPSet, folder: str | Path, name: str) -> str:
    """The same for XP coefficients; by number of the coefficient instead of wavelength."""
    found, reasons = model.find(data)
    usable = np.array([not r for r in reasons])
    if usable.sum() < FEWEST:
        raise UserError(f"{name}: {int(usable.sum())} sources can be used, expected {FEWEST} or more; {reasons[0]}")
    data = data.take(usable)
    latents, scatter, left = model.left(data)
    odd = model.apply(data)["SOURCE_ID", "SNR", "RCHI2", "ANOMALY", "ANOMALY_PCT", "SIGN", "WORST"]
    return _write(left, scatter, latents, {}, odd, Path(folder), name, "coefficient (BP 0-54, RP 55-109)")


def _write(
    left: SpectrumResiduals, scatter: Array, latents: Array, labels: dict[str, Array], odd: Table, folder: Path,
    name: str, axis: str,
) -> str:  # fmt: skip
    table = by_position(left, scatter)
    misfit = (left.deviation**2).sum(1) / left.good.sum(1).clip(1)
    _, plain = mean_squares(left.deviation, left.good)
    odd.sort("ANOMALY", reverse=True)
    sentence = (
        f"{len(misfit)} that training has not seen: mean squared deviation over noise and scatter {misfit.mean():.3f}, "
        f"{plain:.3f} without hits (pixels beyond {HIT_SIGMA:g} sigma), median of the stars {np.median(misfit):.3f}"
    )
    blocks: list[Block] = [
        text(f"{sentence}. The model knows the names of its training spectra up to 20,000 of them."),
        Heading("Calibration and scatter"), picture(_calibration(table, axis)), rows_of(table),
        Heading("Latents"), picture(_latents(latents, labels)),
        Heading("The strangest"), rows_of(odd[:SHOWN]),
    ]  # fmt: skip
    write_page(folder / "check.html", name, blocks)
    write_table(table, folder / "check.ecsv")
    return f"{folder / 'check.html'}: {sentence}"


def by_position(left: SpectrumResiduals, scatter: Array) -> Table:
    """Mean squared deviation of all pixels and without hits, and median scatter, in bins along the spectrum."""
    rows = []
    for part in np.array_split(np.arange(len(left.wave)), min(BINS, len(left.wave))):
        good = left.good[:, part]
        everything, plain = mean_squares(left.deviation[:, part], good)
        rows.append({
            "from": float(left.wave[part[0]]), "to": float(left.wave[part[-1]]),
            "all": everything, "without hits": plain,
            "scatter": float(np.nanmedian(np.where(good, scatter[:, part], np.nan))) if good.any() else float("nan"),
        })  # fmt: skip
    return Table(rows)


def _calibration(table: Table, axis: str) -> Figure:
    figure = new_figure(9, 5)
    top, bottom = figure.subplots(2, 1, sharex=True)
    centre = 0.5 * (table["from"] + table["to"])
    top.axhspan(0.95, 1.05, color="0.9")
    top.plot(centre, table["all"], label="all")
    top.plot(centre, table["without hits"], label=f"without pixels beyond {HIT_SIGMA:g} sigma")
    top.set_ylabel("mean squared deviation")
    top.legend(fontsize=8)
    bottom.semilogy(centre, table["scatter"])
    bottom.set_ylabel("median scatter")
    bottom.set_xlabel(axis)
    return figure


def _latents(latents: Array, labels: dict[str, Array]) -> Figure:
    """The two latents that spread most, once for each of the first six labels."""
    one, two = np.argsort(-latents.var(axis=0))[:2] if latents.shape[1] > 1 else (0, 0)
    shown = list(labels.items())[:6] or [("", np.zeros(len(latents)))]
    figure = new_figure(4.0 * min(len(shown), 3), 3.4 * -(-len(shown) // 3))
    for i, (name, values) in enumerate(shown, start=1):
        axes = figure.add_subplot(-(-len(shown) // 3), min(len(shown), 3), i)
        dots = axes.scatter(latents[:, one], latents[:, two], c=values, s=5, cmap="viridis")
        axes.set_xlabel(f"latent {one}")
        axes.set_ylabel(f"latent {two}")
        if name:
            figure.colorbar(dots, ax=axes, label=name)
    return figure
