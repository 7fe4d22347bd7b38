"""Training on spectra: on emulated stars first, then on real ones; folds of held-out stars set scatter and reference.

1. Principal components of emulated and real stars make the encoder's front and the decoder's basis.
2. The network learns emulated stars with that basis fixed (LAMOST's pixels only: the mocks are LAMOST's).
3. For each fold of the real stars it goes on with the others, basis and all. The stars held out say by wavelength how
   much larger scatter is for a star not seen, and how large each sign of strangeness is for ordinary stars; beside them
   lie pairs made of them, see `SecondLines`.
4. It goes on with all real stars: the model.
The number of latents is that with the highest likelihood of the first fold's held-out stars.
"""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phdlspec.datadriven.dataset import Dataset
from phdlspec.datadriven.folds import grouped_folds
from phdlspec.datadriven.scatter_vae.basis import coefficients_of, principal_components
from phdlspec.datadriven.scatter_vae.calibration import HeldOutResiduals, calibrate, mean_squares
from phdlspec.datadriven.scatter_vae.flux_shape import FluxShape
from phdlspec.datadriven.scatter_vae.inference import Explained, explain
from phdlspec.datadriven.scatter_vae.latent_space import LatentSpace
from phdlspec.datadriven.scatter_vae.neighbours import Neighbours
from phdlspec.datadriven.scatter_vae.optimise import Schedule, optimise
from phdlspec.datadriven.scatter_vae.ordinary import Ordinary, known_snr
from phdlspec.datadriven.scatter_vae.pretraining import emulated_stars
from phdlspec.datadriven.scatter_vae.residuals import SpectrumResiduals, usual_deviation
from phdlspec.datadriven.scatter_vae.score import OrdinaryStars, learn_reference
from phdlspec.datadriven.scatter_vae.second_lines import SecondLines, doubled, projections
from phdlspec.datadriven.scatter_vae.signs import SPECTRUM_SIGNS
from phdlspec.datadriven.scatter_vae.spectrum_model import SpectrumModel, deviations
from phdlspec.datadriven.scatter_vae.spectrum_network import FRONT_SCATTER, NetworkShape, SpectrumNetwork
from phdlspec.datadriven.training_folder import TrainingFolder
from phdlspec.errors import UserError
from phdlspec.provenance import versions
from phdlspec.wavelength import LAMOST_WAVE

FEWEST = 100
FOLDS = 5
HELD_OUT = 1000  # stars are enough: with more stars than that in a fold one fold is
COVERED = 0.1  # of the spectra must have a pixel
CANDIDATES = (6, 8, 10, 12, 16)
COMPONENTS = 40
MOCKS_IN_BASIS = 1500
BINS_TOLD = 12  # of wavelength
SNR_TOLD = (50.0, 100.0, 200.0)  # where parts by S/N end
_SPECTRA_LISTED = 20_000


@dataclass(frozen=True)
class SpectrumSettings:
    """What a training is asked for. latents : None to choose them."""

    latents: int | None = None
    mocks: int = 4000
    mock_epochs: int = 10
    epochs: int = 40
    seed: int = 0


@dataclass(frozen=True)
class _Spectra:
    # flux, ivar (N, P) of the pixels used, and what the encoder sees of them once there is a front.
    flux: Tensor
    ivar: Tensor

    def take(self, rows: NDArray[Any]) -> _Spectra:
        index = torch.as_tensor(rows, device=self.flux.device)
        return _Spectra(self.flux[index], self.ivar[index])

    @property
    def weight(self) -> Tensor:
        return self.ivar / (1.0 + self.ivar * FRONT_SCATTER**2)


