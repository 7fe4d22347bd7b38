"""One page on what a bridge is worth: stars that it was not learned from, fitted with and without it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.bridge.references import ReferenceStar
from phdlspec.emulator.bridge import NONE, Bridge, BridgedEmulator, described
from phdlspec.emulator.emulator import Emulator
from phdlspec.errors import UserError
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import FitSettings
from phdlspec.flags import StarFlag
from phdlspec.labels import STRUCTURE
from phdlspec.pages import Block, Heading, new_figure, picture, rows_of, text, write_page
from phdlspec.tables import write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

LEAST_STARS = 5
GIANT = 3.5  # log g below which a star is one
BATCH = 32
_EXAMPLES = ((4300.0, 1.5, -0.3), (5000.0, 2.8, 0.0), (5000.0, 4.6, 0.0), (5800.0, 4.4, 0.0), (6200.0, 4.1, -1.5))


def write_check(
    bridge: Bridge, name: str, stars: Sequence[ReferenceStar], emulator: Emulator, settings: FitSettings, folder: Path
) -> str:
    """Write `check.html` and `check.ecsv` into the folder; a sentence on what was found.

    Raises `UserError` where too few of the stars are not among those that the bridge was learned from.
    """
    with_it = BridgedEmulator(emulator, bridge, name)
    judged = [star for star in stars if star.name not in bridge.stars]
    if len(judged) < LEAST_STARS:
        raise UserError(
            f"{name}: {len(judged)} of {len(stars)} stars are not of those that it was learned from, expected "
            f"{LEAST_STARS} or more"
        )
    plain, crossed = (fitted(judged, model, settings) for model in (emulator, with_it))
    rows = by_star(judged, plain, crossed, with_it)
    summary = by_kind(rows)
    blocks: list[Block] = [
        text(*described(bridge.metadata)),
        text(f"{len(judged)} stars that it was not learned from ({len(stars) - len(judged)} that it was are left out), "
             "fitted without their labels, with the bridge and without: fit minus label, median and robust scatter; "
             "shares within one and two errors of fit and label together."),
        rows_of(summary), picture(_differences(rows)),
        Heading("What is left of the spectra"), picture(_left(plain, crossed)),
        Heading("The bridge"), picture(_corrections(with_it)),
    ]  # fmt: skip
    write_page(folder / "check.html", name, blocks)
    write_table(rows, folder / "check.ecsv")
    words = "; ".join(
        f"{row['stars']} ({row['n']}) {row['label']} {row['without']} without, {row['with']} with" for row in summary
    )
    return f"{folder / 'check.html'}: {len(judged)} held-out stars; {words}"


def fitted(stars: Sequence[ReferenceStar], model: Emulator, settings: FitSettings) -> list[Fitted]:
    """Fits of the stars without what is known of them; a model that has no bridge gets none."""
    plain = FitSettings(mode="fast", seed=settings.seed, bridge=NONE)
    found: list[Fitted] = []
    for first in range(0, len(stars), BATCH):
        found += fit_batch([star.spectrum for star in stars[first : first + BATCH]], model, plain, keep=True)
    return found


def by_star(
    stars: Sequence[ReferenceStar], plain: Sequence[Fitted], crossed: Sequence[Fitted], model: BridgedEmulator
) -> Table:
    """One row a star: labels, fits without and with the bridge, and how much of it is known there."""
    rows = []
    for star, one, other in zip(stars, plain, crossed):
        row: dict[str, object] = {"NAME": star.name}
        row |= {f"{n}_REF": v for n, v in zip(STRUCTURE, star.values)}
        row |= {f"{n}_REF_ERR": e for n, e in zip(STRUCTURE, star.errors)}
        for suffix, fit in (("PLAIN", one), ("BRIDGE", other)):
            for label in STRUCTURE:
                row |= {f"{label}_{suffix}": float(fit[label]), f"{label}_{suffix}_ERR": float(fit[label].err)}
            row |= {f"FLAG_{suffix}": fit.flag, f"RCHI2_{suffix}": _chi2(fit)}
        row["SUPPORT"] = float(model.support(torch.as_tensor(_full(model, star.values)))[0])
        rows.append(row)
    return Table(rows)


def _full(model: Emulator, values: Array) -> Array:
    return model.labels.complete(dict(zip(STRUCTURE, map(float, values))))[None]


def _chi2(fit: Fitted) -> float:
    return fit.diagnostics.get("stated_chi2", np.nan) / max(fit.npix - len(fit.names), 1)


def by_kind(rows: Table) -> Table:
    """Fit minus label of giants and dwarfs, without and with the bridge."""
    table = []
    bad = int(StarFlag.FAILED)
    good = ((np.asarray(rows["FLAG_PLAIN"]) | np.asarray(rows["FLAG_BRIDGE"])) & bad) == 0
    giant = np.asarray(rows["LOGG_REF"]) < GIANT
    for kind, chosen in (("giants", good & giant), ("dwarfs", good & ~giant)):
        for label in STRUCTURE:
            if not chosen.any():
                continue
            row: dict[str, object] = {"stars": kind, "n": int(chosen.sum()), "label": label}
            for suffix, title in (("PLAIN", "without"), ("BRIDGE", "with")):
                off = np.asarray(rows[f"{label}_{suffix}"] - rows[f"{label}_REF"])[chosen]
                error = np.hypot(rows[f"{label}_{suffix}_ERR"], rows[f"{label}_REF_ERR"])[chosen]
                pull = np.abs(off) / error
                row |= {title: _middle(off), f"{title}: within 1σ, 2σ": ", ".join(
                    f"{100 * np.mean(pull < k):.0f}%" for k in (1, 2))}  # fmt: skip
            table.append(row)
    return Table(table)


def _middle(values: Array) -> str:
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    median = float(np.median(values))
    digits = 0 if np.abs(values).max() > 20 else 2
    return f"{median:+.{digits}f} ± {1.4826 * float(np.median(np.abs(values - median))):.{digits}f}"


def _differences(rows: Table) -> Figure:
    figure = new_figure(12, 3.6)
    for i, (label, unit) in enumerate(zip(STRUCTURE, ("K", "dex", "dex"))):
        axes = figure.add_subplot(1, 3, i + 1)
        for suffix, color, title in (("PLAIN", "0.6", "without"), ("BRIDGE", "tab:red", "with")):
            axes.errorbar(
                rows["TEFF_REF"], rows[f"{label}_{suffix}"] - rows[f"{label}_REF"], rows[f"{label}_{suffix}_ERR"],
                fmt="o", ms=3, lw=0.7, color=color, label=title,
            )  # fmt: skip
        axes.axhline(0, color="0.3", lw=0.8)
        axes.set_xlabel("known Teff (K)")
        axes.set_title(f"{label}, fit minus known ({unit})", fontsize=10)
    figure.axes[0].legend()
    return figure


def _left(plain: Sequence[Fitted], crossed: Sequence[Fitted]) -> Figure:
    # Root mean square over the stars of what each fit leaves, in bins of wavelength.
    figure = new_figure(12, 3.4)
    axes = figure.add_subplot()
    edges = np.geomspace(3700.0, 9000.0, 200)
    for fits, color, title in ((plain, "0.6", "without"), (crossed, "tab:red", "with")):
        total, count = np.zeros(len(edges) + 1), np.zeros(len(edges) + 1)
        for s in (fit.spectrum for fit in fits):
            if s is None:
                continue
            square = ((s.flux - s.model)[s.used] / s.continuum[s.used]) ** 2
            bins = np.digitize(s.wave[s.used], edges)
            total += np.bincount(bins, square, len(edges) + 1)
            count += np.bincount(bins, minlength=len(edges) + 1)
        with np.errstate(invalid="ignore"):
            axes.plot(edges[:-1], np.sqrt(total / count)[1:-1], color=color, lw=1.0, label=title)
    axes.set_xlabel("wavelength in vacuum (Å)")
    axes.set_ylabel("rms of the continuum")
    axes.legend()
    return figure


def _corrections(model: BridgedEmulator) -> Figure:
    figure = new_figure(12, 1.8 * len(_EXAMPLES))
    for i, values in enumerate(_EXAMPLES):
        axes = figure.add_subplot(len(_EXAMPLES), 1, i + 1)
        theta = torch.as_tensor(_full(model, np.array(values)), dtype=torch.float32, device=model.device)
        with torch.no_grad():
            change = model.native_flux(theta) - model.plain.native_flux(theta)
        axes.plot(model.native.wave, change[0].cpu().numpy(), lw=0.6, color="tab:blue")
        axes.axhline(0, color="0.6", lw=0.6)
        support = float(model.support(theta)[0])
        axes.set_title(f"Teff {values[0]:.0f} K, log g {values[1]:.1f}, [Fe/H] {values[2]:+.1f}; known to "
                       f"{100 * support:.0f}%", fontsize=9)  # fmt: skip
    figure.supylabel("added to flux / continuum")
    return figure
