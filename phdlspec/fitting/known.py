r"""What is known of a star from elsewhere: labels that are fixed, labels with errors, and a parallax.

* A *fixed* label has bounds that have closed on its value (`Coordinates.closed_on`).
* A label with an error is a Gaussian prior.
* A parallax with a magnitude ties log g to Teff and [Fe/H]. With M_bol = m - A + 5 lg(parallax / mas) - 10 + BC,

      log g = log g_sun + lg M + 4 lg(Teff / Teff_sun) + 0.4 (M_bol - M_bol,sun),

  BC(Teff, log g, [Fe/H]) the polynomials of `phdlspec.bolometric` and M the mass in suns, for which old stars have a
  log-normal prior (`MASS`). Errors of parallax, magnitude, extinction, BC and mass add in quadrature. It is a residual
  of the labels like any other prior, with exact derivatives.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phdlspec.bolometric import BANDS, SOLAR_MBOL, corrections, scaled
from phdlspec.errors import UserError
from phdlspec.labels import LABELS, STRUCTURE, LabelSet, label_of

MASS = (0.02, 0.10)  # mean and width of lg(M / Msun): old stars, 0.8 to 1.35 suns within one sigma
SUN = (5772.0, 4.438)  # Teff (K), log g
LEAST_PARALLAX = 5.0  # errors; below it the log g of a parallax has no Gaussian error
MAGNITUDE_ERROR = 0.02  # mag, of magnitudes that come without one
EXTINCTION_ERROR = (0.03, 0.2)  # mag, and share of A_V, where it comes without one
NAMES = tuple(label.name for label in LABELS)
_PHOTOMETRY = ("PARALLAX", *BANDS, "AV")

GivenValue = float | tuple[float, float]  # a value that holds exactly, or with its error


@dataclass(frozen=True)
class KnownStar:
    """What is known of one star.

    fixed : values of labels; gaussian : values and errors of labels; logg : of a parallax, None without one;
    unused : sentences on what was given and could not be used
    """

    fixed: Mapping[str, float] = field(default_factory=dict)
    gaussian: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    logg: ParallaxGravity | None = None
    unused: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.fixed or self.gaussian or self.logg or self.unused)

    @property
    def names(self) -> tuple[str, ...]:
        """The labels that are given."""
        of_parallax = () if self.logg is None else ("LOGG",)
        return tuple(dict.fromkeys((*self.fixed, *self.gaussian, *of_parallax)))

    def updated(self, other: KnownStar) -> KnownStar:
        """With what `other` says besides, or better."""
        fixed = {name: v for name, v in self.fixed.items() if name not in other.gaussian} | dict(other.fixed)
        gaussian = {name: v for name, v in self.gaussian.items() if name not in other.fixed} | dict(other.gaussian)
        return KnownStar(fixed, gaussian, other.logg or self.logg, (*self.unused, *other.unused))

    @classmethod
    def of(cls, given: Mapping[str, GivenValue], labels: LabelSet | None = None) -> KnownStar:
        """From names and what is given of them: labels, PARALLAX (mas), magnitudes G, BP, RP, KS and AV.

        A number fixes a label, a pair of numbers is value and error. Raises `UserError` for unknown names, values
        outside the models and errors that are none.
        """
        labels = LabelSet() if labels is None else labels
        fixed: dict[str, float] = {}
        gaussian: dict[str, tuple[float, float]] = {}
        photometry: dict[str, tuple[float, float]] = {}
        for name, told in given.items():
            value, error = _pair(name, told)
            if name in _PHOTOMETRY:
                photometry[name] = (float(value), float(error))
                continue
            name = label_of(name) or name
            _check(name, float(value), float(error), labels)
            if error > 0:
                gaussian[name] = (float(value), float(error))
            else:
                fixed[name] = float(value)
        logg, unused = ParallaxGravity.of(photometry)
        return cls(fixed, gaussian, logg, unused)


def _pair(name: str, told: GivenValue) -> tuple[float, float]:
    try:
        value, error = told if isinstance(told, tuple) else (told, 0.0)
        return float(value), float(error)
    except (TypeError, ValueError) as wrong:
        raise UserError(f"{name} is given as {told!r}, expected a number, or value and error as (4800, 50)") from wrong


def _check(name: str, value: float, error: float, labels: LabelSet) -> None:
    label = labels[name]
    if not math.isfinite(value):
        raise UserError(f"{name} is given as {value}, expected a finite number")
    if not (math.isfinite(error) and error >= 0):
        raise UserError(f"{name} is given with the error {error}, expected a positive number")
    if not label.lower - 3.0 * error <= value <= label.upper + 3.0 * error:
        raise UserError(
            f"{name} is given as {value:g}, the models reach from {label.lower:g} to {label.upper:g} "
            f"{label.unit}".rstrip()
        )


@dataclass(frozen=True)
class ParallaxGravity:
    """log g from a parallax: band; absolute magnitude (mag) without extinction; the error of log g (dex) that parallax,
    magnitude, extinction, BC and the prior of the mass make."""

    band: str
    absolute: float
    error: float

    @classmethod
    def of(cls, photometry: Mapping[str, tuple[float, float]]) -> tuple[ParallaxGravity | None, tuple[str, ...]]:
        """From PARALLAX (mas), magnitudes and AV with their errors, and sentences on what could not be used.

        The band with the least error of its extinction is taken; without AV there is none.
        """
        if not photometry:
            return None, ()
        if "PARALLAX" not in photometry:
            return None, ("magnitudes were given without a parallax: not used",)
        parallax, error = photometry["PARALLAX"]
        if not error > 0:
            raise UserError("PARALLAX is given without an error, expected PARALLAX_ERR in mas")
        if not parallax > 0:
            return None, (f"the parallax is {parallax:g} mas, expected a positive one: not used",)
        if parallax < LEAST_PARALLAX * error:
            return None, (f"the parallax {parallax:g} ± {error:g} mas is less than five of its errors: not used",)
        bands = [band for band in BANDS if band in photometry]
        if not bands:
            return None, ("a parallax was given without a magnitude (G, BP, RP or KS): not used",)
        av, av_error = photometry.get("AV", (0.0, 0.0))
        av_error = av_error or math.hypot(EXTINCTION_ERROR[0], EXTINCTION_ERROR[1] * av)
        band = min(bands, key=lambda name: BANDS[name].extinction)
        magnitude, magnitude_error = photometry[band]
        k, of_polynomial = BANDS[band].extinction, corrections().scatter[band]
        in_magnitudes = math.hypot(
            magnitude_error or MAGNITUDE_ERROR, k * av_error, of_polynomial, 5.0 / math.log(10.0) * error / parallax
        )
        absolute = magnitude - k * av + 5.0 * math.log10(parallax) - 10.0
        return cls(band, absolute, math.hypot(0.4 * in_magnitudes, MASS[1])), ()

    def value(self, teff: float, logg: float, fe_h: float) -> float:
        """The log g that the parallax says for a star of these labels."""
        tensors = (torch.tensor([x], dtype=torch.float64) for x in (teff, logg, fe_h))
        return float(_parallax_logg(self.band, torch.tensor(self.absolute), *tensors))


def _parallax_logg(band: str, absolute: Tensor, teff: Tensor, logg: Tensor, fe_h: Tensor) -> Tensor:
    log_teff = torch.log10(teff)
    x, y, z = scaled(log_teff, logg, fe_h)
    bolometric = absolute + corrections().polynomial(band, x, y, z)
    in_suns = MASS[0] + 4.0 * (log_teff - math.log10(SUN[0])) + 0.4 * (bolometric - SOLAR_MBOL)
    return SUN[1] + in_suns


@dataclass(frozen=True)
class KnownPrior:
    """What is known of S stars, but for what is fixed, as a prior (`phdlspec.fitting.priors`).

    value, error : (S, C) of the labels at `columns`, infinite errors where nothing is known; absolute, logg_error :
    (B, S) by band of a parallax, infinite where a star has none
    """

    columns: tuple[int, ...]
    value: Tensor
    error: Tensor
    bands: tuple[str, ...]
    absolute: Tensor
    logg_error: Tensor
    name: str = "known"

    @classmethod
    def of(cls, stars: Sequence[KnownStar], labels: LabelSet, device: torch.device) -> KnownPrior:
        """The prior of stars."""
        columns = tuple(i for i, name in enumerate(labels.names) if any(name in star.gaussian for star in stars))
        value, error = np.zeros((len(stars), len(columns))), np.full((len(stars), len(columns)), np.inf)
        for s, star in enumerate(stars):
            for c, column in enumerate(columns):
                if labels.names[column] in star.gaussian:
                    value[s, c], error[s, c] = star.gaussian[labels.names[column]]
        bands = tuple(dict.fromkeys(star.logg.band for star in stars if star.logg is not None))
        absolute, logg_error = np.zeros((len(bands), len(stars))), np.full((len(bands), len(stars)), np.inf)
        for s, star in enumerate(stars):
            if star.logg is not None:
                b = bands.index(star.logg.band)
                absolute[b, s], logg_error[b, s] = star.logg.absolute, star.logg.error
        told = (torch.as_tensor(x, device=device) for x in (value, error, absolute, logg_error))
        value_t, error_t, absolute_t, logg_error_t = told
        return cls(columns, value_t, error_t, bands, absolute_t, logg_error_t)

    def __bool__(self) -> bool:
        return bool(self.columns or self.bands)

    def select(self, index: Tensor) -> KnownPrior:
        """The prior of some stars."""
        return replace(
            self, value=self.value[index], error=self.error[index], absolute=self.absolute[:, index],
            logg_error=self.logg_error[:, index],
        )  # fmt: skip

    def residuals(self, labels: LabelSet, theta: Tensor) -> Tensor:
        """Standardised residuals (S, ..., R) of labels (S, ..., L)."""

        def per_star(x: Tensor) -> Tensor:  # (S, ...) to the dimensions of theta
            return x.reshape(len(x), *(1,) * (theta.ndim - 2), *x.shape[1:])

        of_labels = (theta[..., list(self.columns)] - per_star(self.value)) / per_star(self.error)
        teff, logg, fe_h = (theta[..., labels.index(name)] for name in STRUCTURE)
        of_parallax = [
            ((logg - _parallax_logg(band, per_star(absolute), teff, logg, fe_h)) / per_star(error))[..., None]
            for band, absolute, error in zip(self.bands, self.absolute, self.logg_error)
        ]
        return torch.cat([of_labels, *of_parallax], dim=-1)

    def information(self, labels: LabelSet, theta: Tensor) -> Tensor:
        """What the prior says (S, L, L), as a Fisher matrix of the labels (S, L)."""
        jacobian = _jacobian(self, labels, theta)
        return jacobian.mT @ jacobian


def _jacobian(prior: KnownPrior, labels: LabelSet, theta: Tensor) -> Tensor:
    # Of the residuals (S, R) by the labels (S, L): (S, R, L).
    with torch.enable_grad():
        leaf = theta.detach().requires_grad_(True)
        rho = prior.residuals(labels, leaf)
        rows = [torch.autograd.grad(column.sum(), leaf, retain_graph=True)[0] for column in rho.unbind(1)]
    return torch.stack(rows, dim=1)


def fixed_values(stars: Sequence[KnownStar], labels: LabelSet) -> NDArray[np.float64]:
    """(S, L) the values of fixed labels, NaN where a label is free."""
    values = np.full((len(stars), len(labels)), np.nan)
    for row, star in zip(values, stars):
        for name, value in star.fixed.items():
            row[labels.index(name)] = value
    return values


_GAUSSIAN = re.compile(r"(?P<name>[^=]+)=(?P<value>[^±+/]+?)(?:±|\+-|\+/-)(?P<error>.+)")


def parse_fixed(text: str) -> tuple[str, float]:
    """Name and value of `TEFF=5772`."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{text!r}: expected LABEL=VALUE, as TEFF=5772")
    return _name(name), _number(value, text)


def parse_gaussian(text: str) -> tuple[str, tuple[float, float]]:
    """Name, value and error of `FE_H=-0.5±0.1`, or with +- in the place of ±."""
    found = _GAUSSIAN.fullmatch(text.replace(" ", ""))
    if found is None:
        raise UserError(f"{text!r}: expected LABEL=VALUE±ERROR, as FE_H=-0.5±0.1 (or -0.5+-0.1)")
    value, error = _number(found["value"], text), _number(found["error"], text)
    if not error > 0:
        raise UserError(
            f"{text!r}: the error is {error:g}, expected a positive number; --fix takes a value that is exact"
        )
    return _name(found["name"]), (value, error)


def _name(text: str) -> str:
    return label_of(text.strip()) or text.strip().upper()


def _number(text: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise UserError(f"{whole!r}: {text.strip()!r} is no number") from error
    if not math.isfinite(value):
        raise UserError(f"{whole!r}: expected a finite number")
    return value
