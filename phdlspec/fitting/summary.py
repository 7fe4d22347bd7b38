"""From what the stages of a fit found to the results of single stars: moments, bounds, flags, best models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phdlspec.emulator.bridge import SUPPORTED, BridgedEmulator
from phdlspec.emulator.emulator import Emulator
from phdlspec.fitting.arms import ArmShift
from phdlspec.fitting.bounds import bounds_with_what_is_known
from phdlspec.fitting.coordinates import RESOLUTION_BOUND, Coordinates
from phdlspec.fitting.double_lines import DoubleLines
from phdlspec.fitting.error_model import ErrorModel
from phdlspec.fitting.known import KnownStar
from phdlspec.fitting.levenberg_marquardt import Optimum
from phdlspec.fitting.misfit import unexplained
from phdlspec.fitting.posteriors import AT_BOUND, PosteriorSample
from phdlspec.fitting.preparation import Prepared
from phdlspec.fitting.problem import Problem
from phdlspec.fitting.random import StarRandom
from phdlspec.fitting.refine import Refined
from phdlspec.fitting.result import Fitted, ModelSpectrum
from phdlspec.fitting.spectrum_alone import SpectrumAlone
from phdlspec.flags import LabelFlag, StarFlag
from phdlspec.labels import STRUCTURE, Role
from phdlspec.radial_velocity import Velocities, air_wavelengths_suspected
from phdlspec.spectrum import Spectrum

Array = NDArray[np.float64]

LOW_SNR = 10.0
POOR_RCHI2 = 3.0  # with the noise that the fit used
POOR_MISFIT = 0.06  # in normalised flux, of what the stated noise does not explain
IMPERFECT_RCHI2 = 3.0  # with the stated noise
MANY_OUTLIERS = 0.03
KEPT_DRAWS = 400
RESOLUTION_EDGE = 0.93  # of the range of the resolving power's logarithm, beyond which it is at its bound
BOTH_BROAD = (0.75, 0.5)  # of the broadening's and of that range: where both are beyond, neither need be at its end
COLLAPSED = 0.5  # of the bound: a smaller error is none, where the fit did not converge or ran into a corner


@dataclass(frozen=True)
class FittedStars:
    """What the stages of a fit found of S stars that share their pixels.

    refined : where direct synthesis was at hand; alone : of the stars of which something was given, what the spectrum
    alone says; seconds : a star, by stage.
    """

    members: list[Prepared]
    emulator: Emulator
    random: StarRandom
    errors: ErrorModel
    best: Optimum
    posteriors: list[PosteriorSample]
    velocities: Velocities
    arms: ArmShift
    second: DoubleLines
    refined: list[Refined | None]
    alone: list[SpectrumAlone | None]
    seconds: dict[str, float]

    @property
    def problem(self) -> Problem:
        """What was maximised and sampled."""
        return self.errors.problem

    def results(self, keep: bool) -> list[Fitted]:
        """One result a star; `keep` adds best model and draws."""
        bounds = bounds_with_what_is_known(self.problem, self.best)
        agreement = Agreement.of(self.errors, self.problem.flux(self.best.z))
        return [self._result(s, bounds[s], agreement.star(s), keep) for s in range(len(self.members))]

    def _result(self, star: int, bound: Tensor, agreement: Agreement, keep: bool) -> Fitted:
        coordinates, spectrum = self.problem.coordinates, self.members[star].spectrum
        parameters, weight = self._labels_of(star)
        moments, alone = Moments.of(parameters, weight), self._alone(star)
        crlb = self._with_arms(star, bound.cpu().numpy())
        in_air = air_wavelengths_suspected(moments.mean[self._rv], moments.err[self._rv], spectrum)
        converged = bool(self.best.converged[star]) and self.posteriors[star].reliable
        trusted = bool(self.emulator.trusted(moments.mean[None, : len(self.emulator.labels)])[0])
        label_flag = label_flags(coordinates.select(self._only(star)), moments, crlb, trusted, converged)
        label_flag |= _distrusted(coordinates.names, self.emulator.untrusted_labels)
        outside = _structure_at_bound(coordinates.names, label_flag)
        given, unused = ((), ()) if alone is None else (alone.given(moments.mean), alone.known.unused)
        if alone is not None:
            moments, crlb, label_flag = _as_given(coordinates.names, alone.known, moments, crlb, label_flag)
        collapsed = (not converged or outside) & (moments.err < COLLAPSED * crlb)
        label_flag |= np.where(collapsed, int(LabelFlag.NOT_MEASURED), 0)
        support = self._bridge_support(moments.mean)
        # What is left of lines that no model has, as those of a white dwarf, may look like a second star.
        double = "" if outside else self.second.told(star)
        flag = _flag_of(
            {
                **self._quality(star, agreement),
                StarFlag.VELOCITY_UNSURE: not bool(self.velocities.reliable[star]) or in_air is not None,
                StarFlag.NOT_CONVERGED: not converged,
                StarFlag.OUTSIDE_GRID: outside,
                StarFlag.UNTRUSTED_REGION: not trusted,
                StarFlag.FELL_BACK: self.posteriors[star].fell_back,
                StarFlag.DOUBLE_LINED: bool(double),
                StarFlag.NUISANCE_AT_BOUND: _nuisance_at_bound(coordinates, moments, label_flag),
                StarFlag.GIVEN_DISAGREES: any(one.sigma > 3.0 for one in given),
                StarFlag.GIVEN_UNUSED: bool(unused),
                StarFlag.OUTSIDE_BRIDGE: support is not None and support < SUPPORTED,
                **_conditions_of(spectrum),
            }
        )
        moments = moments.without(collapsed)
        disagreeing = tuple(str(one) for one in given if one.sigma > 3.0)
        general = tuple(text for text in (in_air, double, self.emulator.distrust) if text)
        warnings = (*spectrum.warnings, *general, *unused, *disagreeing)
        return Fitted(
            names=coordinates.names, value=moments.mean, err=moments.err, p16=moments.p16, p50=moments.p50,
            p84=moments.p84, crlb=crlb, label_flag=label_flag, cov=moments.covariance, flag=flag,
            mode=self.posteriors[star].mode, stop_reason=self._stop_reason(star), chi2=agreement.chi2,
            npix=self._npix(star), snr=spectrum.snr, path=spectrum.path, meta={**spectrum.meta, "WARNINGS": warnings},
            diagnostics=self._diagnostics(star, parameters, weight, support)
            | {"misfit": agreement.misfit, "stated_chi2": agreement.stated_chi2},
            seconds=self.seconds, given=given, crlb_alone=None if alone is None else alone.crlb,
            spectrum=self._model(star) if keep else None,
            draws=self._kept(star, parameters, weight) if keep else None,
        )  # fmt: skip

    @property
    def _rv(self) -> int:
        return self.problem.coordinates.names.index("RV")

    def _npix(self, star: int) -> int:
        return int(self.problem.likelihood.n_pixels[star])

    def _alone(self, star: int) -> SpectrumAlone | None:
        alone = self.alone[star]
        return None if alone is None else replace(alone, crlb=self._with_arms(star, alone.crlb))

    def _with_arms(self, star: int, crlb: Array) -> Array:
        """A bound (D,) with the velocity as uncertain as the arms leave it."""
        spread = np.zeros(len(crlb))
        spread[self._rv] = float(self.arms.velocity_variance[star]) ** 0.5
        return np.hypot(crlb, spread)

    def _quality(self, star: int, agreement: Agreement) -> dict[StarFlag, bool]:
        """What misfit and outliers say of the fit."""
        npix = self._npix(star)
        freedom = max(npix - len(self.problem.coordinates.names), 1)
        poor = not (agreement.chi2 / freedom < POOR_RCHI2 and agreement.misfit < POOR_MISFIT)
        return {
            StarFlag.POOR_FIT: poor,
            StarFlag.IMPERFECT_FIT: not poor and agreement.stated_chi2 / freedom >= IMPERFECT_RCHI2,
            StarFlag.MANY_OUTLIERS: float(self.errors.outliers[star].sum()) / max(npix, 1) > MANY_OUTLIERS,
        }

    def _only(self, star: int) -> Tensor:
        return torch.tensor([star], device=self.problem.device)

    def _labels_of(self, star: int) -> tuple[Tensor, Tensor]:
        """Parameters (N, D) of one star's draws, the velocity as uncertain as the arms leave it, and weights (N,)."""
        drawn = self.posteriors[star]
        parameters = self.problem.coordinates.select(self._only(star)).parameters(drawn.z[None])[0]
        size = len(parameters)
        weight = drawn.weight if drawn.weight is not None else parameters.new_full((size,), 1.0 / size)
        jitter = self.random.select([star]).normal(size)[0]
        parameters[:, self._rv] += (jitter - weight @ jitter) * self.arms.velocity_variance[star].sqrt()
        checked = self.refined[star]
        return parameters if checked is None else parameters + checked.shift, weight

    def _stop_reason(self, star: int) -> str:
        reason, checked = self.best.stop_reason[star].value, self.refined[star]
        return reason if checked is None else f"{reason}; direct synthesis: {checked.stop_reason}"

    def _diagnostics(self, star: int, parameters: Tensor, weight: Tensor, support: float | None) -> dict[str, float]:
        checked = self.refined[star]
        return {
            **self.posteriors[star].diagnostics,
            **({} if checked is None else _refinement(checked, parameters, weight)),
            **({} if support is None else {"bridge_support": support}),
            "iterations": float(self.best.iterations[star]),
            "velocity_significance": float(self.velocities.significance[star]),
            "outliers": float(self.errors.outliers[star].sum()),
            "red_arm_km_s": float(self.arms.shift[star]),
            "second_star_km_s": float(self.second.velocity[star]),
            "second_star_share": float(self.second.share[star]),
            "second_star_sigma": float(self.second.significance[star]),
        }

    def _bridge_support(self, parameters: Array) -> float | None:
        """How much of the bridge is known at parameters (D,), None without one."""
        if not isinstance(self.emulator, BridgedEmulator):
            return None
        return float(self.emulator.support(torch.as_tensor(parameters[None]))[0])

    def _kept(self, star: int, parameters: Tensor, weight: Tensor) -> Array:
        """Equally weighted draws of the parameters (KEPT_DRAWS, D)."""
        generator = torch.Generator().manual_seed(self.random.seed(star))
        order = torch.multinomial(weight.cpu(), KEPT_DRAWS, replacement=True, generator=generator)
        return parameters.cpu()[order].numpy()

    def _model(self, star: int) -> ModelSpectrum:
        member, one = self.members[star], self.problem.select(self._only(star))
        labels, rv, scale = one.coordinates.split(one.coordinates.parameters(self.best.z[star : star + 1]))
        data = one.likelihood.data
        power = data.resolving_power if scale is None else data.resolving_power * scale[:, None].float()
        seen_as = (labels.float(), data.wave, power, rv.float())
        flux, jacobian = self.emulator.observe_and_jacobian(*seen_as)
        continuum = one.likelihood.continuum(flux)[0]
        weight = one.likelihood.weight[0]
        size, used = member.scale, weight > 0
        sigma = torch.where(used, weight.clamp(min=1e-30) ** -0.5, torch.full_like(weight, torch.nan)) * size
        seen = flux[0] if self.errors.missing is None else flux[0] + self.errors.missing[star]
        arrays = [continuum * seen * size, continuum * size, seen]
        if isinstance(self.emulator, BridgedEmulator):
            arrays.append(seen + self.emulator.plain.observe(*seen_as)[0] - flux[0])
        model, level, normalised, *plain = (a.double().cpu().numpy() for a in arrays)
        return ModelSpectrum(
            wave=member.spectrum.wave, flux=member.spectrum.flux, sigma=sigma.double().cpu().numpy(),
            model=model, continuum=level, used=used.cpu().numpy(), outlier=self.errors.outliers[star].cpu().numpy(),
            normalised=normalised, jacobian=jacobian[0, :, : one.n_dim].cpu().numpy(),
            plain=plain[0] if plain else None,
        )  # fmt: skip


