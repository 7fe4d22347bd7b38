"""Three views of stretches of a light curve on fixed grids: flux, autocorrelation, power spectrum."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phdlspec.datadriven.desa.light_curve import STEP
from phdlspec.datadriven.desa.rotation import autocorrelation

LENGTH = 8192  # cells of a stretch, 167.4 d
BIN = 4  # cells in one point of the flux view, 2 hours
FLUX_POINTS = LENGTH // BIN
LAG_EDGES = np.geomspace(4, LENGTH // 2, 257)  # cells: 0.08 to 83.7 d
LAGS = np.sqrt(LAG_EDGES[:-1] * LAG_EDGES[1:])
FREQUENCIES: NDArray[np.float64] = np.geomspace(
    1.0 / (0.5 * LENGTH * STEP), 0.5 / STEP, 257
)  # 1/d, edges: 1/83.7 to 24.5
LEAST_FILLED = 0.25  # of a stretch; a light curve shorter than one has a single stretch all the same
PPM2_PER_MICROHERTZ = 1e12 * 0.0864  # of power per 1/d
_POWER_SHIFT, _POWER_SCALE = 1.0, 2.0  # of its log, so that most are of order one
SCALARS = ("log of the standard deviation", "log of the scatter from point to point", "filled")

Views32 = NDArray[np.float32]


@dataclass(frozen=True)
class Views:
    """S stretches. flux : (S, 2048), arsinh of the flux in units of its robust width, 0 where there is none.
    good : (S, 2048) bool. acf : (S, 256), its mean around `LAGS` cells. power : (S, 256), log of the power in bins of
    `FREQUENCIES`.
    scalars : (S, 3)."""

    flux: Views32
    good: NDArray[np.bool_]
    acf: Views32
    power: Views32
    scalars: Views32

    def __len__(self) -> int:
        return len(self.flux)

    def take(self, rows: NDArray[Any]) -> Views:
        """Some of the stretches."""
        return Views(*(getattr(self, field.name)[rows] for field in fields(self)))


def join(parts: list[Views]) -> Views:
    """Stretches of several light curves, one after another."""
    return Views(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Views)))


def no_views(stretches: int) -> Views:
    """Views of nothing."""
    points = np.zeros((stretches, FLUX_POINTS), np.float32)
    curve = np.zeros((stretches, len(LAGS)), np.float32)
    return Views(points, points > 0, curve, curve.copy(), np.zeros((stretches, len(SCALARS)), np.float32))


def views_of(flux: NDArray[np.float64]) -> Views:
    """The views of all stretches of a light curve (T,) in cells of `STEP`, NaN where there is none."""
    count = max(1, -(-len(flux) // LENGTH))
    padded = np.full(count * LENGTH, np.nan)
    padded[: len(flux)] = flux
    stretches = padded.reshape(count, LENGTH)
    filled = np.isfinite(stretches).mean(axis=1)
    kept = (filled >= LEAST_FILLED) | (filled == filled.max())
    return join([_views(stretch) for stretch in stretches[kept]])


def mean_views(views: Views, owner: NDArray[np.int64], stars: int) -> tuple[Views32, Views32]:
    """Autocorrelation and power (N, 256) of each star, means of its stretches weighted by what they hold; 0 where a
    star has none. owner : (S,) star of each stretch."""
    weight = views.scalars[:, 2:3]
    total = np.zeros((stars, 1), np.float32)
    np.add.at(total, owner, weight)
    found = []
    for view in (views.acf, views.power):
        sums = np.zeros((stars, view.shape[1]), np.float32)
        np.add.at(sums, owner, weight * view)
        found.append((sums / np.maximum(total, 1e-6)).astype(np.float32))
    return found[0], found[1]


def _views(flux: NDArray[np.float64]) -> Views:
    good = np.isfinite(flux)
    centred = np.where(good, flux - np.median(flux[good]), 0.0)
    deviation = centred[good].std()
    jitter = 1.4826 * np.median(np.abs(np.diff(centred[good]))) / np.sqrt(2.0)
    counts = good.reshape(-1, BIN).sum(1)
    binned = centred.reshape(-1, BIN).sum(1) / np.maximum(counts, 1)
    seen = counts > 0
    width = 1.4826 * np.median(np.abs(binned[seen] - np.median(binned[seen])))
    scalars = [np.log10(deviation + 1e-7) + 3.0, np.log10(jitter + 1e-7) + 4.0, good.mean()]
    return Views(
        np.where(seen, np.arcsinh(binned / max(width, 1e-7)), 0.0)[None].astype(np.float32), seen[None],
        _means(autocorrelation(flux, LENGTH // 2), np.arange(LENGTH // 2 + 1.0), LAG_EDGES)[None].astype(np.float32),
        _power(centred, float(good.mean()))[None], np.array([scalars], dtype=np.float32),
    )  # fmt: skip


def _power(centred: NDArray[np.float64], filled: float) -> Views32:
    """Log of the mean power (ppm² per µHz) in each bin."""
    density = 2.0 * STEP / LENGTH / filled * np.abs(np.fft.rfft(centred)) ** 2 * PPM2_PER_MICROHERTZ
    mean = _means(density, np.fft.rfftfreq(LENGTH, STEP), FREQUENCIES)
    return ((np.log10(mean + 1e-6) - _POWER_SHIFT) / _POWER_SCALE).astype(np.float32)


def _means(values: NDArray[Any], place: NDArray[Any], edges: NDArray[Any]) -> NDArray[np.float64]:
    """Mean (B,) of values (n,) at increasing places (n,) between edges (B + 1,); interpolated where none is inside."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low, high = np.searchsorted(place, edges[:-1]), np.searchsorted(place, edges[1:])
    number = high - low
    between = np.interp(np.sqrt(edges[:-1] * edges[1:]), place, values)
    return np.asarray(np.where(number > 0, (sums[high] - sums[low]) / np.maximum(number, 1), between))
