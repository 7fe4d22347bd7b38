"""Rotation periods by a network that has learned from simulated rotators alone (`draw_rotators`)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from phdlspec.datadriven.desa.light_curve import STEP
from phdlspec.datadriven.desa.light_curve_set import LightCurveSet
from phdlspec.datadriven.desa.views import FREQUENCIES, LAGS, mean_views

LOG_PERIODS = np.log10(LAGS * STEP)  # d, at which the network says how likely they are
COARSE = 32  # bins of what is said to the encoder
SAID = 2 + COARSE
_KERNEL, _DILATIONS = 9, (1, 4, 16, 4, 1)
_BATCH = 1024

Array = NDArray[np.float64]


class PeriodNetwork(nn.Module):
    """How likely each of the periods of `LAGS` is that of the rotation.

    It sees the autocorrelation at each lag, the power at the same period and where that lies on the scale. All are on a
    logarithmic scale, on which half and twice a period lie equally far away everywhere: the same convolutions, wide
    enough for a tenth and ten times a period, serve all of them.
    """

    low: Tensor
    part: Tensor
    scale: Tensor

    def __init__(self, width: int = 32):
        super().__init__()
        middle = 0.5 * np.log10(FREQUENCIES[1:] * FREQUENCIES[:-1])
        place = np.interp(-LOG_PERIODS, middle, np.arange(len(middle)))
        low = np.minimum(place.astype(np.int64), len(middle) - 2)
        self.register_buffer("low", torch.as_tensor(low), persistent=False)
        self.register_buffer("part", torch.as_tensor(place - low, dtype=torch.float32), persistent=False)
        self.register_buffer("scale", torch.linspace(-1.0, 1.0, len(LAGS)), persistent=False)
        parts: list[nn.Module] = []
        for number, dilation in enumerate(_DILATIONS):
            reach = (_KERNEL // 2) * dilation
            parts += [nn.Conv1d(width if number else 3, width, _KERNEL, padding=reach, dilation=dilation),
                      nn.GroupNorm(1, width), nn.GELU()]  # fmt: skip
        self.network = nn.Sequential(*parts, nn.Conv1d(width, 1, 1))

    def forward(self, acf: Tensor, power: Tensor) -> Tensor:
        """Log odds (B, 256), up to a constant, of views (B, 256) each."""
        at = torch.lerp(power[:, self.low], power[:, self.low + 1], self.part)
        channels = torch.stack([acf, at - at.mean(dim=1, keepdim=True), self.scale.expand_as(acf)], dim=1)
        answer: Tensor = self.network(channels)[:, 0]
        return answer


def period_loss(network: PeriodNetwork, acf: Tensor, power: Tensor, log_period: Tensor) -> Tensor:
    """Cross-entropy of the bin next to the given log of the period (B,), a bin wide."""
    grid = torch.as_tensor(LOG_PERIODS, dtype=torch.float32)
    width = float(grid[1] - grid[0])
    wanted = torch.softmax(-0.5 * ((grid - log_period[:, None]) / width).square(), dim=1)
    answer: Tensor = -(wanted * torch.log_softmax(network(acf, power), dim=1)).sum(dim=1).mean()
    return answer


def said(odds: Tensor) -> Tensor:
    """(B, SAID) of log odds (B, 256): mean and scatter of the log period, and the shares of coarse bins."""
    share = torch.softmax(odds, dim=1)
    grid = torch.as_tensor(LOG_PERIODS, dtype=odds.dtype)
    mean = share @ grid
    scatter = (share * (grid - mean[:, None]).square()).sum(dim=1).sqrt()
    coarse = share.reshape(len(share), COARSE, len(LAGS) // COARSE).sum(dim=2)
    return torch.cat([mean[:, None], scatter[:, None], coarse], dim=1)


@torch.no_grad()
def network_periods(network: PeriodNetwork, curves: LightCurveSet) -> tuple[Array, Array]:
    """Periods (N,) in d of the stars of a set, from the mean views of their stretches, and their errors: the median and
    half the width of the middle 68%. NaN where there is no light curve."""
    there = np.flatnonzero(np.bincount(curves.owner, minlength=len(curves)))
    acf, power = (torch.as_tensor(x[there]) for x in mean_views(curves.views, curves.owner, len(curves)))
    found = np.full((len(curves), 3), np.nan)
    if len(there):
        odds = torch.cat([network(a, p) for a, p in zip(acf.split(_BATCH), power.split(_BATCH))])  # type: ignore[no-untyped-call]
        share = torch.softmax(odds.double(), dim=1).cumsum(dim=1).numpy()
        upper_edges = LOG_PERIODS + 0.5 * (LOG_PERIODS[1] - LOG_PERIODS[0])
        for row, below in zip(there, share):
            found[row] = 10.0 ** np.interp((0.16, 0.5, 0.84), below, upper_edges)
    return found[:, 1], 0.5 * (found[:, 2] - found[:, 0])
