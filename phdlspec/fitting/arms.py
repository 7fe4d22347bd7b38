"""The arms of a spectrograph have wavelength scales of their own: the last one is brought in line with the first."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phdlspec.fitting.problem import Problem
from phdlspec.likelihood import Observations
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S

MAX_ARM_SHIFT = 40.0  # km/s
_MEASURED = 10.0  # km/s, error of an arm's velocity beyond which its shift is not applied


@dataclass(frozen=True)
class ArmShift:
    """Shift (S,) of the last arm's wavelengths against the first's, km/s, and the variance (S,) by which taking it
    out makes the velocity less certain: the last arm has lost its say in it."""

    shift: Tensor
    velocity_variance: Tensor


def align_arms(problem: Problem, z: Tensor, data: Observations, spectrum: Spectrum) -> tuple[Observations, ArmShift]:
    """Takes the shift of the last arm's wavelengths against the first's out of the data of S stars.

    z (S, D) : optima of the data as they are; spectrum : one of those that share the pixels and two arms.
    """
    shift = torch.zeros(len(z), dtype=torch.float64, device=problem.device)
    if len(spectrum.arms) != 2:
        return data, ArmShift(shift, shift)
    red = torch.as_tensor(spectrum.arm_index() == 1, device=problem.device)
    change, residual = _change_and_residual(problem, z, data)
    (red_shift, red_information), (blue_shift, blue_information) = (
        _velocity_of(problem.likelihood.weight * part, change, residual) for part in (red, ~red)
    )
    shift = (red_shift - blue_shift).clamp(-MAX_ARM_SHIFT, MAX_ARM_SHIFT)
    # A shift that is not measured is not applied.
    measured = torch.minimum(red_information, blue_information) > 1.0 / _MEASURED**2
    shift = torch.where(measured, shift, torch.zeros_like(shift))
    lost = 1.0 / blue_information.clamp(min=1e-4) - 1.0 / (blue_information + red_information).clamp(min=1e-4)
    factor = torch.where(red, 1.0 / (1.0 + shift[:, None] / SPEED_OF_LIGHT_KM_S), torch.ones_like(shift)[:, None])
    aligned = replace(data, wave=data.wave * factor)
    return aligned, ArmShift(shift, torch.where(measured, lost, torch.zeros_like(shift)))


def _change_and_residual(problem: Problem, z: Tensor, data: Observations) -> tuple[Tensor, Tensor]:
    """Change of the model (S, P) per km/s, and data minus model (S, P)."""
    which, parts = problem.coordinates.names.index("RV"), []
    for index, part in problem.groups():
        flux, jacobian = part.flux_and_jacobian(z[index])
        parts.append(torch.stack([part.likelihood.blocks.scatter(x) for x in (flux, jacobian[:, :, which])]))
    flux, change = torch.cat(parts, dim=1)
    continuum = problem.likelihood.continuum(flux)
    return change * continuum, data.flux - flux * continuum


def _velocity_of(weight: Tensor, change: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Velocity (S,) by which some pixels are off, km/s, and its inverse variance (S,)."""
    top, bottom = (weight * change * residual).sum(1).double(), (weight * change**2).sum(1).double()
    return top / bottom.clamp(min=1e-12), bottom
