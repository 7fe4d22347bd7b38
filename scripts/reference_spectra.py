"""Spectra of stars with known labels, as the studies of this folder share them: MILES and the high-resolution stars.

`DATA` is the folder that holds `miles/miles_even.npz` (Sanchez-Blazquez et al. 2006; flux-calibrated, FWHM 2.5 Å, in
air, at rest) and `highres/` (HARPS and MIKE). Labels: fundamental ones of the Gaia benchmark stars, version 3, else
those of the literature.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from kurucz_grids.line_calibration import FWHM, CalibrationStar
from phdlspec.labels import GRID_LABELS, STRUCTURE
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S, air_to_vacuum

Array = NDArray[np.float64]

MILES_FWHM, MILES_ERROR = 2.5, 0.01  # Å, relative: of a pixel, with what single lines of models leave
# Models err alike at many pixels: weighed against all of them as if independent, known labels would count for nothing.
# So errors of labels are taken as smaller than they are, by these factors: high resolution, fundamental, literature.
HELD = {"sharp": 0.1, "fundamental": 0.25, "literature": 0.4}
ALPHA = {"O": 1.0, "Mg": 1.0, "Si": 0.7, "S": 0.7, "Ca": 0.7, "Ti": 0.7}  # of [alpha/Fe] = -0.4 [Fe/H], 0.4 at most
CLASSES = ("giants < 4500 K", "giants > 4500 K", "dwarfs < 5500 K", "dwarfs > 5500 K", "[Fe/H] < -1.2")


@dataclass(frozen=True)
class KnownStar:
    """A star of MILES: vacuum Å, relative flux (0: none) and Teff (K), log g, [Fe/H] with their errors."""

    name: str
    wave: Array
    flux: Array
    labels: Array
    errors: Array
    fundamental: bool

    @property
    def kind(self) -> str:
        """One of `CLASSES`."""
        return kind_of(*self.labels)


def kind_of(teff: float, logg: float, fe_h: float) -> str:
    """The class of a star, one of `CLASSES`."""
    if fe_h < -1.2:
        return CLASSES[4]
    if logg < 3.5 or (logg < 3.9 and teff < 5200):
        return CLASSES[0] if teff < 4500 else CLASSES[1]
    return CLASSES[2] if teff < 5500 else CLASSES[3]


def miles(data: Path) -> list[KnownStar]:
    """The stars of MILES (even half) with labels within the range of the models."""
    with np.load(data / "miles/miles_even.npz") as file:
        wave = air_to_vacuum(file["wave_air"])
        names, flux = [" ".join(str(name).split()) for name in file["name"]], file["flux"].astype(float)
        literature, benchmark = (file[f"labels_{kind}"].astype(float) for kind in ("literature", "gaia_benchmark_v3"))
    stars = []
    for name, spectrum, known, fundamental in zip(names, flux, literature, benchmark):
        is_benchmark = bool(np.isfinite(fundamental).all())
        labels, errors = (fundamental, (50.0, 0.08, 0.07)) if is_benchmark else (known, (100.0, 0.2, 0.1))
        if is_within(labels):
            good = np.where(np.isfinite(spectrum) & (spectrum > 0), spectrum, 0.0)
            stars.append(KnownStar(name, wave, good, labels, np.array(errors), is_benchmark))
    return stars


def is_within(labels: Array) -> bool:
    """Whether Teff, log g, [Fe/H] are known and the models reach them."""
    columns = [GRID_LABELS.index(name) for name in STRUCTURE]
    return bool(np.all((labels >= GRID_LABELS.lower[columns]) & (labels <= GRID_LABELS.upper[columns])))


def full_labels(teff: float, logg: float, fe_h: float, vmic: float | None = None) -> Array:
    """All labels (32,): alpha elements as the disk and halo have them, carbon and nitrogen of giants dredged up."""
    alpha = float(np.clip(-0.4 * fe_h, 0.0, 0.4))
    values = {"TEFF": teff, "LOGG": logg, "FE_H": fe_h, **{f"{e.upper()}_FE": alpha * w for e, w in ALPHA.items()}}
    if logg < 3.4:
        values |= {"C_FE": -0.1, "N_FE": 0.2}
    if vmic is not None:
        values["VMIC"] = vmic
    return np.asarray(GRID_LABELS.complete(values))


def label_errors(errors: tuple[float, float, float], abundances: float = 0.06, vmic: float = 0.2) -> Array:
    """Errors (32,) of all labels, from those of Teff, log g and [Fe/H]; carbon, nitrogen, oxygen vary more."""
    known = {"TEFF": errors[0], "LOGG": errors[1], "FE_H": errors[2], "VMIC": vmic}
    known |= dict.fromkeys(("C_FE", "N_FE", "O_FE"), 2.5 * abundances)
    return np.array([known.get(name, abundances) for name in GRID_LABELS.names])


# --- high resolution -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Observation:
    """A high-resolution spectrum and what is known of it; `velocity` km/s and `blur` (ln FWHM) were measured on it."""

    file: str
    labels: tuple[float, float, float]
    errors: tuple[float, float, float]
    resolving_power: float
    velocity: float
    blur: float
    vsini: float = 0.0
    vmic: float | None = None
    gap: tuple[float, float] = (0.0, 0.0)  # Å, between the detectors


_HARPS_GAP = (5300.0, 5342.0)
HIGH_RESOLUTION = {
    "Sun": _Observation("Sun_HARPS.fits", (5772, 4.44, 0.0), (5, 0.01, 0.01), 40e3, 0.22, 0.135, vmic=1.0,
                        gap=_HARPS_GAP),
    "Procyon": _Observation("HARPS.GBOG_Procyon.fits", (6554, 4.00, -0.01), (60, 0.03, 0.05), 40e3, 0.42, 0.345, 2.8,
                            vmic=1.8),
    "alf Tau": _Observation("HARPS.GBOG_alfTau.fits", (3927, 1.11, -0.37), (40, 0.1, 0.12), 40e3, 0.29, 0.26, vmic=1.5),
    "38 Vir": _Observation("38Vir_HARPS_2017.fits", (6541, 4.19, 0.0), (80, 0.1, 1.0), 40e3, 0.13, 0.77, 27.5,
                           gap=_HARPS_GAP),
    "HD 140283": _Observation("hd140283.fits", (5788, 3.75, -2.48), (60, 0.08, 0.12), 25e3, -0.64, 0.27),
}  # fmt: skip
_RANGE = (3800.0, 7395.0)  # Å, of what is fitted
_TELLURIC = ((6275.0, 6326.0), (6865.0, 6960.0), (7160.0, 7340.0))  # Å in air
_SODIUM = (5885.0, 5892.5)
_CORES = ((6562.8, 12), (4861.3, 10), (4340.5, 8), (4101.7, 7), (3970, 6), (3933.7, 4), (3889, 4), (3835.4, 4))
_CORES_LOW = ((6562.8, 14), (4861.3, 14), (4340.5, 14), (4101.7, 12), (3970, 12), (3933.7, 10), (3889, 8),
              (3835.4, 8), (5892, 5))  # fmt: skip  # Å and half widths: cores that LTE cannot make, at R = 2000


def observed(data: Path, name: str) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Vacuum wavelengths, flux and bad pixels of a high-resolution spectrum."""
    known = HIGH_RESOLUTION[name]
    with fits.open(data / "highres" / known.file) as file:
        header, flux = file[0].header, np.array(file[0].data, dtype=float)
    air = header["CRVAL1"] + header["CDELT1"] * np.arange(len(flux))
    bad = (flux <= 0.05 * np.median(flux)) | ((air > known.gap[0]) & (air < known.gap[1]))
    return air_to_vacuum(air), flux, bad


