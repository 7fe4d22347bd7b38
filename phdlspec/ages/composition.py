"""From [Fe/H] and [alpha/Fe] to the [M/H] of scaled-solar models.

Isochrones of a mixture enhanced in the alpha elements follow scaled-solar ones of the same total metallicity
(Salaris, Chieffi & Straniero 1993, ApJ 414, 580): Z = Z0 (0.638 f + 0.362), f = 10^[alpha/Fe]. The relation holds
for the interior below about solar metallicity and is used at all of them here. [M/H] is differential to the Sun: a
star of solar [Fe/H] and [alpha/Fe] has [M/H] = 0 in every set, whatever Z the set gives to its Sun.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

ALPHA_SHARE = 0.638


def metallicity_term(alpha_fe: ArrayLike) -> NDArray[np.float64]:
    """[M/H] - [Fe/H] of a mixture with this [alpha/Fe]."""
    return np.asarray(np.log10(ALPHA_SHARE * 10.0 ** np.asarray(alpha_fe, dtype=float) + 1.0 - ALPHA_SHARE))


def metallicity_slope(alpha_fe: ArrayLike) -> NDArray[np.float64]:
    """d [M/H] / d [alpha/Fe], for errors."""
    enhanced = ALPHA_SHARE * 10.0 ** np.asarray(alpha_fe, dtype=float)
    return np.asarray(enhanced / (enhanced + 1.0 - ALPHA_SHARE))
