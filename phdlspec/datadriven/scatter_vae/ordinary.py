"""What ordinary stars are like, beside their spectra: latents, continua, single lines, and the signs of strangeness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phdlspec.datadriven.dataset import Dataset
from phdlspec.datadriven.scatter_vae.balmer import balmer_strength
from phdlspec.datadriven.scatter_vae.flux_shape import FluxShape
from phdlspec.datadriven.scatter_vae.latent_space import LatentSpace
from phdlspec.datadriven.scatter_vae.neighbours import Neighbours
from phdlspec.datadriven.scatter_vae.residuals import SpectrumResiduals
from phdlspec.datadriven.scatter_vae.second_lines import SecondLines, projections
from phdlspec.datadriven.scatter_vae.signs import SPECTRUM_SIGNS, of_distance, signs_of
from phdlspec.datadriven.scatter_vae.storage import under

Array = NDArray[np.float64]


def known_snr(data: Dataset) -> Array:
    """Signal-to-noise ratios (N,) of spectra, small where there is none."""
    return np.nan_to_num(data.snr, nan=1.0).clip(min=1e-3)


@dataclass(frozen=True)
class Ordinary:
    """Where latents lie and reconstructions, what continua such stars have, what tells a single star from a pair."""

    latents: LatentSpace
    neighbours: Neighbours
    flux_shape: FluxShape
    second_lines: SecondLines

    def signs(self, left: SpectrumResiduals, latents: Array, data: Dataset) -> Array:
        """The signs (N, F) of `SPECTRUM_SIGNS`, of N spectra with their residuals and latents (N, K)."""
        snr = known_snr(data)
        aside = {
            "latents": of_distance(self.latents.distance(latents)),
            "neighbours": of_distance(self.neighbours.distance(left.model)),
            "Balmer lines": np.nan_to_num(balmer_strength(data)),
            "flux calibration": self.flux_shape.distance(data.level, latents),
            "second lines": self.second_lines.amount(projections(left), latents, snr),
            "noise": -np.log(snr),
        }
        return signs_of(left, aside, list(SPECTRUM_SIGNS))

    def tensors(self) -> dict[str, Array]:
        """For a file."""
        return {
            "latents.mean": self.latents.mean, "latents.covariance": self.latents.covariance,
            **{f"neighbours.{n}": a for n, a in self.neighbours.tensors().items()},
            **{f"flux_shape.{n}": a for n, a in self.flux_shape.tensors().items()},
            **{f"second_lines.{n}": a for n, a in self.second_lines.tensors().items()},
        }  # fmt: skip

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Any]) -> Ordinary:
        """Inverse of `tensors`."""
        space = LatentSpace(tensors["latents.mean"], tensors["latents.covariance"])
        near, shape, lines = (under(f"{name}.", tensors) for name in ("neighbours", "flux_shape", "second_lines"))
        return cls(space, Neighbours.of_tensors(near), FluxShape.of_tensors(shape), SecondLines.of_tensors(lines))
