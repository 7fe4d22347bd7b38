"""One observed spectrum: arrays on one vacuum wavelength scale, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from numpy.typing import ArrayLike, NDArray

from phdlspec.errors import UserError

_NEIGHBOURS = 51  # pixels whose noise is typical of a place
MIN_GOOD_PIXELS, MAX_PIXELS = 100, 1_000_000
WAVE_RANGE = (2000.0, 30000.0)  # Å; what a wavelength in Å can be in a spectrum of this kind
SIGMA_TO_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))


def _wave_unit_hint(median: float) -> str:
    """What unit wavelengths that are not Å may have, from their median."""
    if 200.0 < median < 2000.0:
        return "which looks like nm"
    if 0.2 < median < 3.0:
        return "which looks like µm"
    if 3.0 < median < 5.0:
        return "which looks like log10 of Å"
    return "which is no optical wavelength in Å"


def stem_of(path: str | Path) -> str:
    """File name without its extensions, for naming results; the row of a file with several is kept."""
    name = Path(path).name
    for suffix in (".gz", ".fits", ".fit", ".ecsv", ".csv"):
        name = name.removesuffix(suffix)
    return name.replace("[", "_row").replace("]", "") or "spectrum"


def _values(given: Any, what: str, unit: u.UnitBase | None = None) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """An array as float64, in `unit` where it is a Quantity, and where it is masked."""
    try:
        if isinstance(given, u.Quantity):
            given = given.value if unit is None else given.to_value(unit, u.spectral())
        masked = np.ma.asarray(given, dtype=np.float64)
        return np.array(np.ma.filled(masked, np.nan)), np.array(np.ma.getmaskarray(masked))
    except u.UnitConversionError as error:
        raise UserError(f"the unit of {what} is {given.unit}, expected one that can be converted to {unit}") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{what} does not hold numbers ({type(given).__name__})") from error


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum:
    """An observed spectrum. Making one checks it; a spectrum that cannot be fitted raises `UserError`.

    >>> from astropy import units as u
    >>> wave = np.arange(400.0, 880.0, 0.1) * u.nm
    >>> flux = np.random.default_rng(1).normal(1.0, 0.02, wave.size)
    >>> phdlspec.Spectrum(wave, flux, err=np.full(wave.size, 0.02), resolving_power=1800)
    <Spectrum in memory: 4800 pixels, 4000.0-8799.0 Å, 4800 good, S/N 50.0, R 1800>

    Arrays may be Quantities (wave of any unit of length; err and ivar in units of the flux), masked arrays or lists.
    `err` (P,), the standard deviation, may be given in the place of `ivar`.

    Attributes
    ----------
    wave : (P,) float64, vacuum Å, strictly increasing, in the Sun's rest frame unless `meta["WARNINGS"]` says
        so.
    flux : (P,) float64, any unit; zero where it was not finite (those pixels are masked).
    ivar : (P,) float64, inverse variance of the flux; zero at masked pixels that had none.
    mask : (P,) bool, True = bad; none by default. Pixels whose flux or ivar is not finite or whose ivar is not positive
        are added.
    resolving_power : number or (P,), wave / FWHM of the line spread function. It is never guessed.
    meta : upper-case keys: OBSID (str), RA, DEC (deg), SNR (median per good pixel, measured here), SNRU ...
        SNRZ, Z, CLASS, SUBCLASS ... as far as the file has them; WARNINGS, a tuple of sentences.
    path : where it came from; empty for a spectrum made in memory.
    arms : ((low, high), ...) Å, disjoint and increasing: parts with a continuum of their own; the default is
        one.
    """

    wave: NDArray[np.float64]
    flux: NDArray[np.float64]
    ivar: NDArray[np.float64] = None  # type: ignore[assignment]  # from `err` where it is not given
    mask: NDArray[np.bool_] = None  # type: ignore[assignment]
    resolving_power: float | NDArray[np.float64] = None  # type: ignore[assignment]
    meta: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""
    arms: tuple[tuple[float, float], ...] = ()
    err: InitVar[ArrayLike | None] = None

    def __post_init__(self, err: ArrayLike | None) -> None:
        wave, flux, ivar, mask = self._arrays(err)
        if wave.ndim != 1 or not (wave.shape == flux.shape == ivar.shape == mask.shape):
            self._refuse(
                f"wave, flux, ivar, mask have shapes {wave.shape}, {flux.shape}, {ivar.shape}, {mask.shape}, "
                "expected four one-dimensional arrays of one length"
            )
        if len(wave) > MAX_PIXELS:
            self._refuse(f"it has {len(wave)} pixels, expected at most {MAX_PIXELS}; cut or rebin it")
        if len(wave) < MIN_GOOD_PIXELS:
            self._refuse(f"it has {len(wave)} pixels, expected at least {MIN_GOOD_PIXELS}")
        self._check_wavelengths(wave)

        good = ~mask & np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0)
        self._check_pixels(flux, ivar, mask, good)
        ivar[~np.isfinite(ivar) | (ivar < 0)] = 0.0
        flux[~np.isfinite(flux)] = 0.0
        power = self._power()
        if power.shape not in ((), wave.shape) or not (np.isfinite(power) & (power > 0)).all():
            self._refuse(f"the resolving power (shape {power.shape}) must be positive, one number or one per pixel")
        arms = tuple((float(low), float(high)) for low, high in self.arms) or ((float(wave[0]), float(wave[-1])),)
        edges = np.array(arms).ravel()
        if (np.diff(edges) < 0).any():
            self._refuse(f"its arms {arms} are not disjoint and increasing intervals")

        meta = {str(key).upper(): value for key, value in self.meta.items()}
        meta.setdefault("WARNINGS", ())
        meta["SNR"] = float(np.median(flux[good] * np.sqrt(ivar[good])))
        values = {
            "wave": wave,
            "flux": flux,
            "ivar": ivar,
            "mask": ~good,
            "resolving_power": power if power.ndim else float(power),
            "meta": meta,
            "path": str(self.path),
            "arms": arms,
        }
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            object.__setattr__(self, name, value)

    def _refuse(self, what: str) -> None:
        raise UserError(f"{self.path or 'spectrum'}: {what}")

    def _arrays(
        self, err: Any
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """wave, flux, ivar and mask as they were given, in one set of units."""
        if (self.ivar is None) == (err is None):
            self._refuse("give either ivar (inverse variance) or err (standard deviation) of the flux")
        unit = self.flux.unit if isinstance(self.flux, u.Quantity) else None
        wave, flux = _values(self.wave, "wave", u.AA), _values(self.flux, "flux")
        if err is None:
            noise = _values(self.ivar, "ivar", None if unit is None else unit**-2)
        else:
            noise = _values(err, "err", unit)
            with np.errstate(divide="ignore", invalid="ignore"):
                noise = (np.where(noise[0] > 0, noise[0] ** -2.0, 0.0), noise[1])
        masks = [values[1] for values in (wave, flux, noise)]
        if self.mask is not None:
            masks.append(np.array(self.mask, dtype=bool))
        if len({x.shape for x in (flux[0], *masks)}) > 1:  # told with the other shapes
            return wave[0], flux[0], noise[0], masks[-1]
        return wave[0], flux[0], noise[0], np.logical_or.reduce(masks)

    def _power(self) -> NDArray[np.float64]:
        if self.resolving_power is None:
            self._refuse("the resolving power is not given, expected wavelength over FWHM, as resolving_power=1800")
        return _values(self.resolving_power, "resolving_power")[0]

    def __repr__(self) -> str:
        name = self.path or self.meta.get("OBSID") or "in memory"
        power = np.median(self.resolving_power_by_pixel)
        return (
            f"<Spectrum {name}: {len(self)} pixels, {self.wave[0]:.1f}-{self.wave[-1]:.1f} Å, {self.good.sum()} good, "
            f"S/N {self.snr:.1f}, R {power:.0f}>"
        )

    def _check_wavelengths(self, wave: NDArray[np.float64]) -> None:
        if not np.isfinite(wave).all():
            self._refuse("some wavelengths are not finite, expected vacuum Å")
        if wave.min() < WAVE_RANGE[0] or wave.max() > WAVE_RANGE[1]:
            hint = _wave_unit_hint(float(np.median(wave)))
            self._refuse(
                f"the wavelengths run {wave.min():.6g}-{wave.max():.6g}, {hint}; state their unit or convert them to Å"
            )
        if (np.diff(wave) <= 0).any():
            self._refuse("the wavelengths do not increase strictly, sort the pixels and drop repeated ones")

    def _check_pixels(
        self,
        flux: NDArray[np.float64],
        ivar: NDArray[np.float64],
        mask: NDArray[np.bool_],
        good: NDArray[np.bool_],
    ) -> None:
        if mask.all():
            self._refuse("all pixels are masked, nothing is left to fit")
        if not (np.isfinite(ivar) & (ivar > 0)).any():
            self._refuse("the inverse variance is not positive in any pixel, expected 1 / sigma^2")
        if not np.isfinite(flux).any():
            self._refuse("the flux is not finite in any pixel")
        if good.sum() < MIN_GOOD_PIXELS:
            self._refuse(f"only {good.sum()} of {len(flux)} pixels are usable, expected {MIN_GOOD_PIXELS} or more")
        if np.ptp(flux[good]) == 0:
            self._refuse(f"the flux is constant ({flux[good][0]:.6g}), this is no spectrum")

    def __len__(self) -> int:
        return len(self.wave)

    @property
    def good(self) -> NDArray[np.bool_]:
        """(P,) True where a pixel may be used."""
        return ~self.mask

    @property
    def snr(self) -> float:
        """Median signal-to-noise ratio of the good pixels."""
        return float(self.meta["SNR"])

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about this spectrum that a user should see; none of them forbids a fit."""
        return tuple(self.meta["WARNINGS"])

    @property
    def stem(self) -> str:
        """`stem_of` its path; its OBSID where it was made in memory."""
        return stem_of(self.path or str(self.meta.get("OBSID", "")))

    @property
    def resolving_power_by_pixel(self) -> NDArray[np.float64]:
        """(P,) wave / FWHM."""
        return np.broadcast_to(np.asarray(self.resolving_power, dtype=float), self.wave.shape)

    def degraded_to(self, resolving_power: float) -> Spectrum:
        """A copy in which no pixel is sharper than `resolving_power`; itself when that holds already.

        For surveys whose resolving power exceeds what the model's grid can serve (DESI). Sharper pixels are
        convolved with a Gaussian that brings them to the limit, blunter ones are left as they are, and all
        are resampled on a log-uniform grid of 2.5 pixels per FWHM. Pixels that are much noisier or better than those
        about them count accordingly, others alike, for the noise follows the depth of lines. Each input pixel's inverse
        variance is shared out over the output pixels it contributes to, so that a mean over many of these has the
        error that they state; neighbouring ones are correlated and their covariance is not tracked.
        """
        power = self.resolving_power_by_pixel
        if power[self.good].max() <= resolving_power * 1.001:
            return self
        step = 1.0 / (2.5 * resolving_power)
        lnw = np.log(self.wave)
        centre = np.arange(float(lnw[0]), float(lnw[-1]), step)
        # Kernels narrower than half an input pixel would miss the pixels: they act as nearest-pixel sampling.
        extra = np.clip(1.0 / resolving_power**2 - 1.0 / power**2, 0.0, None) / SIGMA_TO_FWHM**2
        cell = np.gradient(lnw)
        sigma = np.interp(centre, lnw, np.sqrt(np.maximum(extra, (0.5 * cell) ** 2)))
        low = np.searchsorted(lnw, centre - 4.0 * sigma)
        high = np.searchsorted(lnw, centre + 4.0 * sigma)
        row = np.repeat(np.arange(len(centre)), high - low)
        column = np.concatenate([np.arange(a, b) for a, b in zip(low, high)])
        weight = np.exp(-0.5 * ((lnw[column] - centre[row]) / sigma[row]) ** 2) * cell[column]
        arm = self.arm_index()
        weight *= arm[column] == arm[np.clip(np.searchsorted(lnw, centre), 0, len(lnw) - 1)][row]

        def summed(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(np.bincount(row, values, len(centre)), dtype=float)

        shared = weight / np.bincount(column, weight, len(lnw))[column]
        noise, counted = (self.ivar * self.good)[column], self._weights()[column]
        total, kept = summed(weight), summed(weight * self.good[column])
        of_all = summed(shared * counted)
        known = np.where(of_all > 0, of_all, 1.0)
        flux = summed(shared * counted * self.flux[column]) / known
        # The variance of that mean, for inputs of inverse variance `noise`, shared as they are.
        variance = summed(shared * np.where(noise > 0, counted**2 / np.where(noise > 0, noise, 1.0), 0.0))
        ivar = np.where(variance > 0, of_all**2 / np.where(variance > 0, variance, 1.0), 0.0)
        return Spectrum(
            np.exp(centre),
            np.asarray(flux, dtype=float),
            ivar,
            kept < 0.8 * total,
            np.minimum(np.interp(centre, lnw, power), resolving_power),
            self.meta,
            self.path,
            self.arms,
        )

    def _weights(self) -> NDArray[np.float64]:
        """(P,) inverse variances by which pixels count in a mean: the typical one about them, but where theirs is less
        than half or more than twice that; zero for bad ones."""
        ivar = np.where(self.good, self.ivar, np.nan)
        padded = np.pad(ivar, _NEIGHBOURS // 2, constant_values=np.nan)
        about = np.lib.stride_tricks.sliding_window_view(padded, _NEIGHBOURS)
        known = np.isfinite(about).any(axis=1)
        typical = np.full(len(ivar), np.nan)
        typical[known] = np.nanmedian(about[known], axis=1)
        alike = (ivar > 0.5 * typical) & (ivar < 2.0 * typical)
        return np.nan_to_num(np.where(alike, typical, ivar))

    def arm_index(self) -> NDArray[np.int64]:
        """(P,) number of the arm of each pixel; -1 outside all arms."""
        index = np.full(len(self.wave), -1, dtype=np.int64)
        for number, (low, high) in enumerate(self.arms):
            index[(self.wave >= low) & (self.wave <= high)] = number
        return index
