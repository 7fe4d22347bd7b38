"""The comparisons of one label with all references: the data of its fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.catalog import Catalog
from calibration.clusters import Diffusion, constrains
from calibration.matching import MatchedReferences
from calibration.references import ClusterTable, LabelTable, PairTable
from calibration.scales import is_abundance, label_shift

Floats = NDArray[np.float64]
Index = NDArray[np.intp]

SURVEY_OFFSET_SIGMA = 0.5  # prior of the zero point of a survey that does not set the scale, in units of the scale


def label_scale(label: str) -> float:
    """Size of a typical trend: 300 K, 0.3 dex, 0.5 km/s; the unit of all priors of a label."""
    return {"TEFF": 300.0, "VMIC": 0.5}.get(label, 0.3)


@dataclass
class Comparisons:
    """The comparisons of one label, one a row.

    Attributes
    ----------
    d, own, other : (n,) datum and variances.
    first, second : (n,) rows of the catalogue; second = -1 except for pairs.
    set_index : (n,) number of the reference set; set_names its names, set_kinds "pairs", "cluster" or
    "labels". prior_good : (n,) prior probability of a good row.
    nuisance : (n, q) columns; nuisance_mean, nuisance_sigma (q,) their priors; nuisance_names.
    """

    d: NDArray[np.float64]
    own: NDArray[np.float64]
    other: NDArray[np.float64]
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    set_index: NDArray[np.intp]
    set_names: list[str]
    set_kinds: list[str]
    prior_good: NDArray[np.float64]
    nuisance: NDArray[np.float64]
    nuisance_mean: NDArray[np.float64]
    nuisance_sigma: NDArray[np.float64]
    nuisance_names: list[str]

    def __len__(self) -> int:
        return len(self.d)


@dataclass(frozen=True)
class _Block:
    """The comparisons with one set: data d, variances own and other, stars first and second, prior probability to be
    good, (n,) each. kind : "pairs", "cluster" or "labels"; is_anchor : whether it sets the scale."""

    name: str
    kind: str
    d: Floats
    own: Floats
    other: Floats
    first: Index
    second: Index
    prior: Floats
    is_anchor: bool = False

    def where(self, keep: NDArray[np.bool_]) -> _Block:
        """Some of the rows."""
        columns = ("d", "own", "other", "first", "second", "prior")
        return replace(self, **{name: getattr(self, name)[keep] for name in columns})

    def nuisances(self, label: str, logg: Floats, diffusion: Diffusion) -> _Nuisances | None:
        """What is free for this set alone; None where nothing is."""
        scale = label_scale(label)
        if self.kind == "cluster":
            shape, mean, sigma = diffusion.basis(label, logg[self.first])
            names = [f"{self.name}: value", *(f"{self.name}: depletion {i}" for i in range(shape.shape[1]))]
            columns = np.column_stack([np.ones(len(self.d)), shape])
            return _Nuisances(columns, [0.0, *mean], [10 * scale, *sigma], names)
        if self.kind == "labels" and not self.is_anchor:
            columns = np.ones((len(self.d), 1))
            return _Nuisances(columns, [0.0], [SURVEY_OFFSET_SIGMA * scale], [f"{self.name}: zero point"])
        return None


@dataclass(frozen=True)
class _Nuisances:
    """Columns (n, q) of one set's own parameters, their priors' means and sigmas, and names (q,)."""

    columns: Floats
    means: list[float]
    sigmas: list[float]
    names: list[str]


def compare(
    catalog: Catalog,
    label: str,
    matched: MatchedReferences,
    logg: Floats,
    diffusion: Diffusion,
    exclude: frozenset[tuple[str, str]] = frozenset(),
    anchor: str | None = None,
) -> tuple[Comparisons, bool]:
    """All comparisons of a label, and whether any reference states its value.

    logg (stars,) of the catalogue; `exclude` and `anchor` as in `learning.LearnSettings`.
    """
    value, error = catalog.label(label)
    blocks: list[_Block] = []
    if is_abundance(label):
        for pair in matched.pairs:
            if (pair[0].name, label) not in exclude:
                blocks.append(_of_pairs(pair, label, value, error, logg))
        for cluster in matched.clusters:
            if (cluster[0].name, label) not in exclude:
                blocks.append(_of_cluster(cluster, label, value, error, logg, diffusion))
    tables = [
        item for item in matched.labels
        if label in item[0].values and (item[0].name, label) not in exclude and _has(item, label, value)
    ]  # fmt: skip
    names = [table.name for table, _, _ in tables]
    sets_scale = anchor if anchor in names else (names[0] if names else None)
    blocks += [_of_labels(item, label, value, error, item[0].name == sets_scale) for item in tables]
    return _assemble([block for block in blocks if len(block.d)], label, logg, diffusion), sets_scale is not None


def _of_pairs(
    pair: tuple[PairTable, Index, Index, Index], label: str, value: Floats, error: Floats, logg: Floats
) -> _Block:
    table, index, first, second = pair
    nothing = np.zeros(len(table.first))
    known, known_error = table.difference.get(label, (nothing, nothing))
    delta, delta_error = np.nan_to_num(known[index]), np.nan_to_num(known_error[index])
    keep = np.isfinite(value[first] - value[second])
    keep &= constrains(label, logg[first]) & constrains(label, logg[second])
    datum, own = value[first] - value[second] - delta, error[first] ** 2 + error[second] ** 2
    prior = table.probability[index]
    return _Block(table.name, "pairs", datum, own, delta_error**2, first, second, prior).where(keep)


def _of_cluster(
    cluster: tuple[ClusterTable, Index, Index],
    label: str,
    value: Floats,
    error: Floats,
    logg: Floats,
    diffusion: Diffusion,
) -> _Block:
    table, index, rows = cluster
    keep = np.isfinite(value[rows]) & constrains(label, logg[rows]) & diffusion.usable(logg[rows])
    nobody, no_error = np.full(len(rows), -1), np.zeros(len(rows))
    prior = table.probability[index]
    return _Block(table.name, "cluster", value[rows], error[rows] ** 2, no_error, rows, nobody, prior).where(keep)


def _of_labels(
    item: tuple[LabelTable, Index, Index], label: str, value: Floats, error: Floats, is_anchor: bool
) -> _Block:
    table, index, rows = item
    reference, reference_error = (column[index] for column in table.values[label])
    shift = label_shift(label, table.solar_scale) if table.solar_scale and is_abundance(label) else 0.0
    datum = value[rows] - reference - shift
    nobody, certain = np.full(len(rows), -1), np.ones(len(rows))
    block = _Block(table.name, "labels", datum, error[rows] ** 2, reference_error**2, rows, nobody, certain, is_anchor)
    return block.where(np.isfinite(datum))


def _has(item: tuple[LabelTable, Index, Index], label: str, value: Floats) -> bool:
    table, index, rows = item
    return bool(np.isfinite(table.values[label][0][index] - value[rows]).any())


def _assemble(blocks: list[_Block], label: str, logg: Floats, diffusion: Diffusion) -> Comparisons:
    """Stack the blocks; a star that occurs in k rows gets k times its own variance, its noise being one."""
    sizes = [len(block.d) for block in blocks]
    nuisance = _stack_nuisances(blocks, sizes, label, logg, diffusion)

    def stack(name: str) -> Any:
        return np.concatenate([getattr(block, name) for block in blocks]) if blocks else np.zeros(0)

    first, second = stack("first").astype(np.intp), stack("second").astype(np.intp)
    times = np.bincount(np.concatenate([first, second[second >= 0]]), minlength=len(logg))
    repeats = np.maximum(times[first], np.where(second >= 0, times[second], 1)) if len(first) else np.zeros(0)
    return Comparisons(
        d=stack("d"),
        own=stack("own") * repeats,
        other=stack("other"),
        first=first,
        second=second,
        set_index=np.repeat(np.arange(len(blocks)), sizes),
        set_names=[block.name for block in blocks],
        set_kinds=[block.kind for block in blocks],
        prior_good=np.clip(stack("prior"), 1e-3, 1.0),
        nuisance=nuisance.columns,
        nuisance_mean=np.array(nuisance.means, dtype=float),
        nuisance_sigma=np.array(nuisance.sigmas, dtype=float),
        nuisance_names=nuisance.names,
    )


def _stack_nuisances(
    blocks: list[_Block], sizes: list[int], label: str, logg: Floats, diffusion: Diffusion
) -> _Nuisances:
    """The parameters of all sets: their columns are zero in the rows of the other sets."""
    n = sum(sizes)
    found = _Nuisances(np.zeros((n, 0)), [], [], [])
    start = 0
    for block, size in zip(blocks, sizes):
        own = block.nuisances(label, logg, diffusion)
        if own is not None:
            full = np.zeros((n, own.columns.shape[1]))
            full[start : start + size] = own.columns
            found = _Nuisances(
                np.hstack([found.columns, full]), found.means + own.means, found.sigmas + own.sigmas,
                found.names + own.names,
            )  # fmt: skip
        start += size
    return found
