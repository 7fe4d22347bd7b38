"""What every reader of isochrones gives: rows of points in one vocabulary, and the facts of the set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# The quantities of a point of an isochrone; magnitudes stand beside them, by band.
QUANTITIES: dict[str, str] = {
    "initial_mass": "initial mass (solar masses)",
    "mass": "present mass (solar masses)",
    "log_teff": "log10 of the effective temperature (K)",
    "logg": "log10 of the surface gravity (cm/s2)",
    "log_l": "log10 of the luminosity (solar luminosities)",
    "surface_mh": "[M/H] at the surface now (differs from the initial one where elements settle)",
}


@dataclass(frozen=True)
class SetFacts:
    """What a user must know of a set before believing its ages.

    Attributes
    ----------
    name : of the set, as it is printed
    reference : the paper
    solar_scale : the mixture of the models' Sun
    z_sun : its mass fraction of metals as the set states it, NaN where it does not
    alpha_fe : [alpha/Fe] of the models; [M/H] = [Fe/H] + the term of Salaris et al. (1993) for it
    surface : True where the present surface composition is given
    settled : dex in [M/H] that main-sequence stars lack at the surface, where it is not given and was found from the
        set's own Sun (`phdlspec.ages.settling`); NaN: the initial composition stands for the surface
    """

    name: str
    reference: str
    solar_scale: str
    z_sun: float
    alpha_fe: float = 0.0
    surface: bool = False
    settled: float = float("nan")


@dataclass(frozen=True)
class IsochronePoints:
    """Points of isochrones as they stand in a set's files.

    Attributes
    ----------
    facts : of the set
    mh, log_age : initial [M/H] and log10(age/yr) of each point (N,)
    eep : the set's own equivalent evolutionary points (N,), or None where it has none that can be trusted
    segment : whole number of each point (N,) that rises where an evolutionary phase of the set ends; only used to
        make equivalent points where `eep` is None
    helium : True for points that burn helium in the core, or later; None where the set does not say
    quantities : arrays (N,), the keys of `QUANTITIES`
    magnitudes : absolute magnitudes (N,) by band, see `phdlspec.bolometric.BANDS`
    """

    facts: SetFacts
    mh: Array
    log_age: Array
    eep: Array | None
    segment: NDArray[np.int64]
    helium: NDArray[np.bool_] | None
    quantities: Mapping[str, Array]
    magnitudes: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.mh)

    def take(self, use: NDArray[np.bool_]) -> IsochronePoints:
        """The rows where `use` is true."""
        return IsochronePoints(
            self.facts, self.mh[use], self.log_age[use], None if self.eep is None else self.eep[use],
            self.segment[use], None if self.helium is None else self.helium[use],
            {name: values[use] for name, values in self.quantities.items()},
            {band: values[use] for band, values in self.magnitudes.items()},
        )  # fmt: skip


def join(parts: list[IsochronePoints]) -> IsochronePoints:
    """The rows of several files of one set; bands that not all of them have are dropped."""
    first = parts[0]
    if len(parts) == 1:
        return first
    bands = [band for band in first.magnitudes if all(band in part.magnitudes for part in parts)]
    eeps = [part.eep for part in parts if part.eep is not None]
    helium = [part.helium for part in parts if part.helium is not None]
    return IsochronePoints(
        first.facts,
        np.concatenate([part.mh for part in parts]),
        np.concatenate([part.log_age for part in parts]),
        np.concatenate(eeps) if len(eeps) == len(parts) else None,
        np.concatenate([part.segment for part in parts]),
        np.concatenate(helium) if len(helium) == len(parts) else None,
        {name: np.concatenate([part.quantities[name] for part in parts]) for name in QUANTITIES},
        {band: np.concatenate([part.magnitudes[band] for part in parts]) for band in bands},
    )
