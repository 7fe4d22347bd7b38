"""The posterior of S stars in the coordinates of `Coordinates`: emulator, likelihood and priors tied together.

ln posterior(z) = lnL(labels, RV, resolution) + sum of the optional priors - |z|^2 / 2 (+ constant). What a search or
a sampler needs is evaluated for many stars and many models of each star at once, in chunks that bound the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor

from phdlspec.fitting.coordinates import Coordinates
from phdlspec.fitting.priors import Prior, prior_expansion, prior_value
from phdlspec.labels import LabelSet
from phdlspec.likelihood import Likelihood


class Model(Protocol):
    """What the fitter asks of an emulator (see `phdlspec.Emulator`)."""

    labels: LabelSet

    def observe(self, theta: Tensor, wave: Tensor, resolving_power: Tensor, rv: Tensor) -> Tensor:
        """Normalised flux (B, P) at observed pixels."""

    def observe_and_jacobian(
        self, theta: Tensor, wave: Tensor, resolving_power: Tensor, rv: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Flux (B, P) and derivatives (B, P, L + 2): labels, RV (km/s), ln(resolving power)."""


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


@dataclass(frozen=True)
class Problem:
    """The posterior of S stars.

    Attributes
    ----------
    model : the emulator
    likelihood : of the S stars
    coordinates : of the S stars
    priors : optional priors on the labels, on top of the flat ones
    chunk : model spectra evaluated at once
    """

    model: Model
    likelihood: Likelihood
    coordinates: Coordinates
    priors: tuple[Prior, ...] = ()
    chunk: int = 64

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
            self, likelihood=self.likelihood.select(index), coordinates=self.coordinates.select(index)
        )

    def with_likelihood(self, likelihood: Likelihood) -> Problem:
        """The same stars with another mask or noise."""
        return replace(self, likelihood=likelihood)

    def _arguments(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Emulator arguments for parameters (S, m, D): theta (S m, L), wave, resolving power, rv."""
        stars, m, _ = parameters.shape
        theta, rv, scale = self.coordinates.split(parameters)
        data = self.likelihood.data
        dtype = data.flux.dtype

        def per_model(x: Tensor) -> Tensor:
            return x if x.ndim == 1 else x[:, None].expand(stars, m, -1).reshape(stars * m, -1)

        power = per_model(data.resolving_power)
        if scale is not None:
            power = power * scale.reshape(-1, 1).to(power.dtype)
        return theta.reshape(stars * m, -1).to(dtype), per_model(data.wave), power, rv.reshape(-1).to(dtype)

    def _pieces(self, stars: int, m: int) -> Iterator[tuple[slice, slice]]:
        """Slices over stars and models with at most `chunk` spectra each."""
        if m >= self.chunk:
            for s in range(stars):
                for i in range(0, m, self.chunk):
                    yield slice(s, s + 1), slice(i, min(i + self.chunk, m))
        else:
            step = self.chunk // m
            for s in range(0, stars, step):
                yield slice(s, min(s + step, stars)), slice(0, m)

    def _assemble(self, z: Tensor, function: Callable[[Problem, Tensor], Tensor], width: int) -> Tensor:
        """Apply a function of (problem, z (s, m, D)) chunk by chunk; its results are (s, m[, width])."""
        stars, m, _ = z.shape
        shape = (stars, m) if width == 0 else (stars, m, width)
        result = torch.empty(shape, dtype=torch.float64, device=z.device)
        everything = torch.arange(stars, device=z.device)
        for s, i in self._pieces(stars, m):
            problem = self if s == slice(0, stars) else self.select(everything[s])
            result[s, i] = function(problem, z[s, i]).to(torch.float64)
        return result

    def _flux(self, z: Tensor) -> Tensor:
        stars, m, _ = z.shape
        flux = self.model.observe(*self._arguments(self.coordinates.parameters(z)))
        return flux.reshape(stars, m, -1)

    def flux(self, z: Tensor) -> Tensor:
        """Normalised model flux (S, P) at coordinates (S, D)."""
        pixels = self.likelihood.data.flux.shape[1]
        with torch.no_grad():
            flux = self._assemble(z[:, None], lambda problem, part: problem._flux(part), pixels)
        return flux[:, 0].to(self.likelihood.data.flux.dtype)

    def log_prior(self, z: Tensor) -> Tensor:
        """Log prior density in z (S, ..., D), without its constant."""
        value = -0.5 * (z.to(torch.float64) ** 2).sum(-1)
        if self.priors:
            value = value + prior_value(self.priors, self.coordinates, z)
        return value

    def log_posterior(self, z: Tensor) -> Tensor:
        """Log posterior density (S, m) at coordinates (S, m, D)."""

        def value(problem: Problem, part: Tensor) -> Tensor:
            return problem.likelihood.log_likelihood(problem._flux(part)) + problem.log_prior(part)

        with torch.no_grad():
            return self._assemble(z, value, 0)

    def log_posterior_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log posterior (S, m) and its exact gradient (S, m, D) at coordinates (S, m, D)."""

        def value_and_gradient(problem: Problem, part: Tensor) -> Tensor:
            with torch.enable_grad():
                leaf = part.detach().requires_grad_(True)
                flux = problem._flux(leaf)
                prior = problem.log_prior(leaf)
            with torch.no_grad():
                value, flux_gradient = problem.likelihood.value_and_flux_gradient(flux.detach())
            (gradient,) = torch.autograd.grad(
                (flux, prior), leaf, grad_outputs=(flux_gradient, torch.ones_like(prior))
            )
            return torch.cat([(value + prior.detach())[..., None], gradient], dim=-1)

        both = self._assemble(z, value_and_gradient, 1 + z.shape[-1])
        return both[..., 0], both[..., 1:]

    def expand(self, z: Tensor) -> Expansion:
        """Expansion of the log posterior at one point (S, D) for each star, from the exact Jacobian."""
        parts = []
        everything = torch.arange(len(self), device=z.device)
        step = max(1, self.chunk // 4)
        for start in range(0, len(self), step):
            index = everything[start : start + step]
            problem = self if len(self) <= step else self.select(index)
            parts.append(problem._expand_chunk(z[index]))
        if len(parts) == 1:
            return parts[0]
        fields = ("log_posterior", "gradient", "hessian", "fisher", "chi2")
        return Expansion(*(torch.cat([getattr(p, name) for p in parts]) for name in fields))

    def _expand_chunk(self, z: Tensor) -> Expansion:
        with torch.no_grad():
            flux, jacobian = self.model.observe_and_jacobian(
                *self._arguments(self.coordinates.parameters(z)[:, None])
            )
            scales = self.coordinates.scales(z)
            # In unit-scaled labels every column is of order one, which float32 needs.
            local = self.likelihood.linearise(flux, jacobian[..., : z.shape[1]] * scales[:, None].to(flux.dtype))
            value = local.log_likelihood - 0.5 * (z**2).sum(-1)
            gradient = local.gradient - z
            identity = torch.eye(z.shape[1], dtype=torch.float64, device=z.device)
            hessian = local.fisher + identity
        if self.priors:
            prior, prior_gradient, prior_hessian = prior_expansion(self.priors, self.coordinates, z)
            value, gradient, hessian = value + prior, gradient + prior_gradient, hessian + prior_hessian
        fisher = local.fisher / scales[:, None] / scales[:, :, None]
        return Expansion(value, gradient, hessian, fisher, local.chi2)
