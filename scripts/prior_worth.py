"""What the differential spectra are worth: errors against the number of training spectra, with and without them.

Five methods are given the same first 125, 250, 500, ... training models of a grid, the same time and the same score:

* `prior`: our network with the differential spectra, as shipped; `no-prior`: without, in bases, attention and loss;
* `perceptron`: labels to all pixels, after The Payne; `pixels`: one wavelength at a time, after TransformerPayne;
* `taylor`: the blend of first-order expansions from the nearest models (needs no training).

A training lasts a given number of minutes, its evaluations included; on CPUs they are minutes of processor time a
thread, which is the time on the wall where nothing else runs. Scored are fluxes and derivatives at R = 1800,
3800-9000 Å, two pixels a resolution element, on models never seen in training. The perceptron and the pixel network
are trained on just these pixels. The weights kept are those with the least flux error on the validation part.

    python scripts/prior_worth.py worth.jsonl --grid grid.h5 --minutes 20 --table --plot docs/figures/prior_worth.png

Each finished run appends a line to the results file; started again, the same command does what is missing. The first
line names the rows of the grid, so that a grid in the making may grow meanwhile. Without `--grid` nothing is run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from baselines import LabelPerceptron, PixelTransformer, label_widths, taylor_blend, train_for
from torch import Tensor, nn

from phdlspec import __version__
from phdlspec.emulator.basis import PatchBasis
from phdlspec.emulator.emulator import choose_device
from phdlspec.emulator.judging import judging_grid, seen
from phdlspec.emulator.training import Trainer
from phdlspec.emulator.training_data import scaled_labels
from phdlspec.emulator.training_settings import TrainingSettings
from phdlspec.errors import UserError
from phdlspec.gridfile import Grid
from phdlspec.lsf import NativeGrid

EVERY = 2  # of the pixels of `judging_grid`, which has four a resolution element
SIZES = (125, 250, 500, 1000, 2000, 4000)
AIMS = 7e-4, 0.08  # of the flux's median rms and of the derivatives
# Labels whose Cramér-Rao bound at S/N 100 is below 0.2 dex (Sandford et al. 2020); the figure shows their median.
INFORMATIVE = (
    "TEFF", "LOGG", "VMIC", "FE_H", "C_FE", "N_FE", "O_FE", "NA_FE", "MG_FE", "AL_FE", "SI_FE", "CA_FE", "TI_FE",
    "CR_FE", "MN_FE", "CO_FE", "NI_FE", "CU_FE", "BA_FE",
)  # fmt: skip
TABLED = ("TEFF", "LOGG", "FE_H", "CA_FE", "MG_FE", "C_FE")


class Judged:
    """A grid's spectra as they are judged, labels scaled to -1 ... 1."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self.native = NativeGrid.from_wave(grid.wave, grid.resolving_power)
        self.label_set = grid.label_set

    def see(self, spectra: Tensor) -> Tensor:
        """Native spectra (..., P) in the judged pixels."""
        return seen(spectra.cpu(), self.native)[..., ::EVERY]

    @property
    def ln_wave(self) -> Tensor:
        """Of the judged pixels."""
        return torch.as_tensor(np.log(judging_grid(self.native).wave[::EVERY]))

    def labels(self, rows: np.ndarray) -> Tensor:
        """(N, L)"""
        return scaled_labels(self.label_set, self.grid.labels[rows])

    def flux(self, rows: np.ndarray) -> Tensor:
        """(N, P)"""
        return torch.stack([self.see(torch.as_tensor(self.grid.flux(int(row)))) for row in rows])

    def change(self, row: int) -> Tensor:
        """Derivatives (L, P) with respect to the scaled labels."""
        half = 0.5 * (self.label_set.upper - self.label_set.lower)[:, None].astype(np.float32)
        return self.see(torch.as_tensor(self.grid.jacobian(row) * half))


class Emulation(Protocol):
    """What is scored: fluxes (B, P) of scaled labels (B, L), derivatives (L, P) at scaled labels (L,)."""

    def flux(self, x: Tensor) -> Tensor: ...

    def change(self, x: Tensor) -> Tensor: ...


def derivatives(network: nn.Module, x: Tensor) -> Tensor:
    """Of a network's outputs at x (L,), by forward differentiation: (L, ...)."""
    directions = torch.eye(len(x), device=x.device)
    return torch.func.jvp(network, (x.expand(len(x), -1).contiguous(),), (directions,))[1]


@dataclass
class OfPixels:
    """A network that predicts the judged pixels."""

    network: nn.Module

    def flux(self, x: Tensor) -> Tensor:
        return self.network(x).cpu()

    def change(self, x: Tensor) -> Tensor:
        return derivatives(self.network, x).cpu()


