r"""Is there a second star in the spectrum? A score test on the residuals of the best single star.

Two stars of one spectrum s at velocities v and v + u, the second with a share q of the light, are

    (1 - q) s(v) + q s(v + u) = s(v) + q d(u),    d(u) = s(v + u) - s(v),

so that a double-lined spectrum differs from a single one along d(u). The single fit follows it as far as it can, with
velocity, broadening, resolving power and all labels; what is left of d(u) when all these are free, and the continuum,

    <a, b> = a^T N^-1 b - a^T N^-1 X (X^T N^-1 X + P)^-1 X^T N^-1 b,

with the derivatives X by all parameters and the precision P of their priors, tells q = <d, r> / <d, d> from the
residuals r, and its significance z = <d, r> / <d, d>^(1/2). The noise N is that of the fit, with what was added for
misfits of the model: it is these, not photons, that a second star must stand out from. Its spectrum is that of the
fitted labels without their broadening, since a pair that is not resolved has broadened the fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from phdlspec.fitting.problem import Problem
from phdlspec.labels import Role
from phdlspec.lsf import project
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

NEAREST, FARTHEST, STEP = 100, 400, 30  # km/s from the first star, where a second one is looked for
VBROAD = 8.0  # km/s, of the second star
LEAST_SHARE = 0.1  # of the light
SIGNIFICANT = 4.0
CLOSE_SIGNIFICANT = 5.5  # at the nearest velocity, where a line spread function that is no Gaussian looks alike


@dataclass(frozen=True)
class DoubleLines:
    """What the spectra of S stars say of a second star with more than `LEAST_SHARE` of the light: its velocity (S,)
    from the first, km/s, its share (S,) of the light, and how significant it is (S,), 0 for none."""

    velocity: Tensor
    share: Tensor
    significance: Tensor

    @property
    def found(self) -> Tensor:
        """(S,) True where there are two stars."""
        return self.significance > torch.where(self.velocity.abs() > NEAREST, SIGNIFICANT, CLOSE_SIGNIFICANT)

    def told(self, star: int) -> str:
        """A sentence where there are two stars; else none."""
        if not bool(self.found[star]):
            return ""
        return (
            f"lines of a second star at about {float(self.velocity[star]):+.0f} km/s from the first, with some "
            f"{100 * float(self.share[star]):.0f}% of the light ({float(self.significance[star]):.1f} sigma)"
        )


def double_lines(problem: Problem, z: Tensor) -> DoubleLines:
    """The test at the optima z (S, D) of a problem with all that is known of the noise."""
    parts = [_test(part, z[index]) for index, part in problem.groups()]
    return DoubleLines(*(torch.cat([getattr(part, name) for part in parts]) for name in DoubleLines.__annotations__))


def _test(problem: Problem, z: Tensor) -> DoubleLines:
    away = torch.arange(NEAREST, FARTHEST + 1, STEP, dtype=torch.float64, device=z.device)
    away = torch.cat([-away.flip(0), away])
    with torch.no_grad():
        flux, jacobian = problem.flux_and_jacobian(z)
        free = jacobian * problem.coordinates.scales(z).to(flux.dtype)[..., None]
        change = _displaced(problem, z, away) - flux[:, :, None]
        local = problem.likelihood.linearise(flux, torch.cat([free, change], dim=2))
    n = problem.n_dim
    prior = torch.eye(n, dtype=torch.float64, device=z.device)
    factor = torch.linalg.cholesky(local.fisher[:, :n, :n] + prior)
    # At the optimum the gradient by what is free is that of its prior alone: it has no say in what is left.
    across = torch.cholesky_solve(local.fisher[:, :n, n:], factor)
    size = torch.diagonal(local.fisher[:, n:, n:], dim1=1, dim2=2) - (local.fisher[:, :n, n:] * across).sum(1)
    product = local.gradient[:, n:] - ((local.gradient[:, :n] - z)[..., None] * across).sum(1)
    size = size.clamp(min=1e-9)
    share = product / size
    significance = torch.where(share > LEAST_SHARE, product / size.sqrt(), torch.zeros_like(size))
    best = significance.argmax(dim=1, keepdim=True)
    return DoubleLines(away[best[:, 0]], share.gather(1, best)[:, 0], significance.gather(1, best)[:, 0])


def _displaced(problem: Problem, z: Tensor, away: Tensor) -> Tensor:
    """The spectra (Q, S, V, N) of the stars at z (S, D) without their broadening, at velocities (V,) from their own."""
    theta, seen = problem.dispersion(problem.coordinates.parameters(z))
    theta[:, problem.model.labels.place(Role.BROADENING)] = VBROAD
    grid, blocks, data = problem.model.native, problem.likelihood.blocks, problem.likelihood.data
    patches = problem.model.patches(theta)  # (Q, S, W)
    native = patches.transpose(0, 1).flatten(1)[:, : grid.size]
    wave = data.wave.expand(data.flux.shape)
    # Broadened once, at the places of the native grid; from there to pixels the spectrum is smooth.
    at_rest = torch.as_tensor(grid.wave, device=z.device).expand(len(z), -1)
    observed = at_rest * (1.0 + seen.rv[:, None] / SPEED_OF_LIGHT_KM_S)
    power = _interpolated(wave, data.resolving_power.expand(data.flux.shape), observed)
    broadened = project(native, grid, at_rest, power, VBROAD)
    shift = 1.0 + (seen.rv[:, None, None] + away[:, None]) / SPEED_OF_LIGHT_KM_S  # (S, V, 1)
    place = (torch.log(wave[:, None] / shift) - torch.log(at_rest[:, :1, None])) / grid.dlnlam
    displaced = _cubic(broadened, place)
    return blocks.gather(displaced.transpose(1, 2)).transpose(2, 3)


def _interpolated(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    # Linearly, y (S, P) at ascending x (S, P) to the places `at` (S, M); the ends beyond.
    right = torch.searchsorted(x.contiguous(), at.contiguous()).clamp(1, x.shape[1] - 1)
    low, high = x.gather(1, right - 1), x.gather(1, right)
    share = ((at - low) / (high - low)).clamp(0.0, 1.0).to(y.dtype)
    return torch.lerp(y.gather(1, right - 1), y.gather(1, right), share)


def _cubic(y: Tensor, place: Tensor) -> Tensor:
    # Lagrange's polynomial through the four pixels about each place (S, V, P) of spectra y (S, M).
    left = place.floor().long().clamp(1, y.shape[1] - 3)
    t = (place - left).clamp(-1.0, 2.0).to(y.dtype)
    weights = (
        -t * (t - 1) * (t - 2) / 6, (t + 1) * (t - 1) * (t - 2) / 2,
        -(t + 1) * t * (t - 2) / 2, (t + 1) * t * (t - 1) / 6,
    )  # fmt: skip
    total = torch.zeros_like(t)
    for offset, weight in zip((-1, 0, 1, 2), weights):
        total = torch.addcmul(total, weight, y.gather(1, (left + offset).flatten(1)).reshape(left.shape))
    return total