def high_resolution(data: Path, name: str) -> CalibrationStar:
    """A high-resolution star, brought to one resolving power and sampling, without cores and telluric bands."""
    known = HIGH_RESOLUTION[name]
    wave, flux, bad = observed(data, name)
    low, high = max(_RANGE[0], wave[0] + 15.0), min(_RANGE[1], wave[-1] - 15.0)
    target = low * np.exp(np.arange(0.0, np.log(high / low), 1.0 / 110_000))
    step = float(np.median(np.diff(np.log(wave))))
    even = np.arange(np.log(wave[0]), np.log(wave[-1]), step)
    smooth = gaussian_filter1d(
        np.interp(even, np.log(wave[~bad]), flux[~bad]), 1.0 / (1.12 * known.resolving_power) / FWHM / step
    )
    near_bad = gaussian_filter1d(np.interp(even, np.log(wave), bad.astype(float)), 4.0 / known.resolving_power / step)
    at = np.log(target) + known.velocity / SPEED_OF_LIGHT_KM_S
    masked = (np.interp(at, even, near_bad) > 1e-3) | _hidden(target, name != "Sun")
    values = np.where(masked, np.nan, np.interp(at, even, smooth))
    errors = HELD["sharp"] * label_errors(known.errors, 0.3)
    if name == "Sun":  # defines the scale
        errors = np.where(np.arange(len(errors)) == GRID_LABELS.index("VMIC"), 0.01, 1e-5)
    width = np.exp(known.blur) * target / known.resolving_power
    labels = full_labels(*known.labels, vmic=known.vmic)
    return CalibrationStar(name, target, values, np.full(len(target), 0.012), width, known.vsini, labels, errors, 12.0)


def _hidden(wave: Array, sodium: bool) -> NDArray[np.bool_]:
    air = wave - 1.4
    hidden = np.zeros(len(wave), dtype=bool)
    for low, high in (*_TELLURIC, *((_SODIUM,) if sodium else ())):
        hidden |= (air > low) & (air < high)
    for centre, half in _CORES:
        hidden |= np.abs(air - centre) < half
    return hidden


def low_resolution(star: KnownStar, velocity: float = 0.0) -> CalibrationStar:
    """A star of MILES as a reference, moved to rest by `velocity` (km/s).

    Its shape is free where it is wider than 45 Å.
    """
    wave, flux = used(star)
    flux = np.where(flux > 0, flux, np.nan)
    for centre, half in _CORES_LOW:
        flux[np.abs(wave - 1.4 - centre) < half] = np.nan
    teff, logg, fe_h = HELD["fundamental" if star.fundamental else "literature"] * star.errors
    known = label_errors((teff, logg, fe_h))
    return CalibrationStar(
        star.name, wave * (1.0 - velocity / SPEED_OF_LIGHT_KM_S), flux, np.full(len(wave), MILES_ERROR),
        np.full(len(wave), MILES_FWHM), 0.0, full_labels(*star.labels), known, 45.0, 20.0,
    )  # fmt: skip


def used(star: KnownStar) -> tuple[Array, Array]:
    """Wavelengths and flux of a MILES star where line lists begin and its last pixels do not matter."""
    inside = (star.wave > 3713.0) & (star.wave < 7392.0)
    return star.wave[inside], star.flux[inside]
