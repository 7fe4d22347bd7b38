"""A toy emulator with the interface of the real one: some hundred Gaussian lines with a crude but smooth physics."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from phdlspec.labels import LABELS, LabelSet
from phdlspec.likelihood import Observations
from phdlspec.lsf import NativeGrid, kernel_half_width, project

NAMES = ("TEFF", "LOGG", "VMIC", "FE_H", "C_FE", "MG_FE", "CA_FE", "TI_FE", "EU_FE", "VBROAD")


class ToyEmulator:
    """Lines of Fe, C, Mg, Ca, Ti, Eu (one very weak one) and two Balmer-like lines, 5000-5600 Å, R = 3500."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        self.labels = LabelSet(tuple(label for label in LABELS if label.name in NAMES))
        self.native = NativeGrid(4980.0, 1.0 / 8750.0, 1100, 3500.0)
        self.wave = np.exp(np.arange(math.log(5030.0), math.log(5570.0), 2.303e-4))
        self.resolving_power = 1800.0
        self.model_error = None
        self.dtype = dtype
        rng = np.random.default_rng(7)
        elements = ("FE_H", "C_FE", "MG_FE", "CA_FE", "TI_FE", "EU_FE")
        counts = (90, 20, 12, 20, 25, 2)
        owner = np.repeat(np.arange(len(elements)), counts)
        size = len(owner)
        centre = rng.uniform(4990.0, 5620.0, size)
        strength = rng.normal(-0.7, 0.7, size)
        strength[owner == 5] = -2.5
        excitation = rng.uniform(0.0, 4.5, size)
        ion = rng.random(size) < 0.25
        self.centre = torch.as_tensor(np.log(centre), dtype=dtype)
        self.strength = torch.as_tensor(strength, dtype=dtype)
        self.excitation = torch.as_tensor(excitation, dtype=dtype)
        self.ion = torch.as_tensor(ion, dtype=dtype)
        one_hot = np.zeros((size, len(self.labels)))
        for i, k in enumerate(owner):
            one_hot[i, self.labels.index("FE_H")] = 1.0
            one_hot[i, self.labels.index(elements[k])] = 1.0
        self.abundance = torch.as_tensor(one_hot, dtype=dtype)
        x = torch.as_tensor(np.log(self.native.wave), dtype=torch.float64)
        sigma = 1.0 / (3500.0 * 2.3548)
        offset = (x[:, None] - torch.as_tensor(np.log(centre))) / sigma
        self.profile = torch.exp(-0.5 * offset**2).to(dtype)  # (Pn, lines)
        balmer = (x[:, None] - torch.log(torch.tensor([5150.0, 5400.0], dtype=torch.float64))) / 1.5e-3
        self.balmer = (1.0 / (1.0 + balmer**2)).to(dtype).sum(-1)

    def native_flux(self, theta: Tensor) -> Tensor:
        """(B, L) -> (B, Pn)."""
        teff, logg, vmic = (theta[:, self.labels.index(n)] for n in ("TEFF", "LOGG", "VMIC"))
        inverse = 5040.0 / teff - 1.0
        log_tau = self.strength + theta @ self.abundance.mT + inverse[:, None] * (2.0 - self.excitation)
        log_tau = log_tau + self.ion * (-0.35 * (logg[:, None] - 4.0) - 2.0 * inverse[:, None])
        tau = torch.exp(2.3026 * log_tau)
        broad = 0.6 + 0.2 * vmic[:, None]
        depth = broad * 0.45 * tau / (tau + broad)
        wings = 0.25 * torch.exp(-3.0 * inverse) * (1.0 + 0.08 * (logg - 4.0))
        return torch.exp(-depth @ self.profile.mT - wings[:, None] * self.balmer)

    def observe(self, theta: Tensor, wave: Tensor, resolving_power: Tensor, rv: Tensor) -> Tensor:
        """(B, L) -> (B, P)."""
        theta = theta.to(self.dtype)
        half = kernel_half_width(self.native, torch.as_tensor(resolving_power))
        vbroad = theta[:, self.labels.index("VBROAD")]
        return project(self.native_flux(theta), self.native, wave, resolving_power, vbroad, rv, half)

    patch_width = 64

    def _cut(self, rows: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(rows, (0, -self.native.size % self.patch_width))
        return padded.unflatten(-1, (-1, self.patch_width)).movedim(-2, 0)

    def patches(self, theta: Tensor) -> Tensor:
        """(B, L) -> (Q, B, W)."""
        return self._cut(self.native_flux(theta.to(self.dtype)))

    def patches_and_jacobian(self, theta: Tensor) -> Tensor:
        """(B, L) -> (Q, B, L, W), by forward-mode differentiation."""
        theta = theta.to(self.dtype)
        rows = [self.native_flux(theta)]
        for i in range(len(self.labels) - 1):
            tangent = torch.zeros_like(theta)
            tangent[:, i] = 1.0
            rows.append(torch.func.jvp(self.native_flux, (theta,), (tangent,))[1])
        return self._cut(torch.stack(rows, dim=1))


def legendre_basis(wave: np.ndarray, degree: int = 4) -> Tensor:
    """(1, P, degree + 1)."""
    x = 2.0 * (wave - wave[0]) / (wave[-1] - wave[0]) - 1.0
    return torch.as_tensor(np.polynomial.legendre.legvander(x, degree), dtype=torch.float32)[None]


def random_theta(emulator: ToyEmulator, n: int, seed: int, margin: float = 0.15) -> Tensor:
    """Labels (n, L), uniform within the inner part of the range."""
    generator = torch.Generator().manual_seed(seed)
    unit = margin + (1 - 2 * margin) * torch.rand(n, len(emulator.labels), generator=generator)
    return torch.as_tensor(emulator.labels.from_unit(unit.numpy()), dtype=torch.float32)


def mock_observations(
    emulator: ToyEmulator, theta: Tensor, rv: Tensor, snr: float = 100.0, seed: int = 0, noise: bool = True
) -> Observations:
    """Mock spectra with a sloping continuum and white noise."""
    generator = torch.Generator().manual_seed(seed)
    wave = torch.as_tensor(emulator.wave)
    flux = emulator.observe(theta, wave, torch.tensor(emulator.resolving_power), rv).to(torch.float32)
    x = torch.linspace(-1, 1, len(wave))
    continuum = 1.0 + 0.3 * x - 0.2 * x**2
    sigma = continuum / snr
    observed = flux * continuum
    if noise:
        observed = observed + sigma * torch.randn(observed.shape, generator=generator)
    scale = observed.median(dim=1).values
    return Observations(
        wave=wave,
        flux=observed / scale[:, None],
        ivar=(scale[:, None] / sigma) ** 2,
        resolving_power=torch.full((len(wave),), emulator.resolving_power),
        basis=legendre_basis(emulator.wave),
        scale=scale,
    )
