"""The quality page of a catalogue: does it look like stars, and do the errors look right?"""

from __future__ import annotations

import base64
import html
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.catalog.strangest import strangest_section
from phdlspec.columns import ColumnRole, column_name
from phdlspec.flags import STAR_WORDS, LabelFlag
from phdlspec.labels import ELEMENTS, abundance_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_DRAWN = 100_000
_BAD_LABEL = int(LabelFlag.PRIOR_DOMINATED | LabelFlag.AT_BOUND)
_STYLE = "body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em}img{width:100%}"


def write_quality(table: Table, path: str | Path) -> None:
    """Write the page for a catalogue (table of `make_catalog`); of a large one every so many-th star is drawn."""
    path = Path(path)
    drawn = table[:: -(-max(len(table), 1) // MOST_DRAWN)]
    parts = [
        f"<h1>{html.escape(path.stem)}</h1>", _counts(table),
        "<h2>Kiel diagram</h2>", _picture(_kiel(drawn)),
        "<h2>Abundances</h2><p>Stars without flags of their own, labels that the spectrum sets.</p>",
        _picture(_abundances(drawn)),
        "<h2>Errors against signal-to-noise ratio, and against their bounds</h2>", _picture(_errors(drawn)),
        strangest_section(table),
    ]  # fmt: skip
    title = html.escape(path.stem)
    page = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)


def _picture(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # heavy, and not needed with --no-report

    return Figure(figsize=(width, height), layout="constrained")


def _good(table: Table) -> NDArray[np.bool_]:
    return np.asarray(np.asarray(table["FLAG"]) == 0)


def _counts(table: Table) -> str:
    flag = np.asarray(table["FLAG"])
    rows = "".join(
        f"<tr><td>{html.escape(text)}</td><td>{int(((flag & int(bit)) > 0).sum())}</td></tr>"
        for bit, text in STAR_WORDS.items()
    )
    return f"<p>{len(table)} stars, {int((flag == 0).sum())} without flags.</p><table>{rows}</table>"


def _kiel(table: Table) -> Figure:
    figure = _figure(10, 4.5)
    good = _good(table)
    for position, (mask, title) in enumerate(((good, "no flags"), (~good, "flagged")), start=1):
        axes = figure.add_subplot(1, 2, position)
        dots = axes.scatter(
            table["TEFF"][mask], table["LOGG"][mask], c=table["FE_H"][mask], s=8, cmap="viridis", vmin=-2, vmax=0.5
        )
        axes.set_xlim(7600, 3900)
        axes.set_ylim(5.2, 0.3)
        axes.set_title(f"{title}: {int(mask.sum())}")
        axes.set_xlabel("Teff (K)")
        axes.set_ylabel("log g")
    figure.colorbar(dots, label="[Fe/H]")
    return figure


def _abundances(table: Table) -> Figure:
    figure = _figure(13, 11)
    good = _good(table)
    for position, element in enumerate(ELEMENTS, start=1):
        name = abundance_name(element)
        axes = figure.add_subplot(5, 6, position)
        use = good & ((np.asarray(table[column_name(name, ColumnRole.FLAG)]) & _BAD_LABEL) == 0)
        axes.plot(table["FE_H"][use], table[name][use], ".", ms=3, alpha=0.5)
        axes.axhline(0, color="0.7", lw=0.6)
        axes.set_title(f"[{element}/Fe], {int(use.sum())} stars", fontsize=8)
        axes.set_xlim(-2.6, 0.6)
        axes.set_ylim(-0.75, 0.75)
        axes.tick_params(labelsize=6)
    return figure


def _errors(table: Table) -> Figure:
    figure = _figure(13, 7)
    good = _good(table)
    snr = np.asarray(table["SNR"])
    for position, name in enumerate(("TEFF", "LOGG", "FE_H", "MG_FE", "C_FE", "NI_FE"), start=1):
        axes = figure.add_subplot(2, 3, position)
        err, bound = (np.asarray(table[column_name(name, role)]) for role in (ColumnRole.ERROR, ColumnRole.BOUND))
        axes.loglog(snr[good], bound[good], ".", ms=3, color="0.7", label="Cramér–Rao bound")
        axes.loglog(snr[good], err[good], ".", ms=3, label="error")
        ratio = np.nanmedian(err[good] / bound[good]) if good.any() else np.nan
        axes.set_title(f"{name}: median error / bound {ratio:.2f}", fontsize=9)
        axes.set_xlabel("S/N")
    axes.legend(fontsize=8)
    return figure
