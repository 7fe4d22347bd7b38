"""The coordinates in which every fit works: all parameters free, all priors standard normal.

A parameter with a flat prior between its bounds is p = lower + (upper - lower) Phi(z), Phi the standard normal
distribution function: the flat prior on p is exactly a standard normal prior on z. Labels about which the spectrum
says nothing then have a posterior N(0, 1), well-measured ones a narrow near-Gaussian one, and bounds need no special
treatment in optimisers and samplers. The logarithm of the resolving-power scale has the prior of the survey, nearly
Gaussian but bounded: ln s = b tanh(width z / b) with b = `RESOLUTION_BOUND`.

Order of the D parameters: the labels of the emulator, RV (km/s) and, where its width is positive, LN_RESOLUTION.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from phdlspec.labels import LabelSet

CLOSED = 1e-6  # of its range is what is left to a label that is fixed
EDGE = 1e-4  # starting values are kept this fraction of the range inside the bounds
RV_HALF_WINDOW_KM_S = 300.0
RESOLUTION_BOUND = 0.27  # of |ln s|: 1.8 times LAMOST's scatter, and no spectrum of it has to be degraded
# Standard deviation of ln(true resolving power / the stated one). LAMOST's is from fibre to fibre and night to night
# (scripts/measure_lamost_resolution.py); SDSS and DESI state the resolving power of each fibre and pixel; of others'
# statements nothing is known.
_SURVEYS = {"LAMOST": 0.15, "SDSS": 0.05, "DESI": 0.05}
_USUAL = 0.1


def usual_resolution_width(survey: str) -> float:
    """Standard deviation of the prior on the logarithm of the factor on a survey's resolving power."""
    return _SURVEYS.get(survey, _USUAL)


@dataclass(frozen=True)
class Coordinates:
    """Map between coordinates z (S, ..., D) and parameters of S stars.

    Attributes
    ----------
    labels : the emulator's labels (L)
    lower, upper : (S, L + 1) float64 bounds of labels and RV
    resolution_width : standard deviation of ln(resolving-power scale); 0 keeps the resolving power as given
    """

    labels: LabelSet
    lower: Tensor
    upper: Tensor
    resolution_width: float

    @classmethod
    def around(
        cls,
        labels: LabelSet,
        rv: Tensor,
        resolution_width: float,
        half_window: float = RV_HALF_WINDOW_KM_S,
    ) -> Coordinates:
        """Coordinates for stars whose velocities (S,) km/s are known to within `half_window`."""
        rv = rv.to(torch.float64)[:, None]
        lower = torch.as_tensor(labels.lower, dtype=torch.float64, device=rv.device).expand(len(rv), -1)
        upper = torch.as_tensor(labels.upper, dtype=torch.float64, device=rv.device).expand(len(rv), -1)
        return cls(
            labels,
            torch.cat([lower, rv - half_window], dim=1),
            torch.cat([upper, rv + half_window], dim=1),
            resolution_width,
        )

    def closed_on(self, values: ArrayLike) -> Coordinates:
        """With labels fixed at values (S, L), NaN where they stay free: their bounds close on them."""
        fixed = torch.as_tensor(values, dtype=torch.float64, device=self.lower.device)
        fixed = torch.nn.functional.pad(fixed, (0, 1), value=torch.nan)  # the velocity stays free
        width = CLOSED * (self.upper - self.lower)
        low = torch.minimum(torch.maximum(fixed - 0.5 * width, self.lower), self.upper - width)
        free = torch.isnan(fixed)
        return replace(self, lower=torch.where(free, self.lower, low), upper=torch.where(free, self.upper, low + width))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in order."""
        return (*self.labels.names, "RV", *(("LN_RESOLUTION",) if self.resolution_width > 0 else ()))

    @property
    def velocity_window(self) -> tuple[Tensor, float]:
        """Middle (S,) and half width of the range of velocities, km/s."""
        low, high = self.lower[:, len(self.labels)], self.upper[:, len(self.labels)]
        return 0.5 * (low + high), 0.5 * float((high - low).max())

    def __len__(self) -> int:
        return len(self.lower)

    def select(self, index: Tensor) -> Coordinates:
        """The coordinates of some stars."""
        return replace(self, lower=self.lower[index], upper=self.upper[index])

    def _bounds(self, ndim: int) -> tuple[Tensor, Tensor]:
        shape = (len(self.lower),) + (1,) * (ndim - 2) + (self.lower.shape[1],)
        return self.lower.reshape(shape), self.upper.reshape(shape)

    def parameters(self, z: Tensor) -> Tensor:
        """Parameters (S, ..., D) in their own units, float64, of coordinates (S, ..., D)."""
        z = z.to(torch.float64)
        lower, upper = self._bounds(z.ndim)
        n = self.lower.shape[1]
        p = lower + (upper - lower) * torch.special.ndtr(z[..., :n])
        rest = RESOLUTION_BOUND * torch.tanh(z[..., n:] * (self.resolution_width / RESOLUTION_BOUND))
        return torch.cat([p, rest], dim=-1)

    def scales(self, z: Tensor) -> Tensor:
        """dp/dz (S, ..., D), the diagonal of the map's Jacobian."""
        z = z.to(torch.float64)
        lower, upper = self._bounds(z.ndim)
        n = self.lower.shape[1]
        density = torch.exp(-0.5 * z[..., :n] ** 2) / (2.0 * torch.pi) ** 0.5
        rest = self.resolution_width / torch.cosh(z[..., n:] * (self.resolution_width / RESOLUTION_BOUND)) ** 2
        return torch.cat([(upper - lower) * density, rest], dim=-1)

    def bend(self, z: Tensor) -> Tensor:
        """-(d2p/dz2) / (dp/dz), (S, ..., D): how fast the map flattens towards the bounds."""
        n = self.lower.shape[1]
        steepness = self.resolution_width / RESOLUTION_BOUND
        return torch.cat([z[..., :n], 2.0 * steepness * torch.tanh(z[..., n:] * steepness)], dim=-1)

    def coordinates(self, p: Tensor, edge: float = EDGE) -> Tensor:
        """Inverse of `parameters`; values at or beyond a bound are put `edge` of the range inside."""
        p = p.to(torch.float64)
        lower, upper = self._bounds(p.ndim)
        n = self.lower.shape[1]
        unit = ((p[..., :n] - lower) / (upper - lower)).clamp(edge, 1.0 - edge)
        rest = p[..., n:]
        if self.resolution_width > 0:
            bounded = (rest / RESOLUTION_BOUND).clamp(-1.0 + edge, 1.0 - edge)
            rest = torch.atanh(bounded) * (RESOLUTION_BOUND / self.resolution_width)
        return torch.cat([torch.special.ndtri(unit), rest], dim=-1)

    def split(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Labels (..., L), RV (...) and resolving-power scale (...) or None, of parameters (..., D)."""
        n = len(self.labels)
        scale = torch.exp(p[..., n + 1]) if self.resolution_width > 0 else None
        return p[..., :n], p[..., n], scale
