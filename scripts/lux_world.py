"""A survey of red giants simulated from ab initio spectra, for `lux_study.py`.

The spectrum of a star is the mean of the first-order expansions of the grid's giants, flux and differential spectra,
weighted by a Gaussian in Teff, log g and [Fe/H]. No emulator is in it. The stars lie about a giant branch and have
trends of [X/Fe] with [Fe/H], alpha elements together, and a scatter of their own in every element. They are seen as
LAMOST sees them: pixels, resolving power and run of the noise, with the house's spline continuum taken out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from phdlspec.continuum import continuum_basis
from phdlspec.files import writing
from phdlspec.gridfile import Grid
from phdlspec.labels import typical_vmic
from phdlspec.lsf import NativeGrid, project
from phdlspec.mock import relative_snr
from phdlspec.resolution import default_resolving_power
from phdlspec.wavelength import LAMOST_WAVE

LABELS = (
    *("TEFF", "LOGG", "FE_H", "C_FE", "N_FE", "O_FE", "NA_FE", "MG_FE", "AL_FE", "SI_FE", "CA_FE", "SC_FE", "TI_FE"),
    *("V_FE", "CR_FE", "MN_FE", "CO_FE", "NI_FE", "CU_FE", "ZN_FE", "Y_FE", "ZR_FE", "BA_FE", "ND_FE", "EU_FE"),
)
ALPHA = ("O_FE", "MG_FE", "SI_FE", "CA_FE", "TI_FE")
OWN_SCATTER = 0.08  # dex, of every [X/Fe]
ERRORS = {"TEFF": 20.0, "LOGG": 0.04, "FE_H": 0.015, **dict.fromkeys(("MG_FE", "SI_FE", "CA_FE", "NI_FE"), 0.02)}
OTHER_ERROR = 0.05  # dex: as APOGEE's for the elements with few lines
SNR = (20.0, 150.0)
WAVE = LAMOST_WAVE[(LAMOST_WAVE > 4000.0) & (LAMOST_WAVE < 6800.0)]
WIDTHS = np.array([300.0, 0.5, 0.25])  # of the weights, in Teff, log g, [Fe/H]
STEPS = np.array([5.0, 0.02, 0.01])  # of finite differences in them

Array = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """labels (G, 32) of the grid's giants, flux (G, P) and jacobian (G, 32, P) at LAMOST's pixels, names of labels."""

    labels: Array
    flux: Array
    jacobian: NDArray[np.float32]
    names: tuple[str, ...]

    wave = WAVE

    @classmethod
    def of_grid(cls, path: Path, work: Path) -> World:
        """The giants of a grid; those once seen are kept in `work`, so that a grid in the making gives the same."""
        kept = work / "world.npz"
        if not kept.is_file():
            with Grid(path) as grid, writing(kept) as file:
                np.savez(file, allow_pickle=False, **_giants(grid))
        with np.load(kept) as file:
            return cls(file["labels"], file["flux"], file["jacobian"], tuple(file["names"].tolist()))

    @property
    def label_errors(self) -> Array:
        """(25,)."""
        return np.array([ERRORS.get(name, OTHER_ERROR) for name in LABELS])

    def population(self, count: int, seed: int) -> Array:
        """True labels (count, 25)."""
        random = np.random.default_rng(seed)
        teff = random.uniform(4200.0, 5200.0, count)
        fe_h = np.clip(random.normal(-0.2, 0.25, count), -0.8, 0.35)
        logg = 2.4 + (teff - 4750.0) / 430.0 + 0.4 * fe_h + random.normal(0.0, 0.15, count)
        alpha = np.clip(-0.3 * fe_h, -0.05, 0.25) + random.normal(0.0, 0.05, count)
        found = np.column_stack([teff, logg.clip(0.8, 3.4), fe_h, np.zeros((count, len(LABELS) - 3))])
        for i, name in enumerate(LABELS[3:], start=3):
            found[:, i] = alpha if name in ALPHA else 0.1 * ((i % 5) - 2) * fe_h
            found[:, i] += random.normal(0.0, OWN_SCATTER, count)
        return found

    def _whole(self, truth: Array) -> Array:
        # All labels of the grid (n, 32); those that the survey does not measure are solar, vmic as is typical.
        whole = np.zeros((len(truth), len(self.names)))
        for i, name in enumerate(LABELS):
            whole[:, self.names.index(name)] = truth[:, i]
        whole[:, self.names.index("VMIC")] = typical_vmic(truth[:, 0], truth[:, 1], truth[:, 2])
        return whole

    @cached_property
    def _constant(self) -> Array:
        return self.flux - np.einsum("gl,glp->gp", self.labels, self.jacobian)

    def _weights(self, truth: Array) -> Array:
        own = self.labels[:, [self.names.index(n) for n in LABELS[:3]]]
        distance = (((truth[:, None, :3] - own) / WIDTHS) ** 2).sum(2)
        weight = np.exp(-0.5 * (distance - distance.min(1, keepdims=True)))
        return np.asarray(weight / weight.sum(1, keepdims=True))

    def spectra(self, truth: Array) -> Array:
        """Normalised flux (n, P)."""
        parts = []
        flat = self.jacobian.reshape(len(self.labels), -1)
        for part in np.array_split(truth, max(len(truth) // 100, 1)):
            weight = self._weights(part)
            slopes = (weight.astype(np.float32) @ flat).reshape(len(part), -1, len(WAVE))
            parts.append(weight @ self._constant + np.einsum("nl,nlp->np", self._whole(part), slopes))
        return np.concatenate(parts)

    def observe(self, truth: Array, seed: int) -> tuple[Array, Array]:
        """Flux over its own splines, and inverse variance, each (n, P)."""
        random = np.random.default_rng(seed)
        flux = self.spectra(truth)
        snr = np.exp(random.uniform(np.log(SNR[0]), np.log(SNR[1]), len(truth)))
        sigma = 1.0 / (snr[:, None] * np.stack([relative_snr(teff, WAVE) for teff in truth[:, 0]]))
        flux = flux + sigma * random.standard_normal(flux.shape)
        continuum = _splines(flux)
        ivar = (continuum / sigma) ** 2
        ivar[random.random(flux.shape) < 0.03] = 0.0
        return flux / continuum, ivar

    def without_noise(self, truth: Array) -> Array:
        """Flux over its own splines, (n, P)."""
        flux = self.spectra(truth)
        return np.asarray(flux / _splines(flux))

    def bounds(self, truth: Array, ivar: Array) -> Array:
        """What the noise of each star allows, (n, 25): its Cramer-Rao bound together with the spread of the stars."""
        prior = np.linalg.inv(np.cov(self.population(20000, 99).T))
        centre = self.spectra(truth)
        continuum = _splines(centre)
        slopes = np.empty((len(truth), len(LABELS), len(WAVE)))
        steps = np.concatenate([STEPS, np.full(len(LABELS) - 3, 0.02)])
        for i, step in enumerate(steps):
            moved = truth.copy()
            moved[:, i] += step
            flux = self.spectra(moved)
            slopes[:, i] = (flux / _splines(flux) - centre / continuum) / step
        fisher = (slopes * ivar[:, None]) @ slopes.transpose(0, 2, 1) + prior
        return np.sqrt(np.einsum("nll->nl", np.linalg.inv(fisher)))


def _splines(flux: Array) -> Array:
    # The splines (n, P) that fit each spectrum best, every pixel alike.
    basis = continuum_basis(WAVE)
    return np.asarray(flux @ np.linalg.pinv(basis) @ basis)


def _giants(grid: Grid) -> dict[str, NDArray]:
    names = list(grid.label_names)
    columns = {n: grid.labels[:, names.index(n)] for n in LABELS[:3]}
    inside = (
        (columns["TEFF"] > 3900) & (columns["TEFF"] < 5600) & (columns["LOGG"] > 0.3) & (columns["LOGG"] < 3.9)
        & (columns["FE_H"] > -1.2)
    )  # fmt: skip
    rows = [i for i in grid.rows() if inside[i]]
    native = NativeGrid.from_wave(grid.wave, grid.resolving_power)
    power, wave = torch.as_tensor(default_resolving_power("LAMOST", WAVE)), torch.as_tensor(WAVE)
    flux, jacobian = [], []
    for row in rows:
        both = torch.as_tensor(np.vstack([grid.flux(row)[None], grid.jacobian(row)]))
        seen = project(both[None].float(), native, wave, power)[0].numpy()
        flux.append(seen[0].astype(float))
        jacobian.append(seen[1:].astype(np.float32))
    return {
        "labels": grid.labels[rows],
        "flux": np.array(flux),
        "jacobian": np.array(jacobian),
        "names": np.array(names),
    }
