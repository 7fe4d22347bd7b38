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
import time
from collections import deque
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from phdlspec import __version__
from phdlspec.emulator import trust
from phdlspec.emulator.checkpoint import Checkpoint, save_checkpoint
from phdlspec.emulator.emulator import choose_device
from phdlspec.emulator.judging import HeldOutModels, JudgedErrors, judge
from phdlspec.emulator.model_error import MEASURED_AT, ModelError
from phdlspec.emulator.network import Architecture, Network
from phdlspec.emulator.training_data import encode, hold_out
from phdlspec.emulator.training_settings import TrainingSettings
from phdlspec.emulator.training_state import AveragedWeights, TrainingState, weights_of
from phdlspec.errors import UserError
from phdlspec.gridfile import Grid
from phdlspec.items import digest
from phdlspec.labels import GRID_LABELS, STRUCTURE
from phdlspec.lsf import NativeGrid, project

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

FLUX_UNIT = 1e-3
CHANGE_UNIT = 0.05  # of a derivative's size
STEP = 3e-5  # change of the flux (rms) by one label along the random direction
MAX_STEP = 0.2  # of a scaled label
SEEN_AT = 2000.0
MIN_MODELS = 8


def _robust(square: Tensor, unit: float) -> Tensor:
    # Mean of squared errors (B,), those beyond `unit` counted in proportion to the error.
    return 2.0 * unit * ((square + unit**2).sqrt() - unit).mean()


def _rms(square: Tensor) -> float:
    return float(float(square.detach().mean()) ** 0.5)


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
        basis, models = encode(grid, self.rows, settings, start)
        self.basis, self.models = basis.to(self.device), models.to(self.device)
        self.validation = hold_out(grid, validation, self.native)
        self.network = self._new_network().to(self.device)
        if start is not None:
            self._take_weights(start)
        self.weight = self._visibility().to(self.device)

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
    def evaluate(self, held_out: HeldOutModels | None = None) -> JudgedErrors:
        """Errors of the present weights on held-out models (the validation part by default)."""
        return judge(self.network, self.basis, self.native, held_out or self.validation, self.label_set.names)

    def train(self, out: str | Path, progress: bool = True) -> JudgedErrors:
        """Train and write the checkpoint `out`; continues from `out.training` where a run was stopped."""
        settings, out = self.settings, Path(out)
        state_path = out.with_name(out.name + ".training")
        optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay,
            betas=(0.9, 0.98), fused=True,
        )  # fmt: skip
        averaged = AveragedWeights.start(self.network)
        state = TrainingState(self.network, averaged, optimiser)
        first = state.resume(state_path, self._identity(), settings.steps)
        every = max(settings.steps // settings.evaluations, 1)
        errors = _RecentErrors()
        saved = time.monotonic()
        done = (
            first if averaged.stale >= settings.patience else settings.steps
        )  # stopped when all but the file was done
        bar = tqdm(range(first, done), initial=first, total=settings.steps, unit="step", disable=not progress)
        for step in bar:
            errors.add(*self._step(step, state))
            averaged.add(self.network, step)
            if step % 50 == 0:
                best = f"best {averaged.best_error:.1e}" if math.isfinite(averaged.best_error) else "not judged yet"
                bar.set_postfix_str(f"{errors.words()}, {best}")
            if (step + 1) % every and step + 1 < settings.steps:
                continue
            self._judge(averaged)
            if time.monotonic() - saved > self.save_every:
                state.save(state_path, self._identity(), step + 1)
                saved = time.monotonic()
            if averaged.stale >= settings.patience:
                done = step + 1
                bar.total = done
                bar.refresh()
                stopped = f"no better validation error in {averaged.stale} evaluations: stopped at step {done}"
                log.info(stopped)
                if progress:
                    bar.write(f"{stopped} of {settings.steps}; the best weights are kept (--patience)")
                break
        bar.close()
        self.network.load_state_dict(averaged.best)
        figures = self.evaluate()
        self.write(out, figures, done)
        state_path.unlink(missing_ok=True)
        return figures

    def _step(self, step: int, state: TrainingState) -> tuple[float, float]:
        """One step; rms errors of flux and derivatives."""
        for group in state.optimiser.param_groups:
            group["lr"] = self._rate(step)
        state.optimiser.zero_grad(set_to_none=True)
        loss, flux_error, change_error = self._loss(step)
        loss.backward()  # type: ignore[no-untyped-call]
        limit = state.gradients.limit()
        norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit))
        if not math.isfinite(norm):
            raise UserError(f"training diverged at step {step}: take a lower --learning-rate")
        state.gradients.add(min(norm, limit))
        state.optimiser.step()
        return flux_error, change_error

    def _judge(self, averaged: AveragedWeights) -> None:
        now = weights_of(self.network)
        self.network.load_state_dict(averaged.mean)
        figures = self.evaluate()
        # Flux and derivatives both: a tenth in the derivatives is worth as much as FLUX_UNIT in the flux.
        error = float(np.median(figures.flux_rms))
        if self.settings.derivative_weight:
            error += FLUX_UNIT * 10.0 * float(np.median(figures.derivative_error))
        averaged.record(error)
        self.network.load_state_dict(now)

    # --- files -------------------------------------------------------------------------------------------------

    def write(self, out: str | Path, figures: JudgedErrors, steps: int) -> None:
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
            "trusted": trust.trusted_range(self._labels_of_validation(trust.AXES), figures),
        }  # fmt: skip
        save_checkpoint(out, tensors, metadata)

    def _labels_of_validation(self, names: tuple[str, ...]) -> Array:
        labels: Array = self.grid.labels[self.grid.rows("validation")]
        return labels[:, [self.label_set.index(name) for name in names]]

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
        stars = self._labels_of_validation(STRUCTURE)
        span = self.label_set.upper - self.label_set.lower
        return ModelError.measure(native.wave, seen_from_afar(guess - truth), stars, spectra, span)

    def _identity(self) -> str:
        begun = self.start.sha256 if self.start else ""
        rows = [int(i) for i in self.rows]
        return digest(
            json.dumps([asdict(self.settings), rows, str(self.grid.attrs.get("created")), begun, __version__])
        )


class _RecentErrors:
    """The last errors, for the progress bar."""

    def __init__(self) -> None:
        self._last: deque[tuple[float, float]] = deque(maxlen=200)

    def add(self, flux_error: float, change_error: float) -> None:
        """One step's."""
        self._last.append((flux_error, change_error))

    def words(self) -> str:
        """The mean errors of the last steps."""
        flux, change = np.mean(self._last, axis=0)
        return f"flux rms {flux:.1e}, derivatives {change:.3f}"
