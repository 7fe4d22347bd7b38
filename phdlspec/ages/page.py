"""The page of a table of ages: where the stars lie among the isochrones, and what to make of their ages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from phdlspec import pages
from phdlspec.ages.flags import AGE_WORDS, AgeFlag
from phdlspec.ages.isochrones import Isochrones
from phdlspec.pages import Block, Heading, PageTable, new_figure, picture, text

Array = NDArray[np.float64]

MOST_DRAWN = 50_000
_AGES_DRAWN = (1.0, 2.0, 4.0, 7.0, 10.0, 13.0)
_UNSURE = int(
    AgeFlag.NOT_SUBGIANT | AgeFlag.OUTSIDE_SET | AgeFlag.PRIOR_DOMINATED | AgeFlag.CONFLICT | AgeFlag.BIMODAL
    | AgeFlag.NO_LABELS | AgeFlag.LABELS_FLAGGED
)  # fmt: skip


def write_page(table: Table, path: str | Path, isochrones: Isochrones) -> None:
    """Write the page of a table of `phdlspec.ages.infer`; of a large one every so many-th star is drawn."""
    path = Path(path)
    drawn = table[:: -(-max(len(table), 1) // MOST_DRAWN)]
    blocks = [
        *_said(table),
        Heading("Kiel diagram"), picture(_kiel(drawn, isochrones)),
        text("Lines: isochrones of 1, 2, 4, 7, 10, 13 Gyr at the stars' median [M/H]. Grey: stars with a flag that "
             "puts the age in doubt."),
        Heading("Age against [Fe/H] and [α/Fe]"), picture(_abundances(drawn)),
        text("Stars without such a flag."),
        Heading("Error against age"), picture(_errors(drawn)),
    ]  # fmt: skip
    if "AGE2" in table.colnames:
        blocks += [Heading("Two sets of isochrones"), picture(_two_sets(drawn)), text(_difference(table))]
    pages.write_page(path, path.stem, blocks)


def trusted(table: Table) -> NDArray[np.bool_]:
    """True (n,) for subgiants with an age that no flag puts in doubt."""
    age = np.asarray(table["AGE"], dtype=float)
    return np.asarray(np.isfinite(age) & ((np.asarray(table["AGE_FLAG"]) & _UNSURE) == 0))


def _said(table: Table) -> list[Block]:
    flag = np.asarray(table["AGE_FLAG"])
    rows = [(words, int(((flag & int(bit)) > 0).sum())) for bit, words in AGE_WORDS.items()]
    facts = "; ".join(
        f"{what}: {table.meta.get(key, '')}"
        for what, key in (
            ("isochrones", "ISOCHRON"), ("solar scale", "ISOSCALE"), ("[α/Fe] of the set", "ISOALPHA"),
            ("labels", "LABELS"), ("bands", "BANDS"), ("magnitudes", "MAGSFROM"), ("prior", "PRIOR"),
        )
    )  # fmt: skip
    counts = f"{len(table)} stars, {int(trusted(table).sum())} subgiants whose age no flag puts in doubt."
    return [text(f"{counts} {facts}."), PageTable((), rows)]


def _values(table: Table, name: str, use: NDArray[np.bool_]) -> Array:
    return np.asarray(table[name], dtype=float)[use]


def _kiel(table: Table, isochrones: Isochrones) -> Figure:
    figure = new_figure(10, 6)
    axes = figure.add_subplot()
    good = trusted(table)
    axes.plot(_values(table, "TEFF", ~good), _values(table, "LOGG", ~good), ".", ms=2, color="0.75")
    dots = axes.scatter(
        _values(table, "TEFF", good), _values(table, "LOGG", good), c=_values(table, "AGE", good), s=6, vmin=0, vmax=14
    )
    mh = np.asarray(table["M_H"], dtype=float)
    typical = float(np.median(mh[np.isfinite(mh)])) if np.isfinite(mh).any() else 0.0
    _draw_isochrones(axes, isochrones, typical)
    axes.set(xlim=(7600, 3900), ylim=(5.2, 1.5), xlabel="Teff (K)", ylabel="log g")
    figure.colorbar(dots, label="age (Gyr)")
    return figure


def _draw_isochrones(axes: Axes, isochrones: Isochrones, mh: float) -> None:
    at = int(np.argmin(np.abs(isochrones.mh - mh)))
    q = isochrones.quantities
    for age in _AGES_DRAWN:
        near = int(np.argmin(np.abs(isochrones.log_age - np.log10(age) - 9.0)))
        axes.plot(10.0 ** q["log_teff"][at, near], q["logg"][at, near], lw=0.7, color="k", alpha=0.6)


def _abundances(table: Table) -> Figure:
    figure = new_figure(12, 4.5)
    good = trusted(table)
    for position, (name, label) in enumerate((("FE_H", "[Fe/H]"), ("ALPHA_FE", "[α/Fe]")), start=1):
        axes = figure.add_subplot(1, 2, position)
        axes.plot(_values(table, "AGE", good), _values(table, name, good), ".", ms=3, alpha=0.6)
        axes.set(xlim=(0, 15), xlabel="age (Gyr)", ylabel=label)
    return figure


def _errors(table: Table) -> Figure:
    figure = new_figure(12, 4.5)
    good = trusted(table)
    age, error = _values(table, "AGE", good), _values(table, "AGE_ERR", good)
    left, right = figure.subplots(1, 2)
    left.plot(age, error, ".", ms=3, alpha=0.6)
    left.set(xlabel="age (Gyr)", ylabel="error (Gyr)")
    right.hist(np.clip(100.0 * error / age, 0, 60), bins=np.arange(0, 61, 2))
    median = f", median {np.median(100.0 * error / age):.1f}%" if len(age) else ""
    right.set(xlabel="relative error (%)", ylabel="stars", title=f"{len(age)} stars{median}")
    return figure


def _both(table: Table) -> NDArray[np.bool_]:
    second = np.asarray(table["AGE2"], dtype=float)
    return np.asarray(trusted(table) & np.isfinite(second) & ((np.asarray(table["AGE2_FLAG"]) & _UNSURE) == 0))


def _two_sets(table: Table) -> Figure:
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    both = _both(table)
    first, second = _values(table, "AGE", both), _values(table, "AGE2", both)
    axes.plot(first, second - first, ".", ms=3, alpha=0.6)
    axes.axhline(0.0, color="0.6", lw=0.8)
    names = [str(table.meta.get(key, "")) for key in ("ISOCHRON", "ISOCHRO2")]
    axes.set(xlim=(0, 15), ylim=(-4, 4), xlabel=f"age, {names[0]} (Gyr)", ylabel=f"{names[1]} minus it (Gyr)")
    return figure


def _difference(table: Table) -> str:
    both = _both(table)
    if not both.any():
        return "No star has a sure age with both sets."
    first, second = _values(table, "AGE", both), _values(table, "AGE2", both)
    relative = 100.0 * (second - first) / first
    return f"{int(both.sum())} stars: median difference {np.median(relative):+.1f}% of the age."
