"""A trained model: labels of any spectrum, with their errors, and its file."""

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
from phdlspec.datadriven.label_table import LabelInfo
from phdlspec.datadriven.lux.flags import LUX_WORDS, LuxFlag
from phdlspec.datadriven.lux.held_out import LabelErrorModel
from phdlspec.datadriven.lux.label_map import LabelMap, MapBasis
from phdlspec.datadriven.lux.model import Parameters, StarArrays, infer
from phdlspec.errors import UserError, first_line
from phdlspec.spectrum import Spectrum
from phdlspec.tensor_file import FileKind

# Version 2: the header holds a digest. 3: label maps with products of three latents, noise apart from the error.
KIND = FileKind("phdlspec-lux", 3, "model", "phdlspec lux train", oldest=3, digest_since=2, nan_in=("held_out",))
_RANGE_MARGIN = 0.1  # of a label's range, beyond which a prediction is outside it

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """Labels (N, L) with covariance (N, L, L) in label units, and the part of it that is noise, which another spectrum
    of the star would change; latents (N, K), their distance (N,) from the training stars, chi2, number of pixels."""

    values: Array
    covariance: Array
    noise: Array
    latents: Array
    distance: Array
    chi2: Array
    pixels: NDArray[np.int64]


@dataclass(frozen=True)
class Limits:
    """Distance and reduced chi2 that one in a thousand of the held-out stars exceeds; lowest and highest label (L,)."""

    distance: float
    rchi2: float
    lowest: Array
    highest: Array


