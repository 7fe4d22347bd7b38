"""A simulated survey with known biases, to test a calibration (or to plan one): catalogue, references and the
truth.

The generator shares nothing with the model: trends are sines, steps, broken lines and exponentials (no
splines), the depletion by diffusion is a lopsided bell in logg (not the template of `calibration.clusters`),
stars lie on rough sequences of dwarfs, subgiants and giants. Raw = truth + bias(true Teff, logg, [Fe/H]) +
noise, where the noise exceeds the quoted error by an external scatter, and Teff, logg and [Fe/H] are biased
and noisy like all the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from calibration.references import ClusterTable, LabelTable, PairTable, Stars
from phdlspec.columns import ColumnRole, column_name
from phdlspec.labels import STRUCTURE, abundance_name
from phdlspec.solar import SOLAR_SCALE

_SYMBOLS = "C N O Na Mg Al Si S K Ca Sc Ti V Cr Mn Co Ni Cu Zn Y Zr Ba Ce Nd Eu"
DEFAULT_ELEMENTS: tuple[str, ...] = tuple(_SYMBOLS.split())
EMULATOR_HASH = "simulated-checkpoint"
_MIDDLE = {"TEFF": 5500.0, "LOGG": 3.5, "FE_H": -0.2}
_HALF = {"TEFF": 1300.0, "LOGG": 1.8, "FE_H": 0.7}


Floats = NDArray[np.float64]
Function = Callable[[Floats], Floats]


@dataclass
class SimulationSettings:
    """Sizes and vices of the simulated survey; the defaults are the closure test of the project."""

    elements: tuple[str, ...] = DEFAULT_ELEMENTS
    pairs: int = 1000
    discrepant: float = 0.20
    members: int = 100
    non_members: float = 0.05
    diffusion_max: float = 0.15
    survey_sizes: tuple[int, ...] = (1200, 800)
    survey_errors: tuple[float, ...] = (0.02, 0.05)
    survey_offset: float = 0.05
    wrong_matches: float = 0.02
    external_scatter: float = 0.02
    trend_peak_to_peak: tuple[float, float] = (0.10, 0.30)
    interaction: float = 0.0
    test_stars: int = 6000
    empty_teff: tuple[float, float] | None = None
    survey_logg_max: float = 9.0


@dataclass
class Survey:
    """The simulated survey.

    Attributes
    ----------
    catalog : raw labels, as `phdlspec catalog` writes them. The last `n_test` rows are no reference stars.
    truth : true labels of every row; bias : name -> true bias of every row.
    noise_free : (n, 3) true + bias coordinates without noise.
    offsets : survey -> label -> its zero point.
    """

    catalog: Table
    truth: dict[str, Floats]
    bias: dict[str, Floats]
    noise_free: Floats
    pairs: list[PairTable]
    clusters: list[ClusterTable]
    labels: list[LabelTable]
    offsets: dict[str, dict[str, float]]
    test: NDArray[np.intp]
    errors: dict[str, float] = field(default_factory=dict)

    @property
    def label_names(self) -> list[str]:
        return list(self.bias)


@dataclass(frozen=True)
class _TrueStars:
    """All stars: x (n, 3) Teff, logg, [Fe/H]; first and second stars of the pairs, all of the cluster, its members."""

    x: Floats
    first: slice
    second: slice
    cluster: slice
    members: slice

    @classmethod
    def drawn(cls, rng: np.random.Generator, s: SimulationSettings) -> _TrueStars:
        field_stars = _field(rng, sum(s.survey_sizes))
        first, second = _pairs(rng, s.pairs)
        cluster = _cluster(rng, s.members)
        n_non = round(s.non_members * s.members)
        cluster[len(cluster) - n_non :] = _field(rng, n_non)
        x = np.vstack([first, second, cluster, field_stars, _field(rng, s.test_stars)])
        n1, n2, n3 = s.pairs, 2 * s.pairs, 2 * s.pairs + s.members
        return cls(x, slice(0, n1), slice(n1, n2), slice(n2, n3), slice(n2, n3 - n_non))


def simulate(settings: SimulationSettings | None = None, seed: int = 1) -> Survey:
    """Draw a survey."""
    s = settings or SimulationSettings()
    rng = np.random.default_rng(seed)
    stars = _TrueStars.drawn(rng, s)
    x, names = stars.x, ["FE_H", *map(abundance_name, s.elements)]
    truth = _truth(rng, s, stars, names)
    x[:, 2] = truth["FE_H"]
    usable = np.ones(len(x), dtype=bool)
    if s.empty_teff is not None:
        usable = ~((x[:, 0] > s.empty_teff[0]) & (x[:, 0] < s.empty_teff[1]))
    bias, raw, quoted, typical = _measure(rng, s, x, truth, names)
    ids = np.arange(len(x)).astype(str)
    labels, offsets, start = [], {}, stars.cluster.stop
    for i, (size, error) in enumerate(zip(s.survey_sizes, s.survey_errors)):
        rows = np.arange(start, start + size)
        start += size
        rows = rows[usable[rows] & (truth["LOGG"][rows] < s.survey_logg_max)]
        observed = {name: truth[name][rows] for name in ("TEFF", "LOGG", *names)}
        found, offset = _survey(rng, s, f"survey{i + 1}", ids[rows], observed, error)
        labels.append(found)
        offsets[found.name] = offset
    return Survey(
        catalog=_catalogue(raw, quoted),
        truth=truth,
        bias=bias,
        noise_free=np.column_stack([truth[n] + bias[n] for n in STRUCTURE]),
        pairs=[_pair_table(ids, stars, usable)] if s.pairs else [],
        clusters=[_cluster_table(ids, stars, usable)] if s.members else [],
        labels=labels,
        offsets=offsets,
        test=np.arange(len(x) - s.test_stars, len(x)),
        errors=typical,
    )


def _truth(rng: np.random.Generator, s: SimulationSettings, stars: _TrueStars, names: list[str]) -> dict[str, Floats]:
    """True labels: companions and cluster members agree, but for the discrepant pairs and for diffusion."""
    x, first, second, members = stars.x, stars.first, stars.second, stars.members
    truth = {name: x[:, i].copy() for i, name in enumerate(STRUCTURE)}
    for name in names[1:]:
        slope, spread = rng.uniform(-0.3, 0.1), rng.uniform(0.03, 0.08)
        truth[name] = slope * x[:, 2] + spread * rng.standard_normal(len(x))
        truth[name][second] = truth[name][first]
        truth[name][members] = rng.normal(0, 0.05)
    differ = rng.random(s.pairs) < s.discrepant
    strength = rng.choice([-1, 1], s.pairs) * rng.uniform(0.08, 0.35, s.pairs)
    bell = _depletion(x[:, 1])
    for name in names:
        size = strength * rng.uniform(0.5, 1.0) * (1 if name == "FE_H" else 0.7)
        truth[name][second] += np.where(differ, size, 0)
        depth = -s.diffusion_max if name == "FE_H" else rng.uniform(-0.4, 0.4) * s.diffusion_max
        truth[name][members] += depth * bell[members]
    return truth


def _catalogue(raw: dict[str, Floats], quoted: dict[str, Floats]) -> Table:
    snr = quoted.pop("SNR")
    table = Table({"OBSID": np.arange(len(snr)), "SNR": snr})
    for name, value in raw.items():
        table[name] = value
        table[column_name(name, ColumnRole.ERROR)] = quoted[name]
    table.meta.update({"EMUHASH": EMULATOR_HASH, "SOLSCALE": SOLAR_SCALE})
    return table


def _pair_table(ids: NDArray[np.str_], stars: _TrueStars, usable: NDArray[np.bool_]) -> PairTable:
    both = usable[stars.first] & usable[stars.second]
    first, second = Stars(ids[stars.first][both]), Stars(ids[stars.second][both])
    return PairTable("binaries", first, second, np.ones(both.sum()))


def _cluster_table(ids: NDArray[np.str_], stars: _TrueStars, usable: NDArray[np.bool_]) -> ClusterTable:
    members = ids[stars.cluster][usable[stars.cluster]]
    return ClusterTable("M67", Stars(members), np.full(len(members), 0.95))


def _measure(
    rng: np.random.Generator, s: SimulationSettings, x: Floats, truth: dict[str, Floats], names: list[str]
) -> tuple[dict[str, Floats], dict[str, Floats], dict[str, Floats], dict[str, float]]:
    """Bias, raw values and quoted errors of every label, and the typical error of each."""
    snr = np.exp(rng.normal(np.log(60), 0.5, len(x)))
    bias, raw, typical = {}, {}, {}
    quoted: dict[str, Floats] = {"SNR": snr}
    for name in ("TEFF", "LOGG", *names):
        unit = {"TEFF": 500.0}.get(name, 1.0)
        size = unit * rng.uniform(*s.trend_peak_to_peak)
        base = {"TEFF": 25.0, "LOGG": 0.06, "FE_H": 0.03}.get(name) or float(
            np.exp(rng.uniform(np.log(0.02), np.log(0.2)))
        )
        typical[name] = base
        bias[name] = _trend(rng, size, s.interaction * unit)(x)
        error = base * np.sqrt(60 / snr) * np.where(x[:, 0] > 6200, 1.4, 1.0)
        quoted[name] = error
        noise = np.hypot(error, s.external_scatter * unit * (0.1 if name == "TEFF" else 1.0))
        raw[name] = truth[name] + bias[name] + noise * rng.standard_normal(len(x))
    return bias, raw, quoted, typical


def _survey(
    rng: np.random.Generator,
    s: SimulationSettings,
    name: str,
    ids: NDArray[np.str_],
    truth: dict[str, Floats],
    error: float,
) -> tuple[LabelTable, dict[str, float]]:
    """A survey's labels of stars whose `truth` (n,) is known by label, and its zero points."""
    values, offsets = {}, {}
    wrong = rng.random(len(ids)) < s.wrong_matches
    for label, true in truth.items():
        unit = {"TEFF": 500.0}.get(label, 1.0)
        offsets[label] = float(unit * s.survey_offset * rng.standard_normal())
        stated = unit * error * rng.uniform(0.7, 1.4, len(ids))
        value = true + offsets[label] + np.hypot(stated, 0.01 * unit) * rng.standard_normal(len(ids))
        value[wrong] += 0.4 * unit * rng.standard_normal(wrong.sum())
        values[label] = (value, stated)
    return LabelTable(name, Stars(ids), values, SOLAR_SCALE), offsets


