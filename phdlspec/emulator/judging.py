"""How good an emulator is: its errors on held-out models, as seen at LAMOST's resolving power."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import jvp

from phdlspec.emulator.basis import PatchBasis
from phdlspec.lsf import NativeGrid, degrade

Array = NDArray[np.float64]

JUDGED_AT = 1800.0  # resolving power of the figures that are reported


@dataclass(frozen=True)
class HeldOutModels:
    """Models for judging, as pixels at `JUDGED_AT`: x (N, L), flux (N, P), change (N, L, P)."""

    x: Tensor
    flux: Tensor
    change: Tensor


@dataclass(frozen=True)
class JudgedErrors:
    """Errors on held-out models at R = 1800: rms of the flux (N,), relative L2 error of the derivatives (N, L)."""

    flux_rms: Array
    derivative_error: Array
    label_names: tuple[str, ...] = field(default_factory=tuple)

    def summary(self) -> dict[str, Any]:
        """Median and 95th percentile of the flux error, median derivative error by label."""
        median = np.median(self.derivative_error, axis=0)
        return {
            "models": len(self.flux_rms),
            "flux_rms_median": float(np.median(self.flux_rms)),
            "flux_rms_p95": float(np.quantile(self.flux_rms, 0.95)),
            "derivative_error_median": {n: round(float(v), 4) for n, v in zip(self.label_names, median)},
        }


def judging_grid(native: NativeGrid, resolving_power: float = JUDGED_AT) -> NativeGrid:
    """3800-9000 Å at R = 1800 (or the part of it that the native grid has), sampled at 1/7200."""
    low, high = max(3800.0, native.wave0 * 1.003), min(9000.0, float(native.wave[-1]) * 0.997)
    return NativeGrid(low, 1.0 / 7200.0, int(math.log(high / low) * 7200.0), resolving_power)


def seen(spectra: Tensor, native: NativeGrid) -> Tensor:
    """Native spectra (..., P) at `JUDGED_AT`."""
    return degrade(spectra, native.dlnlam, native.wave0, native.resolving_power, judging_grid(native))


@torch.no_grad()
def judge(
    network: torch.nn.Module, basis: PatchBasis, native: NativeGrid, held_out: HeldOutModels, names: tuple[str, ...]
) -> JudgedErrors:
    """Errors of a network on held-out models at R = 1800 over 3800-9000 Å."""
    device = basis.mean.device
    flux = seen(basis.decode(network(held_out.x.to(device))).cpu(), native)
    rms = (flux - held_out.flux).pow(2).mean(1).sqrt()
    errors = torch.empty(len(rms), len(names))
    for i, x in enumerate(held_out.x.to(device)):
        directions = torch.eye(len(names), device=device)
        _, change = jvp(network, (x.expand(len(names), -1).contiguous(),), (directions,))[:2]
        change = seen(basis.decode_change(change).cpu(), native)
        size = held_out.change[i].norm(dim=1).clamp(min=1e-12)
        errors[i] = (change - held_out.change[i]).norm(dim=1) / size
    return JudgedErrors(rms.double().numpy(), errors.double().numpy(), names)
