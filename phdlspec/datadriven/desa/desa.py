"""A trained model: embeddings of stars with a spectrum, a light curve, or both, and its file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import NDArray
from torch import Tensor, nn

from phdlspec.datadriven.dataset import Dataset
from phdlspec.datadriven.desa.dual_former import Attention, DualFormer
from phdlspec.datadriven.desa.encoders import LightCurveEncoder, SpectrumEncoder, features, pooled
from phdlspec.datadriven.desa.flags import DESA_WORDS, DesaFlag
from phdlspec.datadriven.desa.light_curve_set import LightCurveSet
from phdlspec.datadriven.desa.period_network import network_periods
from phdlspec.datadriven.desa.pretraining import tensors_of
from phdlspec.datadriven.desa.stars import DesaStars
from phdlspec.datadriven.desa.views import LEAST_FILLED, no_views
from phdlspec.datadriven.label_table import LabelInfo
from phdlspec.errors import UserError, first_line
from phdlspec.tensor_file import FileKind

# Version 2: the header holds a digest. Version 3: the light-curve encoder has a period network.
KIND = FileKind("phdlspec-desa", 3, "model", "phdlspec desa train", digest_since=2)
KINDS = ("both", "spectrum", "light curve")
PERIODS = ("PROT_NET", "PROT_NET_ERR", "PROT_ACF", "PROT_LS")
_BATCH = 256

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DesaSettings:
    """Sizes and the course of the training.

    width : of a token. layers : blocks of each encoder and of the DualFormer. size : K, components of e1 and e2.
    attention, transpose : see `DualFormer`. objective : "dual", or "contrastive" for CLIP's loss. rotators : simulated
    ones from which periods are learned. *_epochs : of the period network, the two encoders and the DualFormer.
    hold_out : share of the stars that are kept from all of these.
    """

    width: int = 64
    layers: int = 2
    size: int = 64
    attention: Attention = "both"
    transpose: bool = True
    objective: str = "dual"
    rotators: int = 3000
    period_epochs: int = 10
    spectrum_epochs: int = 20
    curve_epochs: int = 5
    dual_epochs: int = 4
    hold_out: float = 0.2
    batch: int = 64
    rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Tokens:
    """What the encoders say of N stars, before the DualFormer.

    spectrum (N, T1, D), curve (N, T2, D) : pooled tokens, the light curve's averaged over its stretches; 0 where there
    is none. have : (N, 2) which there are. spectrum_features, curve_features : (N, 3 D). quantiles : (N, L, 3),
    standardised.
    """

    spectrum: Tensor
    curve: Tensor
    have: Tensor
    spectrum_features: Tensor
    curve_features: Tensor
    quantiles: Tensor


@dataclass(frozen=True)
class EmbeddingScale:
    """Mean (2 K,) and covariance (2 K, 2 K) of the training stars' embeddings of a kind, and the distance that one in a
    thousand of them exceeds."""

    mean: Array
    covariance: Array
    limit: float

    def distance(self, embedding: Array) -> Array:
        """(N,) from the mean, rms of the components in units of their scatter."""
        offset = embedding - self.mean
        solved = np.linalg.solve(self.covariance, offset.T).T
        return np.asarray(np.sqrt(np.maximum((offset * solved).sum(1), 0.0) / len(self.mean)))

    @classmethod
    def of(cls, embedding: Array) -> EmbeddingScale:
        """That of a set of embeddings (N, 2 K)."""
        variance = np.diag(embedding.var(axis=0)) + 1e-6 * np.eye(embedding.shape[1])
        scale = cls(embedding.mean(axis=0), 0.9 * np.cov(embedding.T) + 0.1 * variance, np.inf)
        return cls(scale.mean, scale.covariance, float(np.quantile(scale.distance(embedding), 0.999)))


@dataclass(frozen=True)
class Desa:
    """A trained model.

    wave : (P,) vacuum Å of its spectra. infos, shift, scale : of the L labels that the spectrum encoder learned.
    scales : of the training stars seen with both modalities, the spectrum alone, the light curve alone.
    metadata : settings, provenance, names of the training stars and of the held-out ones.
    """

    wave: Array
    spectrum_encoder: SpectrumEncoder
    curve_encoder: LightCurveEncoder
    dual_former: DualFormer
    settings: DesaSettings
    infos: tuple[LabelInfo, ...]
    shift: Array
    scale: Array
    scales: tuple[EmbeddingScale, ...]
    metadata: Mapping[str, Any]

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The networks by name."""
        return {"spectrum": self.spectrum_encoder, "curve": self.curve_encoder, "dual": self.dual_former}

    def tokens(self, stars: DesaStars, spectra: Dataset | None, curves: LightCurveSet | None) -> Tokens:
        """What the encoders say of stars. Raises `UserError` for spectra on other pixels."""
        if spectra is not None and (
            len(spectra.wave) != len(self.wave) or not np.allclose(spectra.wave, self.wave, rtol=1e-6)
        ):
            raise UserError(
                f"the spectra have {len(spectra.wave)} pixels at {spectra.wave[0]:.1f}-{spectra.wave[-1]:.1f} Å, the "
                f"model {len(self.wave)} at {self.wave[0]:.1f}-{self.wave[-1]:.1f} Å"
            )
        return encode(self.spectrum_encoder, self.curve_encoder, stars, spectra, curves)

    def embed(self, tokens: Tokens) -> Array:
        """Embeddings (N, 2 K); NaN where a star has neither modality."""
        return run_dual(self.dual_former, tokens)

    def apply(self, stars: DesaStars, spectra: Dataset | None, curves: LightCurveSet | None) -> Table:
        """A table with one row a star, in their order.

        Columns STAR, SPECTRUM, LIGHT_CURVE (files), EMBEDDING (2 K), SPECTRUM_FEATURES, LIGHT_CURVE_FEATURES (3 D, of
        the encoders alone), <LABEL>, <LABEL>_ERR for each label that the spectrum encoder learned, PROT_NET,
        PROT_NET_ERR (of the period network), PROT_ACF, PROT_LS (classical), DISTANCE, FLAG (`DesaFlag`), REASON.
        """
        tokens = self.tokens(stars, spectra, curves)
        embedding = self.embed(tokens)
        have = tokens.have.numpy()
        table = Table({
            "STAR": list(stars.names),
            "SPECTRUM": _files(() if spectra is None else zip(spectra.files, spectra.obsids), stars.spectrum),
            "LIGHT_CURVE": _files(() if curves is None else zip(curves.files, curves.stars), stars.light_curve),
            "EMBEDDING": embedding.astype(np.float32),
        })  # fmt: skip
        for i, (name, part) in enumerate(
            zip(("SPECTRUM_FEATURES", "LIGHT_CURVE_FEATURES"), (tokens.spectrum_features, tokens.curve_features))
        ):
            table[name] = np.where(have[:, i, None], part.numpy(), np.nan).astype(np.float32)
        self._add_labels(table, tokens)
        for name, values in self.periods(curves).items():
            table[name] = np.where(stars.light_curve >= 0, values[stars.light_curve], np.nan)
            table[name].unit = "d"
        distance = self._distance(embedding, have)
        table["DISTANCE"] = distance
        table["FLAG"] = self._flags(stars, curves, have, distance)
        table["REASON"] = _reasons(stars, spectra, curves)
        for column, words in _WORDS.items():
            table[column].description = words
        return table

    def periods(self, curves: LightCurveSet | None) -> dict[str, Array]:
        """Rotation periods (d) of a set of light curves by column of the table of `apply`; one NaN where there is no
        set."""
        if curves is None:
            return {name: np.full(1, np.nan) for name in PERIODS}
        network = network_periods(self.curve_encoder.period, curves)
        return dict(zip(PERIODS, (*network, curves.period_acf, curves.period_ls)))

    def _add_labels(self, table: Table, tokens: Tokens) -> None:
        low, middle, high = tokens.quantiles.numpy().transpose(2, 0, 1)
        lost = ~tokens.have.numpy()[:, 0]
        for i, info in enumerate(self.infos):
            for column, values in (
                (info.name, self.shift[i] + self.scale[i] * middle[:, i]),
                (f"{info.name}_ERR", 0.5 * self.scale[i] * (high - low)[:, i]),
            ):
                table[column] = np.where(lost, np.nan, values)
                table[
                    column
                ].description = f"{info.name} from the spectrum, median and half of 16-84%, of {info.set_name}"
                if info.unit:
                    table[column].unit = info.unit

    def _distance(self, embedding: Array, have: NDArray[np.bool_]) -> Array:
        distance = np.full(len(embedding), np.nan)
        for scale, rows in zip(self.scales, _kinds(have)):
            if rows.any():
                distance[rows] = scale.distance(embedding[rows])
        return distance

    def _flags(
        self, stars: DesaStars, curves: LightCurveSet | None, have: NDArray[np.bool_], distance: Array
    ) -> NDArray[np.int32]:
        flag = np.zeros(len(stars), dtype=np.int32)
        flag[~have[:, 0]] |= int(DesaFlag.NO_SPECTRUM)
        flag[~have[:, 1]] |= int(DesaFlag.NO_LIGHT_CURVE)
        for scale, rows in zip(self.scales, _kinds(have)):
            flag[rows & (distance > scale.limit)] |= int(DesaFlag.OUTSIDE_TRAINING)
        if curves is not None:
            longest = np.zeros(len(curves))
            np.maximum.at(longest, curves.owner, curves.views.scalars[:, 2])
            short = have[:, 1] & (longest[stars.light_curve] < LEAST_FILLED)
            flag[short] |= int(DesaFlag.SHORT_LIGHT_CURVE)
        flag[~have.any(axis=1)] = int(DesaFlag.NOTHING)
        return flag

    def save(self, path: str | Path) -> None:
        """Write it as safetensors with a JSON header."""
        tensors = {f"{n}.{k}": t for n, module in self.modules.items() for k, t in module.state_dict().items()}
        arrays = {"wave": self.wave, "shift": self.shift, "scale": self.scale}
        for kind, scale in zip(KINDS, self.scales):
            arrays |= {f"mean.{kind}": scale.mean, f"covariance.{kind}": scale.covariance}
        tensors |= {name: torch.as_tensor(np.asarray(array)) for name, array in arrays.items()}
        header = {
            "settings": asdict(self.settings),
            "infos": [asdict(info) for info in self.infos], "limits": [scale.limit for scale in self.scales],
            "tokens": [len(absent[0]) for absent in self.dual_former.absent], "metadata": dict(self.metadata),
        }  # fmt: skip
        KIND.write(path, tensors, header)

    @classmethod
    def load(cls, path: str | Path) -> Desa:
        """Read a model. Raises `UserError` for a file that is missing, damaged or something else."""
        file = KIND.read(path)
        header, tensors = file.metadata, file.tensors
        try:
            settings = DesaSettings(**header["settings"])
            infos = tuple(LabelInfo(**info) for info in header["infos"])
            wave = tensors["wave"].numpy()
            spectrum, curve = new_encoders(settings, len(wave), len(infos))
            one, two = header["tokens"]
            model = cls(
                wave, spectrum, curve, new_dual(settings, (one, two)), settings, infos,
                tensors["shift"].numpy(), tensors["scale"].numpy(),
                tuple(EmbeddingScale(tensors[f"mean.{k}"].numpy(), tensors[f"covariance.{k}"].numpy(), limit)
                      for k, limit in zip(KINDS, header["limits"])),
                header["metadata"],
            )  # fmt: skip
            for name, module in model.modules.items():
                start = f"{name}."
                module.load_state_dict({n[len(start) :]: t for n, t in tensors.items() if n.startswith(start)})
                module.eval()
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path}: a damaged model ({first_line(error)}); train or copy it again") from error
        return model


