"""The flags that a posterior earns by its own shape and misfit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2 as chi2_distribution

from phdlspec.ages.flags import AgeFlag
from phdlspec.ages.stages import Stage

Array = NDArray[np.float64]

CONFLICT_CHANCE = 1e-3
FEWEST_BITS = 1.0
_EDGE_HEIGHT = 0.3
_SECOND_PEAK, _VALLEY, _SECOND_SHARE = 0.2, 0.7, 0.1


def judge(
    density: Array, edges: Array, prior: Array, stages: Array, chi2: Array, number: NDArray[np.int64], bits: Array
) -> NDArray[np.int64]:  # fmt: skip
    """Bits of `AgeFlag` (n,).

    density (n, A) of the age on cells with edges (A + 1,) and prior mass (A,), NaN where there is none; stages (n, 4)
    probabilities; chi2 (n,) of the best point against `number` (n,) data; bits (n,) learned about the age.
    """
    limit = chi2_distribution.isf(CONFLICT_CHANCE, np.maximum(number - 3, 1))
    several = len(prior) > 1
    with np.errstate(invalid="ignore"):
        conditions = {
            AgeFlag.NOT_SUBGIANT: stages[:, Stage.SUBGIANT] < 0.5,
            AgeFlag.CONFLICT: ~(chi2 <= limit),
            AgeFlag.AGE_LIMIT: several & at_limit(density, prior),
            AgeFlag.BIMODAL: several & bimodal(density, edges),
            AgeFlag.PRIOR_DOMINATED: several & (bits < FEWEST_BITS),
        }
    flag = np.zeros(len(density), dtype=np.int64)
    for bit, condition in conditions.items():
        flag |= np.where(condition, int(bit), 0)
    return flag


def at_limit(density: Array, prior: Array) -> NDArray[np.bool_]:
    """True (n,) where the posterior per unit of prior is still high at the youngest or oldest age."""
    relative = density / prior
    height = _EDGE_HEIGHT * relative.max(axis=1)
    return np.asarray((relative[:, 0] > height) | (relative[:, -1] > height))


def bimodal(density: Array, edges: Array) -> NDArray[np.bool_]:
    """True (n,) where the density in log age has a second peak that stands apart and holds a tenth of the whole."""
    smooth = density / np.log(edges[1:] / edges[:-1])
    for _ in range(3):
        padded = np.pad(smooth, ((0, 0), (1, 1)), mode="edge")
        smooth = 0.25 * padded[:, :-2] + 0.5 * padded[:, 1:-1] + 0.25 * padded[:, 2:]
    result = np.zeros(len(density), dtype=bool)
    for row in np.flatnonzero(np.isfinite(smooth).all(axis=1)):
        result[row] = _two_peaks(smooth[row], density[row])
    return result


def _two_peaks(curve: Array, density: Array) -> bool:
    inner = np.flatnonzero((curve[1:-1] > curve[:-2]) & (curve[1:-1] >= curve[2:])) + 1
    if len(inner) < 2:
        return False
    main = int(inner[np.argmax(curve[inner])])
    for other in inner:
        if other == main or curve[other] < _SECOND_PEAK * curve[main]:
            continue
        low, high = sorted((main, int(other)))
        valley = low + int(np.argmin(curve[low:high]))
        share = float(density[:valley].sum())
        if curve[valley] < _VALLEY * curve[other] and min(share, 1.0 - share) > _SECOND_SHARE:
            return True
    return False