@dataclass(frozen=True)
class Lux:
    """A trained model.

    wave : (P,) vacuum Å. used : (P,) pixels that it knows. infos, shift, scale : of the L labels; internally they are
    (label - shift) / scale. latent_mean (K,), latent_covariance (K, K) : of the training stars, from flux alone.
    metadata : settings, provenance, accuracy on held-out stars. held_out : their predictions by file name.
    """

    wave: Array
    used: NDArray[np.bool_]
    resolving_power: Array
    parameters: Parameters
    label_map: LabelMap
    errors: LabelErrorModel
    infos: tuple[LabelInfo, ...]
    shift: Array
    scale: Array
    latent_mean: Array
    latent_covariance: Array
    limits: Limits
    metadata: Mapping[str, Any]
    held_out_files: tuple[str, ...]
    held_out: Array

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the labels: plain names of the first set, SET_LABEL of the others."""
        first = self.infos[0].set_name
        return tuple(i.name if i.set_name == first else f"{i.set_name.upper()}_{i.name}" for i in self.infos)

    def predict(self, data: Dataset, device: str | torch.device = "cpu") -> Prediction:
        """Labels from flux alone. The latents are the solution of a linear equation: they start from nothing, and no
        label of these stars is looked at."""
        stars = self.stars_of(data, device)
        parameters = Parameters(**{name: t.to(device) for name, t in self.parameters.tensors().items()})
        z, covariance, chi2 = (part.cpu() for part in infer(parameters, stars))
        slope = self.parameters.label_loadings + self.label_map.jacobian(z)
        spread = (slope @ covariance @ slope.mT).numpy()
        labels = self.parameters.label_mean + z @ self.parameters.label_loadings.T + self.label_map.correction(z)
        wide = covariance.numpy() + self.latent_covariance
        offset = z.numpy() - self.latent_mean
        distance = np.sqrt(np.einsum("nk,nk->n", offset, np.linalg.solve(wide, offset[..., None])[..., 0]) / z.shape[1])
        units = np.outer(self.scale, self.scale)
        return Prediction(
            self.shift + self.scale * labels.numpy(),
            self.errors.full(spread) * units, self.errors.noise(spread) * units,
            z.numpy(), distance, chi2.numpy(), (stars.ivar > 0).sum(1).cpu().numpy(),
        )  # fmt: skip

    def stars_of(self, data: Dataset, device: str | torch.device = "cpu") -> StarArrays:
        """The spectra of a data set on the model's pixels, without labels."""
        if len(data.wave) != len(self.wave) or not np.allclose(data.wave, self.wave, rtol=1e-6):
            raise UserError(
                f"the spectra have {len(data.wave)} pixels at {data.wave[0]:.1f}-{data.wave[-1]:.1f} Å, the model "
                f"{len(self.wave)} at {self.wave[0]:.1f}-{self.wave[-1]:.1f} Å"
            )
        flux, ivar = (torch.as_tensor(x[:, self.used], device=device) for x in (data.flux, data.ivar))
        empty = torch.zeros(len(data), len(self.infos), dtype=torch.float64, device=device)
        return StarArrays(flux, ivar, empty, empty)

    def apply(self, spectra: Dataset | Sequence[str | Path | Spectrum], device: str = "cpu", **reading: Any) -> Table:
        """A table with one row a spectrum, in their order.

        spectra : a data set, or anything that `read_dataset` takes (`reading` are its options).

        Columns FILE, OBSID, RA, DEC, <LABEL>, <LABEL>_ERR, <LABEL>_NOISE ..., COVARIANCE (L, L) in the order of the
        labels, RV, SNR, CHI2, RCHI2, NPIX, LATENTS (K,), DISTANCE, FLAG (`LuxFlag`), REASON.
        """
        if not isinstance(spectra, Dataset):
            spectra = read_dataset(spectra, grid=self.wave, **reading)
        return self._table(spectra, self.predict(spectra, device))

    def flags(self, data: Dataset, found: Prediction) -> NDArray[np.int32]:
        """Bits of `LuxFlag` (N,)."""
        width = _RANGE_MARGIN * (self.limits.highest - self.limits.lowest)
        outside = (found.values < self.limits.lowest - width) | (found.values > self.limits.highest + width)
        flag = np.zeros(len(data), dtype=np.int32)
        for bit, where in (
            (LuxFlag.OUTSIDE_TRAINING, found.distance > self.limits.distance),
            (LuxFlag.POOR_FIT, found.chi2 / np.maximum(found.pixels, 1) > self.limits.rchi2),
            (LuxFlag.LABELS_OUTSIDE, outside.any(axis=1)),
            (LuxFlag.FEW_PIXELS, found.pixels < 0.5 * self.used.sum()),
        ):
            flag[where] |= int(bit)
        flag[~data.readable] = int(LuxFlag.UNREADABLE)
        return flag

    def _table(self, data: Dataset, found: Prediction) -> Table:
        lost = ~data.readable
        table = Table({"FILE": data.files, "OBSID": data.obsids, "RA": data.ra, "DEC": data.dec})
        error, noise = (np.sqrt(np.einsum("nll->nl", part)) for part in (found.covariance, found.noise))
        noise_words = "the part of its error that another spectrum of the star would change"
        for i, (name, info) in enumerate(zip(self.names, self.infos)):
            for column, values, words in ((name, found.values, "from flux alone"), (f"{name}_ERR", error, "its error"),
                                          (f"{name}_NOISE", noise, noise_words)):  # fmt: skip
                table[column] = np.where(lost, np.nan, values[:, i])
                table[column].description = f"{info.name} on the scale of {info.set_name}, {words}"
                if info.unit:
                    table[column].unit = info.unit
        covariance = np.where(lost[:, None, None], np.nan, found.covariance).astype(np.float32)
        columns: dict[str, tuple[Any, str]] = {
            "COVARIANCE": (covariance, f"of {' '.join(self.names)}"),
            "RV": (data.velocity, "velocity that was taken out, km/s"),
            "SNR": (data.snr, "median signal-to-noise ratio of the pixels used"),
            "CHI2": (np.where(lost, np.nan, found.chi2), "of the spectrum, with the model's scatter"),
            "RCHI2": (np.where(lost, np.nan, found.chi2 / np.maximum(found.pixels, 1)), "CHI2 over pixels"),
            "NPIX": (found.pixels, "pixels used"),
            "LATENTS": (np.where(lost[:, None], np.nan, found.latents).astype(np.float32), "the star's latent vector"),
            "DISTANCE": (
                np.where(lost, np.nan, found.distance),
                "from the training stars, rms of the latents in sigma",
            ),
            "FLAG": (self.flags(data, found), "; ".join(f"{int(b)} {w}" for b, w in LUX_WORDS.items())),
            "REASON": (list(data.reasons), "why there is no result"),
        }
        for column, (values, words) in columns.items():
            table[column] = values
            table[column].description = words
        scales = {info.set_name: info.solar_scale for info in self.infos}
        table.meta = {
            "SOLSCALE": next(iter(scales.values())),
            "LUXSETS": ", ".join(f"{k}: {v}" for k, v in scales.items()),
        }
        return table

    def save(self, path: str | Path) -> None:
        """Write it as safetensors with a JSON header."""
        tensors = {f"parameters.{name}": t for name, t in self.parameters.tensors().items()}
        tensors |= {name: torch.as_tensor(np.asarray(getattr(self, name))) for name in _ARRAYS}
        tensors |= {
            "label_map": self.label_map.coefficients, "map_lowest": self.label_map.basis.lowest,
            "map_highest": self.label_map.basis.highest, "error_factor": torch.as_tensor(self.errors.factor),
            "error_covariance": torch.as_tensor(self.errors.covariance),
            "lowest": torch.as_tensor(self.limits.lowest), "highest": torch.as_tensor(self.limits.highest),
        }  # fmt: skip
        header = {
            "infos": [asdict(info) for info in self.infos],
            "pairs": self.errors.pairs, "distance": self.limits.distance, "rchi2": self.limits.rchi2,
            "held_out_files": self.held_out_files, "metadata": dict(self.metadata),
        }  # fmt: skip
        KIND.write(path, tensors, header)

    @classmethod
    def load(cls, path: str | Path) -> Lux:
        """Read a model. Raises `UserError` for a file that is missing, damaged or something else."""
        file = KIND.read(path)
        header, tensors = file.metadata, file.tensors
        try:
            parameters = Parameters(**{n.split(".")[1]: t for n, t in tensors.items() if n.startswith("parameters.")})
            arrays = {name: tensors[name].numpy() for name in _ARRAYS}
            return cls(
                parameters=parameters,
                label_map=LabelMap(
                    MapBasis(tensors["map_lowest"], tensors["map_highest"], parameters.latents), tensors["label_map"]
                ),
                errors=LabelErrorModel(
                    tensors["error_factor"].numpy(), tensors["error_covariance"].numpy(), header["pairs"]
                ),
                infos=tuple(LabelInfo(**info) for info in header["infos"]),
                limits=Limits(header["distance"], header["rchi2"], *(tensors[n].numpy() for n in ("lowest",
                "highest"))),
                metadata=header["metadata"], held_out_files=tuple(header["held_out_files"]), **arrays,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: a damaged model ({first_line(error)}); train or copy it again") from error


_ARRAYS = ("wave", "used", "resolving_power", "shift", "scale", "latent_mean", "latent_covariance", "held_out")