@dataclass(frozen=True)
class Agreement:
    """How models agree with spectra, (S,) or of one star.

    chi2 : with the noise that the fit used; stated_chi2 : with the stated noise and the emulator's error alone;
    misfit : what these do not explain, in normalised flux.
    """

    chi2: Any
    stated_chi2: Any
    misfit: Any

    @classmethod
    def of(cls, errors: ErrorModel, flux: Tensor) -> Agreement:
        """Of the best models' flux (S, P)."""
        chi2, stated = (noise.chi2(flux) for noise in (errors.problem.likelihood, errors.stated))
        return cls(chi2, stated, unexplained(errors.stated, flux))

    def star(self, index: int) -> Agreement:
        """One star's, as numbers."""
        return Agreement(*(float(x[index]) for x in (self.chi2, self.stated_chi2, self.misfit)))


@dataclass(frozen=True)
class Moments:
    """Mean, standard deviation, percentiles (D,) and covariance (D, D) of a star's parameters."""

    mean: Array
    err: Array
    p16: Array
    p50: Array
    p84: Array
    covariance: Array

    @classmethod
    def of(cls, parameters: Tensor, weight: Tensor) -> Moments:
        """Of draws (N, D) with weights (N,) that sum to one."""
        mean = weight @ parameters
        offset = parameters - mean
        covariance = ((weight[:, None] * offset).mT @ offset).cpu().numpy()
        p16, p50, p84 = weighted_quantiles(parameters[None], weight[None], (0.16, 0.5, 0.84))[0].cpu().numpy().T
        return cls(mean.cpu().numpy(), np.sqrt(np.maximum(np.diag(covariance), 0.0)), p16, p50, p84, covariance)

    def without(self, unknown: NDArray[np.bool_]) -> Moments:
        """The same with NaN for some parameters (D,)."""
        mean, err, p16, p50, p84 = (
            np.where(unknown, np.nan, x) for x in (self.mean, self.err, self.p16, self.p50, self.p84)
        )
        covariance = np.where(unknown[:, None] | unknown, np.nan, self.covariance)
        return Moments(mean, err, p16, p50, p84, covariance)