def _trend(rng: np.random.Generator, peak_to_peak: float, interaction: float) -> Function:
    """A random smooth bias of the true (Teff, logg, [Fe/H]): one shape an axis, and a product of two if asked
    for."""
    shapes: list[Function] = []
    for _ in range(3):
        sign = rng.choice([-1, 1])
        shape = _shape(int(rng.integers(4)), rng.uniform(-0.4, 0.4), rng.uniform(0.3, 0.6))
        grid = shape(np.linspace(-1, 1, 200))
        size = sign * peak_to_peak * rng.uniform(0.5, 1.0) / np.ptp(grid)
        middle = grid.mean()
        shapes.append(_scaled(shape, size, middle))
    level = peak_to_peak * rng.uniform(-0.5, 0.5)

    def bias(x: Floats) -> Floats:
        scaled = [(x[:, i] - _MIDDLE[n]) / _HALF[n] for i, n in enumerate(STRUCTURE)]
        total = level + sum(shape(t) for shape, t in zip(shapes, scaled))
        return np.asarray(total + interaction * np.tanh(scaled[0]) * np.tanh(scaled[1]))

    return bias


def _scaled(shape: Function, size: float, middle: float) -> Function:
    """size (shape - middle), constant far outside the range."""
    return lambda t: size * (shape(np.clip(t, -1.5, 1.5)) - middle)


