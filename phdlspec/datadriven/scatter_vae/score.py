"""How strange a spectrum is, and where: signs of strangeness, each with its probability among ordinary stars.

Each sign is a number that grows with strangeness:

misfit        mean square deviation
window of w   the most significant sum of deviations in w pixels: a cosmic-ray hit is one wide, a carbon band eighty
latents       distance of the latents from those of the training stars
shift         pixels by which a part of the spectrum is displaced, as far as its lines say (a displaced arm)
second lines  significance of a second star of the same kind to either side, or to one
emission      light in excess at H alpha and H beta over what the rest of the spectrum predicts there
sky           light in excess, or wanting, at the lines of OH in the frame of the Earth

Deviations in windows are in units of what is usual at that pixel: where sky lines are subtracted, ordinary stars have
large ones. The logarithm of a sign is compared with that of ordinary stars of the same signal-to-noise ratio, which
training has not seen; the upper tail beyond 5% is taken as exponential. The score is the largest -log10 of these
probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import shift as shifted
from scipy.ndimage import uniform_filter1d
from scipy.optimize import least_squares

from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

Array = NDArray[np.float64]

WIDTHS = (1, 3, 9, 27, 81)
PARTS = 4
LAGS = (1.5, 2.0, 3.0, 4.0)  # pixels by which the lines of two stars of a pair lie to either side
HYDROGEN = (6564.6, 4862.7)  # vacuum Å, at rest
HALF_WIDTH = 20.0  # Å
# The stronger OH lines outside the telluric masks, vacuum Å (Osterbrock et al. 1996).
OH = (
    *(7752.8, 7796.3, 7810.6, 7823.7, 7843.4, 7915.9, 7966.8, 7995.5, 8028.0, 8384.7, 8401.5, 8417.5, 8432.5, 8467.7),
    *(8495.7, 8507.0, 8551.1, 8770.3, 8780.7, 8793.6, 8829.5, 8852.6, 8888.3, 8905.6, 8922.1),
)
SPECTRUM_SIGNS = (
    "misfit", *(f"window of {w}" for w in WIDTHS), "latents", "shift", "second lines", "emission", "sky",
)  # fmt: skip
XP_SIGNS = ("misfit", "window of 1", "window of 3", "latents")
TAIL = 0.05
FALSE_ALARMS = 0.01  # share of ordinary stars above the threshold
_USUAL_SHIFT = 0.3  # pixels: what noise alone may pretend is held down to that
_LINE_SIGMA = 1.0e-4 * np.log(10.0) * 1.3  # of a narrow line, in ln(wave)
_QUANTILES = np.linspace(0.0, 1.0 - TAIL, 96)
_FLOOR = 1e-3


@dataclass(frozen=True)
class SpectrumResiduals:
    """What a model leaves of N spectra.

    deviation : (N, P) in units of its expected size, 0 where there is none. good : (N, P). model, sigma : (N, P), the
    model and the root of its variance. usual : (P,) size of large deviations of ordinary stars, over that of a normal
    distribution. wave : (P,) at rest. velocity : (N,) km/s that was taken out.
    """

    deviation: Array
    good: NDArray[np.bool_]
    model: Array
    sigma: Array
    usual: Array
    wave: Array
    velocity: Array


def usual_deviation(deviation: Array, good: NDArray[np.bool_]) -> Array:
    """Size (P,) of the deviations (N, P) that one star in fifty exceeds, over that of a normal distribution; >= 1."""
    size = np.array([np.quantile(np.abs(d[g]), 0.98) if g.sum() > 20 else 2.33 for d, g in zip(deviation.T, good.T)])
    return np.maximum(uniform_filter1d(size, 3, mode="nearest") / 2.326, 1.0)


def hydrogen(wave: Array) -> NDArray[np.bool_]:
    """(P,) True at the lines that are predicted from the rest of the spectrum."""
    return np.asarray(np.any([np.abs(wave - line) < HALF_WIDTH for line in HYDROGEN], axis=0))


def signs_of(
    left: SpectrumResiduals, distance: Array, names: Sequence[str], blind: SpectrumResiduals | None = None
) -> Array:
    """The signs (N, F) of these names.

    distance : (N,) of the latents. blind : what is left if the model does not look at `hydrogen`; by default `left`.
    """
    columns = []
    for name in names:
        if name == "misfit":
            columns.append((left.deviation**2).sum(1) / np.maximum(left.good.sum(1), 1))
        elif name.startswith("window"):
            columns.append(np.abs(_window(left, int(name.split()[-1]))).max(axis=1))
        elif name == "latents":
            columns.append(distance)
        else:
            columns.append(_SHAPES[name](blind if blind is not None and name == "emission" else left))
    return np.column_stack(columns)


def _window(left: SpectrumResiduals, width: int) -> Array:
    """Significance (N, P) of the sum of the deviations in a window about each pixel, half of which must be good."""
    relative = left.deviation / left.usual
    if width == 1:
        return relative
    total = uniform_filter1d(relative, width, axis=1, mode="constant") * width
    count = uniform_filter1d(left.good.astype(float), width, axis=1, mode="constant") * width
    return np.where(count > 0.5 * width, total / np.sqrt(np.maximum(count, 1.0)), 0.0)


def _shift(left: SpectrumResiduals) -> Array:
    # How much of the derivative of the model is in the deviations, in each part of the spectrum.
    slope = np.gradient(left.model, axis=1) / left.sigma * left.good
    parts = zip(*(np.array_split(x, PARTS, axis=1) for x in (left.deviation, slope)))
    return np.asarray(np.max([np.abs(_amount(d, s, _USUAL_SHIFT)) for d, s in parts], axis=0))


def _amount(deviation: Array, template: Array, usual: float) -> Array:
    """How much (N,) of a template is in the deviations, held down where they cannot tell less than `usual`."""
    return np.asarray((deviation * template).sum(axis=1) / ((template**2).sum(axis=1) + usual**-2))


def _second_lines(left: SpectrumResiduals) -> Array:
    # Two stars of one kind, lag to either side of the mean, minus the star itself; and one with lines at one side only.
    found = []
    for lag in LAGS:
        right, other = (shifted(left.model, (0, s * lag), order=1, mode="nearest") for s in (1, -1))
        for template in (right + other - 2.0 * left.model, right - left.model, other - left.model):
            template = template / left.sigma * left.good
            size = np.sqrt((template**2).sum(axis=1))
            found.append((left.deviation * template).sum(axis=1) / np.maximum(size, 1e-9))
    return np.asarray(np.maximum(np.max(found, axis=0), _FLOOR))


def _emission(left: SpectrumResiduals) -> Array:
    return np.maximum(_significance(left, _line_profile(left.wave[None], HYDROGEN, 3.0 * _LINE_SIGMA)), _FLOOR)


def _sky(left: SpectrumResiduals) -> Array:
    observed = left.wave * (1.0 + left.velocity[:, None] / SPEED_OF_LIGHT_KM_S)
    return np.abs(_significance(left, _line_profile(observed, OH, _LINE_SIGMA)))


def _line_profile(wave: Array, lines: Sequence[float], sigma: float) -> Array:
    ln = np.log(wave)
    return np.asarray(sum(np.exp(-0.5 * ((ln - np.log(line)) / sigma) ** 2) for line in lines))


def _significance(left: SpectrumResiduals, light: Array) -> Array:
    # The deviations projected on additional light of this form (N, P) or (1, P).
    template = light / (left.sigma * left.usual) * left.good
    size = np.sqrt((template**2).sum(axis=1))
    return np.asarray((left.deviation / left.usual * template).sum(axis=1) / np.maximum(size, 1e-9))


_SHAPES: dict[str, Callable[[SpectrumResiduals], Array]] = {
    "shift": _shift, "second lines": _second_lines, "emission": _emission, "sky": _sky,
}  # fmt: skip


@dataclass(frozen=True)
class OrdinaryStars:
    """Signs of ordinary stars.

    names : of the F signs. trend : (F, 3) of ln(sign) over 1, x, x^2 with x = ln(S/N) limited to `range`. quantiles :
    (F, 96) of what is left. tail : (F,) mean excess beyond the last. scores : sorted scores of the ordinary stars.
    """

    names: tuple[str, ...]
    trend: Array
    range: tuple[float, float]
    quantiles: Array
    tail: Array
    scores: Array

    @property
    def threshold(self) -> float:
        """The score that `FALSE_ALARMS` of the ordinary stars exceed."""
        return float(np.quantile(self.scores, 1.0 - FALSE_ALARMS))

    def improbability(self, signs: Array, snr: Array) -> Array:
        """-log10 of the probability (N, F) of a sign as large as this."""
        left = np.log(np.maximum(signs, _FLOOR)) - _trend_at(self.trend, snr, self.range)
        answer = np.empty(left.shape)
        for i, (grid, tail) in enumerate(zip(self.quantiles, self.tail)):
            above = 1.0 - np.interp(left[:, i], grid, _QUANTILES)
            beyond = np.maximum(left[:, i] - grid[-1], 0.0) / tail
            answer[:, i] = -np.log10(np.maximum(above, TAIL)) + beyond / np.log(10.0)
        return answer

    def score(self, signs: Array, snr: Array) -> tuple[Array, NDArray[np.int64]]:
        """The score (N,) and the number (N,) of the sign that makes it."""
        improbable = self.improbability(signs, snr)
        return improbable.max(axis=1), improbable.argmax(axis=1)

    def percentile(self, scores: Array) -> Array:
        """Percentage (N,) of ordinary stars that are less strange; never 100, for their number is finite."""
        return np.asarray(100.0 * np.searchsorted(self.scores, scores) / (len(self.scores) + 1))

    def tensors(self) -> dict[str, Array]:
        """For a file."""
        return {
            "trend": self.trend, "quantiles": self.quantiles, "tail": self.tail, "scores": self.scores,
            "snr_range": np.array(self.range),
        }  # fmt: skip

    @classmethod
    def of_tensors(cls, names: Sequence[str], tensors: Mapping[str, Any]) -> OrdinaryStars:
        """Inverse of `tensors`."""
        low, high = (float(x) for x in tensors["snr_range"])
        return cls(
            tuple(names), tensors["trend"], (low, high), tensors["quantiles"], tensors["tail"], tensors["scores"]
        )


def learn_reference(signs: Array, snr: Array, names: Sequence[str]) -> OrdinaryStars:
    """The reference of stars with these signs (N, F) and signal-to-noise ratios (N,)."""
    limits = (float(np.quantile(snr, 0.02)), float(np.quantile(snr, 0.98)))
    x = _powers(snr, limits)
    ln = np.log(np.maximum(signs, _FLOOR))
    trend = np.stack([_robust_fit(x, y) for y in ln.T])
    left = ln - _trend_at(trend, snr, limits)
    quantiles = np.quantile(left, _QUANTILES, axis=0).T
    excess = [column[column > grid[-1]] - grid[-1] for column, grid in zip(left.T, quantiles)]
    # The median, not the mean, sets the tail: odd stars among the ordinary ones must not lengthen it.
    tail = np.array([max(float(np.median(e)) / np.log(2.0), 1e-3) if len(e) else 1.0 for e in excess])
    reference = OrdinaryStars(tuple(names), trend, limits, quantiles, tail, np.zeros(1))
    scores = np.sort(reference.score(signs, snr)[0])
    return OrdinaryStars(tuple(names), trend, limits, quantiles, tail, scores)


def _robust_fit(x: Array, y: Array) -> Array:
    def left(coefficients: Array) -> Array:
        return np.asarray(x @ coefficients - y)

    return np.asarray(least_squares(left, np.zeros(3), loss="soft_l1", f_scale=0.2).x)


def _powers(snr: Array, limits: tuple[float, float]) -> Array:
    x = np.log(np.clip(snr, *limits))
    return np.stack([np.ones(len(x)), x, x**2], axis=1)


def _trend_at(trend: Array, snr: Array, limits: tuple[float, float]) -> Array:
    return _powers(snr, limits) @ trend.T


def worst_windows(left: SpectrumResiduals, wave: Array, count: int = 3) -> list[list[tuple[float, int, float]]]:
    """The most significant windows of each spectrum, none overlapping: centre (Å), width (pixels), significance."""
    stack = [(width, _window(left, width)) for width in WIDTHS[1:4]]
    return [_worst_of([(w, s[row]) for w, s in stack], wave, count) for row in range(len(left.deviation))]


def _worst_of(stack: Sequence[tuple[int, Array]], wave: Array, count: int) -> list[tuple[float, int, float]]:
    pixel = np.arange(len(wave))
    taken: list[tuple[int, int]] = []
    found = []
    for _ in range(count):
        candidates = []
        for width, significance in stack:
            free = np.all([np.abs(pixel - at) >= 0.5 * (width + other) for at, other in taken], axis=0)
            candidates.append((width, *_largest(significance, free)))
        width, at, value = max(candidates, key=lambda entry: abs(entry[2]))
        if value == 0.0:
            break
        taken.append((at, width))
        found.append((float(wave[at]), width, value))
    return found


def _largest(significance: Array, free: NDArray[np.bool_] | np.bool_) -> tuple[int, float]:
    size = np.where(free, np.abs(significance), 0.0)
    at = int(size.argmax())
    return at, float(significance[at]) if size[at] > 0 else 0.0


def describe_windows(windows: Sequence[tuple[float, int, float]]) -> str:
    """In words: "6564.6 A +12.1 (9 pixels), ..."; + is light that the model does not have."""
    return ", ".join(f"{wave:.1f} A {value:+.1f} ({width} pixels)" for wave, width, value in windows)