_WORDS = {
    "STAR": "name, of the target of the light curve or the spectrum",
    "EMBEDDING": "p1 of the spectrum and p2 of the light curve on the shared axes",
    "SPECTRUM_FEATURES": "of the spectrum encoder alone",
    "LIGHT_CURVE_FEATURES": "of the light-curve encoder alone",
    "PROT_NET": "rotation period by the period network",
    "PROT_NET_ERR": "half the width of the middle 68% of what the network thinks likely",
    "PROT_ACF": "classical: rotation period from the autocorrelation",
    "PROT_LS": "classical: highest peak of the Lomb-Scargle periodogram",
    "DISTANCE": "from the training stars, rms of the components in sigma",
    "FLAG": "; ".join(f"{int(bit)} {words}" for bit, words in DESA_WORDS.items()),
    "REASON": "why a modality is missing",
}


def new_encoders(settings: DesaSettings, pixels: int, labels: int) -> tuple[SpectrumEncoder, LightCurveEncoder]:
    """Encoders with random weights."""
    return (
        SpectrumEncoder(pixels, labels, settings.width, settings.layers),
        LightCurveEncoder(settings.width, settings.layers),
    )


def new_dual(settings: DesaSettings, tokens: tuple[int, int]) -> DualFormer:
    """A DualFormer with random weights."""
    return DualFormer(tokens, settings.width, settings.size, settings.layers, settings.attention, settings.transpose)


