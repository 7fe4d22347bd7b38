"""Signs of strangeness of a spectrum: numbers that grow with it.

misfit            ln of the root mean square deviation
window of w       ln of the most significant sum of deviations in w pixels: a cosmic-ray hit is one wide, a band eighty
latents           ln of the distance of the latents from those of the training stars
neighbours        ln of the distance of the reconstruction from those of the training stars most like it (`Neighbours`)
Balmer lines      their mean equivalent width in Å, with the continuum put back (`balmer_strength`): hot stars
shift             pixels by which a part of the spectrum is displaced, as far as its lines say (a displaced arm)
second lines      how much the star is like a pair (`SecondLines`)
emission          light in excess in the cores of H alpha and H beta
sky               light in excess, or wanting, at the lines of OH in the frame of the Earth
flux calibration  how far the continuum is from that of such a star (`FluxShape`)
noise             -ln S/N
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from phdlspec.datadriven.scatter_vae.residuals import SpectrumResiduals
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

Array = NDArray[np.float64]

PARTS = 4
HYDROGEN = (6564.6, 4862.7)  # vacuum Å, at rest
# The stronger OH lines outside the telluric masks, vacuum Å (Osterbrock et al. 1996).
OH = (
    *(7752.8, 7796.3, 7810.6, 7823.7, 7843.4, 7915.9, 7966.8, 7995.5, 8028.0, 8384.7, 8401.5, 8417.5, 8432.5, 8467.7),
    *(8495.7, 8507.0, 8551.1, 8770.3, 8780.7, 8793.6, 8829.5, 8852.6, 8888.3, 8905.6, 8922.1),
)
# Each sign and its handicap, in powers of ten of its probability: what is sharp (emission, sky, flux calibration) can
# spare some, so that the spread of many signs among ordinary stars does not drown what is hard to tell (two stars
# 100 km/s apart). Set on anomalies planted into training stars, see docs/scatter_vae.md.
SPECTRUM_SIGNS: dict[str, float] = {
    "misfit": 0.5, "window of 1": 0.5, "window of 9": 0.5, "window of 81": 0.3, "latents": 0.5,
    "neighbours": 0.3, "Balmer lines": 0.5, "shift": 0.2, "second lines": 0.0, "emission": 1.0, "sky": 0.5,
    "flux calibration": 0.7, "noise": 0.0,
}  # fmt: skip
XP_SIGNS: dict[str, float] = {"misfit": 0.0, "window of 1": 0.0, "window of 3": 0.0, "latents": 0.0}
AT_ALL_SNR = ("noise", "Balmer lines")  # do not depend on S/N among ordinary stars
_USUAL_SHIFT = 0.3  # pixels: what noise alone may pretend is held down to that
_LINE_SIGMA = 1.0e-4 * np.log(10.0) * 1.3  # of a narrow line, in ln(wave)
_LEAST = 1e-3


def signs_of(left: SpectrumResiduals, aside: Mapping[str, Array], names: Sequence[str]) -> Array:
    """The signs (N, F) of these names; `aside` has those (N,) that residuals do not tell."""
    columns = []
    for name in names:
        if name in aside:
            columns.append(aside[name])
        elif name.startswith("window"):
            columns.append(_ln(np.abs(left.window(int(name.split()[-1]))).max(axis=1)))
        else:
            columns.append(_OF_RESIDUALS[name](left))
    return np.column_stack(columns)


def of_distance(distance: Array) -> Array:
    """The sign (N,) of latents that far out."""
    return _ln(distance)


def _ln(x: Array) -> Array:
    return np.asarray(np.log(np.maximum(x, _LEAST)))


def _misfit(left: SpectrumResiduals) -> Array:
    return 0.5 * _ln((left.deviation**2).sum(1) / np.maximum(left.good.sum(1), 1))


def _shift(left: SpectrumResiduals) -> Array:
    # How much of the derivative of the model is in the deviations, in each part of the spectrum.
    slope = np.gradient(left.model, axis=1) / left.sigma * left.good
    parts = zip(*(np.array_split(x, PARTS, axis=1) for x in (left.deviation, slope)))
    return np.asarray(np.max([np.abs(_amount(d, s)) for d, s in parts], axis=0))


def _amount(deviation: Array, template: Array) -> Array:
    # Held down where the part cannot tell less than what is usual.
    return np.asarray((deviation * template).sum(axis=1) / ((template**2).sum(axis=1) + _USUAL_SHIFT**-2))


def _emission(left: SpectrumResiduals) -> Array:
    lines = [left.significance(_line_profile(left.wave[None], (line,), 1.5 * _LINE_SIGMA)) for line in HYDROGEN]
    return np.asarray(np.sum(lines, axis=0) / len(lines) ** 0.5)


def _sky(left: SpectrumResiduals) -> Array:
    observed = left.wave * (1.0 + left.velocity[:, None] / SPEED_OF_LIGHT_KM_S)
    return np.abs(left.relative().significance(_line_profile(observed, OH, _LINE_SIGMA)))


def _line_profile(wave: Array, lines: Sequence[float], sigma: float) -> Array:
    ln = np.log(wave)
    return np.asarray(sum(np.exp(-0.5 * ((ln - np.log(line)) / sigma) ** 2) for line in lines))


_OF_RESIDUALS: dict[str, Callable[[SpectrumResiduals], Array]] = {
    "misfit": _misfit, "shift": _shift, "emission": _emission, "sky": _sky,
}  # fmt: skip