def _as_given(
    names: tuple[str, ...], known: KnownStar, moments: Moments, crlb: Array, label_flag: NDArray[np.int64]
) -> tuple[Moments, Array, NDArray[np.int64]]:
    """Results with the labels that were given: those that are fixed have no errors, and all a flag."""
    fixed = [names.index(name) for name in known.fixed]
    exact = np.array(list(known.fixed.values()))
    parts = {name: getattr(moments, name).copy() for name in ("mean", "err", "p16", "p50", "p84", "covariance")}
    for name in ("mean", "p16", "p50", "p84"):
        parts[name][fixed] = exact
    parts["err"][fixed] = 0.0
    parts["covariance"][fixed], parts["covariance"][:, fixed] = 0.0, 0.0
    crlb, label_flag = crlb.copy(), label_flag.copy()
    crlb[fixed] = 0.0
    # No bound of the models and no flat prior says anything of a value that is exact.
    label_flag[fixed] &= int(LabelFlag.UNTRUSTED_REGION | LabelFlag.NOT_CONVERGED)
    label_flag[[names.index(name) for name in known.names]] |= int(LabelFlag.GIVEN)
    return Moments(**parts), crlb, label_flag


def _refinement(checked: Refined, parameters: Tensor, weight: Tensor) -> dict[str, float]:
    error = (weight[:, None] * (parameters - weight @ parameters) ** 2).sum(0).sqrt()
    return {
        "emulator_rms": checked.emulator_rms,
        "refine_steps": float(checked.steps),
        "refine_shift": float((checked.shift.abs() / error).max()),
    }


