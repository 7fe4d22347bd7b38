"""Alternating exact steps: latents given loadings, loadings given latents, scatter given both. The objective never
rises.

A sweep finds the latents of every star by weighted least squares, with their covariance, and then what is best for all
stars together: the loadings of each pixel and label by weighted least squares (the covariance of the latents is part of
the normal equations), or the scatter of each pixel and label, the best of a few values about the present one. Each is a
step of expectation-maximisation, by which the objective cannot rise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phdlspec.datadriven.lux.model import Evaluator, LatentPosterior, PackedSymmetric, Parameters, StarArrays

_TRIALS = (0.1, 0.3, 0.6, 0.85, 1.0, 1.18, 1.7, 3.3, 10.0)  # times the present scatter
LEAST_LN_SCATTER = -23.0  # s = 1e-5 of the continuum
_HELD = 1e-3  # stars that hold a mean where there are no data


@dataclass
class _SweepSums:
    # Normal equations of all rows (pixels or labels) with latents and a constant: packed (R, T), right side (R, K + 1).
    packed: Tensor
    right: Tensor

    @classmethod
    def empty(cls, rows: int, pairs: PackedSymmetric, device: torch.device) -> _SweepSums:
        empty = torch.zeros(rows, len(pairs.first), dtype=torch.float64, device=device)
        return cls(empty, empty.new_zeros(rows, pairs.size))

    def add(self, weight: Tensor, data: Tensor, extended: Tensor, moments: Tensor) -> None:
        kind = weight.dtype
        self.packed += weight.T @ moments.to(kind)
        self.right += (weight * data).T @ extended.to(kind)

    def solve(self, pairs: PackedSymmetric) -> Tensor:
        # The prior of the loadings; and the constant stays where it is when nothing is known.
        matrix = pairs.unpack(self.packed)
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        diagonal[:, :-1] += 1.0
        diagonal[:, -1] += _HELD
        return torch.cholesky_solve(self.right[..., None], torch.linalg.cholesky(matrix))[..., 0]


def update_loadings(parameters: Parameters, stars: StarArrays) -> tuple[float, Parameters]:
    """The objective at the parameters, and better ones: means and loadings of all pixels and labels."""
    evaluator = Evaluator(parameters)
    pairs = PackedSymmetric(parameters.latents + 1, stars.flux.device)
    pixels = _SweepSums.empty(len(parameters.mean), pairs, stars.flux.device)
    labels = _SweepSums.empty(len(parameters.label_mean), pairs, stars.flux.device)
    value = evaluator.prior()
    for chunk in stars.chunks():
        found = evaluator.posterior(chunk)
        value += found.value
        extended = torch.nn.functional.pad(found.z, (0, 1), value=1.0)
        moments = pairs.products(extended) + pairs.pack(torch.nn.functional.pad(found.covariance, (0, 1, 0, 1)))
        pixels.add(found.weight, chunk.flux - evaluator.mean, extended, moments)
        labels.add(found.label_weight, chunk.label - parameters.label_mean, extended, moments)
    by_pixel, by_label = pixels.solve(pairs), labels.solve(pairs)
    return value, replace(
        parameters,
        mean=parameters.mean + by_pixel[:, -1], loadings=by_pixel[:, :-1],
        label_mean=parameters.label_mean + by_label[:, -1], label_loadings=by_label[:, :-1],
    )  # fmt: skip


def update_scatter(parameters: Parameters, stars: StarArrays) -> tuple[float, Parameters]:
    """The objective at the parameters, and better ones: the scatter of all pixels and labels."""
    evaluator = Evaluator(parameters)
    trials = torch.tensor(_TRIALS, dtype=torch.float64, device=stars.flux.device).log()
    pixel_trials = (parameters.ln_scatter + trials[:, None]).clamp(min=LEAST_LN_SCATTER)
    label_trials = (parameters.ln_label_scatter + trials[:, None]).clamp(min=LEAST_LN_SCATTER)
    pixels, labels = torch.zeros_like(pixel_trials), torch.zeros_like(label_trials)
    value = evaluator.prior()
    for chunk in stars.chunks():
        found = evaluator.posterior(chunk)
        value += found.value
        covariance = found.covariance
        pixels += _by_trial(found.residual.square() + evaluator.spread(covariance), chunk.ivar, pixel_trials)
        labels += _by_trial(
            found.label_residual.square() + evaluator.label_spread(covariance), chunk.label_ivar, label_trials
        )
    return value, replace(
        parameters,
        ln_scatter=pixel_trials.gather(0, pixels.argmin(0)[None])[0],
        ln_label_scatter=label_trials.gather(0, labels.argmin(0)[None])[0],
    )


def _by_trial(squares: Tensor, ivar: Tensor, ln_trials: Tensor) -> Tensor:
    # sum over stars of (r^2 / v + ln v) for each trial (M, R) of the scatter.
    sums = []
    for trial in ln_trials.exp().to(ivar.dtype):
        weight = ivar / (1.0 + ivar * trial)
        sums.append((weight * squares - torch.where(weight > 0, weight, 1.0).log()).sum(0, dtype=torch.float64))
    return torch.stack(sums)


def gradient(parameters: Parameters, stars: StarArrays) -> tuple[float, Parameters]:
    """The objective and its derivatives, as `Parameters` of derivatives. The latents are at their best, so that only
    the explicit dependence counts."""
    evaluator = Evaluator(parameters)
    pairs = evaluator.pairs
    loadings, label_loadings = torch.zeros_like(parameters.loadings), torch.zeros_like(parameters.label_loadings)
    packed = torch.zeros(len(loadings), len(pairs.first), dtype=torch.float64, device=loadings.device)
    label_packed = packed.new_zeros(len(label_loadings), len(pairs.first))
    mean, ln_scatter = torch.zeros_like(parameters.mean), torch.zeros_like(parameters.mean)
    label_mean, ln_label = torch.zeros_like(parameters.label_mean), torch.zeros_like(parameters.label_mean)
    value = evaluator.prior()
    for chunk in stars.chunks():
        found = evaluator.posterior(chunk)
        value += found.value
        pull, label_pull = found.weight * found.residual, found.label_weight * found.label_residual
        loadings -= pull.T @ found.z.float()
        label_loadings -= label_pull.T @ found.z
        mean -= pull.sum(0, dtype=torch.float64)
        label_mean -= label_pull.sum(0)
        covariance = found.covariance
        pairs_of = pairs.pack(covariance)
        packed += found.weight.T @ pairs_of.float()
        label_packed += found.label_weight.T @ pairs_of
        squares = found.residual.square() + evaluator.spread(covariance)
        ln_scatter += _by_ln_scatter(found.weight, squares, evaluator.scatter)
        label_squares = found.label_residual.square() + evaluator.label_spread(covariance)
        ln_label += _by_ln_scatter(found.label_weight, label_squares, evaluator.label_scatter)
    loadings += (pairs.unpack(packed) @ parameters.loadings[..., None])[..., 0] + parameters.loadings
    label_loadings += (pairs.unpack(label_packed) @ parameters.label_loadings[..., None])[
        ..., 0
    ] + parameters.label_loadings
    return value, Parameters(mean, loadings, ln_scatter, label_mean, label_loadings, ln_label)


def _by_ln_scatter(weight: Tensor, squares: Tensor, scatter: Tensor) -> Tensor:
    return 0.5 * scatter.double() * (weight - weight.square() * squares).sum(0, dtype=torch.float64)


def curvatures(parameters: Parameters, stars: StarArrays) -> Parameters:
    """About how curved the objective is in each parameter: the scales in which a quasi-Newton method sees it round."""
    weight, label_weight = torch.zeros_like(parameters.mean), torch.zeros_like(parameters.label_mean)
    scatter, label_scatter = parameters.ln_scatter.exp(), parameters.ln_label_scatter.exp()
    share, label_share = torch.zeros_like(weight), torch.zeros_like(label_weight)
    for chunk in stars.chunks():
        w = chunk.ivar / (1.0 + chunk.ivar * scatter.float())
        v = chunk.label_ivar / (1.0 + chunk.label_ivar * label_scatter)
        weight += w.sum(0, dtype=torch.float64)
        label_weight += v.sum(0)
        share += (w * scatter.float()).square().sum(0, dtype=torch.float64)
        label_share += (v * label_scatter).square().sum(0)
    ones = torch.ones_like(parameters.loadings[:1])
    return Parameters(
        weight + 1.0, (weight[:, None] + 1.0) * ones, 0.5 * share + 1.0,
        label_weight + 1.0, (label_weight[:, None] + 1.0) * ones, 0.5 * label_share + 1.0,
    )  # fmt: skip


__all__ = ["LatentPosterior", "curvatures", "gradient", "update_loadings", "update_scatter"]
