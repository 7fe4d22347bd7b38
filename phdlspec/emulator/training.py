r"""Training: fluxes and, in random directions, their derivatives.

The training models are encoded once in the patch basis; pixels are not touched any more. One step draws a batch of
models and for each a random direction v in label space, scaled label by label with the inverse size of that label's
derivative in that model, so that every element counts alike. The network is evaluated at x + v and x - v: half the sum
is compared with the model's flux, half the difference with the Kurucz derivative along v. The steps are so small
(`STEP` in flux) that this is the Jacobian-vector product to a part in a thousand, at a third of the cost of forward
mode.

    loss = mean h(rms(f - F), FLUX_UNIT) / FLUX_UNIT^2 + derivative_weight * mean h(rms(v.J - v.dF) / STEP, CHANGE_UNIT)

where h is the square of an error below its unit and linear beyond, so that the few stars that are hardest do not rule.
With a derivative weight of zero the differential spectra are not used at all: neither in the loss nor in the bases, the
attention or the choice of the best weights.

An rms is over pixels as seen at a resolving power of `SEEN_AT`: finer structure cannot be observed and is not paid for.
AdamW, linear warm-up and cosine decay, averaged weights, clipped gradients; the weights that do best on the validation
models are kept.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.func import jvp
from tqdm import tqdm

from phdlspec import __version__
from phdlspec.emulator.basis import FLUX_WEIGHT, PatchBasis, fit_basis
from phdlspec.emulator.checkpoint import Checkpoint, save_checkpoint
from phdlspec.emulator.emulator import choose_device
from phdlspec.emulator.model_error import MEASURED_AT, ModelError
from phdlspec.emulator.network import Architecture, Network
from phdlspec.errors import UserError
from phdlspec.gridfile import Grid
from phdlspec.labels import GRID_LABELS, STRUCTURE, LabelSet
from phdlspec.lsf import NativeGrid, degrade, project

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

FLUX_UNIT = 1e-3
CHANGE_UNIT = 0.05  # of a derivative's size
STEP = 3e-5  # change of the flux (rms) by one label along the random direction
MAX_STEP = 0.2  # of a scaled label
NO_EFFECT = 1e-3  # size (flux) that counts for a label whose derivative is zero everywhere
SEEN_AT = 2000.0
JUDGED_AT = 1800.0  # resolving power of the figures that are reported
TRUSTED = {"TEFF": [4500.0, 7300.0], "LOGG": [0.7, 4.9]}
AVERAGING = 0.999  # per step
MIN_MODELS = 8


@dataclass(frozen=True)
class TrainingSettings:
    """Numbers that the result depends on; they are kept in the checkpoint."""

    steps: int = 30_000
    batch: int = 32
    learning_rate: float = 5e-3
    weight_decay: float = 1e-4
    derivative_weight: float = 300.0
    size_floor: float = 0.02  # of a label's mean derivative size, below which its own size in a model is not followed
    patches: int = 80
    vectors: int = 48
    width: int = 64
    heads: int = 8
    hidden: int = 128
    second_hidden: int = 96
    co_layers: int = 3  # in which carbon monoxide is followed
    evaluations: int = 40
    patience: int = 15  # evaluations without a better validation error before training stops
    seed: int = 1


@dataclass
class EncodedModels:
    """Models in the patch basis, on the training device.

    x (N, L) scaled labels; flux (N, Q K); change (N, L, Q K) derivatives; size (N, L) rms of each derivative.
    """

    x: Tensor
    flux: Tensor
    change: Tensor
    size: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass
class HeldOut:
    """Models for judging, as pixels at `JUDGED_AT`: x (N, L), flux (N, P), change (N, L, P)."""

    x: Tensor
    flux: Tensor
    change: Tensor


@dataclass
class Figures:
    """Errors on held-out models at R = 1800: rms of the flux (N,), relative L2 error of the derivatives (N, L)."""

    flux_rms: Array
    derivative_error: Array
    label_names: tuple[str, ...] = field(default_factory=tuple)

    def summary(self) -> dict[str, Any]:
        """Median and 95th percentile of the flux error, median derivative error by label."""
        median = np.median(self.derivative_error, axis=0)
        return {
            "models": len(self.flux_rms),
            "flux_rms_median": float(np.median(self.flux_rms)),
            "flux_rms_p95": float(np.quantile(self.flux_rms, 0.95)),
            "derivative_error_median": {n: round(float(v), 4) for n, v in zip(self.label_names, median)},
        }


def _half_range(label_set: LabelSet) -> NDArray[np.float32]:
    return (0.5 * (label_set.upper - label_set.lower)).astype(np.float32)


def scaled_labels(label_set: LabelSet, labels: NDArray) -> Tensor:
    """Labels (N, L) scaled to -1 ... 1 at their bounds."""
    return torch.as_tensor(2.0 * label_set.to_unit(labels) - 1.0, dtype=torch.float32)


def _robust(square: Tensor, unit: float) -> Tensor:
    # Mean of squared errors (B,), those beyond `unit` counted in proportion to the error.
    return 2.0 * unit * ((square + unit**2).sqrt() - unit).mean()


def _rms(square: Tensor) -> float:
    return float(square.detach().mean()) ** 0.5


def judging_grid(native: NativeGrid, resolving_power: float = JUDGED_AT) -> NativeGrid:
    """3800-9000 Å at R = 1800 (or the part of it that the native grid has), sampled at 1/7200."""
    low, high = max(3800.0, native.wave0 * 1.003), min(9000.0, float(native.wave[-1]) * 0.997)
    return NativeGrid(low, 1.0 / 7200.0, int(math.log(high / low) * 7200.0), resolving_power)


def seen(spectra: Tensor, native: NativeGrid) -> Tensor:
    """Native spectra (..., P) at `JUDGED_AT`."""
    return degrade(spectra, native.dlnlam, native.wave0, native.resolving_power, judging_grid(native))


class Trainer:
    """Trains one emulator on a grid.

    Parameters
    ----------
    grid : with derivatives; its validation part chooses the weights, its test part is not looked at
    settings : see `TrainingSettings`
    device : where to train
    rows : training rows, by default all of the training part
    start : a checkpoint whose bases and weights are trained on, for a grid that has grown or another one
    """

    def __init__(
        self,
        grid: Grid,
        settings: TrainingSettings,
        device: str = "auto",
        rows: NDArray[np.int64] | None = None,
        start: Checkpoint | None = None,
    ):
        self.grid, self.settings, self.start = grid, settings, start
        self.save_every = 60.0  # seconds
        self.device = choose_device(device)
        self.label_set = GRID_LABELS
        if grid.label_names != self.label_set.names:
            raise UserError(f"{grid.path}: its labels are not those of this version; build the grid again")
        self.native = NativeGrid.from_wave(grid.wave, grid.resolving_power)
        self.rows = grid.rows("train") if rows is None else rows
        validation = grid.rows("validation")
        if len(self.rows) < MIN_MODELS or len(validation) < 2:
            raise UserError(
                f"{grid.path}: {len(self.rows)} training and {len(validation)} validation models are done, expected at "
                f"least {MIN_MODELS} and 2; let the grid grow"
            )
        torch.manual_seed(settings.seed)
        self.basis, self.models = self._encode()
        self.validation = self._hold_out(validation)
        self.network = self._new_network().to(self.device)
        if start is not None:
            self._take_weights(start)
        self.weight = self._visibility().to(self.device)

    # --- data --------------------------------------------------------------------------------------------------

    def _scaled_models(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        half = _half_range(self.label_set)[:, None]
        for row in self.rows:
            yield self.grid.flux(int(row)), self.grid.jacobian(int(row)) * half

    def _encode(self) -> tuple[PatchBasis, EncodedModels]:
        settings = self.settings
        mean, power = np.zeros(len(self.grid.wave)), np.zeros((len(self.rows), len(self.label_set)))
        for i, (flux, change) in enumerate(self._scaled_models()):
            mean += flux / len(self.rows)
            power[i] = (change.astype(np.float64) ** 2).mean(1)
        size = np.sqrt(power.mean(0))
        size = np.maximum(size, 1e-6 * size.max())
        flux_weight = FLUX_WEIGHT if settings.derivative_weight else math.inf
        if self.start is None:
            basis = fit_basis(self._scaled_models(), size, mean, settings.patches, settings.vectors, flux_weight)
        else:
            basis = PatchBasis(
                self.start.tensors["basis.mean"], self.start.tensors["basis.vectors"], len(self.grid.wave)
            )
        n = settings.patches * settings.vectors
        fluxes = torch.empty(len(self.rows), n)
        changes = torch.empty(len(self.rows), len(self.label_set), n)
        for i, (flux, change) in enumerate(self._scaled_models()):
            fluxes[i] = basis.encode(torch.as_tensor(flux)).reshape(-1)
            changes[i] = basis.encode_change(torch.as_tensor(change)).reshape(len(change), -1)
        x = scaled_labels(self.label_set, self.grid.labels[self.rows])
        # A label without any effect (in toy grids) shall move nothing, but not at the expense of the others.
        floor = np.where(size > 1e-4 * size.max(), settings.size_floor * size, NO_EFFECT)
        in_model = torch.as_tensor(np.sqrt(power + floor**2), dtype=torch.float32)
        put = [t.to(self.device) for t in (x, fluxes, changes, in_model)]
        return basis.to(self.device), EncodedModels(*put)

    def _hold_out(self, rows: NDArray[np.int64]) -> HeldOut:
        half = _half_range(self.label_set)[:, None]
        flux = torch.stack([seen(torch.as_tensor(self.grid.flux(int(i))), self.native) for i in rows])
        change = torch.stack([seen(torch.as_tensor(self.grid.jacobian(int(i)) * half), self.native) for i in rows])
        return HeldOut(scaled_labels(self.label_set, self.grid.labels[rows]), flux, change)

    def _take_weights(self, start: Checkpoint) -> None:
        before = Architecture(**start.metadata["architecture"])
        if not before.co_layers:  # its weights are taken, what it did not see starts without effect
            before = replace(before, co_layers=self.settings.co_layers)
        if start.metadata["native"] != asdict(self.native) or before != self.network.architecture:
            raise UserError(
                "the checkpoint to start from has another wavelength grid or other sizes of the network; give the "
                "settings that it was trained with, or train anew"
            )
        weights = self.network.state_dict()
        for name, new in weights.items():
            old = start.tensors.get(f"network.{name}")
            if old is not None:
                new.zero_()[tuple(slice(n) for n in old.shape)] = old
        self.network.load_state_dict(weights)

    def _visibility(self) -> Tensor:
        # How much of each basis vector is left at SEEN_AT, (Q K,).
        variance = (SEEN_AT**-2 - self.native.resolving_power**-2) / (8.0 * math.log(2.0) * self.native.dlnlam**2)
        half = math.ceil(4.0 * math.sqrt(variance))
        taps = torch.arange(-half, half + 1, dtype=torch.float32, device=self.device)
        kernel = torch.exp(-0.5 * taps**2 / variance)
        vectors = self.basis.vectors.reshape(-1, 1, self.basis.width)
        blurred = torch.nn.functional.conv1d(vectors, (kernel / kernel.sum())[None, None], padding=half)
        return blurred.pow(2).sum((1, 2))

    def _new_network(self) -> Network:
        settings, models = self.settings, self.models
        architecture = Architecture(
            n_labels=len(self.label_set), n_patches=settings.patches, n_vectors=settings.vectors, width=settings.width,
            heads=settings.heads, hidden=settings.hidden, second_hidden=settings.second_hidden,
            co_layers=settings.co_layers,
        )  # fmt: skip
        shape = (settings.patches, settings.vectors)
        scale = models.flux.pow(2).mean(0).sqrt().clamp(min=1e-4).reshape(shape)
        energy = models.change.pow(2).mean(0).reshape(-1, *shape).sum(-1).sqrt()  # (L, Q)
        energy = energy / energy.norm(dim=1, keepdim=True).clamp(min=1e-12) * settings.patches**0.5
        if not settings.derivative_weight:
            energy = torch.ones_like(energy)
        lower, upper = (torch.as_tensor(b, dtype=torch.float32) for b in (self.label_set.lower, self.label_set.upper))
        return Network(architecture, lower, upper, energy.T.cpu(), scale.cpu())

    # --- steps -------------------------------------------------------------------------------------------------

    def _loss(self, step: int) -> tuple[Tensor, float, float]:
        models, n = self.models, self.settings.batch
        # A generator for every step: a resumed run draws what the uninterrupted one would have drawn.
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + step)
        index = torch.randint(len(models), (n,), generator=generator).to(self.device)
        if not self.settings.derivative_weight:
            flux_error = self._square(self.network(models.x[index]).reshape(n, -1) - models.flux[index])
            return _robust(flux_error, FLUX_UNIT) / FLUX_UNIT**2, _rms(flux_error), math.nan
        noise = torch.randn(n, models.x.shape[1], generator=generator).to(self.device)
        v = (STEP * noise / models.size[index]).clamp(-MAX_STEP, MAX_STEP)
        x = models.x[index]
        both = self.network(torch.cat([x + v, x - v])).reshape(2, n, -1)
        unit = STEP * models.x.shape[1] ** 0.5
        along = 0.5 * (both[0] - both[1]) / unit
        target = torch.bmm(v[:, None] / unit, models.change[index])[:, 0]
        flux_error = self._square(0.5 * (both[0] + both[1]) - models.flux[index])
        change_error = self._square(along - target)
        by_change = self.settings.derivative_weight * _robust(change_error, CHANGE_UNIT)
        return _robust(flux_error, FLUX_UNIT) / FLUX_UNIT**2 + by_change, _rms(flux_error), _rms(change_error)

    def _square(self, coefficients: Tensor) -> Tensor:
        # Mean square over pixels, as seen, of each spectrum (B, Q K).
        return coefficients.pow(2) @ self.weight / self.native.size

    def _rate(self, step: int) -> float:
        warm = min(1.0, (step + 1) / 200.0)
        decay = 0.005 + 0.4975 * (1.0 + math.cos(math.pi * step / self.settings.steps))
        return self.settings.learning_rate * warm * decay

    @torch.no_grad()
    def evaluate(self, held_out: HeldOut | None = None) -> Figures:
        """Errors of the present weights on held-out models (the validation part by default)."""
        return judge(self.network, self.basis, self.native, held_out or self.validation, self.label_set.names)

    def train(self, out: str | Path, progress: bool = True) -> Figures:
        """Train and write the checkpoint `out`; continues from `out.training` where a run was stopped."""
        settings, out = self.settings, Path(out)
        state_path = out.with_name(out.name + ".training")
        optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay,
            betas=(0.9, 0.98), fused=True,
        )  # fmt: skip
        run = _Run.start(self.network)
        first = self._resume(state_path, run, optimiser)
        every = max(settings.steps // settings.evaluations, 1)
        gradients: list[float] = []
        recent: list[tuple[float, float]] = []
        saved = time.monotonic()
        bar = tqdm(range(first, settings.steps), initial=first, total=settings.steps, unit="step", disable=not progress)
        for step in bar:
            for group in optimiser.param_groups:
                group["lr"] = self._rate(step)
            optimiser.zero_grad(set_to_none=True)
            loss, flux_error, change_error = self._loss(step)
            loss.backward()
            limit = 5.0 * float(np.median(gradients)) if len(gradients) > 20 else math.inf
            norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit))
            gradients = [*gradients[-99:], min(norm, limit)]
            if not math.isfinite(norm):
                raise UserError(f"training diverged at step {step}: take a lower --learning-rate")
            optimiser.step()
            run.average(self.network, step)
            recent = [*recent[-199:], (flux_error, change_error)]
            if step % 50 == 0:
                rms, relative = np.mean(recent, axis=0)
                bar.set_postfix_str(f"flux rms {rms:.1e}, derivatives {relative:.3f}, best {run.best_error:.1e}")
            if (step + 1) % every == 0 or step + 1 == settings.steps:
                run.judge(self, step)
                if time.monotonic() - saved > self.save_every:
                    self._save_state(state_path, step + 1, run, optimiser)
                    saved = time.monotonic()
                if run.stale >= settings.patience:
                    log.info("no better validation error in %d evaluations: stopped at step %d", run.stale, step + 1)
                    break
        bar.close()
        self.network.load_state_dict(run.best)
        figures = self.evaluate()
        self.write(out, figures, step + 1 if first < settings.steps else settings.steps)
        state_path.unlink(missing_ok=True)
        return figures

    # --- files -------------------------------------------------------------------------------------------------

    def write(self, out: str | Path, figures: Figures, steps: int) -> None:
        """Write the checkpoint with the present weights."""
        tensors = {f"network.{name}": t for name, t in self.network.state_dict().items()}
        tensors |= {"basis.mean": self.basis.mean, "basis.vectors": self.basis.vectors}
        tensors |= self._model_error().tensors()
        grid = dict(self.grid.attrs)
        paths = str(grid.get("line_list", "")).split(" + ")
        grid["line_list"] = " + ".join(Path(path).name for path in paths)  # folders of somebody's machine tell nothing
        native = self.native
        metadata = {
            "code_version": __version__,
            "architecture": self.network.architecture.as_dict(),
            "labels": [
                {"name": label.name, "unit": label.unit, "lower": label.lower, "upper": label.upper}
                for label in self.label_set
            ],
            "native": {
                "wave0": native.wave0, "dlnlam": native.dlnlam, "size": native.size,
                "resolving_power": native.resolving_power,
            },
            "solar_scale": grid["solar_scale"],
            "grid": {name: value for name, value in grid.items() if isinstance(value, (str, int, float, bool))},
            "training": {
                **asdict(self.settings), "models": len(self.rows), "steps_done": steps,
                "started_from": self.start.sha256 if self.start else "",
            },
            "validation": figures.summary(),
            "trusted": TRUSTED,
        }  # fmt: skip
        save_checkpoint(out, tensors, metadata)

    @torch.no_grad()
    def _model_error(self) -> ModelError:
        rows, native = self.grid.rows("validation"), self.native
        wave = torch.as_tensor(native.wave)

        def seen_from_afar(spectra: NDArray[np.float32]) -> Array:
            return project(torch.as_tensor(spectra), native, wave, MEASURED_AT).double().numpy()

        truth = self.grid.flux(rows)
        guess = self.basis.decode(self.network(self.validation.x.to(self.device))).cpu().numpy()
        spectra = ((seen_from_afar(truth[i : i + 1])[0], seen_from_afar(self.grid.jacobian(int(row))))
                   for i, row in enumerate(rows))  # fmt: skip
        stars = self.grid.labels[rows][:, [self.label_set.index(name) for name in STRUCTURE]]
        span = self.label_set.upper - self.label_set.lower
        return ModelError.measure(native.wave, seen_from_afar(guess - truth), stars, spectra, span)

    def _identity(self) -> str:
        begun = self.start.sha256 if self.start else ""
        rows = [int(i) for i in self.rows]
        return json.dumps([asdict(self.settings), rows, str(self.grid.attrs.get("created")), begun])

    def _save_state(self, path: Path, step: int, run: _Run, optimiser: torch.optim.Optimizer) -> None:
        names = [name for name, _ in self.network.named_parameters()]
        state = optimiser.state_dict()["state"]
        tensors = {f"now.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"mean.{k}": v for k, v in run.mean.items()} | {f"best.{k}": v for k, v in run.best.items()}
        for i, name in enumerate(names):
            tensors |= {f"adam.{name}.{key}": value for key, value in state[i].items()}
        header = {"identity": self._identity(), "step": str(step)}
        header |= {"best": repr(run.best_error), "stale": str(run.stale)}
        temporary = path.with_name(path.name + ".tmp")
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary, metadata=header)
        os.replace(temporary, path)

    def _resume(self, path: Path, run: _Run, optimiser: torch.optim.Optimizer) -> int:
        if not path.is_file():
            return 0
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata()
                tensors = {name: file.get_tensor(name).to(self.device) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: the state of the stopped run is damaged; remove it to start again") from error
        if header["identity"] != self._identity():
            raise UserError(
                f"{path}: was left by a run with other settings or another state of the grid; give those again, or "
                "remove it to start anew"
            )

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.network.load_state_dict(part("now."))
        run.mean, run.best = part("mean."), part("best.")
        run.best_error, run.stale = float(header["best"]), int(header["stale"])
        state = optimiser.state_dict()
        for i, (name, _) in enumerate(self.network.named_parameters()):
            state["state"][i] = part(f"adam.{name}.")
        optimiser.load_state_dict(state)
        return int(header["step"])


@dataclass
class _Run:
    """The averaged weights, the best of them so far, and how long there has been no better."""

    mean: dict[str, Tensor]
    best: dict[str, Tensor]
    best_error: float = math.inf
    stale: int = 0

    @classmethod
    def start(cls, network: Network) -> _Run:
        weights = {name: value.clone() for name, value in network.state_dict().items()}
        return cls(weights, {name: value.clone() for name, value in weights.items()})

    @torch.no_grad()
    def average(self, network: Network, step: int, every: int = 10) -> None:
        if step % every:
            return
        keep = min(AVERAGING, (1.0 + step) / (10.0 + step)) ** every
        for name, value in network.state_dict().items():
            self.mean[name].lerp_(value, 1.0 - keep)

    def judge(self, trainer: Trainer, step: int) -> None:
        now = {name: value.clone() for name, value in trainer.network.state_dict().items()}
        trainer.network.load_state_dict(self.mean)
        figures = trainer.evaluate()
        # Flux and derivatives both: a tenth in the derivatives is worth as much as FLUX_UNIT in the flux.
        error = float(np.median(figures.flux_rms))
        if trainer.settings.derivative_weight:
            error += FLUX_UNIT * 10.0 * float(np.median(figures.derivative_error))
        if error < self.best_error:
            self.best_error, self.stale = error, 0
            self.best = {name: value.clone() for name, value in self.mean.items()}
        else:
            self.stale += 1
        trainer.network.load_state_dict(now)


@torch.no_grad()
def judge(
    network: torch.nn.Module, basis: PatchBasis, native: NativeGrid, held_out: HeldOut, names: tuple[str, ...]
) -> Figures:
    """Errors of a network on held-out models at R = 1800 over 3800-9000 Å."""
    device = basis.mean.device
    flux = seen(basis.decode(network(held_out.x.to(device))).cpu(), native)
    rms = (flux - held_out.flux).pow(2).mean(1).sqrt()
    errors = torch.empty(len(rms), len(names))
    for i, x in enumerate(held_out.x.to(device)):
        directions = torch.eye(len(names), device=device)
        _, change = jvp(network, (x.expand(len(names), -1).contiguous(),), (directions,))[:2]
        change = seen(basis.decode_change(change).cpu(), native)
        size = held_out.change[i].norm(dim=1).clamp(min=1e-12)
        errors[i] = (change - held_out.change[i]).norm(dim=1) / size
    return Figures(rms.double().numpy(), errors.double().numpy(), names)