def weighted_quantiles(x: Tensor, weight: Tensor, q: tuple[float, ...]) -> Tensor:
    """Quantiles (S, D, Q) of x (S, N, D) with weights (S, N)."""
    ordered, order = torch.sort(x, dim=1)
    sorted_weight = torch.gather(weight[..., None].expand_as(x), 1, order)
    cumulative = torch.cumsum(sorted_weight, dim=1) - 0.5 * sorted_weight
    target = torch.tensor(q, dtype=x.dtype, device=x.device)
    place = torch.searchsorted(
        cumulative.mT.contiguous(), target.expand(x.shape[0], x.shape[2], len(q)).contiguous()
    ).clamp(1, x.shape[1] - 1)
    values, levels = ordered.mT, cumulative.mT
    low, high = torch.gather(values, 2, place - 1), torch.gather(values, 2, place)
    c0, c1 = torch.gather(levels, 2, place - 1), torch.gather(levels, 2, place)
    fraction = ((target - c0) / (c1 - c0).clamp(min=1e-300)).clamp(0.0, 1.0)
    return low + fraction * (high - low)


def label_flags(
    coordinates: Coordinates, moments: Moments, crlb: Array, trusted: bool, converged: bool
) -> NDArray[np.int64]:
    """Bits of `LabelFlag` (D,) of one star; its `coordinates` alone."""
    n = coordinates.lower.shape[1]
    lower, upper = coordinates.lower[0].cpu().numpy(), coordinates.upper[0].cpu().numpy()
    flag = np.zeros(len(crlb), dtype=np.int64)
    width = upper - lower
    prior_sigma = np.full(len(crlb), coordinates.resolution_width)
    prior_sigma[:n] = width / np.sqrt(12.0)
    informed = (moments.err < 0.75 * prior_sigma) & np.isfinite(crlb)
    at_bound = (moments.p16[:n] - lower < AT_BOUND * width) | (upper - moments.p84[:n] < AT_BOUND * width)
    flag[:n] |= np.where(at_bound & informed[:n], int(LabelFlag.AT_BOUND), 0)
    flag |= np.where(informed, 0, int(LabelFlag.PRIOR_DOMINATED))
    flag |= np.where(moments.err < 0.8 * crlb, int(LabelFlag.BELOW_BOUND), 0)
    if not trusted:
        flag |= int(LabelFlag.UNTRUSTED_REGION)
    if not converged:
        flag |= int(LabelFlag.NOT_CONVERGED)
    return flag


