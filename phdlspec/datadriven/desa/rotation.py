"""Rotation periods without a network: the autocorrelation (McQuillan, Aigrain & Mazeh 2013) and Lomb-Scargle.

They stand beside the network in every figure.
"""

from __future__ import annotations

import numpy as np
from astropy.timeseries import LombScargle
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from phdlspec.datadriven.desa.light_curve import STEP

PERIODS = (0.2, 100.0)  # d, in which both look
BIN = 4  # cells of the light curve that are averaged for the periodogram
SMOOTHING = 9  # cells, of the autocorrelation
MULTIPLES = 4  # peaks through which the period is fitted
HIGHER = 0.1  # by which the second peak must be higher for the first to be half the period

Array = NDArray[np.float64]


def autocorrelation(flux: Array, longest: int) -> Array:
    """Of a light curve (T,) with NaN gaps, at lags of 0 to `longest` cells, (longest + 1,); 1 at lag 0, 0 where no two
    points are so far apart."""
    good = np.isfinite(flux)
    centred = np.where(good, flux - flux[good].mean(), 0.0)
    size = 1 << int(np.ceil(np.log2(2 * len(flux))))
    power, pairs = (np.fft.irfft(np.abs(np.fft.rfft(x, size)) ** 2, size) for x in (centred, good.astype(float)))
    sums, counts = np.zeros(longest + 1), np.zeros(longest + 1)
    reach = min(longest + 1, len(flux))
    sums[:reach], counts[:reach] = power[:reach], np.rint(pairs[:reach])
    mean = sums / np.maximum(counts, 1.0)
    return np.asarray(mean / mean[0]) if mean[0] > 0 else mean


def acf_period(flux: Array) -> tuple[float, float]:
    """Period (d) and height of its peak over the troughs beside it, from the autocorrelation of a light curve (T,) in
    cells of `STEP`; NaN where it has no peak.

    The first peak is the period, unless the second is higher: spots on both sides make peaks at half the period. A line
    through the peaks at its multiples refines it.
    """
    longest = int(min(PERIODS[1] / STEP, 0.5 * len(flux)))
    acf = gaussian_filter1d(autocorrelation(flux, longest), SMOOTHING)
    shortest = int(PERIODS[0] / STEP)
    peaks, _ = find_peaks(acf)
    troughs, _ = find_peaks(-acf)
    peaks = peaks[peaks >= shortest]
    if len(peaks) == 0 or len(troughs) == 0:
        return np.nan, np.nan
    heights = np.array([_height(acf, peak, troughs) for peak in peaks])
    real = heights > 0.1 * heights.max()
    peaks, heights = peaks[real], heights[real]
    chosen = 1 if len(peaks) > 1 and heights[1] > heights[0] + HIGHER and peaks[1] > 1.6 * peaks[0] else 0
    period = peaks[chosen] * STEP
    return _refined(peaks * STEP, period), float(heights[chosen])


def _height(acf: Array, peak: np.integer, troughs: NDArray[np.intp]) -> float:
    beside = [acf[side[index]] for side, index in ((troughs[troughs < peak], -1), (troughs[troughs > peak], 0))
              if len(side)]  # fmt: skip
    return float(acf[peak] - np.mean(beside))


def _refined(peaks: Array, period: float) -> float:
    number, place = [], []
    for multiple in range(1, MULTIPLES + 1):
        nearest = peaks[np.argmin(np.abs(peaks - multiple * period))]
        if abs(nearest - multiple * period) < 0.2 * period:
            number.append(multiple)
            place.append(nearest)
    return float(np.dot(number, place) / np.dot(number, number)) if number else float(period)


def lomb_scargle_period(flux: Array) -> tuple[float, float]:
    """Period (d) of the highest peak of the Lomb-Scargle periodogram of a light curve (T,) in cells of `STEP`, and its
    height, the share of the variance in it."""
    cells = len(flux) // BIN * BIN
    parts = flux[:cells].reshape(-1, BIN)
    good = np.isfinite(parts)
    count = good.sum(1)
    mean = np.where(good, parts, 0.0).sum(1)[count > 0] / count[count > 0]
    time = BIN * STEP * np.flatnonzero(count)
    span = time[-1] - time[0]
    frequency = np.arange(1.0 / min(PERIODS[1], span), 1.0 / PERIODS[0], 0.2 / span)
    power = LombScargle(time, mean).power(frequency, method="fast", assume_regular_frequency=True)
    best = int(np.argmax(power))
    return float(1.0 / frequency[best]), float(power[best])
