"""External error by signal-to-noise: how far our labels really lie from the references.

Every row was also predicted by a fit that had not seen its star (the folds of `calibration.model`). The robust
scatter of what is left, in bins of signal-to-noise, is our error and the reference's; taking away the
reference's own stated error in quadrature leaves ours. A pair holds two of our stars, so its external error is
that of one star, and its signal-to-noise that of the worse. Rows found discrepant are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from calibration.model import robust_scatter

SNR_EDGES = (0.0, 10.0, 20.0, 30.0, 50.0, 80.0, 120.0, 200.0, np.inf)
MIN_ROWS = 10
_SPREAD_OF_SCATTER = 1.17  # relative error of 1.4826 MAD of n Gaussian values, times sqrt(n)


@dataclass(frozen=True)
class SnrBin:
    """One set in one bin of signal-to-noise, in the unit of the label.

    Attributes
    ----------
    set_name : the reference set.
    low, high : edges of the bin; snr is the median of its rows, rows their number.
    scatter : robust scatter of the held-out rows.
    reference : median error stated by the reference (for pairs that of the known difference).
    external : error of one of our stars, 0 where the reference's error explains all of the scatter;
        external_range the same with the scatter one standard error lower and higher.
    claimed : median error that the fit claims for one star.
    """

    set_name: str
    low: float
    high: float
    snr: float
    rows: int
    scatter: float
    reference: float
    external: float
    external_range: tuple[float, float]
    claimed: float


def external_errors(rows: Table) -> list[SnrBin]:
    """Bins of all sets from the evidence rows of one label; bins with fewer than `MIN_ROWS` rows are left out."""
    sets, snr = np.asarray(rows["SET"]).astype(str), np.asarray(rows["SNR"], dtype=float)
    usable = (np.asarray(rows["GOOD"]) > 0.5) & np.isfinite(snr)
    bins = []
    for name in dict.fromkeys(sets):
        for low, high in zip(SNR_EDGES, SNR_EDGES[1:]):
            at = usable & (sets == name) & (snr >= low) & (snr < high)
            if at.sum() >= MIN_ROWS:
                bins.append(_bin(name, low, high, rows[at]))
    return bins


def _bin(name: str, low: float, high: float, rows: Table) -> SnrBin:
    stars = 2 if str(rows["KIND"][0]) == "pairs" else 1
    scatter = robust_scatter(np.asarray(rows["HELD_OUT"], dtype=float))
    reference = float(np.median(rows["ERR_REFERENCE"]))
    uncertain = _SPREAD_OF_SCATTER * scatter / len(rows) ** 0.5
    trial = np.array([scatter, max(scatter - uncertain, 0.0), scatter + uncertain])
    external, lowest, highest = _without(reference, trial) / stars**0.5
    return SnrBin(
        set_name=name,
        low=low,
        high=high,
        snr=float(np.median(rows["SNR"])),
        rows=len(rows),
        scatter=scatter,
        reference=reference,
        external=float(external),
        external_range=(float(lowest), float(highest)),
        claimed=float(np.median(rows["ERR_OURS"])) / stars**0.5,
    )


def _without(reference: float, scatter: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scatter (n,) less the reference's error in quadrature, 0 where the latter is larger."""
    return np.asarray(np.sqrt(np.maximum(scatter**2 - reference**2, 0.0)))