def _shape(kind: int, turn: float, width: float) -> Function:
    """A sine, a step, a broken line or an exponential of one scaled coordinate."""
    shapes: tuple[Function, ...] = (
        lambda t: np.sin(np.pi * (t - turn) * 0.75 / (0.5 + width)),
        lambda t: np.tanh((t - turn) / width),
        lambda t: np.where(t < turn, 0.3, 0.9) * (t - turn),
        lambda t: np.exp(turn - t),
    )
    return shapes[kind]


def _depletion(logg: Floats) -> Floats:
    """A lopsided bell, 1 at logg 4.12: gone above the subgiants, a third left on the lower main sequence."""
    left = np.exp(-0.5 * ((logg - 4.12) / 0.13) ** 2)
    right = 0.3 + 0.7 * np.exp(-0.5 * ((logg - 4.12) / 0.22) ** 2)
    return np.where(logg < 4.12, left, right)


def _dwarf(rng: np.random.Generator, n: int) -> Floats:
    teff = rng.uniform(4500, 6500, n)
    evolved = rng.beta(1, 2.5, n) * np.clip((teff - 5000) / 1000, 0.05, 0.7)
    return np.column_stack([teff, 4.62 - 0.00008 * (teff - 4500) - evolved])


def _giant(rng: np.random.Generator, n: int) -> Floats:
    logg = rng.uniform(1.2, 3.5, n)
    return np.column_stack([4150 + 370 * (logg - 1.2) + 90 * rng.standard_normal(n), logg])


def _metallicity(rng: np.random.Generator, n: int) -> Floats:
    thin = rng.normal(-0.10, 0.22, n)
    return np.asarray(np.clip(np.where(rng.random(n) < 0.2, rng.normal(-0.55, 0.25, n), thin), -1.4, 0.45))


def _field(rng: np.random.Generator, n: int) -> Floats:
    kind = rng.random(n)[:, None]
    subgiant = np.column_stack([rng.uniform(4950, 6000, n), rng.uniform(3.5, 4.0, n)])
    place = np.where(kind < 0.5, _dwarf(rng, n), np.where(kind < 0.65, subgiant, _giant(rng, n)))
    fe_h = _metallicity(rng, n)
    place[:, 0] += np.where(kind[:, 0] > 0.5, -250 * (fe_h + 0.1), 0)
    return np.column_stack([place, fe_h])


def _pairs(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    fe_h = _metallicity(rng, n)
    first, second = _field(rng, n), np.column_stack([_dwarf(rng, n), fe_h])
    giants = (first[:, 1] < 3.6) & (rng.random(n) < 0.6)
    first[giants, :2] = _dwarf(rng, giants.sum())
    first[:, 2] = fe_h
    return first, second


def _cluster(rng: np.random.Generator, n: int) -> Floats:
    kind = rng.random(n)
    logg = np.where(
        kind < 0.35,
        rng.uniform(4.2, 4.6, n),
        np.where(kind < 0.65, rng.uniform(3.75, 4.2, n), rng.uniform(1.6, 3.75, n)),
    )
    along = np.interp(
        logg, [1.6, 2.5, 3.3, 3.75, 3.9, 4.15, 4.3, 4.6], [4150, 4700, 4950, 5150, 5950, 6150, 6000, 4700]
    )
    return np.column_stack([along + 25 * rng.standard_normal(n), logg, np.full(n, 0.02)])
