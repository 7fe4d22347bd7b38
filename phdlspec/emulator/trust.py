"""Where an emulator may be trusted, by its own errors on held-out models.

The range is found when it is trained and kept in the checkpoint. A checkpoint whose derivatives or fluxes are wrong
altogether is trusted nowhere, and single labels whose derivatives are wrong are not trusted anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phdlspec.emulator.judging import JudgedErrors
from phdlspec.labels import LabelSet, Role

FLUX_LIMIT = 5e-3  # of the continuum, median of the models' rms at R = 1800
DERIVATIVE_LIMIT = 0.25  # relative error of a main label's derivative, median of the models
LABEL_LIMIT = 0.5  # the same of any label, beyond which it is not trusted by itself
LOCAL_FLUX_LIMIT = 5e-3  # 90th percentile of the rms of neighbouring models, which bounds the range
NEIGHBOURS = 12  # models at least
AXES = ("TEFF", "LOGG")
_MAIN = LabelSet().names[LabelSet().place(Role.MAIN)]

Range = dict[str, list[float]]


def distrust(validation: Mapping[str, Any]) -> str:
    """Why a checkpoint with these errors (`JudgedErrors.summary`) is not to be trusted at all; empty where it is."""
    flux, errors = float(validation["flux_rms_median"]), validation["derivative_error_median"]
    wrong = [name for name in _MAIN if not float(errors[name]) <= DERIVATIVE_LIMIT]
    if wrong:
        worst = max(wrong, key=lambda name: float(errors[name]))
        return (
            f"on held-out models the emulator's derivative for {worst} is wrong by {100 * float(errors[worst]):.0f}%, "
            f"at most {100 * DERIVATIVE_LIMIT:.0f}% is trusted; train it longer or on more models"
        )
    if not flux <= FLUX_LIMIT:
        return (
            f"on held-out models the emulator's flux is wrong by {100 * flux:.1f}% of the continuum (in the median), "
            f"at most {100 * FLUX_LIMIT:.1f}% is trusted; train it longer or on more models"
        )
    return ""


def untrusted_labels(validation: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels whose derivatives are wrong by more than half."""
    errors = validation["derivative_error_median"]
    return tuple(name for name, error in errors.items() if not float(error) <= LABEL_LIMIT)


def trusted_range(stars: NDArray[np.float64], figures: JudgedErrors) -> Range:
    """The ranges of TEFF and LOGG in which the emulator is good, from the held-out models with these two (N, 2).

    Along each axis, the models are taken in overlapping groups of neighbours; the range is the longest run of groups
    of which nine models in ten have a flux error below `LOCAL_FLUX_LIMIT`. Where no group is that good, it is empty
    (its ends are the same). LOGG is judged by the models within the range of TEFF: cool stars, which are the hardest,
    have the lowest gravities and the highest.
    """
    found: Range = {}
    inside = np.ones(len(stars), dtype=bool)
    for i, name in enumerate(AXES):
        low, high = found[name] = _good_run(stars[inside, i], figures.flux_rms[inside])
        inside &= (stars[:, i] >= low) & (stars[:, i] <= high)
    return found


def _good_run(position: NDArray[np.float64], error: NDArray[np.float64]) -> list[float]:
    order = np.argsort(position)
    size = min(max(NEIGHBOURS, len(order) // 10), len(order))
    groups = np.lib.stride_tricks.sliding_window_view(error[order], size)
    good = np.quantile(groups, 0.9, axis=1) <= LOCAL_FLUX_LIMIT
    edges = np.flatnonzero(np.diff(np.concatenate([[0], good, [0]]))).reshape(-1, 2)
    if not len(edges):
        return [float(position[order[0]])] * 2
    first, end = edges[np.argmax(edges[:, 1] - edges[:, 0])]
    # A group at either end of the run stands for its middle, at the ends of the grid for all of it.
    low = order[first if first == 0 else first + size // 2]
    high = order[end + size - 2 if end == len(good) else end - 1 + size // 2]
    return [float(position[low]), float(position[high])]
