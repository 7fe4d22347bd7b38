"""One page on what an embedding knows: linear probes and neighbours, fitted on the model's training stars and scored on
the others.

Beside the embedding of both modalities stand each modality alone, the features of the encoders before the DualFormer,
their plain concatenation, and the classical rotation period. A label that the model learned in its training is not
scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.datadriven.dataset import Dataset
from phdlspec.datadriven.desa.desa import Desa, Tokens, run_dual
from phdlspec.datadriven.desa.light_curve_set import LightCurveSet
from phdlspec.datadriven.desa.probes import (
    area_under_curve,
    average_precision,
    fit_matching,
    fit_probe,
    is_class,
    ranks_of_partners,
)
from phdlspec.datadriven.desa.stars import DesaStars, StarLabels, labels_of
from phdlspec.datadriven.desa.training import seen_with
from phdlspec.datadriven.folds import grouped_folds
from phdlspec.errors import UserError
from phdlspec.pages import Block, Heading, new_figure, picture, rows_of, text, write_page
from phdlspec.tables import write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEIGHBOURS = 10
FOLDS = 5  # where all stars are new to a model, the first is scored
FEWEST = 20  # stars with a label, to fit a probe
GALLERY = 1000  # most among which a partner is looked for
CLOSE = 0.1  # a period within this share of the given one is right
PERIODS = ("PROT", "LOG_PROT")
MEASURED = {"PROT_NET": "network", "PROT_ACF": "autocorrelation", "PROT_LS": "Lomb-Scargle"}

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Inputs:
    """Named features (N, F) of the same N stars, and where (N,) a star has what they need."""

    features: dict[str, Array]
    there: dict[str, Mask]
    dual: tuple[str, ...] = ("both, embedding", "spectrum, embedding", "light curve, embedding")


def inputs_of(model: Desa, tokens: Tokens, period: Array) -> Inputs:
    """Everything that probes are fitted to. period : (N,) d, classical, NaN where there is none."""
    have = tokens.have.numpy()
    one, two = tokens.spectrum_features.double().numpy(), tokens.curve_features.double().numpy()
    features = {
        f"{kind}, embedding": run_dual(model.dual_former, seen_with(tokens, kind))
        for kind in ("both", "spectrum", "light curve")
    }
    features |= {"both, encoders": np.hstack([one, two]), "spectrum, encoder": one, "light curve, encoder": two}
    log = np.log10(np.where(period > 0, period, np.nan))
    features["classical period"] = np.column_stack([log, log**2, log**3])
    needs = {"both": have[:, 0] & have[:, 1], "spectrum": have[:, 0], "light curve": have[:, 1],
             "classical period": np.isfinite(log)}  # fmt: skip
    return Inputs(features, {name: needs[name.split(",")[0]] for name in features})


@dataclass(frozen=True)
class Split:
    """Stars on which probes are fitted and those on which they are scored, (N,) each; `crossed` where all are new to
    the model, and probes are cross-validated among them."""

    training: Mask
    held_out: Mask
    crossed: bool


def split_of(model: Desa, stars: DesaStars) -> Split:
    """Training stars of the model against all others; five folds, scored on the first, where none is of them."""
    trained = set(model.metadata["training"])
    training = np.array([name in trained for name in stars.names])
    if training.sum() < FEWEST:
        fold = grouped_folds(stars.names, FOLDS)
        return Split((fold != 0) & ~training, (fold == 0) & ~training, True)
    return Split(training, ~training, False)


def scores(
    inputs: Inputs, labels: StarLabels, split: Split, learned: tuple[str, ...] = ()
) -> tuple[Table, dict[str, Array]]:
    """One row for each label, set of labels and input; and for each label what the probe of the embedding of both, or
    of the modality that a star has, says of every star.

    RMSE, R2 and NEIGHBOURS (R² of the mean of the ten nearest training stars) of a number; AUC, AP and NEIGHBOURS (AUC
    of the share among the ten nearest) of a class; CLOSE, of a period, is the share within 10%.
    """
    rows: list[dict[str, Any]] = []
    said: dict[str, Array] = {}
    for column, info in enumerate(labels.infos):
        if info.name in learned:
            continue
        truth = labels.values[:, column]
        said[info.name] = np.full(len(truth), np.nan)
        for name, features in inputs.features.items():
            usable = inputs.there[name] & np.isfinite(truth)
            fitted, tested = usable & split.training, usable & split.held_out
            if fitted.sum() < FEWEST or not tested.any() or (is_class(truth) and len(set(truth[fitted])) < 2):
                continue
            probe = fit_probe(features[fitted], truth[fitted])
            found = np.full(len(truth), np.nan)
            found[inputs.there[name]] = probe(features[inputs.there[name]])
            if name in inputs.dual:
                said[info.name] = np.where(np.isfinite(said[info.name]), said[info.name], found)
            near = _neighbours(features[fitted], truth[fitted], features[tested])
            for kind in sorted({labels.sets[i] for i in np.flatnonzero(tested)}):
                part = np.array([labels.sets[i] == kind for i in np.flatnonzero(tested)])
                rows.append({"label": info.name, "set": kind, "input": name, "fitted": int(fitted.sum()),
                             **_score(info.name, truth[tested][part], found[tested][part], near[part])})  # fmt: skip
    if not rows:
        raise UserError(
            f"no label is known for {FEWEST} stars or more to fit a probe to, and for others to score it on"
        )
    names = ("label", "set", "input", "fitted", "held_out", "RMSE", "R2", "AUC", "AP", "NEIGHBOURS", "CLOSE")
    return Table({name: [row.get(name, np.nan) for row in rows] for name in names}), said


def _neighbours(known: Array, labels: Array, features: Array) -> Array:
    spread = known.std(0)
    scale = np.where(spread > 1e-9, spread, 1.0)
    one, other = features / scale, known / scale
    distance = (one**2).sum(1)[:, None] - 2.0 * one @ other.T + (other**2).sum(1)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :NEIGHBOURS]
    return np.asarray(labels[nearest].mean(axis=1))


def _score(name: str, truth: Array, found: Array, near: Array) -> dict[str, Any]:
    row: dict[str, Any] = {"held_out": len(truth)}
    if is_class(truth):
        return row | {"AUC": area_under_curve(found, truth), "AP": average_precision(found, truth),
                      "NEIGHBOURS": area_under_curve(near, truth)}  # fmt: skip
    row["RMSE"] = float(np.sqrt(np.square(found - truth).mean()))
    if len(truth) > 2:
        row |= {"R2": _r2(found, truth), "NEIGHBOURS": _r2(near, truth)}
    if name in PERIODS:
        row["CLOSE"] = _close(name, found, truth)
    return row


def _r2(found: Array, truth: Array) -> float:
    return float(1.0 - np.square(found - truth).mean() / truth.var()) if truth.var() > 0 else np.nan


def _close(name: str, found: Array, truth: Array) -> float:
    ratio = 10.0 ** (found - truth) if name == "LOG_PROT" else found / truth
    return float((np.abs(ratio - 1.0) <= CLOSE).mean())


def measured_periods(labels: StarLabels, split: Split, periods: dict[str, Array], stars: DesaStars) -> Table | None:
    """Scores of the periods of the network and the classical ones as they are, without a probe, on the same held-out
    stars as in `scores`. periods : of light curves, see `Desa.periods`."""
    name = next((info.name for info in labels.infos if info.name in PERIODS), None)
    if name is None:
        return None
    truth = labels.values[:, [info.name for info in labels.infos].index(name)]
    usable = split.held_out & np.isfinite(truth) & (stars.light_curve >= 0)
    usable &= np.isfinite(periods["PROT_NET"][stars.light_curve])
    rows = []
    for column, way in MEASURED.items():
        given = periods[column][stars.light_curve]
        for kind in sorted({labels.sets[i] for i in np.flatnonzero(usable)}):
            part = usable & (np.array(labels.sets) == kind)
            found = np.log10(given) if name == "LOG_PROT" else given
            rows.append({"set": kind, "period": way, "held_out": int(part.sum()),
                         "CLOSE": _close(name, np.nan_to_num(found[part], nan=-9.0), truth[part])})  # fmt: skip
    return Table(rows) if rows else None


def retrieval(model: Desa, tokens: Tokens, split: Split) -> dict[str, float]:
    """`find_partners` by the embeddings from either modality alone, or by e1 and e2 of a contrastive model, which its
    loss has made alike."""
    if model.settings.objective == "contrastive":
        dual = model.dual_former
        with torch.no_grad():
            spaces = dual.standardised(*dual.raw(tokens.spectrum, tokens.curve, tokens.have))
        one, other = (space.double().numpy() for space in spaces)
    else:
        one, other = (run_dual(model.dual_former, seen_with(tokens, kind)) for kind in ("spectrum", "light curve"))
    return find_partners(one, other, np.asarray(tokens.have.all(dim=1).numpy(), dtype=bool), split)


def find_partners(one: Array, other: Array, both: Mask, split: Split) -> dict[str, float]:
    """How often a spectrum finds the light curve of its star first, or among the first ten, of up to a thousand
    held-out pairs, and the reverse. one, other : (N, F) of the spectra and the light curves; what they share is learned
    from the training pairs (`fit_matching`)."""
    fitted, tested = both & split.training, np.flatnonzero(both & split.held_out)[:GALLERY]
    if len(tested) < 2 or fitted.sum() < FEWEST:
        return {}
    odds = fit_matching(one[fitted], other[fitted])(one[tested], other[tested])
    ranks = np.concatenate([ranks_of_partners(odds), ranks_of_partners(odds.T)])
    return {"among": len(tested), "top-1": float((ranks == 0).mean()), "top-10": float((ranks < 10).mean()),
            "median place": float(np.median(ranks)) + 1.0}  # fmt: skip


def write_check(
    model: Desa,
    stars: DesaStars,
    spectra: Dataset | None,
    curves: LightCurveSet | None,
    tables: list[str | Path | Table],
    folder: str | Path,
    name: str,
) -> str:
    """Write `check.html`, `check.ecsv` (scores) and `stars.ecsv` (what the probes say of each held-out star) into the
    folder; a sentence on what was found."""
    labels = labels_of(stars, spectra, curves, tables)
    tokens = model.tokens(stars, spectra, curves)
    periods = model.periods(curves)
    period = np.where(stars.light_curve >= 0, periods["PROT_ACF"][stars.light_curve], np.nan)
    inputs, split = inputs_of(model, tokens, period), split_of(model, stars)
    learned = tuple(info.name for info in model.infos)
    table, said = scores(inputs, labels, split, learned)
    found = retrieval(model, tokens, split)
    by_star = _by_star(stars, labels, said, periods, split)
    folder = Path(folder)
    for file, content in (("check.ecsv", table), ("stars.ecsv", by_star)):
        write_table(content, folder / file)
    measured = measured_periods(labels, split, periods, stars)
    write_page(
        folder / "check.html", name, _blocks(table, measured, found, by_star, labels, said, inputs, split, learned)
    )
    rows = [row for row in table if row["input"] in ("both, embedding", "light curve, embedding")]
    best = {(row["label"], row["set"]): row for row in reversed(rows)}
    kinds = {key: "AUC" if np.isfinite(row["AUC"]) else "RMSE" for key, row in best.items()}
    words = ", ".join(f"{key[0]} {kinds[key]} {row[kinds[key]]:.3g}" for key, row in best.items())
    return f"{folder / 'check.html'}: {int(split.held_out.sum())} held-out stars; {words}"


def _by_star(
    stars: DesaStars, labels: StarLabels, said: dict[str, Array], periods: dict[str, Array], split: Split
) -> Table:
    known = np.array([bool(name) for name in labels.sets])
    rows = np.flatnonzero(split.held_out & known)
    table = Table({"STAR": [stars.names[i] for i in rows], "SET": [labels.sets[i] for i in rows]})
    for column, info in enumerate(labels.infos):
        table[info.name] = labels.values[rows, column]
        if info.name in said:
            table[f"{info.name}_PROBE"] = said[info.name][rows]
    for name, period in periods.items():
        table[name] = np.where(stars.light_curve >= 0, period[stars.light_curve], np.nan)[rows]
    return table


def _blocks(
    table: Table,
    measured: Table | None,
    found: dict[str, float],
    by_star: Table,
    labels: StarLabels,
    said: dict[str, Array],
    inputs: Inputs,
    split: Split,
    learned: tuple[str, ...],
) -> list[Block]:
    words = ("None of these stars is of the training set: probes were fitted on four fifths of them."
             if split.crossed else "Probes were fitted on the training stars of the model.")  # fmt: skip
    blocks: list[Block] = [text(f"{int(split.held_out.sum())} held-out stars. {words}")]
    if learned:
        blocks.append(text(f"Learned by the model, not scored: {', '.join(learned)}."))
    blocks += [Heading("Scores"), rows_of(table)]
    if measured is not None:
        blocks += [Heading("Rotation periods, share within 10%"), rows_of(measured)]
    if found:
        blocks += [Heading("The right partner"), rows_of(Table([found]))]
    for heading, figure in (
        ("HR and Kiel diagram", _diagrams(labels, said, split)),
        ("Rotation", _rotation(by_star)),
        ("Principal components of the embedding", _picture_of_space(inputs, labels)),
    ):
        if figure is not None:
            blocks += [Heading(heading), picture(figure)]
    if len(by_star) <= 50:
        blocks += [Heading("Stars"), rows_of(by_star)]
    return blocks


def _diagrams(labels: StarLabels, said: dict[str, Array], split: Split) -> Figure | None:
    names = [info.name for info in labels.infos]
    shown = [y for y in ("LOG_L", "LOGG") if y in names and "TEFF" in names and y in said and "TEFF" in said]
    if not shown:
        return None
    figure = new_figure(10, 4.2 * len(shown))
    held = split.held_out
    for row, y in enumerate(shown):
        given = labels.values[:, names.index("TEFF")], labels.values[:, names.index(y)]
        for column, (title, (one, other)) in enumerate(
            (("given", given), ("from the embedding", (said["TEFF"], said[y])))
        ):
            axes = figure.add_subplot(len(shown), 2, 2 * row + column + 1)
            axes.plot(one[held], other[held], ".", ms=3)
            axes.set(xlabel="TEFF", ylabel=y, title=title)
            axes.invert_xaxis()
            if y == "LOGG":
                axes.invert_yaxis()
    return figure


def _rotation(by_star: Table) -> Figure | None:
    name = next((name for name in PERIODS if f"{name}_PROBE" in by_star.colnames), None)
    if name is None or not np.isfinite(by_star["PROT_ACF"]).any():
        return None
    given, probe = (np.asarray(by_star[column], dtype=float) for column in (name, f"{name}_PROBE"))
    if name == "LOG_PROT":
        given, probe = 10.0**given, 10.0**probe
    panels = {"linear probe": probe} | {way: by_star[column] for column, way in MEASURED.items()}
    figure = new_figure(12, 3.2)
    for i, (title, found) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), i + 1)
        axes.loglog(given, found, ".", ms=3)
        ends = [np.nanmin(given), np.nanmax(given)]
        axes.loglog(ends, ends, "k-", lw=0.8)
        axes.set(xlabel="given period (d)", ylabel="found (d)", title=title)
    return figure


def _picture_of_space(inputs: Inputs, labels: StarLabels) -> Figure | None:
    space = inputs.features["both, embedding"]
    rows = np.isfinite(space).all(axis=1)
    if rows.sum() < 3:
        return None
    centred = space[rows] - space[rows].mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    x, y = (centred @ directions[:2].T).T
    infos = [(i, info.name) for i, info in enumerate(labels.infos) if np.isfinite(labels.values[rows, i]).any()][:6]
    figure = new_figure(12, 4 * -(-len(infos) // 3))
    for place, (column, name) in enumerate(infos):
        axes = figure.add_subplot(-(-len(infos) // 3), min(3, len(infos)), place + 1)
        colour = labels.values[rows, column]
        axes.plot(x, y, ".", ms=2, color="0.85")
        points = axes.scatter(x, y, c=colour, s=4, vmin=np.nanpercentile(colour, 2), vmax=np.nanpercentile(colour, 98))
        figure.colorbar(points, ax=axes, label=name)
    return figure
