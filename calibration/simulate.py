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

_SYMBOLS = "C N O Na Mg Al Si S K Ca Sc Ti V Cr Mn Co Ni Cu Zn Y Zr Ba Ce Nd Eu"
DEFAULT_ELEMENTS: tuple[str, ...] = tuple(_SYMBOLS.split())
EMULATOR_HASH = "simulated-checkpoint"
_MIDDLE = {"TEFF": 5500.0, "LOGG": 3.5, "FE_H": -0.2}
_HALF = {"TEFF": 1300.0, "LOGG": 1.8, "FE_H": 0.7}


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
    truth: dict[str, NDArray]
    bias: dict[str, NDArray]
    noise_free: NDArray
    pairs: list[PairTable]
    clusters: list[ClusterTable]
    labels: list[LabelTable]
    offsets: dict[str, dict[str, float]]
    test: NDArray
    errors: dict[str, float] = field(default_factory=dict)

    @property
    def label_names(self) -> list[str]:
        return list(self.bias)


def simulate(settings: SimulationSettings | None = None, seed: int = 1) -> Survey:
    """Draw a survey."""
    s = settings or SimulationSettings()
    rng = np.random.default_rng(seed)
    field_stars = _field(rng, sum(s.survey_sizes))
    first, second = _pairs(rng, s.pairs)
    cluster = _cluster(rng, s.members)
    n_non = round(s.non_members * s.members)
    cluster[len(cluster) - n_non :] = _field(rng, n_non)
    test = _field(rng, s.test_stars)
    x = np.vstack([first, second, cluster, field_stars, test])
    names = ["FE_H", *(f"{element.upper()}_FE" for element in s.elements)]
    truth = {"TEFF": x[:, 0].copy(), "LOGG": x[:, 1].copy(), "FE_H": x[:, 2].copy()}
    n1, n2, n3 = s.pairs, 2 * s.pairs, 2 * s.pairs + s.members
    members = slice(n2, n3 - n_non)
    for name in names[1:]:
        slope, spread = rng.uniform(-0.3, 0.1), rng.uniform(0.03, 0.08)
        truth[name] = slope * x[:, 2] + spread * rng.standard_normal(len(x))
        truth[name][n1:n2] = truth[name][:n1]
        truth[name][members] = rng.normal(0, 0.05)
    differ = rng.random(s.pairs) < s.discrepant
    strength = rng.choice([-1, 1], s.pairs) * rng.uniform(0.08, 0.35, s.pairs)
    bell = _depletion(x[:, 1])
    for name in names:
        truth[name][n1:n2] += np.where(
            differ, strength * rng.uniform(0.5, 1.0) * (1 if name == "FE_H" else 0.7), 0
        )
        depth = -s.diffusion_max if name == "FE_H" else rng.uniform(-0.4, 0.4) * s.diffusion_max
        truth[name][members] += depth * bell[members]
    x[:, 2] = truth["FE_H"]
    if s.empty_teff is not None:
        raise_out = (x[:, 0] > s.empty_teff[0]) & (x[:, 0] < s.empty_teff[1])
    else:
        raise_out = np.zeros(len(x), dtype=bool)
    bias, raw, quoted, typical = _measure(rng, s, x, truth, names)
    table = Table({"OBSID": np.arange(len(x)), "SNR": quoted.pop("SNR")})
    for name, value in raw.items():
        table[name] = value
        table[f"{name}_ERR"] = quoted[name]
    table.meta.update({"EMUHASH": EMULATOR_HASH, "SOLSCALE": "Asplund2009"})
    ids = np.arange(len(x)).astype(str)
    keep = ~raise_out
    both = keep[:n1] & keep[n1:n2]
    pair_tables = [PairTable("binaries", Stars(ids[:n1][both]), Stars(ids[n1:n2][both]), np.ones(both.sum()))]
    rows = np.arange(n2, n3)[keep[n2:n3]]
    clusters = [ClusterTable("M67", Stars(ids[rows]), np.full(len(rows), 0.95))]
    labels, offsets, start = [], {}, n3
    for i, (size, error) in enumerate(zip(s.survey_sizes, s.survey_errors)):
        rows = np.arange(start, start + size)
        start += size
        rows = rows[keep[rows] & (truth["LOGG"][rows] < s.survey_logg_max)]
        table_of, offset = _survey(
            rng, s, f"survey{i + 1}", ids, rows, truth, ("TEFF", "LOGG", *names), error
        )
        labels.append(table_of)
        offsets[table_of.name] = offset
    noise_free = np.column_stack([truth[n] + bias[n] for n in ("TEFF", "LOGG", "FE_H")])
    tests = np.arange(len(x) - s.test_stars, len(x))
    pair_tables, clusters = pair_tables if s.pairs else [], clusters if s.members else []
    return Survey(table, truth, bias, noise_free, pair_tables, clusters, labels, offsets, tests, typical)


def _measure(rng, s: SimulationSettings, x: NDArray, truth: dict, names: list[str]):
    """Bias, raw values and quoted errors of every label, and the typical error of each."""
    snr = np.exp(rng.normal(np.log(60), 0.5, len(x)))
    bias, raw, typical = {}, {}, {}
    quoted: dict[str, NDArray] = {"SNR": snr}
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


