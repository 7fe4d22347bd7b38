"""The posterior of S stars in the coordinates of `Coordinates`: emulator, likelihood and priors tied together.

ln posterior(z) = lnL(labels, RV, resolution) + sum of the optional priors - |z|^2 / 2 (+ constant). `Problem` expands
it exactly at one place a star; `Neighbourhood` evaluates it for many models of each star that lie near each other, as
searches and samplers need it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor

from phdlspec.fitting.coordinates import RESOLUTION_BOUND, Coordinates
from phdlspec.fitting.priors import StatedPrior, prior_expansion, prior_value
from phdlspec.labels import GRID_ROLES, LabelSet, Role
from phdlspec.likelihood import Likelihood, Observations
from phdlspec.lsf import NativeGrid
from phdlspec.lsf.blocks import Blocks
from phdlspec.lsf.observing import Dispersion, Instrument, Nearby

STARS_AT_ONCE = {"cpu": 4, "cuda": 256}  # expanded together, or with their neighbourhoods in memory
MODELS_AT_ONCE = {"cpu": 64, "cuda": 16384}


class Model(Protocol):
    """What the fitter asks of an emulator (see `phdlspec.Emulator`): spectra on the native grid, cut into Q patches of
    W pixels, without broadening and velocity."""

    labels: LabelSet
    native: NativeGrid

    @property
    def patch_width(self) -> int:
        """W"""

    def patches(self, theta: Tensor) -> Tensor:
        """Normalised flux (Q, B, W) for labels (B, L); differentiable."""

    def patches_and_jacobian(self, theta: Tensor) -> Tensor:
        """Flux and its derivatives by all labels but the broadening, (Q, B, L, W)."""


@dataclass(frozen=True)
class Expansion:
    """Second-order expansion of the log posterior of S stars at coordinates z (S, D); all float64."""

    log_posterior: Tensor  # (S,)
    gradient: Tensor  # (S, D) in z
    hessian: Tensor  # (S, D, D) minus the Gauss-Newton Hessian in z: positive definite
    fisher: Tensor  # (S, D, D) of the likelihood alone, in parameter units (K, dex, km/s)
    chi2: Tensor  # (S,)

    def select(self, index: Tensor) -> Expansion:
        """The expansions of some stars."""
        return Expansion(*(getattr(self, f.name)[index] for f in fields(self)))

    @classmethod
    def together(cls, parts: list[Expansion]) -> Expansion:
        """Those of several groups of stars."""
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))


@dataclass(frozen=True)
class Problem:
    """The posterior of S stars; made by `Problem.of`.

    Attributes
    ----------
    model : the emulator
    likelihood, instrument, coordinates : of the S stars
    priors : optional priors on the labels, on top of the flat ones
    """

    model: Model
    likelihood: Likelihood
    instrument: Instrument
    coordinates: Coordinates
    priors: tuple[StatedPrior, ...] = ()

    @classmethod
    def of(
        cls, model: Model, data: Observations, coordinates: Coordinates, priors: tuple[StatedPrior, ...] = ()
    ) -> Problem:
        """The problem with the stated noise of `data`."""
        rv, half_window = coordinates.velocity_window
        blocks = Blocks.of(model.native, model.patch_width, data.wave, rv, data.ivar > 0)
        fastest = float(model.labels.upper[model.labels.place(Role.BROADENING)].max())
        lowest = float(torch.exp(torch.tensor(-RESOLUTION_BOUND))) if coordinates.resolution_width > 0 else 1.0
        instrument = Instrument.of(blocks, data.resolving_power, lowest, fastest, half_window)
        return cls(model, Likelihood.of(data, blocks), instrument, coordinates, priors)

    def __len__(self) -> int:
        return len(self.likelihood)

    @property
    def n_dim(self) -> int:
        """Number of parameters D."""
        return len(self.coordinates.names)

    @property
    def device(self) -> torch.device:
        """Device of the spectra."""
        return self.likelihood.data.flux.device

    def select(self, index: Tensor) -> Problem:
        """The problem of some stars (`index` may repeat)."""
        return replace(
            self, likelihood=self.likelihood.select(index), instrument=self.instrument.select(index),
            coordinates=self.coordinates.select(index), priors=tuple(prior.select(index) for prior in self.priors),
        )  # fmt: skip

    def without(self, data: Observations) -> Problem:
        """The same stars and pixels with other data, in which some pixels do not count."""
        return self.with_likelihood(Likelihood.of(data, self.likelihood.blocks))

    def with_likelihood(self, likelihood: Likelihood) -> Problem:
        """The same stars and pixels with other noise."""
        return replace(self, likelihood=likelihood)

    def groups(self) -> Iterator[tuple[Tensor, Problem]]:
        """Indices and problems of as many stars as are treated at once."""
        every = torch.arange(len(self), device=self.device)
        step = STARS_AT_ONCE.get(self.device.type, 4)
        if len(every) <= step:
            yield every, self
            return
        for index in every.split(step):  # type: ignore[no-untyped-call]
            yield index, self.select(index)

    def dispersion(self, parameters: Tensor) -> tuple[Tensor, Dispersion]:
        """Labels (S, ..., L) as the model takes them and what belongs to the observation, of (S, ..., D)."""
        theta, rv, scale = self.coordinates.split(parameters)
        vbroad = theta[..., self.model.labels.place(Role.BROADENING).start]
        seen = Dispersion(rv, vbroad, torch.ones_like(rv) if scale is None else scale)
        return theta.to(self.likelihood.data.flux.dtype), seen

    def flux_and_jacobian(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Flux (Q, S, N) and its derivatives (Q, S, D, N) by the parameters, in blocks, at coordinates (S, D)."""
        theta, seen = self.dispersion(self.coordinates.parameters(z))
        with torch.no_grad():
            rows, (by_vbroad, by_rv, by_ln_power) = self.instrument.observe(
                self.model.patches_and_jacobian(theta), seen
            )
        labels, n = self.model.labels, len(self.model.labels)
        jacobian = rows.new_empty(*rows.shape[:2], self.n_dim, rows.shape[3])
        jacobian[:, :, labels.place(*GRID_ROLES)] = rows[:, :, 1:]
        jacobian[:, :, labels.place(Role.BROADENING).start] = by_vbroad
        jacobian[:, :, n] = by_rv
        if self.n_dim > n + 1:
            jacobian[:, :, n + 1] = by_ln_power
        return rows[:, :, 0], jacobian

    def flux(self, z: Tensor) -> Tensor:
        """Normalised model flux (S, P) at coordinates (S, D); zero at pixels that are not used."""
        parts = []
        for index, part in self.groups():
            theta, seen = part.dispersion(part.coordinates.parameters(z[index]))
            with torch.no_grad():
                rows = part.instrument.observe(part.model.patches(theta)[:, :, None], seen)[0]
            parts.append(part.likelihood.blocks.scatter(rows[:, :, 0]))
        return torch.cat(parts)

    def near(self, z: Tensor) -> Neighbourhood:
        """For many models of each star that are about as far from each other as coordinates (S, N, D)."""
        return Neighbourhood.of(self, z)

    def log_posteriors(self, z: Tensor) -> Tensor:
        """Log posterior density (S, m) at coordinates (S, m, D) that lie near each other, some stars at a time."""
        return torch.cat([part.near(z[index]).log_posterior(z[index]) for index, part in self.groups()])

    def log_prior(self, z: Tensor) -> Tensor:
        """Log prior density in z (S, ..., D), without its constant."""
        value = -0.5 * (z.to(torch.float64) ** 2).sum(-1)
        if self.priors:
            value = value + prior_value(self.priors, self.coordinates, z)
        return value

    def expand(self, z: Tensor) -> Expansion:
        """Expansion of the log posterior at one point (S, D) for each star, from the exact Jacobian."""
        return Expansion.together([part._expand(z[index]) for index, part in self.groups()])

    def _expand(self, z: Tensor) -> Expansion:
        with torch.no_grad():
            flux, jacobian = self.flux_and_jacobian(z)
            scales = self.coordinates.scales(z)
            # In unit-scaled labels every row is of order one, which float32 needs.
            local = self.likelihood.linearise(flux, jacobian * scales.to(flux.dtype)[..., None])
            value = local.log_likelihood - 0.5 * (z**2).sum(-1)
            gradient = local.gradient - z
            hessian = local.fisher + torch.eye(z.shape[1], dtype=torch.float64, device=z.device)
        if self.priors:
            prior, prior_gradient, prior_hessian = prior_expansion(self.priors, self.coordinates, z)
            value, gradient, hessian = value + prior, gradient + prior_gradient, hessian + prior_hessian
        fisher = local.fisher / scales[:, None] / scales[:, :, None]
        return Expansion(value, gradient, hessian, fisher, local.chi2)


