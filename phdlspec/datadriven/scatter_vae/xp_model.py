"""A trained model of Gaia XP coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.datadriven.scatter_vae.basis import chunks
from phdlspec.datadriven.scatter_vae.latent_space import LatentSpace
from phdlspec.datadriven.scatter_vae.output_table import Inferred, output_table
from phdlspec.datadriven.scatter_vae.residuals import SpectrumResiduals
from phdlspec.datadriven.scatter_vae.score import OrdinaryStars
from phdlspec.datadriven.scatter_vae.signs import XP_SIGNS, of_distance, signs_of
from phdlspec.datadriven.scatter_vae.storage import under, write_model
from phdlspec.datadriven.scatter_vae.xp_network import COEFFICIENTS, XPNetwork
from phdlspec.datadriven.scatter_vae.xp_table import EACH, XPSet

FORM = "xp"
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Standardisation:
    """How coefficients are scaled: `XPSet.scaled` with this normalisation, minus centre (110,), over scale (110,)."""

    normalisation: str
    centre: Array
    scale: Array

    @classmethod
    def of(cls, data: XPSet, normalisation: str) -> Standardisation:
        """Mean and standard deviation of the sources that can be used."""
        values, _, reasons = data.scaled(normalisation)
        good = np.array([not r for r in reasons])
        return cls(normalisation, values[good].mean(axis=0), np.maximum(values[good].std(axis=0), 1e-30))

    def apply(self, data: XPSet) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[str, ...]]:
        """Standardised coefficients and errors (N, 110), 0 and 1 where there is a reason (N,) against a source."""
        values, errors, reasons = data.scaled(self.normalisation)
        lost = np.array([bool(r) for r in reasons])[:, None]
        x = np.where(lost, 0.0, (values - self.centre) / self.scale)
        return x.astype(np.float32), np.where(lost, 1.0, errors / self.scale).astype(np.float32), reasons


def xp_residuals(network: XPNetwork, x: torch.Tensor, error: torch.Tensor) -> tuple[Array, Array, SpectrumResiduals]:
    """Latents (N, K), scatter (N, 110) and what is left of standardised coefficients. The mean latents are used."""
    parts = []
    with torch.no_grad():
        for c in chunks(len(x)):
            z = network.encode(x[c])[0]
            model, scatter = network.decode(z)
            parts.append((z, model, scatter, (error[c].square() + scatter.square()).sqrt()))
    latents, flux, spread, sigma = (torch.cat(p).cpu().numpy().astype(float) for p in zip(*parts))
    deviation = (x.cpu().numpy() - flux) / sigma
    good, usual, index = (
        np.ones(deviation.shape, dtype=bool),
        np.ones(deviation.shape[1]),
        np.arange(deviation.shape[1]),
    )
    return (
        latents,
        spread,
        SpectrumResiduals(deviation, good, flux, sigma, usual, index.astype(float), np.zeros(len(flux))),
    )


def xp_signs(left: SpectrumResiduals, space: LatentSpace, latents: Array) -> Array:
    """The signs (N, F) of `XP_SIGNS`."""
    return signs_of(left, {"latents": of_distance(space.distance(latents))}, list(XP_SIGNS))


def signal_to_noise(data: XPSet) -> Array:
    """Median over the coefficients that carry most (N,): the first ten of each arm; 1 where there are none."""
    leading = np.r_[0:10, EACH : EACH + 10]
    with np.errstate(all="ignore"):
        ratio = np.abs(data.coefficients[:, leading]) / data.errors[:, leading]
    return np.where(data.readable, np.median(np.nan_to_num(ratio), axis=1), 1.0).clip(min=1e-3)


@dataclass(frozen=True)
class XPModel:
    """A trained model: how it scales coefficients, network, where the latents of its training sources lie, reference of
    ordinary sources, metadata."""

    standard: Standardisation
    network: XPNetwork
    latents: LatentSpace
    reference: OrdinaryStars
    metadata: Mapping[str, Any]

    def left(self, data: XPSet) -> tuple[Array, Array, SpectrumResiduals]:
        """Latents (N, K), scatter (N, 110) and what is left of sources."""
        x, error, _ = self.standard.apply(data)
        device = self.network.mu.weight.device
        return xp_residuals(self.network, *(torch.as_tensor(a, device=device) for a in (x, error)))

    def find(self, data: XPSet) -> tuple[Inferred, tuple[str, ...]]:
        """What the model finds of sources, and the reasons (N,) against some."""
        reasons = data.scaled(self.standard.normalisation)[2]
        z, scatter, left = self.left(data)
        names = [f"{'BP' if i < EACH else 'RP'} {i % EACH}" for i in range(COEFFICIENTS)]
        order = np.argsort(-np.abs(left.deviation), axis=1)[:, :3]
        worst = [", ".join(f"{names[i]} {row[i]:+.1f}" for i in o) for row, o in zip(left.deviation, order)]
        found = Inferred(
            z, (left.deviation**2).sum(axis=1), np.full(len(z), COEFFICIENTS), np.median(scatter, axis=1),
            xp_signs(left, self.latents, z), signal_to_noise(data), worst,
        )  # fmt: skip
        return found, reasons

    def apply(self, data: XPSet) -> Table:
        """A table with one row a source, see `output_table`; SOURCE_ID before."""
        found, reasons = self.find(data)
        return output_table(Table({"SOURCE_ID": data.sources}), found, reasons, self.reference, COEFFICIENTS)

    def to(self, device: str) -> XPModel:
        """The same model, computing there."""
        self.network.to(device)
        return self

    def save(self, path: str | Path) -> None:
        """Write it as safetensors."""
        arrays = {"centre": self.standard.centre, "scale": self.standard.scale, "latent_mean": self.latents.mean,
                  "latent_covariance": self.latents.covariance,
                  **{f"reference.{n}": a for n, a in self.reference.tensors().items()}}  # fmt: skip
        header = {"form": FORM, "normalisation": self.standard.normalisation,
                  "latents": self.network.mu.out_features, "metadata": dict(self.metadata)}  # fmt: skip
        write_model(path, self.network, arrays, header)

    @classmethod
    def of_parts(cls, header: Mapping[str, Any], state: Mapping[str, Any], arrays: Mapping[str, Any]) -> XPModel:
        """From what `read_model` gives."""
        network = XPNetwork(header["latents"])
        network.load_state_dict(state)
        return cls(
            Standardisation(header["normalisation"], arrays["centre"], arrays["scale"]),
            network.eval().requires_grad_(False), LatentSpace(arrays["latent_mean"], arrays["latent_covariance"]),
            OrdinaryStars.of_tensors(XP_SIGNS, under("reference.", arrays)), header["metadata"],
        )  # fmt: skip