@dataclass
class OfPatches:
    """A network that predicts coefficients of wavelength patches."""

    network: nn.Module
    basis: PatchBasis
    judged: Judged

    def flux(self, x: Tensor) -> Tensor:
        return self.judged.see(self.basis.decode(self.network(x)))

    def change(self, x: Tensor) -> Tensor:
        return self.judged.see(self.basis.decode_change(derivatives(self.network, x)))


@dataclass
class OfNeighbours:
    """The blend of Taylor expansions; its derivatives are the blended ones."""

    judged: Judged
    rows: np.ndarray

    @cached_property
    def _width(self) -> np.ndarray:
        return label_widths(self.judged.grid, self.rows)

    def _blend(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        theta = self.judged.label_set.from_unit(0.5 * (x.double().cpu().numpy() + 1.0))
        return taylor_blend(self.judged.grid, self.rows, theta, self._width)

    def flux(self, x: Tensor) -> Tensor:
        return torch.stack([self.judged.see(torch.as_tensor(self._blend(one)[0]).float()) for one in x])

    def change(self, x: Tensor) -> Tensor:
        half = 0.5 * (self.judged.label_set.upper - self.judged.label_set.lower)[:, None]
        return self.judged.see(torch.as_tensor(self._blend(x)[1] * half).float())


@dataclass
class Task:
    """What a method is given for one run.

    rows : of the training models; validation : labels (N, L) and fluxes (N, P) that decide which weights are kept
    """

    judged: Judged
    rows: np.ndarray
    validation: tuple[Tensor, Tensor]
    seconds: float
    seed: int
    device: torch.device

    def clock(self) -> Callable[[], float]:
        """Seconds that count: of the processor, a thread, so that other programs on the machine cost a method nothing;
        on a GPU those on the wall."""
        threads = torch.get_num_threads()
        return (lambda: time.process_time() / threads) if self.device.type == "cpu" else time.monotonic

    @torch.no_grad()
    def flux_error(self, emulation: Emulation) -> float:
        """Median over the validation models of the rms."""
        x, flux = self.validation
        return float(residuals(emulation, x.to(self.device), flux).pow(2).mean(1).sqrt().median())


@dataclass
class Trained:
    """What a method made of its task, and the seconds that the training took by the clock on the wall."""

    emulation: Emulation
    steps: int = 0
    parameters: int = 0
    seconds: float = 0.0


def trained(
    task: Task,
    network: nn.Module,
    loss: Callable[[int], Tensor],
    emulation: Callable[[nn.Module], Emulation],
    learning_rate: float,
) -> Trained:
    """Train a network for the time of the task."""
    clock, start = task.clock(), time.monotonic()
    steps = train_for(
        task.seconds, clock, network, loss, lambda trial: task.flux_error(emulation(trial)), learning_rate
    )
    return Trained(
        emulation(network),
        steps,
        sum(values.numel() for values in network.parameters()),
        time.monotonic() - start,
    )


def patches(task: Task, with_prior: bool) -> Trained:
    """Our network."""
    settings = TrainingSettings(seed=task.seed)
    if not with_prior:
        settings = replace(settings, derivative_weight=0.0)
    trainer = Trainer(task.judged.grid, settings, str(task.device), task.rows)

    def emulation(network: nn.Module) -> Emulation:
        return OfPatches(network, trainer.basis, task.judged)

    return trained(task, trainer.network, lambda step: trainer._loss(step)[0], emulation, settings.learning_rate)


def pixels(task: Task, make: Callable[[Tensor], LabelPerceptron | PixelTransformer]) -> Trained:
    """A plain network, made for the mean flux (P,)."""
    torch.manual_seed(task.seed)
    x, flux = task.judged.labels(task.rows).to(task.device), task.judged.flux(task.rows).to(task.device)
    network = make(flux.mean(0).cpu()).to(task.device)
    generator = torch.Generator().manual_seed(task.seed)

    def loss(step: int) -> Tensor:
        index = torch.randint(len(x), (network.batch,), generator=generator).to(task.device)
        return network.loss(x[index], flux[index], generator)

    return trained(task, network, loss, OfPixels, network.learning_rate)


def perceptron(task: Task) -> Trained:
    """Labels to all pixels."""
    return pixels(task, lambda mean: LabelPerceptron(len(task.judged.label_set), mean))


def pixel_transformer(task: Task) -> Trained:
    """One wavelength at a time."""
    return pixels(task, lambda mean: PixelTransformer(len(task.judged.label_set), task.judged.ln_wave, mean))


METHODS: dict[str, tuple[str, Callable[[Task], Trained]]] = {
    "prior": ("ours, with differential spectra", lambda task: patches(task, True)),
    "no-prior": ("ours, without", lambda task: patches(task, False)),
    "perceptron": ("perceptron (Payne)", perceptron),
    "pixels": ("pixel by pixel (TransformerPayne)", pixel_transformer),
    "taylor": ("Taylor expansions, blended", lambda task: Trained(OfNeighbours(task.judged, task.rows))),
}


@torch.no_grad()
def residuals(emulation: Emulation, x: Tensor, flux: Tensor) -> Tensor:
    """(N, P), few models at a time."""
    return torch.cat([emulation.flux(some) - truth for some, truth in zip(x.split(8), flux.split(8))])


@torch.no_grad()
def score(emulation: Emulation, judged: Judged, held_out: np.ndarray, n_derivatives: int, device: torch.device) -> dict:
    """Errors on held-out models; those of the derivatives on the first few of them."""
    x = judged.labels(held_out).to(device)
    residual = residuals(emulation, x, judged.flux(held_out))
    rms = residual.pow(2).mean(1).sqrt().numpy()
    errors = []
    for one, row in zip(x, held_out[:n_derivatives]):
        truth = judged.change(int(row))
        errors.append((emulation.change(one) - truth).norm(dim=1) / truth.norm(dim=1).clamp(min=1e-12))
    by_label = torch.stack(errors).double().median(0).values
    return {
        "flux_rms_median": float(np.median(rms)),
        "flux_rms_p95": float(np.quantile(rms, 0.95)),
        "flux_mean_absolute": float(residual.abs().mean()),
        "derivative_error": {name: round(float(e), 5) for name, e in zip(judged.label_set.names, by_label)},
        "held_out": len(held_out),
        "held_out_derivatives": len(errors),
    }


# --- results -----------------------------------------------------------------------------------------------------


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of a results file, the first of which names the rows; none where there is no file."""
    if not path.is_file():
        return []
    lines = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: line {number} is no JSON, expected a finished run; remove that line") from error
    return lines


def append(path: Path, line: dict[str, Any]) -> None:
    """One line, in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def keep_to_rows(grid: Grid, path: Path) -> None:
    """Let the grid show only the rows that the results began with, which are written down now if nothing is there."""
    lines = read_results(path)
    if not lines:
        append(path, {"grid_created": grid.attrs["created"], "rows": grid.rows().tolist()})
        return
    rows = np.array(lines[0].get("rows", []), dtype=int)
    if lines[0].get("grid_created") != grid.attrs["created"] or not grid.done[rows].all():
        raise UserError(f"{path}: began with another grid than {grid.path}; give that one, or another results file")
    grid.done = np.isin(np.arange(len(grid)), rows)


def key(run: dict[str, Any]) -> tuple:
    """What a run is known by."""
    return tuple(run[name] for name in ("method", "size", "minutes", "seed", "split"))


def run_all(args: argparse.Namespace) -> None:
    """Do every run that the results file does not have."""
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    grid = Grid(args.grid)
    keep_to_rows(grid, args.results)
    judged, train, held_out = Judged(grid), grid.rows("train"), grid.rows(args.split)
    rows = grid.rows("validation")
    validation = judged.labels(rows), judged.flux(rows)
    finished = {key(line) for line in read_results(args.results)[1:]}
    for size in sorted({min(size, len(train)) for size in args.sizes}):
        for method in args.methods:
            run = {"method": method, "size": size, "minutes": args.minutes, "seed": args.seed, "split": args.split}
            if key(run) in finished:
                continue
            start = time.monotonic()
            task = Task(judged, train[:size], validation, 60.0 * args.minutes, args.seed, device)
            made = METHODS[method][1](task)
            preparation = time.monotonic() - start - made.seconds
            begun = time.monotonic()
            run |= score(made.emulation, judged, held_out, args.derivative_models, device)
            run |= {
                "steps": made.steps, "parameters": made.parameters, "seconds": round(made.seconds, 1),
                "preparation_seconds": round(preparation, 1), "scoring_seconds": round(time.monotonic() - begun, 1),
                "device": str(device), "threads": args.threads, "code_version": __version__,
                "ended": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            }  # fmt: skip
            append(args.results, run)
            print(
                f"{method}, {size} spectra: flux rms {run['flux_rms_median']:.1e}, derivatives "
                f"{100 * median_of_derivatives(run):.1f}%, {made.steps} steps in {made.seconds:.0f} s",
                flush=True,
            )


def median_of_derivatives(run: dict[str, Any]) -> float:
    """Over the informative labels."""
    return float(np.median([run["derivative_error"][name] for name in INFORMATIVE]))


def curves(results: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Runs of each method by size, of this time, seed and part of the grid."""
    chosen = [run for run in results if key(run)[2:] == (args.minutes, args.seed, args.split)]
    if not chosen:
        raise UserError(
            f"{args.results}: no run of {args.minutes:g} minutes, seed {args.seed}, on the {args.split} part; give "
            "--grid to make them, or the numbers they were made with"
        )
    by_method = {m: sorted((r for r in chosen if r["method"] == m), key=lambda r: r["size"]) for m in METHODS}
    return {method: runs for method, runs in by_method.items() if runs}


def spectra_needed(runs: list[dict[str, Any]], error: Callable[[dict[str, Any]], float], goal: float) -> float | None:
    """Number of spectra at which a method reaches an error, interpolated in logarithms; None beyond its curve."""
    points = [(np.log(run["size"]), np.log(error(run))) for run in runs]
    if points[0][1] <= np.log(goal):
        return float(runs[0]["size"])
    for (x0, y0), (x1, y1) in zip(points[:-1], points[1:]):
        if y1 <= np.log(goal):
            return float(np.exp(x0 + (x1 - x0) * (y0 - np.log(goal)) / (y0 - y1)))
    return None


def table(by_method: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: every run, and how many spectra the others need to do as well as ours with the prior."""
    head = ["method", "spectra", "rms, median", "95%", "mean absolute", *(f"∂{n}" for n in TABLED), "∂ informative"]
    lines = ["| " + " | ".join([*head, "steps"]) + " |", "|" + "---|" * (len(head) + 1)]
    for method, runs in by_method.items():
        for run in runs:
            flux = [f"{run[name]:.1e}" for name in ("flux_rms_median", "flux_rms_p95", "flux_mean_absolute")]
            change = [100 * e for e in (*(run["derivative_error"][n] for n in TABLED), median_of_derivatives(run))]
            cells = [METHODS[method][0], str(run["size"]), *flux, *(f"{e:.1f}%" for e in change), str(run["steps"])]
            lines.append("| " + " | ".join(cells) + " |")
    others = [method for method in by_method if method != "prior"]
    lines += ["", "Spectra needed to do as well as ours with the differential spectra, flux / derivatives:", ""]
    lines += ["| ours | " + " | ".join(METHODS[m][0] for m in others) + " |", "|" + "---|" * (len(others) + 1)]
    for run in by_method.get("prior", []):
        cells = []
        for other in others:
            needed = [
                spectra_needed(by_method[other], error, error(run))
                for error in (lambda r: r["flux_rms_median"], median_of_derivatives)
            ]
            beyond = f"> {by_method[other][-1]['size']}"
            smallest = by_method[other][0]["size"]
            cells.append(
                " / ".join(beyond if n is None else f"≤ {smallest}" if n == smallest else f"{n:.0f}" for n in needed)
            )
        lines.append(f"| {run['size']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(by_method: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Errors against the number of spectra: fluxes and derivatives side by side."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for method, runs in by_method.items():
        size = [run["size"] for run in runs]
        (line,) = left.loglog(size, [run["flux_rms_median"] for run in runs], "o-", label=METHODS[method][0])
        left.loglog(size, [run["flux_rms_p95"] for run in runs], ":", color=line.get_color())
        right.loglog(size, [median_of_derivatives(run) for run in runs], "o-", color=line.get_color())
    left.set_ylabel("rms of the flux, R = 1800 (dotted: 95%)")
    right.set_ylabel("relative error of the derivatives")
    all_sizes = sorted({run["size"] for runs in by_method.values() for run in runs})
    for axes, aim in zip((left, right), AIMS):
        axes.axhline(aim, color="grey", lw=0.8, ls="--")
        axes.set_xlabel("training spectra")
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks(all_sizes)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON lines; finished runs in it are not done again")
    parser.add_argument("--grid", help="with derivatives, finished or in the making")
    parser.add_argument("--minutes", type=float, default=20.0, help="of each training: see above")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="training models; more than there are: all")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=tuple(METHODS))
    parser.add_argument("--split", default="test", choices=("validation", "test"), help="part of the grid to score on")
    parser.add_argument("--derivative-models", type=int, default=48, help="held-out models for the derivatives")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--table", action="store_true", help="print Markdown")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    args = parser.parse_args()
    try:
        if args.grid:
            run_all(args)
        if args.table or args.plot:
            by_method = curves(read_results(args.results)[1:], args)
            if args.table:
                print(table(by_method))
            if args.plot:
                draw(by_method, args.plot)
    except UserError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
