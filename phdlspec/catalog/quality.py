"""The quality page of a catalogue: does it look like stars, and do the errors look right?

One file that needs no network: a Kiel diagram, [X/Fe] of any element against [Fe/H], and errors against S/N and against
their bounds, drawn by Bokeh, whose script is in the page. Pointing at a star shows its numbers and flags in words; a
click opens its report, where `catalog --reports` made one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from astropy.table import Table
from markupsafe import Markup
from numpy.typing import NDArray

from phdlspec.catalog.strangest import strangest_section
from phdlspec.columns import ColumnRole, column_name
from phdlspec.flags import STAR_WORDS, LabelFlag, StarFlag, star_words, usable
from phdlspec.labels import ELEMENTS, abundance_name
from phdlspec.pages import Block, MadeByLibrary, PageTable, text, write_page

MOST_DRAWN = 20_000
MAIN = ("TEFF", "LOGG", "FE_H")
NUMBERS = (*MAIN, *(f"{name}_ERR" for name in MAIN), "RV", "SNR", "RCHI2")
NARROW = 1.05  # axes of S/N reach at least this far about their values, else their labels would overlap
_BAD_LABEL = int(LabelFlag.PRIOR_DOMINATED | LabelFlag.AT_BOUND)
_HOVER = [
    ("star", "@name"), ("Teff", "@TEFF{0} ± @TEFF_ERR{0} K"), ("log g", "@LOGG{0.00} ± @LOGG_ERR{0.00}"),
    ("[Fe/H]", "@FE_H{0.00} ± @FE_H_ERR{0.00}"), ("RV", "@RV{0.0} km/s"), ("S/N", "@SNR{0}"),
    ("reduced χ²", "@RCHI2{0.00}"), ("flags", "@words"),
]  # fmt: skip
# Shows the column that is chosen: `pairs` says which columns become which.
_CHOOSE = """
const data = source.data;
for (const [to, ending] of pairs) { data[to] = data[this.value + ending]; }
title.text = names[this.value]; source.change.emit();
"""

Array = NDArray[np.float64]


def write_quality(table: Table, path: str | Path, reports: Mapping[str, str] | None = None) -> None:
    """Write the page for a catalogue (table of `make_catalog`); of a large one every so many-th star is drawn.

    reports : address of the report, relative to the page, of the stars (FILE) that have one; all of these are drawn.
    """
    path, reports = Path(path), reports or {}
    every = -(-max(len(table), 1) // MOST_DRAWN)
    files = [str(file) for file in table["FILE"]]
    drawn = table[[i for i, file in enumerate(files) if i % every == 0 or file in reports]]
    thinned = "" if len(drawn) == len(table) else f" {len(drawn)} of them are drawn."
    click = " A click opens its report." if reports else ""
    blocks = [
        *_counts(table),
        text(f"Point at a star for its numbers; the same star is marked in all diagrams.{thinned}{click}"),
        _diagrams(drawn, reports), *strangest_section(table),
    ]  # fmt: skip
    write_page(path, path.stem, blocks, _scripts())


def _scripts() -> Markup:
    from bokeh.resources import Resources  # heavy, and not needed with --no-report

    return Markup(Resources(mode="inline", components=["bokeh", "bokeh-widgets"]).render())


def _counts(table: Table) -> list[Block]:
    flag = np.asarray(table["FLAG"])
    rows = [(words, int(((flag & int(bit)) > 0).sum())) for bit, words in STAR_WORDS.items()]
    counts = f"{int(usable(flag).sum())} that may be used, {int((flag == 0).sum())} of them without any flag"
    return [text(f"{len(table)} stars, {counts}."), PageTable((), rows)]


def _numbers(table: Table, name: str) -> Array:
    return np.ma.filled(np.ma.asarray(table[name]).astype(float), np.nan)


def _columns(table: Table, reports: Mapping[str, str]) -> dict[str, Any]:
    """What is drawn or shown of each star; an abundance only where the spectrum sets it."""
    flags = [int(flag) for flag in table["FLAG"]]
    columns: dict[str, Any] = {name: _numbers(table, name) for name in NUMBERS}
    names = [str(obsid) or Path(str(file)).name for obsid, file in zip(table["OBSID"], table["FILE"])]
    columns["name"], columns["words"] = names, ["; ".join(star_words(flag)) or "none" for flag in flags]
    columns["address"] = [reports.get(str(file), "") for file in table["FILE"]]
    columns["alpha"] = _opacity(np.array(flags, dtype=np.int64))
    for element in ELEMENTS:
        name = abundance_name(element)
        set_by_it = (np.asarray(table[column_name(name, ColumnRole.FLAG)]) & _BAD_LABEL) == 0
        columns[name] = np.where(set_by_it, _numbers(table, name), np.nan)
    for name in (*MAIN, *map(abundance_name, ELEMENTS)):
        for ending, role in (("_ERR", ColumnRole.ERROR), ("_CRLB", ColumnRole.BOUND)):
            values = _numbers(table, column_name(name, role))
            columns[name + ending] = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    return columns | {"x_fe": columns["MG_FE"], "err": columns["TEFF_ERR"], "bound": columns["TEFF_CRLB"]}


def _diagrams(table: Table, reports: Mapping[str, str]) -> MadeByLibrary:
    """The diagrams as a script and its place."""
    from bokeh.embed import components
    from bokeh.layouts import column, row
    from bokeh.models import ColumnDataSource, CustomJS
    from bokeh.models.widgets import Select
    from bokeh.palettes import Viridis256
    from bokeh.transform import linear_cmap

    data = _columns(table, reports)
    source = ColumnDataSource(data)
    colour = linear_cmap("FE_H", Viridis256, -2.0, 0.5)
    kiel = _figure("Kiel diagram, colour: [Fe/H]; paler: imperfect fits; faint: flagged", "Teff (K)", "log g")
    kiel.x_range.flipped = kiel.y_range.flipped = True
    kiel.scatter("TEFF", "LOGG", source=source, color=colour, alpha="alpha", size=6, name="stars")
    elements = {abundance_name(element): f"[{element}/Fe]" for element in ELEMENTS}
    abundance = _figure(elements["MG_FE"], "[Fe/H]", "[X/Fe]")
    abundance.scatter("FE_H", "x_fe", source=source, color=colour, alpha="alpha", size=6, name="stars")
    errors = _figure("TEFF", "S/N", "error; grey: Cramér–Rao bound", kind="log")
    _widen(errors, data["SNR"])
    errors.scatter("SNR", "bound", source=source, color="#bbbbbb", size=4)
    errors.scatter("SNR", "err", source=source, color="#1f77b4", alpha="alpha", size=6, name="stars")
    choices = []
    for plot, names, pairs, first in (
        (abundance, elements, [["x_fe", ""]], "MG_FE"),
        (errors, {name: name for name in MAIN} | elements, [["err", "_ERR"], ["bound", "_CRLB"]], "TEFF"),
    ):
        options: list[Any] = list(names.items())
        choose = Select(value=first, options=options, width=120)
        choose.js_on_change("value", CustomJS(
            args={"source": source, "pairs": pairs, "names": names, "title": plot.title}, code=_CHOOSE
        ))  # fmt: skip
        choices.append(choose)
    for plot in (kiel, abundance, errors):
        _point_and_click(plot, source, bool(reports))
    below = [[kiel, column(choices[0], abundance)], [column(choices[1], errors)]]
    script, place = components(column(*(row(*line) for line in below)))
    return MadeByLibrary(Markup(f"{place}{script}"))


def _opacity(flags: NDArray[np.int64]) -> Array:
    """Full for good fits, less for imperfect ones, faint for stars that may not be used; (n,)."""
    imperfect = (flags & int(StarFlag.IMPERFECT_FIT)) > 0
    return np.where(usable(flags), np.where(imperfect, 0.5, 0.85), 0.15)


def _figure(title: str, x: str, y: str, kind: Literal["linear", "log"] = "linear") -> Any:
    from bokeh.plotting import figure

    return figure(
        title=title, x_axis_label=x, y_axis_label=y, width=540, height=430, x_axis_type=kind, y_axis_type=kind,
        tools="pan,wheel_zoom,box_zoom,reset,save,tap", active_scroll="wheel_zoom",
    )  # fmt: skip


def _widen(plot: Any, values: Array) -> None:
    # An axis of values that are all equal would have no room for its labels.
    known = values[np.isfinite(values) & (values > 0)]
    if len(known):
        plot.x_range.start, plot.x_range.end = float(known.min() / NARROW), float(known.max() * NARROW)


def _point_and_click(plot: Any, source: Any, with_reports: bool) -> None:
    from bokeh.models import CustomJS, HoverTool, TapTool

    plot.add_tools(HoverTool(tooltips=_HOVER, renderers=plot.select(name="stars")))
    if with_reports:
        code = "const i = source.selected.indices[0]; const a = source.data['address'][i]; if (a) { window.open(a); }"
        plot.select_one(TapTool).callback = CustomJS(args={"source": source}, code=code)
