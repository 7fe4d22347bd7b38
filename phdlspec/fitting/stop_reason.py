"""Why an optimiser stopped."""

from __future__ import annotations

from enum import Enum


class StopReason(Enum):
    """Why an optimiser stopped; the values are what results and catalogues say."""

    CONVERGED = "converged"
    ITERATION_LIMIT = "iteration limit"
    NO_PROGRESS = "no step improves the fit"
    DEGENERATE = "degenerate covariance"
    NO_VALUE = "no finite value in a population"
