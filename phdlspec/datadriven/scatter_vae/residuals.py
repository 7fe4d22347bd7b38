"""What a model leaves of spectra: deviations, windows of them, and which stand out most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

Array = NDArray[np.float64]

SHOWN_WIDTHS = (3, 9, 27)  # pixels of the windows that are told
_NOTHING = 1e-6  # sigma, of a template that no pixel sees


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

    def relative(self) -> SpectrumResiduals:
        """The same in units of what is usual at each pixel: where sky lines are subtracted, that is large."""
        return replace(self, deviation=self.deviation / self.usual, sigma=self.sigma * self.usual)

    def window(self, width: int) -> Array:
        """Significance (N, P) of the sum of the deviations in a window about each pixel, half of which must be good.

        Deviations are in units of what is usual at that pixel.
        """
        relative = self.relative().deviation
        if width == 1:
            return relative
        total = uniform_filter1d(relative, width, axis=1, mode="constant") * width
        count = uniform_filter1d(self.good.astype(float), width, axis=1, mode="constant") * width
        return np.where(count > 0.5 * width, total / np.sqrt(np.maximum(count, 1.0)), 0.0)

    def significance(self, template: Array) -> Array:
        """The deviations projected on a template (N, P) of flux, over the error (N,) of that projection.

        0 where the spectrum has no pixels there.
        """
        t = template / self.sigma * self.good
        size = np.sqrt((t**2).sum(axis=1))
        return np.where(size > _NOTHING, (self.deviation * t).sum(axis=1) / np.maximum(size, _NOTHING), 0.0)


def usual_deviation(deviation: Array, good: NDArray[np.bool_]) -> Array:
    """Size (P,) of the deviations (N, P) that one star in fifty exceeds, over that of a normal distribution; >= 1."""
    size = np.array([np.quantile(np.abs(d[g]), 0.98) if g.sum() > 20 else 2.33 for d, g in zip(deviation.T, good.T)])
    return np.maximum(uniform_filter1d(size, 3, mode="nearest") / 2.326, 1.0)


def worst_windows(left: SpectrumResiduals, wave: Array, count: int = 3) -> list[list[tuple[float, int, float]]]:
    """The most significant windows of each spectrum, none overlapping: centre (Å), width (pixels), significance."""
    stack = [(width, left.window(width)) for width in SHOWN_WIDTHS]
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
