"""From latents to labels beyond the straight line: robust ridge regression on the latents and their products.

Spectra bend with the labels, so that labels are not quite linear in the latents. After the training the labels are
regressed on the latents (from the flux alone, as at application) and on products of the leading ones:

    y = label mean + c + D z + sum_ij Q_ij (z_i z_j - [i = j]) + sum_ijk C_ijk z_i z_j z_k,     i <= j <= k,

with a ridge on D, Q and C. A star counts for what its label's error and its spectrum's noise leave of it, with weights
of a Student t distribution besides, so that a wrong label in a table pulls little. The ridge on D is inversely
proportional to the signal of a latent in the spectra, which makes it the ridge of a regression on the whitened spectrum
itself: faint latents must earn their place. Products are of latents no further out than those of the training stars:
a polynomial says nothing there.

Which products and which ridge, or A z of the training as it is, differs between labels and is uncertain where stars are
few. Each label's map is a mean of all `CANDIDATES`, with the shares that make it most likely on stars that they had not
seen (`stacked_shares`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

FREEDOM = 3.0  # degrees of the t distribution
REFERENCE = 5  # the latent, in order of their signal, that the ridges of the others are relative to
STRONGEST = 4.0  # times the signal of that latent, beyond which more signal lowers the ridge no further
LINEAR = 0.3  # ridge of the reference latent over that of the products of two
CUBIC = 3.0  # ridge of the products of three over that of the products of two
SQUARES, CUBES = 10, 4  # leading latents whose products of two and of three count at most
ROUNDS = 6
EVEN = 0.1  # prior of the shares: of the squared logarithms of their ratios
STACKING_STEPS = 100


@dataclass(frozen=True)
class MapFreedom:
    """How free a map is: leading latents in products of two and of three, and the ridge in stars' worth of data; ridge
    0 for A z as it is."""

    squares: int
    cubes: int
    ridge: float


STRAIGHT = MapFreedom(0, 0, 0.0)
_PRODUCTS = ((0, 0), (5, 0), (SQUARES, 0), (SQUARES, CUBES))
CANDIDATES = (
    STRAIGHT,
    *(MapFreedom(*products, ridge) for products, ridge in product(_PRODUCTS, (1.0, 3.0, 10.0, 30.0))),
)
_FREEST = MapFreedom(SQUARES, CUBES, 3.0)


@dataclass(frozen=True)
class MapBasis:
    """Features of K latents: a constant, the latents, products of leading ones clamped to lowest, highest (q,)."""

    lowest: Tensor
    highest: Tensor
    latents: int

    @classmethod
    def of(cls, z: Tensor) -> MapBasis:
        """For training stars (N, K)."""
        leading = z[:, :SQUARES]
        return cls(leading.min(0).values, leading.max(0).values, z.shape[1])

    @property
    def pairs(self) -> Tensor:
        """Indices (2, F2) of the products of two."""
        return torch.triu_indices(len(self.lowest), len(self.lowest))

    @property
    def triples(self) -> Tensor:
        """Indices (3, F3) of the products of three."""
        return torch.combinations(torch.arange(min(CUBES, len(self.lowest))), 3, with_replacement=True).T

    def features(self, z: Tensor) -> Tensor:
        """(N, F) of latents (N, K)."""
        leading = self._clamped(z)
        (i, j), (a, b, c) = self.pairs, self.triples
        squares = leading[:, i] * leading[:, j] - (i == j).to(z.dtype)
        cubes = leading[:, a] * leading[:, b] * leading[:, c]
        return torch.cat([torch.ones_like(z[:, :1]), z, squares, cubes], dim=1)

    def slopes(self, z: Tensor) -> Tensor:
        """Derivatives (N, F2 + F3, q) of the products with respect to the leading latents."""
        leading = self._clamped(z)
        inside = (leading == z[:, : leading.shape[1]]).to(z.dtype)
        unit = torch.eye(leading.shape[1], dtype=z.dtype)
        (i, j), (a, b, c) = self.pairs, self.triples
        squares = leading[:, i, None] * unit[j] + leading[:, j, None] * unit[i]
        one, two, three = (leading[:, index, None] for index in (a, b, c))
        cubes = one * two * unit[c] + one * three * unit[b] + two * three * unit[a]
        return torch.cat([squares, cubes], dim=1) * inside[:, None]

    def used(self, shape: MapFreedom) -> Tensor:
        """(F,) True for the features of a shape."""
        linear = torch.ones(1 + self.latents, dtype=torch.bool)
        return torch.cat([linear, self.pairs[1] < shape.squares, self.triples[2] < shape.cubes])

    def penalty(self, signal: Tensor) -> Tensor:
        """(F,) of ridge 1."""
        relative = signal / signal[min(REFERENCE, len(signal)) - 1]
        squares, cubes = torch.ones(self.pairs.shape[1]), torch.full((self.triples.shape[1],), CUBIC)
        return torch.cat([torch.zeros(1), LINEAR / relative.clamp(max=STRONGEST), squares, cubes]).to(signal.dtype)

    def _clamped(self, z: Tensor) -> Tensor:
        return torch.maximum(torch.minimum(z[:, : len(self.lowest)], self.highest), self.lowest)


@dataclass(frozen=True)
class LabelMap:
    """The correction to A z: coefficients (L, F) of the features of a basis; labels in units of their spread."""

    basis: MapBasis
    coefficients: Tensor

    def correction(self, z: Tensor) -> Tensor:
        """What to add to A z, (N, L)."""
        return self.basis.features(z) @ self.coefficients.T

    def jacobian(self, z: Tensor) -> Tensor:
        """Its derivatives with respect to the latents, (N, L, K)."""
        latents, leading = self.basis.latents, len(self.basis.lowest)
        slope = self.coefficients[:, 1 : 1 + latents].expand(len(z), -1, -1).clone()
        slope[:, :, :leading] += self.coefficients[:, 1 + latents :] @ self.basis.slopes(z)
        return slope


@dataclass(frozen=True)
class MapCandidates:
    """Maps of every shape: coefficients (S, L, F)."""

    basis: MapBasis
    coefficients: Tensor

    @classmethod
    def fit(cls, z: Tensor, signal: Tensor, residual: Tensor, variance: Tensor, loadings: Tensor) -> MapCandidates:
        """Learn them.

        Parameters
        ----------
        z : (N, K) from flux alone; signal : (K,) of the latents in the spectra, squared signal-to-noise ratios.
        residual, variance : (N, L) label minus A z, NaN = missing, and its variance: error of the label and what the
            latents' uncertainty adds. loadings : A (L, K).
        """
        basis = MapBasis.of(z)
        features, penalty = basis.features(z), basis.penalty(signal)
        label = residual + z @ loadings.T
        found = torch.stack([_of_label(basis, features, *both, penalty) for both in zip(label.T, variance.T)], dim=1)
        found[1:, :, 1 : 1 + basis.latents] -= loadings
        return cls(basis, found)

    def corrections(self, z: Tensor) -> Tensor:
        """What each adds to A z, (S, N, L)."""
        return self.basis.features(z) @ self.coefficients.mT

    def mean(self, shares: Tensor) -> LabelMap:
        """Their mean with shares (S, L)."""
        return LabelMap(self.basis, (shares[..., None] * self.coefficients).sum(0))


def _of_label(basis: MapBasis, features: Tensor, label: Tensor, variance: Tensor, penalty: Tensor) -> Tensor:
    # Coefficients (S, F) of every shape, of which all use the weights of the freest map.
    known = torch.isfinite(label)
    x, y, own = features[known], label[known], variance[known]
    weight = _weights(x, y, own, _FREEST.ridge * penalty)
    matrix, right = (x.T * weight) @ x, x.T @ (weight * y)
    found = torch.zeros(len(CANDIDATES), len(penalty), dtype=x.dtype)
    for row, shape in zip(found[1:], CANDIDATES[1:]):
        used = basis.used(shape)
        row[used] = _solved(matrix[used][:, used], right[used], shape.ridge * penalty[used])
    return found


def _solved(matrix: Tensor, right: Tensor, penalty: Tensor) -> Tensor:
    found: Tensor = torch.linalg.solve(matrix + torch.diag(penalty + 1e-3), right)
    return found


def _weights(x: Tensor, label: Tensor, variance: Tensor, penalty: Tensor) -> Tensor:
    """In units of a typical star (n,)."""
    weight = torch.ones_like(label)
    for _ in range(ROUNDS):
        left = (label - x @ _solved((x.T * weight) @ x, x.T @ (weight * label), penalty)).abs()
        spread = 1.4826 * left.median().clamp(min=1e-6)
        # The variances matter between stars: they add to the common spread.
        scale = (spread**2 - variance.median()).clamp(min=0.1 * spread**2) + variance
        weight = (FREEDOM + 1.0) / (FREEDOM + left**2 / scale) * spread**2 / scale
    return weight


def stacked_shares(tries: Tensor, variance: Tensor) -> Tensor:
    """Shares (S, L) of the candidates in the mean that makes the labels of stars not seen most likely.

    Shares by each candidate's own likelihood would go to the best of them alone, and the mean of several that are
    nearly as good is better than the best (Breiman 1996; Yao et al. 2018). Held stars that are few leave them even.

    tries : (S, N, L) predicted minus given, NaN = missing; variance : (N, L) their own part.
    """
    known = torch.isfinite(tries[0])
    left = torch.where(known, tries, 0.0)
    total = _with_excess(tries.mean(0), variance)
    logits = torch.zeros(len(tries), tries.shape[2], dtype=tries.dtype, requires_grad=True)
    ln_scale = torch.zeros(tries.shape[2], dtype=tries.dtype, requires_grad=True)
    steps = torch.optim.LBFGS([logits, ln_scale], max_iter=STACKING_STEPS, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        steps.zero_grad()
        mean = (torch.softmax(logits, dim=0)[:, None] * left).sum(0)
        term = (FREEDOM + 1.0) * torch.log1p(mean**2 / (FREEDOM * total * ln_scale.exp())) + ln_scale
        value = 0.5 * torch.where(known, term, 0.0).sum() + EVEN * logits.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    steps.step(cost)  # type: ignore[no-untyped-call]
    return torch.softmax(logits.detach(), dim=0)


def log_likelihood(difference: Tensor, variance: Tensor) -> Tensor:
    """Of each label (L,), with a Student t distribution whose scale fits best.

    difference : (N, L) predicted minus given of stars not seen, NaN = missing; variance : (N, L) their own part.
    """
    known = torch.isfinite(difference)
    total = _with_excess(difference, variance)
    square = torch.where(known, difference, 0.0) ** 2 / total
    scale = torch.ones_like(square[0])
    count = known.sum(0).clamp(min=1)
    for _ in range(20):
        scale = (FREEDOM + 1.0) * (square / (FREEDOM + square / scale)).sum(0) / count
    term = (FREEDOM + 1.0) * torch.log1p(square / (FREEDOM * scale)) + scale.log() + total.log()
    return -0.5 * torch.where(known, term, 0.0).sum(0)


def _with_excess(difference: Tensor, variance: Tensor) -> Tensor:
    # Variances (N, L) with what the differences have beyond them, the same for all stars.
    known = torch.isfinite(difference)
    size = (1.4826 * difference.abs().nanmedian(dim=0).values).clamp(min=1e-6)
    typical = torch.where(known, variance, torch.nan).nanmedian(dim=0).values
    return torch.maximum(size**2 - typical, 0.1 * size**2).nan_to_num(1.0) + torch.where(known, variance, 1.0)
