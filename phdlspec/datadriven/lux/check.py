"""One page on how a model does: held-out labels against given ones, pulls, and curves by S/N and by missing labels.

A star that the model was trained on is judged by the prediction of the fold that had not seen it; such a star without
one is left out. So nothing on the page is of a star that was learned from.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.datadriven.dataset import Dataset
from phdlspec.datadriven.folds import grouped_folds
from phdlspec.datadriven.label_table import NOT_STATED
from phdlspec.datadriven.lux.judging import neighbours
from phdlspec.datadriven.lux.lux import Lux
from phdlspec.datadriven.lux.training import train
from phdlspec.errors import UserError
from phdlspec.pages import Block, Heading, new_figure, picture, rows_of, text, write_page
from phdlspec.tables import write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DELETED = (0.0, 0.25, 0.5, 0.75)
NOISE = (1.0, 2.0, 4.0)  # times the spectra's own
FEWEST_PAIRS = 5
MOST_STARS = 800  # of the trials with labels deleted

Array = NDArray[np.float64]


def write_check(model: Lux, data: Dataset, folder: str | Path, name: str) -> str:
    """Write `check.html` and `check.ecsv` into the folder; a sentence on what was found."""
    _refuse_other_labels(model, data)
    values, errors, judged = _predictions(model, data)
    if judged.sum() < 5:
        raise UserError(
            f"{name}: only {judged.sum()} spectra with labels are not of its training stars, expected 5 or more"
        )
    accuracy = _accuracy(model, data.take(judged), values[judged], errors[judged])
    by_noise = _by_noise(model, data)
    by_missing = _by_missing(model, data)
    figures = [_one_to_one(model, data.take(judged), values[judged]),
               _curve(by_noise, "noise, times the spectra's own"),
               _curve(by_missing, "share of labels deleted")]  # fmt: skip
    headings = ("Held-out labels", "More noise added", "Labels deleted from the training")
    drawn = [block for words, figure in zip(headings, figures) for block in (Heading(words), picture(figure))]
    blocks = [
        text(f"{int(judged.sum())} spectra that the model had not seen."),
        rows_of(accuracy), *drawn, rows_of(by_noise), rows_of(by_missing), *_repeated(model, data),
    ]  # fmt: skip
    write_page(Path(folder) / "check.html", name, blocks)
    write_table(accuracy, Path(folder) / "check.ecsv")
    words = ", ".join(f"{row['label']} {row['scatter']:.3g} (pull {row['pull']:.2f})" for row in accuracy)
    return f"{Path(folder) / 'check.html'}: {int(judged.sum())} held-out spectra; scatter {words}"


def _refuse_other_labels(model: Lux, data: Dataset) -> None:
    if len(data.infos) != len(model.infos) or [i.name for i in data.infos] != [i.name for i in model.infos]:
        theirs, ours = (" ".join(i.name for i in infos) for infos in (data.infos, model.infos))
        raise UserError(
            f"the tables have the labels {theirs}, the model {ours}; give the same columns in the same order"
        )
    for one, other in zip(data.infos, model.infos):
        if (
            one.is_abundance
            and NOT_STATED not in (one.solar_scale, other.solar_scale)
            and one.solar_scale != other.solar_scale
        ):
            raise UserError(
                f"{one.name} is on the solar scale {one.solar_scale}, the model's on {other.solar_scale}; "
                "convert the labels first"
            )


def _predictions(model: Lux, data: Dataset) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Labels (N, L) and errors of all spectra, and which (N,) were not learned from."""
    found = model.predict(data)
    values, judged = found.values.copy(), data.readable & np.isfinite(data.values).any(axis=1)
    trained = set(model.metadata.get("files", ()))
    rows = {file: i for i, file in enumerate(model.held_out_files)}
    for i, file in enumerate(data.files):
        if file in rows:
            known = np.isfinite(model.held_out[rows[file]])
            values[i] = np.where(known, model.held_out[rows[file]], np.nan)
        elif file in trained:
            judged[i] = False
    return values, np.sqrt(np.einsum("nll->nl", found.covariance)), judged


def _scatter(difference: Array) -> Array:
    return np.asarray(1.4826 * np.nanmedian(np.abs(difference - np.nanmedian(difference, axis=0)), axis=0))


def _accuracy(model: Lux, data: Dataset, values: Array, errors: Array) -> Table:
    difference = values - data.values
    pull = difference / np.hypot(errors, data.errors)
    return Table({
        "label": list(model.names), "stars": np.isfinite(difference).sum(0), "bias": np.nanmedian(difference, axis=0),
        "scatter": _scatter(difference), "error": np.nanmedian(errors, axis=0),
        "given error": np.nanmedian(data.errors, axis=0),
        "pull": 1.4826 * np.nanmedian(np.abs(pull), axis=0),
    })  # fmt: skip