@dataclass(frozen=True)
class _Look:
    # What a network makes of spectra (n, P): latents (n, K) and model, variance of the noise by the network's factor.
    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    explained: Explained
    latents: NDArray[np.float64]
    noise: NDArray[np.float32]

    @classmethod
    def at(cls, network: SpectrumNetwork, spectra: _Spectra) -> _Look:
        explained = explain(network, spectra.flux, spectra.ivar)
        noise = torch.where(spectra.ivar > 0, network.ln_noise.exp() / spectra.ivar.clamp_min(1e-30), 0.0)
        flux, ivar = spectra.flux.cpu().numpy(), spectra.ivar.cpu().numpy()
        return cls(flux, ivar, explained, explained.latents.cpu().numpy().astype(float), noise.cpu().numpy())

    def deviations(
        self, ln_noise: NDArray[Any], ln_scatter: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
        # Deviations with calibrated noise and scatter, their expected size, which are good.
        scatter = self.explained.scatter.cpu().square() * torch.as_tensor(np.exp(ln_scatter))
        variance = torch.as_tensor(self.noise * np.exp(ln_noise)) + scatter
        variance = torch.where(torch.as_tensor(self.ivar) > 0, variance, torch.ones_like(variance))
        calibrated = Explained(self.explained.latents, self.explained.model, variance, scatter.sqrt())
        return deviations(self.flux, self.ivar, calibrated)


@dataclass(frozen=True)
class _Fold:
    rows: NDArray[np.int64]  # held out
    single: _Look
    paired: _Look  # the same stars, doubled
    learned: tuple[LatentSpace, Neighbours, FluxShape]  # of the other stars


def _what_is_learned(explained: Explained, level: NDArray[Any]) -> tuple[LatentSpace, Neighbours, FluxShape]:
    # What training stars are like, of their reconstructions and continua (N, C).
    latents, model, scatter = (getattr(explained, n).cpu().numpy() for n in ("latents", "model", "scatter"))
    latents = latents.astype(float)
    return LatentSpace.of(latents), Neighbours.learn(model, scatter), FluxShape.learn(level, latents)


def train_spectra(
    data: Dataset, settings: SpectrumSettings, *, device: str = "cpu", parts: Path | None = None, progress: bool = False
) -> SpectrumModel:
    """Learn from spectra.

    parts : folder in which finished work is kept, and from which a stopped run goes on. Raises `UserError` for too few
    spectra.
    """
    data = data.take(data.readable)
    if len(data) < FEWEST:
        raise UserError(f"{len(data)} spectra are too few to learn from, expected at least {FEWEST}")
    learned_from = {"wave": data.wave, "flux": data.flux, "ivar": data.ivar, "stars": data.stars}  # folds are of stars
    with TrainingFolder.open(parts, asdict(settings), learned_from, progress) as work:
        return _train(data, settings, device, work)


def _train(data: Dataset, settings: SpectrumSettings, device: str, work: TrainingFolder) -> SpectrumModel:
    began = time.perf_counter()
    used = (data.ivar > 0).mean(axis=0) >= COVERED
    run = _SpectrumTraining(data, used, settings, device, work)
    latents = settings.latents or run.choose_latents()
    numbers = range(min(FOLDS, -(-HELD_OUT * FOLDS // len(data))))
    folds = [run.fold(latents, number) for number in numbers]
    ln_noise, ln_scatter = calibrate(run.held_out(folds))
    judged = _Judged(data, used, folds, ln_noise, ln_scatter)
    network = run.tuned(latents, np.arange(len(data)), "all")
    with torch.no_grad():
        network.ln_noise.add_(torch.as_tensor(ln_noise, dtype=torch.float32))
        network.ln_calibration.add_(torch.as_tensor(ln_scatter, dtype=torch.float32))
    learned = _what_is_learned(explain(network, run.real.flux, run.real.ivar), data.level)
    ordinary = Ordinary(*learned, judged.second_lines(folds))
    names = [Path(f).name for f in data.files] if len(data) <= _SPECTRA_LISTED else []
    metadata = {
        "settings": asdict(settings) | {"latents": latents}, "versions": versions(), "spectra": len(data),
        "stars": len(set(data.stars)), "files": names, "emulated": run.emulated, "choice": run.choice,
        "held_out": judged.told(), "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    return SpectrumModel(data.wave, used, judged.usual, network.cpu(), ordinary, judged.reference(), metadata)


class _SpectrumTraining:
    # The spectra of one training and what is learned from some of them.

    def __init__(
        self, data: Dataset, used: NDArray[np.bool_], settings: SpectrumSettings, device: str, work: TrainingFolder
    ):
        self.data, self.used, self.settings, self.device, self.work = data, used, settings, device, work
        self.real = self._spectra(data)
        like_lamost = len(data.wave) == len(LAMOST_WAVE) and np.allclose(data.wave, LAMOST_WAVE, rtol=1e-6)
        self.emulated = settings.mocks if like_lamost else 0
        self.mocks: _Spectra | None = None
        if self.emulated:
            self.mocks = self._spectra(emulated_stars(self.emulated, settings.seed, data.wave, work.progress))
        self.choice: dict[str, float] = {}
        self._began: dict[int, SpectrumNetwork] = {}
        self._components: tuple[Tensor, Tensor, Tensor] | None = None

    def _spectra(self, data: Dataset) -> _Spectra:
        return _Spectra(*(torch.as_tensor(x[:, self.used], device=self.device) for x in (data.flux, data.ivar)))

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (P,), components (P, R), spread of their coefficients (R,)."""
        if self._components is None:
            flux, weight = self.real.flux, self.real.weight
            if self.mocks is not None:
                mocks = self.mocks.take(np.arange(min(MOCKS_IN_BASIS, len(self.mocks.flux))))
                flux, weight = torch.cat([flux, mocks.flux]), torch.cat([weight, mocks.weight])
            count = min(COMPONENTS, len(self.real.flux) // 3)
            mean, basis = principal_components(flux, weight, count, seed=self.settings.seed)
            self._components = mean, basis, coefficients_of(flux, weight, mean, basis).std(0)
        return self._components

    def begun(self, latents: int) -> SpectrumNetwork:
        """A network that knows emulated stars."""
        if latents not in self._began:
            mean, basis, spread = self.components()
            torch.manual_seed(self.settings.seed)
            network = SpectrumNetwork(NetworkShape(len(mean), basis.shape[1], latents)).to(self.device)
            network.begin(mean, basis, spread)
            if self.mocks is not None:
                for fixed in (network.basis, network.mean):
                    fixed.requires_grad_(False)
                epochs = self.settings.mock_epochs
                self._learn(network, self.mocks, Schedule(epochs, 64, 2e-3, epochs / 3, epochs), f"mocks_{latents}")
            self._began[latents] = network
        return deepcopy(self._began[latents]).requires_grad_(True)

    def tuned(self, latents: int, rows: NDArray[Any], key: str) -> SpectrumNetwork:
        """A network that has seen these real stars."""
        network = self.begun(latents)
        epochs = self.settings.epochs
        schedule = Schedule(epochs, 32, 1e-3, epochs / 4, epochs, weight_decay=0.1)
        self._learn(network, self.real.take(rows), schedule, f"{key}_{latents}")
        return network.requires_grad_(False)

    def _learn(self, network: SpectrumNetwork, spectra: _Spectra, schedule: Schedule, key: str) -> None:
        with torch.no_grad():
            seen = network.filtered(spectra.flux, spectra.ivar)
        optimise(
            network, lambda rows, kl: network.loss(spectra.flux[rows], spectra.ivar[rows], seen[rows], kl),
            len(seen), schedule, self.settings.seed, work=self.work, key=key,
        )  # fmt: skip

    def fold(self, latents: int, number: int) -> _Fold:
        """Train without one fold of the stars, and look at them."""
        fold = grouped_folds(self.data.stars, FOLDS, self.settings.seed)
        kept, held = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        network = self.tuned(latents, kept, f"fold{number}")
        seen, left = self.real.take(kept), self.real.take(held)
        pairs = doubled(self.data.flux[held], self.data.ivar[held], self.data.wave, self.settings.seed + number)
        paired = _Spectra(*(torch.as_tensor(x[:, self.used], device=self.device) for x in pairs))
        level = self.data.level[kept] if len(self.data.level) else self.data.level
        learned = _what_is_learned(explain(network, seen.flux, seen.ivar), level)
        return _Fold(held, _Look.at(network, left), _Look.at(network, paired), learned)

    def choose_latents(self) -> int:
        """The number with the highest likelihood of held-out stars."""
        for latents in (k for k in CANDIDATES if k <= len(self.data) // 10):
            held = self.held_out([self.fold(latents, 0)])
            variance = held.noise + held.scatter
            minus = np.where(held.good, held.squared / variance + np.log(np.where(held.good, variance, 1.0)), 0.0)
            self.choice[str(latents)] = float(np.median(-0.5 * minus.sum(1) / held.good.sum(1).clip(1)))
        return int(max(self.choice, key=lambda k: self.choice[k]))

    def held_out(self, folds: list[_Fold]) -> HeldOutResiduals:
        """What all folds leave of their held-out stars."""
        looks = [f.single for f in folds]
        model, scatter = (
            torch.cat([getattr(x.explained, n) for x in looks]).cpu().numpy() for n in ("model", "scatter")
        )
        flux, ivar = (np.concatenate([getattr(x, n) for x in looks]) for n in ("flux", "ivar"))
        return HeldOutResiduals((flux - model) ** 2, np.concatenate([x.noise for x in looks]), scatter**2, ivar > 0)


class _Judged:
    # What the held-out stars of all folds say, with calibrated noise and scatter.

    def __init__(
        self, data: Dataset, used: NDArray[np.bool_], folds: list[_Fold], ln_noise: NDArray[Any],
        ln_scatter: NDArray[Any],
    ):  # fmt: skip
        self.data, self.used, self.folds, self.factors = data, used, folds, (ln_noise, ln_scatter)
        parts = [fold.single.deviations(*self.factors) for fold in folds]
        self.usual = usual_deviation(np.concatenate([p[0] for p in parts]), np.concatenate([p[2] for p in parts]))
        self.singles = [self._residuals(fold, fold.single) for fold in folds]
        self._projections = [
            (projections(single), projections(self._residuals(fold, fold.paired)))
            for fold, single in zip(folds, self.singles)
        ]

    def _residuals(self, fold: _Fold, look: _Look) -> SpectrumResiduals:
        deviation, sigma, good = look.deviations(*self.factors)
        return SpectrumResiduals(
            deviation, good, look.explained.model.cpu().numpy(), sigma, self.usual, self.data.wave[self.used],
            np.nan_to_num(self.data.velocity[fold.rows]),
        )  # fmt: skip

    def second_lines(self, folds: list[_Fold]) -> SecondLines:
        """Learned from these folds."""
        chosen = [i for i, fold in enumerate(self.folds) if any(fold is f for f in folds)]
        single, paired = (np.concatenate([self._projections[i][j] for i in chosen]) for j in (0, 1))
        latents, paired_latents = (
            np.concatenate([getattr(self.folds[i], name).latents for i in chosen]) for name in ("single", "paired")
        )
        snr = np.concatenate([self.data.snr[self.folds[i].rows] for i in chosen])
        return SecondLines.learn(single, paired, latents, paired_latents, snr)

    def reference(self) -> OrdinaryStars:
        """Of ordinary stars, each judged by what the others say."""
        signs = []
        for fold, left in zip(self.folds, self.singles):
            others = [f for f in self.folds if f is not fold] or self.folds
            ordinary = Ordinary(*fold.learned, self.second_lines(others))
            signs.append(ordinary.signs(left, fold.single.latents, self.data.take(fold.rows)))
        snr = np.concatenate([self.data.snr[f.rows] for f in self.folds])
        return learn_reference(np.concatenate(signs), snr, SPECTRUM_SIGNS)

    def told(self) -> dict[str, Any]:
        """For the model's metadata."""
        deviation, good = (np.concatenate([getattr(x, n) for x in self.singles]) for n in ("deviation", "good"))
        rchi2 = (deviation**2).sum(1) / good.sum(1).clip(1)
        bins = np.array_split(np.arange(good.shape[1]), BINS_TOLD)
        part = np.digitize(known_snr(self.data)[np.concatenate([f.rows for f in self.folds])], SNR_TOLD)
        by_snr = [mean_squares(deviation[part == i], good[part == i])[1] for i in range(len(SNR_TOLD) + 1)]
        return {
            "spectra": len(rchi2), "rchi2_mean": float(rchi2.mean()), "rchi2_median": float(np.median(rchi2)),
            "without_hits": mean_squares(deviation, good)[1],
            "without_hits_by_wavelength": [round(mean_squares(deviation[:, b], good[:, b])[1], 3) for b in bins],
            "without_hits_by_snr": [round(x, 3) if np.isfinite(x) else None for x in by_snr],
        }  # fmt: skip