def _kinds(have: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Rows of stars with both modalities, the spectrum alone, the light curve alone, in the order of `KINDS`."""
    one, other = have.T
    return [one & other, one & ~other, other & ~one]


@torch.no_grad()
def encode(
    spectrum_encoder: SpectrumEncoder,
    curve_encoder: LightCurveEncoder,
    stars: DesaStars,
    spectra: Dataset | None,
    curves: LightCurveSet | None,
) -> Tokens:
    """Tokens of stars by encoders in evaluation mode."""
    have = np.zeros((len(stars), 2), dtype=bool)
    if spectra is not None:
        have[:, 0] = (stars.spectrum >= 0) & spectra.readable[stars.spectrum]
    if curves is not None:
        have[:, 1] = (stars.light_curve >= 0) & curves.readable[stars.light_curve]
    one, one_features, quantiles = _encode_spectra(spectrum_encoder, spectra, stars.spectrum, have[:, 0])
    two, two_features = _encode_curves(curve_encoder, curves, stars.light_curve, have[:, 1])
    return Tokens(one, two, torch.as_tensor(have), one_features, two_features, quantiles)


def _encode_spectra(
    encoder: SpectrumEncoder, spectra: Dataset | None, rows: NDArray[np.int64], have: NDArray[np.bool_]
) -> tuple[Tensor, Tensor, Tensor]:
    width = encoder.summary.shape[2]
    empty = encoder(torch.zeros(1, encoder.pixels), torch.zeros(1, encoder.pixels))
    tokens = torch.zeros(len(rows), pooled(empty).shape[1], width)
    vector, quantiles = (
        torch.zeros(len(rows), features(empty).shape[1]),
        torch.zeros(len(rows), *encoder.quantiles(empty).shape[1:]),
    )
    if spectra is None:
        return tokens, vector, quantiles
    for part in torch.as_tensor(np.flatnonzero(have)).split(_BATCH):  # type: ignore[no-untyped-call]
        chosen = rows[part.numpy()]
        flux, ivar = (torch.as_tensor(x[chosen]) for x in (spectra.flux, spectra.ivar))
        found = encoder(*encoder.standardised(flux, ivar))
        tokens[part], vector[part], quantiles[part] = pooled(found), features(found), encoder.quantiles(found)
    return tokens, vector, quantiles


def _encode_curves(
    encoder: LightCurveEncoder, curves: LightCurveSet | None, rows: NDArray[np.int64], have: NDArray[np.bool_]
) -> tuple[Tensor, Tensor]:
    empty = encoder(*(tensor[:1] for tensor in tensors_of(no_views(1))))
    count, width, size = pooled(empty).shape[1], empty.shape[2], features(empty).shape[1]
    tokens, vector = torch.zeros(len(rows), count, width), torch.zeros(len(rows), size)
    if curves is None:
        return tokens, vector
    stretches = torch.zeros(len(curves), count, width)
    summary = torch.zeros(len(curves), size)
    for part in torch.arange(len(curves.owner)).split(_BATCH):  # type: ignore[no-untyped-call]
        found = encoder(*tensors_of(curves.views.take(part.numpy())))
        owner = torch.as_tensor(curves.owner[part.numpy()])
        stretches.index_add_(0, owner, pooled(found))
        summary.index_add_(0, owner, features(found))
    number = torch.as_tensor(np.bincount(curves.owner, minlength=len(curves))).clamp(min=1)
    chosen = torch.as_tensor(rows[have])
    tokens[have] = stretches[chosen] / number[chosen, None, None]
    vector[have] = summary[chosen] / number[chosen, None]
    return tokens, vector


@torch.no_grad()
def run_dual(dual_former: DualFormer, tokens: Tokens) -> Array:
    """Embeddings (N, 2 K), NaN where a star has neither modality."""
    parts = [
        dual_former(tokens.spectrum[rows], tokens.curve[rows], tokens.have[rows])
        for rows in torch.arange(len(tokens.have)).split(_BATCH)  # type: ignore[no-untyped-call]
    ]
    embedding = torch.cat(parts).double().numpy()
    embedding[~tokens.have.any(dim=1).numpy()] = np.nan
    return embedding


def _files(names: Iterable[tuple[str, str]], rows: NDArray[np.int64]) -> list[str]:
    known = [file or name for file, name in names]
    return [known[row] if row >= 0 else "" for row in rows]


def _reasons(stars: DesaStars, spectra: Dataset | None, curves: LightCurveSet | None) -> list[str]:
    found = []
    for one, other in zip(stars.spectrum, stars.light_curve):
        words = [] if one < 0 or spectra is None else [spectra.reasons[one]]
        words += [] if other < 0 or curves is None else [curves.reasons[other]]
        found.append("; ".join(word for word in words if word))
    return found