def _by_noise(model: Lux, data: Dataset) -> Table:
    """What added noise does to the labels: scatter against those of the spectra as they are, over the change of the
    error."""
    data = data.take(data.readable)
    random = np.random.default_rng(0)
    clean = model.predict(data)
    own = np.einsum("nll->nl", clean.covariance)
    rows = []
    for times in NOISE:
        extra = np.sqrt(np.divide(times**2 - 1.0, data.ivar, out=np.zeros_like(data.ivar), where=data.ivar > 0))
        noisy = replace(data, flux=(data.flux + extra * random.standard_normal(data.flux.shape)).astype(np.float32),
                        ivar=data.ivar / np.float32(times**2))  # fmt: skip
        found = model.predict(noisy)
        row: dict[str, Any] = {"x": times, "S/N": float(np.median(data.snr) / times)}
        error = np.sqrt(np.median(np.einsum("nll->nl", found.covariance), axis=0) / np.median(own, axis=0))
        change = _scatter(found.values - clean.values) / np.sqrt(np.median(own, axis=0))
        for name, e, c in zip(model.names, error, change):
            row |= {name: float(c), f"{name} error": float(e)}
        rows.append(row)
    return Table(rows)


def _by_missing(model: Lux, data: Dataset) -> Table:
    """Held-out scatter of models trained with some of all labels deleted at random, over that with all of them."""
    data = data.take(data.readable & np.isfinite(data.values).any(axis=1))
    if len(data) > MOST_STARS:
        data = data.take(np.sort(np.random.default_rng(0).permutation(len(data))[:MOST_STARS]))
    held = grouped_folds(data.stars, 5) == 0
    latents = model.parameters.latents
    rows = []
    first: Array | None = None
    for share in DELETED:
        kept = np.random.default_rng(1).random(data.values.shape) >= share
        part = replace(data, values=np.where(kept, data.values, np.nan)).take(~held)
        try:
            found = train(part, latents=latents).predict(data.take(held))
        except UserError:  # too few stars or labels are left
            break
        scatter = _scatter(found.values - data.values[held])
        first = scatter if first is None else first
        rows.append({"x": share, **dict(zip(model.names, (scatter / first).tolist()))})
    return Table(rows or [{"x": 0.0}])


def _repeated(model: Lux, data: Dataset) -> list[Block]:
    """Differences between spectra of one star over the noise that the model reports; nothing where they are few."""
    data = data.take(data.readable)
    one, two = neighbours(data.stars)
    if len(one) < FEWEST_PAIRS:
        return []
    found = model.predict(data)
    difference = found.values[one] - found.values[two]
    noise = np.sqrt(np.einsum("nll->nl", found.noise[one] + found.noise[two]))
    table = Table({
        "label": list(model.names), "pairs": [len(one)] * len(model.names),
        "scatter / sqrt 2": 1.4826 * np.median(np.abs(difference), axis=0) / 2**0.5,
        "noise": np.median(noise, axis=0) / 2**0.5,
        "scatter over noise": 1.4826 * np.median(np.abs(difference / noise), axis=0),
    })  # fmt: skip
    return [Heading("Spectra of one star"), rows_of(table)]


def _one_to_one(model: Lux, data: Dataset, values: Array) -> Figure:
    columns = min(4, len(model.names))
    rows = -(-len(model.names) // columns)
    figure = new_figure(3.2 * columns, 3.0 * rows)
    for i, (name, info) in enumerate(zip(model.names, model.infos)):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.plot(data.values[:, i], values[:, i], ".", ms=3)
        ends = [model.limits.lowest[i], model.limits.highest[i]]
        axes.plot(ends, ends, "k-", lw=0.8)
        axes.set_xlabel(f"{name} given {f'({info.unit})' if info.unit else ''}")
        axes.set_ylabel("from flux alone")
    return figure


def _curve(table: Table, label: str) -> Figure:
    figure = new_figure(7, 3.6)
    axes = figure.add_subplot(1, 1, 1)
    for name in (c for c in table.colnames if c not in ("x", "S/N") and not c.endswith(" error")):
        axes.plot(table["x"], table[name], "o-", ms=3, lw=1, label=name)
    axes.set_xlabel(label)
    axes.set_ylabel("scatter, relative")
    axes.legend(fontsize=7, ncols=3)
    return figure