def _distrusted(names: tuple[str, ...], labels: tuple[str, ...]) -> NDArray[np.int64]:
    return np.where(np.isin(names, labels), int(LabelFlag.UNTRUSTED_REGION), 0)


def _structure_at_bound(names: tuple[str, ...], label_flag: NDArray[np.int64]) -> bool:
    main = [names.index(name) for name in STRUCTURE]
    return bool((label_flag[main] & int(LabelFlag.AT_BOUND)).any())


def _nuisance_at_bound(coordinates: Coordinates, moments: Moments, label_flag: NDArray[np.int64]) -> bool:
    """True where the resolving power wants to leave its range, the broadening is as large as the models allow, or, in
    stars whose few lines leave both uncertain, either is far on its way to that."""
    broadening = coordinates.labels.place(Role.BROADENING).start
    upper = coordinates.labels.upper[broadening]
    fast = moments.p84[broadening] > (1.0 - AT_BOUND) * upper and not label_flag[broadening] & LabelFlag.PRIOR_DOMINATED
    if coordinates.resolution_width == 0:
        return bool(fast)
    far = moments.p50[-1] / RESOLUTION_BOUND
    both = moments.p50[broadening] > BOTH_BROAD[0] * upper and far < -BOTH_BROAD[1]
    return bool(fast or both or abs(far) > RESOLUTION_EDGE)


def _conditions_of(spectrum: Spectrum) -> dict[StarFlag, bool]:
    star_class = str(spectrum.meta.get("CLASS", "STAR")).upper() or "STAR"
    return {
        StarFlag.LOW_SNR: not spectrum.snr >= LOW_SNR,
        StarFlag.NO_STAR: star_class not in ("STAR", "UNKNOWN"),
    }


def _flag_of(conditions: dict[StarFlag, bool]) -> int:
    return sum(int(bit) for bit, holds in conditions.items() if holds)
