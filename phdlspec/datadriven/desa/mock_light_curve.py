"""Light curves as Kepler would have seen them of stars that are known: spots, granulation, eclipses, noise, gaps.

What is real: the law of photon and detector noise (Gilliland et al. 2010), granulation by ν_max (Kallinger et al.
2014), the dates of Kepler's quarters, quarters that a dead detector module loses, gaps of months and safe modes, slow
and daily residuals of the size that 67 quarters of six stars without a known period have. What is not: limb darkening,
eccentric orbits, flares, faculae, activity cycles, contamination.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from phdlspec.datadriven.desa.light_curve import STEP, Segment

# Begin and end of Kepler's quarters 0-17, d (BJD - 2454833), from the files.
QUARTERS = (
    (120.5, 130.2), (131.5, 165.0), (169.8, 258.5), (260.2, 349.5), (352.4, 442.2), (443.5, 538.2), (539.5, 629.3),
    (630.2, 719.5), (735.4, 802.3), (808.5, 905.9), (906.9, 1000.3), (1001.2, 1098.3), (1099.4, 1182.0),
    (1182.8, 1273.1), (1274.2, 1371.3), (1373.5, 1471.1), (1472.1, 1558.0), (1559.2, 1591.0),
)  # fmt: skip
SOLAR_NU_MAX = 3090.0  # µHz
_MONTH, _MONTHLY_GAP = 30.4, (0.8, 2.2)  # d
_SAFE_MODE, _SAFE_MODE_GAP = 0.3, (2.0, 11.0)  # share of quarters that have one; d
_DEAD_MODULE = 0.2  # share of stars that lose every fourth quarter
_FEWEST = 200  # points of a quarter, else it is left out
_COARSE = 4  # cells between which spots are interpolated
_DRIFT = 3e-4  # of the flux, of a quarter's slow residual
_RED, _RED_TIME = 1.5e-4, 2.0  # of the flux, median of its daily residuals; d, their correlation

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Spots:
    """Dark spots. period : d, of the equator. amplitude : standard deviation of the light curve. lifetime : d,
    e-folding of a spot's growth and decay. inclination : rad. shear : relative lag of the pole."""

    period: float
    amplitude: float
    lifetime: float
    inclination: float
    shear: float = 0.1

    def flux(self, time: Array, random: np.random.Generator) -> Array:
        """Change (T,) of the flux, mean 0."""
        coarse = time[:: _COARSE if self.period > 2.0 else 1]
        number = int(np.clip(6.0 * (time[-1] - time[0]) / self.lifetime, 4, 150))
        born = random.uniform(time[0] - self.lifetime, time[-1] + self.lifetime, number)
        latitude = np.arcsin(random.uniform(-0.6, 0.6, number))
        longitude = random.uniform(0.0, 2.0 * np.pi, number)
        area = random.lognormal(0.0, 0.6, number)
        rate = 2.0 * np.pi / self.period * (1.0 - self.shear * np.sin(latitude) ** 2)
        total = np.zeros(len(coarse))
        for i in range(number):
            near = np.flatnonzero(np.abs(coarse - born[i]) < 3.0 * self.lifetime)
            part = coarse[near]
            angle = longitude[i] + rate[i] * part
            seen = np.sin(latitude[i]) * np.cos(self.inclination)
            seen = seen + np.cos(latitude[i]) * np.sin(self.inclination) * np.cos(angle)
            total[near] -= area[i] * np.maximum(seen, 0.0) * np.exp(-0.5 * ((part - born[i]) / self.lifetime) ** 2)
        full = np.interp(time, coarse, total)
        return np.asarray((full - full.mean()) * (self.amplitude / max(full.std(), 1e-12)))


@dataclass(frozen=True)
class Binary:
    """A circular orbit. period : d. epoch : d, of the primary's eclipse. inclination : rad. radii : of both over their
    distance. brightness : surface brightness of the second over that of the first. ratio : of masses. speed : km/s,
    semi-amplitude of the first."""

    period: float
    epoch: float
    inclination: float
    radii: tuple[float, float]
    brightness: float
    ratio: float
    speed: float

    @property
    def light(self) -> tuple[float, float]:
        """Shares of the two stars."""
        one, two = self.radii[0] ** 2, self.brightness * self.radii[1] ** 2
        return one / (one + two), two / (one + two)

    def flux(self, time: Array) -> Array:
        """Change (T,) of the flux: eclipses of uniform discs, ellipsoidal variation, beaming."""
        phase = 2.0 * np.pi * (time - self.epoch) / self.period
        along, across = np.cos(phase) * np.sin(self.inclination), np.sin(phase)
        distance = np.sqrt(across**2 + (np.cos(phase) * np.cos(self.inclination)) ** 2)
        one, two = self.light
        hidden = _overlap(distance, *self.radii)
        eclipse = np.where(along > 0, one * hidden / self.radii[0] ** 2, two * hidden / self.radii[1] ** 2)
        tide = 1.5 * np.sin(self.inclination) ** 2 * np.cos(2.0 * phase)
        bulges = one * self.ratio * self.radii[0] ** 3 + two / self.ratio * self.radii[1] ** 3
        beaming = 4.0 * self.speed / 299792.458 * (one - two / self.ratio) * np.sin(phase)
        change = -eclipse - bulges * tide + beaming
        return np.asarray(change - np.median(change))


