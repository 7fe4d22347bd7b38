"""Where the fits of a batch begin: velocities, and the entries of the look-up that resemble each star."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from phdlspec.continuum import continuum_basis
from phdlspec.emulator.emulator import Emulator
from phdlspec.fitting.coordinates import Coordinates
from phdlspec.fitting.lookup import Lookup, velocity_templates
from phdlspec.labels import STRUCTURE
from phdlspec.likelihood import Observations
from phdlspec.masks import MaskInterval, wavelength_mask
from phdlspec.radial_velocity import Velocities, VelocityScan
from phdlspec.spectrum import Spectrum

Arms = tuple[tuple[float, float], ...]

STARTS = 2  # entries of the look-up that are climbed from
CANDIDATES = 12  # entries among which a start of another kind is looked for
ANOTHER_STAR = (300.0, 0.5, 0.4)  # K, dex, dex: entries that differ by more are different stars


def first_velocities(
    data: Observations, spectrum: Spectrum, masks: tuple[MaskInterval, ...], emulator: Emulator
) -> Velocities:
    """Velocities of S stars that share the pixels and the arms of `spectrum`."""
    survey = str(spectrum.meta.get("SURVEY", ""))
    power = np.ascontiguousarray(spectrum.resolving_power_by_pixel)
    return _scan(emulator, spectrum.wave.tobytes(), power.tobytes(), spectrum.arms, survey, masks).measure(
        data.flux, data.ivar
    )


@lru_cache(maxsize=8)
def _scan(
    emulator: Emulator, wave: bytes, power: bytes, arms: Arms, survey: str, masks: tuple[MaskInterval, ...]
) -> VelocityScan:
    # One basis for all: it must not depend on which stars happen to be fitted together.
    pixels = np.frombuffer(wave)
    basis = continuum_basis(pixels, arms, ~wavelength_mask(pixels, masks, survey))
    return VelocityScan.of(pixels, basis, velocity_templates(emulator), emulator.native, np.frombuffer(power))


def first_coordinates(
    data: Observations, velocities: Velocities, coordinates: Coordinates, emulator: Emulator
) -> list[Tensor]:
    """Starting points (S, D): the entry of the look-up that fits best, and the best one that is a different star."""
    rv = velocities.rv.nan_to_num(nan=0.0)
    labels = Lookup.of(emulator).nearest(data, rv, CANDIDATES).double()  # (S, CANDIDATES, L)
    scale = torch.tensor(ANOTHER_STAR, dtype=torch.float64, device=labels.device)
    structure = [emulator.labels.index(name) for name in STRUCTURE]
    distance = ((labels[..., structure] - labels[:, :1, structure]) / scale).norm(dim=-1)
    far = torch.where(distance > 1.0, 1.0, 0.0)
    second = torch.where(far.any(1), far.argmax(1), torch.ones_like(far.argmax(1)))
    starts = []
    for choice in (torch.zeros_like(second), second)[:STARTS]:
        chosen = labels[torch.arange(len(labels)), choice]
        parameters = chosen.new_zeros(len(labels), len(coordinates.names))
        parameters[:, : chosen.shape[1]] = chosen
        parameters[:, chosen.shape[1]] = rv
        starts.append(coordinates.coordinates(parameters))
    return starts
