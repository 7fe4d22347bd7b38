"""What a set of isochrones covers, in words: `phdlspec ages info`."""

from __future__ import annotations

import numpy as np

from phdlspec.ages.composition import metallicity_term
from phdlspec.ages.interpolation import interpolation_error
from phdlspec.ages.isochrones import Isochrones
from phdlspec.ages.stages import STAGE_WORDS
from phdlspec.bolometric import BANDS


def describe(isochrones: Isochrones) -> str:
    """Several lines: composition, axes, stages, magnitudes, errors of interpolation."""
    facts, q = isochrones.facts, isochrones.quantities
    age = 10.0 ** (isochrones.log_age - 9.0)
    z_sun = f", Z of the Sun {facts.z_sun:.5g}" if np.isfinite(facts.z_sun) else ", Z of the Sun not stated"
    alpha = "scaled solar"
    if facts.alpha_fe:
        term = float(metallicity_term(facts.alpha_fe))
        alpha = f"[alpha/Fe] = {facts.alpha_fe:+.2f}, so [M/H] = [Fe/H] {term:+.2f} (Salaris et al. 1993)"
    surface = "surface composition not given: the initial one is used"
    if facts.surface:
        surface = "surface composition given"
    elif np.isfinite(facts.settled):
        surface = f"its Sun was born with [M/H] {facts.settled:+.3f}: that much has sunk on the main sequence"
    bands = [band for band in BANDS if band in isochrones.magnitudes]
    magnitudes = " ".join(bands) if bands else "none in the set; polynomial bolometric corrections of phdlspec"
    filled = isochrones.filled
    lines = [
        f"{'set':14s}{facts.name}; {facts.reference}",
        f"{'composition':14s}{facts.solar_scale}{z_sun}; {alpha}; {surface}",
        f"{'[M/H]':14s}{len(isochrones.mh)} from {isochrones.mh[0]:+.2f} to {isochrones.mh[-1]:+.2f}",
        f"{'age':14s}{len(age)} from {age[0]:.2f} to {age[-1]:.2f} Gyr",
        f"{'points':14s}{int(filled.sum())} on {len(isochrones.eep)} equivalent evolutionary points; Teff "
        f"{10 ** np.nanmin(q['log_teff']):.0f}-{10 ** np.nanmax(q['log_teff']):.0f} K, log g "
        f"{np.nanmin(q['logg']):.2f}-{np.nanmax(q['logg']):.2f}, mass {np.nanmin(q['mass']):.2f}-"
        f"{np.nanmax(q['mass']):.2f}",
        f"{'stages':14s}"
        + "; ".join(f"{int((q['stage'] == stage).sum())} {words}" for stage, words in STAGE_WORDS.items()),
        f"{'magnitudes':14s}{magnitudes}",
    ]
    for axis, nodes in (("mh", isochrones.mh), ("age", isochrones.log_age)):
        if len(nodes) < 5:
            continue
        error = interpolation_error(isochrones, axis)
        lines.append(
            f"{'interpolation':14s}in {axis}, every other node left out (steps of {error.spacing:.2f} dex), subgiants: "
            f"log L at fixed Teff {error.log_l[0]:.4f} (median) {error.log_l[1]:.4f} (95%), age "
            f"{100 * error.age[0]:.1f}% {100 * error.age[1]:.1f}%"
        )
    return "\n".join(lines)