def _overlap(distance: Array, r1: float, r2: float) -> Array:
    """Area over π in which two discs of radii r1, r2 at these distances overlap."""
    d = np.clip(distance, abs(r1 - r2) + 1e-9, r1 + r2 - 1e-9)
    a = r1**2 * np.arccos(np.clip((d**2 + r1**2 - r2**2) / (2 * d * r1), -1, 1))
    b = r2**2 * np.arccos(np.clip((d**2 + r2**2 - r1**2) / (2 * d * r2), -1, 1))
    c = 0.5 * np.sqrt(np.maximum((-d + r1 + r2) * (d + r1 - r2) * (d - r1 + r2) * (d + r1 + r2), 0.0))
    return np.asarray(np.where(distance >= r1 + r2, 0.0, (a + b - c) / np.pi))


def granulation(cells: int, teff: float, logg: float, random: np.random.Generator) -> Array:
    """Change (T,) of the flux by granulation, in cells of `STEP`."""
    nu_max = SOLAR_NU_MAX * 10.0 ** (logg - 4.438) * (teff / 5772.0) ** -0.5
    nu = np.fft.rfftfreq(cells, STEP * 0.0864)  # µHz
    amplitude = 3382.0 * nu_max**-0.609  # ppm, of each of two components
    density = np.zeros(len(nu))
    for corner in (0.317 * nu_max**0.970, 0.948 * nu_max**0.992):
        density += 2.0 * np.sqrt(2.0) / np.pi * amplitude**2 / corner / (1.0 + (nu / corner) ** 4)
    shape = random.normal(size=len(nu)) + 1j * random.normal(size=len(nu))
    scale = np.sqrt(density * cells / (4.0 * STEP * 0.0864))  # irfft of it has this one-sided density, ppm²/µHz
    scale[0] = 0.0
    return np.asarray(1e-6 * np.fft.irfft(shape * scale, cells))


def photon_noise(magnitude: float) -> float:
    """Noise of a cell, relative to the flux (Gilliland et al. 2010, their lower envelope)."""
    electrons = 3.46 * 10.0 ** (0.4 * (12.0 - magnitude) + 8.0)
    return float(np.sqrt(electrons + 7e6 * max(1.0, magnitude / 14.0) ** 4) / electrons)


def observe(
    target: str,
    days: float,
    teff: float,
    logg: float,
    magnitude: float,
    random: np.random.Generator,
    spots: Spots | None = None,
    binary: Binary | None = None,
) -> list[Segment]:
    """The quarters of a star in a part of the mission of so many days, as `read_segment` would give them."""
    cells = int(days / STEP)
    longest = QUARTERS[-1][1] - days
    begin = random.choice([start for start, _ in QUARTERS[1:] if start <= longest] or [QUARTERS[0][0]])
    time: Array = begin + STEP * np.arange(cells, dtype=np.float64)
    flux = 1.0 + granulation(cells, teff, logg, random) + _red_noise(cells, random)
    if spots is not None:
        flux += spots.flux(time, random)
    if binary is not None:
        flux += binary.flux(time)
    flux += photon_noise(magnitude) * random.normal(size=cells)
    return [
        Segment(
            f"{target} Q{number}", target, time[rows], random.uniform(0.8, 1.2) * (flux[rows] + _drift(rows, random))
        )
        for number, rows in _quarters(time, random)
    ]


def _red_noise(cells: int, random: np.random.Generator) -> Array:
    """What the pipeline leaves from day to day (T,): an autoregressive process."""
    keep = np.exp(-STEP / _RED_TIME)
    size = _RED * random.lognormal(0.0, 0.5)
    return np.asarray(lfilter([size * np.sqrt(1.0 - keep**2)], [1.0, -keep], random.normal(size=cells)))


def _drift(rows: NDArray[np.intp], random: np.random.Generator) -> Array:
    """A quarter's slow residual (n,)."""
    x = np.linspace(-1.0, 1.0, len(rows))
    return np.asarray(np.polynomial.legendre.legval(x, _DRIFT * random.normal(size=4) / [1.0, 1.0, 2.0, 3.0]))


def _quarters(time: Array, random: np.random.Generator) -> list[tuple[int, NDArray[np.intp]]]:
    """Number and rows of each quarter in which a star was seen."""
    seen = random.random(len(time)) > 0.01
    lost = int(random.integers(4)) if random.random() < _DEAD_MODULE else -1
    found = []
    for number, (start, end) in enumerate(QUARTERS):
        inside = (time >= start) & (time <= end)
        gaps = [(start + month, random.uniform(*_MONTHLY_GAP)) for month in np.arange(_MONTH, end - start, _MONTH)]
        if random.random() < _SAFE_MODE:
            gaps.append((random.uniform(start, end), random.uniform(*_SAFE_MODE_GAP)))
        for at, length in gaps:
            inside &= (time < at) | (time > at + length)
        rows = np.flatnonzero(seen & inside)
        if len(rows) > _FEWEST:
            found.append((number, rows))
    kept = [part for part in found if part[0] % 4 != lost]
    enough = sum(len(rows) for _, rows in kept) > 0.5 * sum(len(rows) for _, rows in found)
    return kept if enough else found
