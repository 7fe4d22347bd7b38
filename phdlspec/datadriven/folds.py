"""Folds of a cross-validation that keep all spectra of a star together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def grouped_folds(stars: Sequence[str], n_folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Fold (N,) of each spectrum, 0 to n_folds - 1; spectra of one star share theirs.

    The stars are shuffled with the seed and dealt out in turn.
    """
    names, star = np.unique(np.asarray(stars, dtype=str), return_inverse=True)
    dealt = np.empty(len(names), dtype=np.int64)
    dealt[np.random.default_rng(seed).permutation(len(names))] = np.arange(len(names)) % n_folds
    return dealt[star]