@dataclass(frozen=True)
class Neighbourhood:
    """The posterior of S stars for many models of each, near each other in velocity and width of the kernel.

    problem : worked out about a continuum that is near; nearby : its operator from models to pixels
    """

    problem: Problem
    nearby: Nearby

    @classmethod
    def of(cls, problem: Problem, z: Tensor) -> Neighbourhood:
        """Around coordinates (S, N, D), which set the range of kernels; their middle sets the continuum."""
        nearby = problem.instrument.nearby(problem.dispersion(problem.coordinates.parameters(z))[1])
        around = cls(problem, nearby)
        with torch.no_grad():
            middle = around._flux(z.median(dim=1, keepdim=True).values)
        return cls(problem.with_likelihood(problem.likelihood.about(middle[:, :, 0])), nearby)

    def __len__(self) -> int:
        return len(self.problem)

    def select(self, index: Tensor) -> Neighbourhood:
        """The neighbourhoods of some stars."""
        return Neighbourhood(self.problem.select(index), self.nearby.select(index))

    def _flux(self, z: Tensor) -> Tensor:
        # Models (Q, S, m, N) of coordinates (S, m, D).
        theta, seen = self.problem.dispersion(self.problem.coordinates.parameters(z))
        patches = self.problem.model.patches(theta.flatten(0, 1))
        return self.nearby.observe(patches.reshape(len(patches), *theta.shape[:2], -1), seen)

    def _value(self, z: Tensor) -> Tensor:
        return self.problem.likelihood.log_likelihood(self._flux(z)) + self.problem.log_prior(z)

    def _pieces(self, z: Tensor) -> tuple[Tensor, ...]:
        # Coordinates (S, m, D) in pieces of as many models as are computed at once.
        at_once = max(1, MODELS_AT_ONCE.get(z.device.type, 64) // len(z))
        return tuple(z.to(torch.float64).split(at_once, dim=1))  # type: ignore[no-untyped-call]

    def log_posterior(self, z: Tensor) -> Tensor:
        """Log posterior density (S, m), float64, at coordinates (S, m, D)."""
        with torch.no_grad():
            return torch.cat([self._value(piece) for piece in self._pieces(z)], dim=1)

    def log_posterior_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log posterior (S, m) and its exact gradient (S, m, D) at coordinates (S, m, D)."""
        values, gradients = [], []
        for piece in self._pieces(z):
            with torch.enable_grad():
                leaf = piece.detach().requires_grad_(True)
                value = self._value(leaf)
                gradients.append(torch.autograd.grad(value.sum(), leaf)[0])
            values.append(value.detach())
        return torch.cat(values, dim=1), torch.cat(gradients, dim=1)
