"""To and from `specutils`, whose spectra carry units but neither a medium nor a resolving power."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy import units as u
from astropy.nddata import InverseVariance
from numpy.typing import NDArray

from phdlspec.errors import UserError
from phdlspec.io.table import MEDIA, wave_in_vacuum
from phdlspec.resolution import ResolvingPower, resolving_power_at
from phdlspec.spectrum import Spectrum


def _specutils() -> Any:
    try:
        import specutils
    except ImportError as error:
        raise UserError("specutils is not installed, it comes with the extra phdlspec[specutils]") from error
    return specutils


def from_specutils(spectrum: Any, resolving_power: ResolvingPower | None = None, medium: str | None = None) -> Spectrum:
    """A `Spectrum` from a one-dimensional `specutils.Spectrum` (`Spectrum1D` before specutils 2).

    `medium` is 'air' or 'vacuum'; `resolving_power` is a number, a pair of arrays or a survey's name. Both may stand in
    the object's meta (MEDIUM, RESOLVING_POWER), as `to_specutils` writes them. The object needs an uncertainty.

    >>> phdlspec.from_specutils(phdlspec.to_specutils(spectrum)).wave.size == spectrum.wave.size
    True
    """
    if not hasattr(spectrum, "spectral_axis"):
        raise UserError(f"a {type(spectrum).__name__} is no spectrum of specutils, expected one, as the list's first")
    stated = {str(key).upper(): value for key, value in spectrum.meta.items()}
    medium = stated.get("MEDIUM") if medium is None else medium
    resolving_power = stated.get("RESOLVING_POWER") if resolving_power is None else resolving_power
    if medium is None or resolving_power is None:
        missing = "medium='air' or 'vacuum'" if medium is None else "resolving_power, as resolving_power=1800"
        raise UserError(f"a specutils object does not say it: give {missing}")
    if medium not in MEDIA:
        raise UserError(f"medium is {medium!r}, expected 'air' or 'vacuum'")
    if spectrum.flux.ndim != 1:
        raise UserError(f"the specutils object holds spectra of shape {spectrum.flux.shape}, expected one of them")
    if spectrum.uncertainty is None:
        raise UserError("the specutils object has no uncertainty, expected one")
    axis = spectrum.spectral_axis
    wave = wave_in_vacuum(np.asarray(axis.value, dtype=float), axis.unit, medium, "specutils object")
    ivar = _ivar(spectrum)
    flux = np.asarray(spectrum.flux.value, dtype=float)
    mask = np.zeros(flux.shape, dtype=bool) if spectrum.mask is None else np.asarray(spectrum.mask, dtype=bool)
    order = np.argsort(wave)
    meta = {str(key).upper(): value for key, value in spectrum.meta.items() if np.isscalar(value)}
    wave = wave[order]
    power = resolving_power_at(resolving_power, wave)
    return Spectrum(wave, flux[order], ivar[order], mask[order], power, meta)


def _ivar(spectrum: Any) -> NDArray[np.float64]:
    """Inverse variances (P,) in the unit of the flux; one without a unit is in it."""
    found, unit = spectrum.uncertainty.represent_as(InverseVariance), spectrum.flux.unit**-2
    if found.unit is None:
        return np.asarray(found.array, dtype=float)
    try:
        return np.asarray(found.quantity.to_value(unit), dtype=float)
    except u.UnitsError as error:
        raise UserError(
            f"the uncertainty of the specutils object is in {found.unit}, expected what can be converted to {unit}"
        ) from error


def to_specutils(spectrum: Spectrum) -> Any:
    """The same spectrum as a `specutils.Spectrum`, vacuum Å, inverse variance, mask True = bad.

    >>> type(phdlspec.to_specutils(spectrum)).__name__.startswith("Spectrum")
    True
    """
    specutils = _specutils()
    kind = specutils.Spectrum if hasattr(specutils, "Spectrum") else specutils.Spectrum1D
    return kind(
        spectral_axis=spectrum.wave * u.AA,
        flux=spectrum.flux * u.dimensionless_unscaled,
        uncertainty=InverseVariance(spectrum.ivar),
        mask=spectrum.mask,
        meta={**spectrum.meta, "MEDIUM": "vacuum", "RESOLVING_POWER": _power(spectrum)},
    )


def _power(spectrum: Spectrum) -> Any:
    power = spectrum.resolving_power
    return (spectrum.wave, power) if isinstance(power, np.ndarray) else power