def _survey(rng, s: SimulationSettings, name: str, ids, rows: NDArray, truth: dict, labels, error: float):
    values, offsets = {}, {}
    wrong = rng.random(len(rows)) < s.wrong_matches
    for label in labels:
        unit = {"TEFF": 500.0}.get(label, 1.0)
        offsets[label] = float(unit * s.survey_offset * rng.standard_normal())
        stated = unit * error * rng.uniform(0.7, 1.4, len(rows))
        value = (
            truth[label][rows]
            + offsets[label]
            + np.hypot(stated, 0.01 * unit) * rng.standard_normal(len(rows))
        )
        value[wrong] += 0.4 * unit * rng.standard_normal(wrong.sum())
        values[label] = (value, stated)
    return LabelTable(name, Stars(ids[rows]), values, "Asplund2009"), offsets


def _trend(rng, peak_to_peak: float, interaction: float) -> Callable[[NDArray], NDArray]:
    """A random smooth bias of the true (Teff, logg, [Fe/H]): one shape an axis, and a product of two if asked
    for."""
    shapes: list[Callable[[NDArray], NDArray]] = []
    for _ in range(3):
        sign = rng.choice([-1, 1])
        shape = _shape(int(rng.integers(4)), rng.uniform(-0.4, 0.4), rng.uniform(0.3, 0.6))
        grid = shape(np.linspace(-1, 1, 200))
        size = sign * peak_to_peak * rng.uniform(0.5, 1.0) / np.ptp(grid)
        middle = grid.mean()
        shapes.append(_scaled(shape, size, middle))
    level = peak_to_peak * rng.uniform(-0.5, 0.5)

    def bias(x: NDArray) -> NDArray:
        scaled = [(x[:, i] - _MIDDLE[n]) / _HALF[n] for i, n in enumerate(("TEFF", "LOGG", "FE_H"))]
        total = level + sum(shape(t) for shape, t in zip(shapes, scaled))
        return total + interaction * np.tanh(scaled[0]) * np.tanh(scaled[1])

    return bias


def _scaled(shape: Callable[[NDArray], NDArray], size: float, middle: float) -> Callable[[NDArray], NDArray]:
    """size (shape - middle), constant far outside the range."""
    return lambda t: size * (shape(np.clip(t, -1.5, 1.5)) - middle)


def _shape(kind: int, turn: float, width: float) -> Callable[[NDArray], NDArray]:
    """A sine, a step, a broken line or an exponential of one scaled coordinate."""
    shapes: tuple[Callable[[NDArray], NDArray], ...] = (
        lambda t: np.sin(np.pi * (t - turn) * 0.75 / (0.5 + width)),
        lambda t: np.tanh((t - turn) / width),
        lambda t: np.where(t < turn, 0.3, 0.9) * (t - turn),
        lambda t: np.exp(turn - t),
    )
    return shapes[kind]


def _depletion(logg: NDArray) -> NDArray:
    """A lopsided bell, 1 at logg 4.12: gone above the subgiants, a third left on the lower main sequence."""
    left = np.exp(-0.5 * ((logg - 4.12) / 0.13) ** 2)
    right = 0.3 + 0.7 * np.exp(-0.5 * ((logg - 4.12) / 0.22) ** 2)
    return np.where(logg < 4.12, left, right)


def _dwarf(rng, n: int) -> NDArray:
    teff = rng.uniform(4500, 6500, n)
    evolved = rng.beta(1, 2.5, n) * np.clip((teff - 5000) / 1000, 0.05, 0.7)
    return np.column_stack([teff, 4.62 - 0.00008 * (teff - 4500) - evolved])


def _giant(rng, n: int) -> NDArray:
    logg = rng.uniform(1.2, 3.5, n)
    return np.column_stack([4150 + 370 * (logg - 1.2) + 90 * rng.standard_normal(n), logg])


def _metallicity(rng, n: int) -> NDArray:
    thin = rng.normal(-0.10, 0.22, n)
    return np.clip(np.where(rng.random(n) < 0.2, rng.normal(-0.55, 0.25, n), thin), -1.4, 0.45)


def _field(rng, n: int) -> NDArray:
    kind = rng.random(n)[:, None]
    subgiant = np.column_stack([rng.uniform(4950, 6000, n), rng.uniform(3.5, 4.0, n)])
    place = np.where(kind < 0.5, _dwarf(rng, n), np.where(kind < 0.65, subgiant, _giant(rng, n)))
    fe_h = _metallicity(rng, n)
    place[:, 0] += np.where(kind[:, 0] > 0.5, -250 * (fe_h + 0.1), 0)
    return np.column_stack([place, fe_h])


def _pairs(rng, n: int) -> tuple[NDArray, NDArray]:
    fe_h = _metallicity(rng, n)
    first, second = _field(rng, n), np.column_stack([_dwarf(rng, n), fe_h])
    giants = (first[:, 1] < 3.6) & (rng.random(n) < 0.6)
    first[giants, :2] = _dwarf(rng, giants.sum())
    first[:, 2] = fe_h
    return first, second


def _cluster(rng, n: int) -> NDArray:
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
