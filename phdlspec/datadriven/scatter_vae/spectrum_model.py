"""A trained model of spectra: reconstruction, scatter of every pixel, how strange a spectrum is and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.datadriven.dataset import Dataset, read_dataset
from phdlspec.datadriven.scatter_vae.basis import chunks
from phdlspec.datadriven.scatter_vae.inference import Explained, explain
from phdlspec.datadriven.scatter_vae.ordinary import Ordinary, known_snr
from phdlspec.datadriven.scatter_vae.output_table import Inferred, output_table
from phdlspec.datadriven.scatter_vae.residuals import SpectrumResiduals, describe_windows, worst_windows
from phdlspec.datadriven.scatter_vae.score import OrdinaryStars
from phdlspec.datadriven.scatter_vae.signs import SPECTRUM_SIGNS
from phdlspec.datadriven.scatter_vae.spectrum_network import NetworkShape, SpectrumNetwork
from phdlspec.datadriven.scatter_vae.storage import under, write_model
from phdlspec.errors import UserError
from phdlspec.spectrum import Spectrum

FORM = "spectrum"
Array = NDArray[np.float64]


def deviations(flux: NDArray[Any], ivar: NDArray[Any], explained: Explained) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Deviations of spectra (N, P) in units of their expected size, that size, and which are good."""
    good = ivar > 0
    model, sigma = explained.model.cpu().numpy(), explained.variance.sqrt().cpu().numpy()
    return np.where(good, (flux - model) / sigma, 0.0), sigma, good


@dataclass(frozen=True)
class SpectrumModel:
    """A trained model.

    wave : (P,) vacuum Å. used : (P,) the Pu pixels that it knows. usual : (Pu,) see `SpectrumResiduals`. ordinary :
    what its training stars are like. reference : their signs. metadata : settings, provenance, what held-out stars say.
    """

    wave: Array
    used: NDArray[np.bool_]
    usual: Array
    network: SpectrumNetwork
    ordinary: Ordinary
    reference: OrdinaryStars
    metadata: Mapping[str, Any]

    def arrays(self, data: Dataset) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Flux and inverse variance (N, Pu) of a data set on the pixels that the model knows."""
        if len(data.wave) != len(self.wave) or not np.allclose(data.wave, self.wave, rtol=1e-6):
            raise UserError(
                f"the spectra have {len(data.wave)} pixels at {data.wave[0]:.1f}-{data.wave[-1]:.1f} Å, the model "
                f"{len(self.wave)} at {self.wave[0]:.1f}-{self.wave[-1]:.1f} Å; give the spectra themselves"
            )
        return data.flux[:, self.used], data.ivar[:, self.used]

    def explain(self, data: Dataset, hidden: NDArray[np.bool_] | None = None) -> tuple[Explained, SpectrumResiduals]:
        """Latents, reconstruction, variance and scatter on the pixels that the model knows, and what is left.

        hidden : (Pu,) pixels that are not to be looked at, only predicted.
        """
        flux, ivar = self.arrays(data)
        device = self.network.mean.device
        unseen = None if hidden is None else torch.as_tensor(hidden, device=device)
        tensors = torch.as_tensor(flux, device=device), torch.as_tensor(ivar, device=device)
        explained = explain(self.network, tensors[0], tensors[1], unseen)
        deviation, sigma, good = deviations(flux, ivar, explained)
        model = explained.model.cpu().numpy()
        velocity = np.nan_to_num(data.velocity)
        return explained, SpectrumResiduals(deviation, good, model, sigma, self.usual, self.wave[self.used], velocity)

    def find(self, data: Dataset) -> Inferred:
        """What the model finds of a data set."""
        parts = [self._find(data.take(np.arange(len(data))[c])) for c in chunks(len(data))]
        merged = {
            n: np.concatenate([getattr(p, n) for p in parts]) for n in Inferred.__dataclass_fields__ if n != "worst"
        }
        return Inferred(**merged, worst=[w for p in parts for w in p.worst])

    def _find(self, data: Dataset) -> Inferred:
        explained, left = self.explain(data)
        latents = explained.latents.cpu().numpy().astype(float)
        scatter = np.where(left.good, explained.scatter.cpu().numpy(), np.nan)
        with np.errstate(all="ignore"):
            median = np.array([np.median(row[good]) if good.any() else np.nan for row, good in zip(scatter, left.good)])
        return Inferred(
            latents, (left.deviation**2).sum(axis=1), left.good.sum(axis=1), median,
            self.ordinary.signs(left, latents, data), known_snr(data),
            [describe_windows(w) for w in worst_windows(left, self.wave[self.used])],
        )  # fmt: skip

    def apply(self, spectra: Dataset | Sequence[str | Path | Spectrum], **reading: Any) -> Table:
        """A table with one row a spectrum (see `output_table`), with FILE, OBSID, RA, DEC, RV before.

        spectra : a data set, or what `read_dataset` takes, of which `reading` are the options.
        """
        data = spectra if isinstance(spectra, Dataset) else read_dataset(spectra, grid=self.wave, **reading)
        identity = Table(
            {"FILE": data.files, "OBSID": data.obsids, "RA": data.ra, "DEC": data.dec, "RV": data.velocity}
        )
        return output_table(identity, self.find(data), data.reasons, self.reference, int(self.used.sum()))

    def to(self, device: str) -> SpectrumModel:
        """The same model, computing there."""
        self.network.to(device)
        return self

    def save(self, path: str | Path) -> None:
        """Write it as safetensors."""
        arrays = {"wave": self.wave, "used": self.used, "usual": self.usual,
                  **{f"ordinary.{n}": a for n, a in self.ordinary.tensors().items()},
                  **{f"reference.{n}": a for n, a in self.reference.tensors().items()}}  # fmt: skip
        header = {"form": FORM, "shape": asdict(self.network.shape), "metadata": dict(self.metadata)}
        write_model(path, self.network, arrays, header)

    @classmethod
    def of_parts(cls, header: Mapping[str, Any], state: Mapping[str, Any], arrays: Mapping[str, Any]) -> SpectrumModel:
        """From what `read_model` gives."""
        network = SpectrumNetwork(NetworkShape(**header["shape"]))
        network.load_state_dict(state)
        return cls(
            arrays["wave"], arrays["used"], arrays["usual"], network.eval().requires_grad_(False),
            Ordinary.of_tensors(under("ordinary.", arrays)),
            OrdinaryStars.of_tensors(SPECTRUM_SIGNS, under("reference.", arrays)), header["metadata"],
        )  # fmt: skip
