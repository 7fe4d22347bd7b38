"""Does ScatterVAE rebuild XP spectra better than models that know the labels? (after Laroche & Speagle 2025)

Mock giants of two sequences of [alpha/M] (scripts/vae_alpha.py), reddened by E(B-V) of 0.1 on average (exponential,
A proportional to the wavelength to the power -1.3): what labels do not tell. All models learn from one half of the
stars and are judged on the other: the median over stars of the root mean square of (rebuilt - true) / true, with the
true spectrum free of noise, in windows of the sampled spectrum. Models that know labels: a quadratic function of Teff,
log g, [M/H] for each coefficient, with a scatter of its own (The Cannon), and a perceptron (The Payne), both also with
E(B-V); labels have the errors of a survey (50 K, 0.1, 0.05; E(B-V) 0.02), in one line none. ScatterVAE sees the noisy
coefficients of the star itself, as do as many principal components.

Real stars (--real): of the ordinary ones at hand only Teff is known; a quadratic function of it, each star rebuilt by
the others, beside ScatterVAE trained on the strange ones at hand and four fifths of the ordinary ones.

    python scripts/vae_labels.py XP_FOLDER --count 16000 --epochs 60
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from harness import table
from torch import nn
from vae_alpha import effect_of_alpha, giants
from vae_xp_mocks import WAVE, XPMocks

from phdlspec.datadriven.folds import grouped_folds
from phdlspec.datadriven.scatter_vae import XPModel, XPSettings, train_xp
from phdlspec.datadriven.scatter_vae.basis import principal_components, project_onto
from phdlspec.datadriven.scatter_vae.xp_table import XPSet

WINDOWS = ((4000.0, 5500.0), (5500.0, 6500.0), (6500.0, 7500.0), (7500.0, 9000.0), (5500.0, 9000.0))
SURVEY = np.array([50.0, 0.1, 0.05, 0.02])  # errors of Teff, log g, [M/H], E(B-V)
ORDINARY_FOLDS = 5
_STEPS = 6


def reddened(shapes: np.ndarray, excess: np.ndarray) -> np.ndarray:
    """Sampled spectra (N, 343), mean 1, behind E(B-V) (N,)."""
    dimming = 10.0 ** (-0.4 * 3.1 * excess[:, None] * (WAVE / 5500.0) ** -1.3)
    flux = shapes * dimming
    return np.asarray(flux / flux.mean(axis=1, keepdims=True))


class Quadratic:
    """Coefficients (N, 110) as second-order functions of labels, each with a constant scatter."""

    def __init__(self, labels: np.ndarray, x: np.ndarray, error: np.ndarray):
        self.centre, self.scale = labels.mean(axis=0), labels.std(axis=0)
        design, scatter = self._design(labels), np.zeros(x.shape[1])
        for _ in range(_STEPS):
            weight = 1.0 / (error**2 + scatter**2)
            self.found = np.column_stack(
                [np.linalg.lstsq(design * np.sqrt(w)[:, None], y * np.sqrt(w), rcond=None)[0]
                 for w, y in zip(weight.T, x.T)]
            )  # fmt: skip
            left = (x - design @ self.found) ** 2 - error**2
            scatter = np.sqrt(np.maximum((weight * left).sum(axis=0) / weight.sum(axis=0), 1e-8))

    def _design(self, labels: np.ndarray) -> np.ndarray:
        z = (labels - self.centre) / self.scale
        pairs = [z[:, i] * z[:, j] for i in range(z.shape[1]) for j in range(i + 1)]
        return np.column_stack([np.ones(len(z)), z, *pairs])

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        return np.asarray(self._design(labels) @ self.found)


class Perceptron:
    """The same by a network with two hidden layers of 64, with a constant scatter of each coefficient."""

    def __init__(self, labels: np.ndarray, x: np.ndarray, error: np.ndarray, epochs: int = 150):
        torch.manual_seed(0)
        self.centre, self.scale = labels.mean(axis=0), labels.std(axis=0)
        size = x.shape[1]
        self.network = nn.Sequential(
            nn.Linear(labels.shape[1], 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, size)
        )
        ln_scatter = nn.Parameter(torch.full((size,), -2.0))
        optimizer = torch.optim.AdamW([*self.network.parameters(), ln_scatter], 3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        z, y, e = (torch.as_tensor(a, dtype=torch.float32) for a in (self._scaled(labels), x, error))
        for _ in range(epochs):
            for rows in torch.randperm(len(z)).split(256):
                variance = e[rows].square() + (2.0 * ln_scatter).exp()
                loss = ((y[rows] - self.network(z[rows])).square() / variance + variance.log()).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()

    def _scaled(self, labels: np.ndarray) -> np.ndarray:
        return np.asarray((labels - self.centre) / self.scale)

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            answer: np.ndarray = self.network(torch.as_tensor(self._scaled(labels), dtype=torch.float32)).numpy()
        return answer.astype(float)


def rebuilt_by(model: XPModel, data: XPSet) -> np.ndarray:
    """Coefficients (N, 110), normalised as the model does it, that ScatterVAE gives."""
    return np.asarray(model.left(data)[2].model * model.standard.scale + model.standard.centre)


def deviation(rebuilt: np.ndarray, true: np.ndarray) -> list[float]:
    """Per cent, for each of `WINDOWS`, of sampled spectra (N, 343)."""
    relative = rebuilt / true - 1.0
    inside = [(low <= WAVE) & (high > WAVE) for low, high in WINDOWS]
    return [float(100.0 * np.median(np.sqrt((relative[:, w] ** 2).mean(axis=1)))) for w in inside]


def head() -> list[str]:
    """Of both tables."""
    return ["model", *(f"{low / 10:.0f}-{high / 10:.0f} nm" for low, high in WINDOWS)]


def mocks(folder: Path, count: int, epochs: int, seed: int) -> None:
    """Print the table of mock giants."""
    random = np.random.default_rng(seed)
    stars, _ = giants(count, random)
    excess = random.exponential(0.1, count)
    maker = XPMocks(folder)
    shapes = reddened(maker.shapes(stars[:, :3]) * effect_of_alpha(stars), excess)
    values, errors = maker.coefficients(shapes, random)
    data = XPSet(tuple(map(str, range(count))), values, errors, np.ones(count), ("",) * count)
    learned = np.arange(count) % 4 < 2
    model = train_xp(data.take(learned), XPSettings(epochs=epochs))
    x, error, _ = model.standard.apply(data)
    x, error = x.astype(float), error.astype(float)
    true_labels = np.column_stack([stars[:, :3], excess])
    labels = true_labels + random.normal(size=true_labels.shape) * SURVEY

    def by(kind: Callable[..., Quadratic | Perceptron], known: np.ndarray) -> np.ndarray:
        fitted = kind(known[learned], x[learned], error[learned])
        return fitted(known[~learned]) * model.standard.scale + model.standard.centre

    seen, weight = (torch.as_tensor(a, dtype=torch.float32) for a in (x, 1.0 / error**2))
    components = principal_components(seen[learned], weight[learned], model.network.mu.out_features)
    projected = project_onto(seen[~learned], weight[~learned], *components).numpy()
    rebuilt = {
        "ScatterVAE, 6 latents": rebuilt_by(model, data.take(~learned)),
        "6 principal components, weighted": projected * model.standard.scale + model.standard.centre,
        "quadratic in Teff, log g, [M/H]": by(Quadratic, labels[:, :3]),
        "perceptron of Teff, log g, [M/H]": by(Perceptron, labels[:, :3]),
        "quadratic, with E(B-V) too": by(Quadratic, labels),
        "perceptron, with E(B-V) too": by(Perceptron, labels),
        "perceptron, with E(B-V), labels without errors": by(Perceptron, true_labels),
        "the noisy coefficients themselves": values[~learned],
    }
    true = maker.sampled(shapes[~learned] @ maker.to_coefficients)
    print(f"{count} mock giants, half of them learned from, {epochs} epochs; deviation in per cent\n")
    print(table(head(), ([name, *deviation(maker.sampled(c), true)] for name, c in rebuilt.items())))


def real(folder: Path, epochs: int, seed: int) -> None:
    """Print the table of the real ordinary stars whose Teff is known."""
    maker = XPMocks(folder)
    stars, odd = (np.load(folder / f"{n}.npz") for n in ("xp_continuous_ordinary_stars", "opcruz_xp_continuous_PN_Sy"))
    known = np.isfinite(stars["teff_gspphot"])
    teff = np.log(stars["teff_gspphot"][known])[:, None]
    arms = ("bp_coefficients", "rp_coefficients"), ("bp_coefficient_errors", "rp_coefficient_errors")
    values, errors = (np.concatenate([stars[n][known] for n in names], axis=1) for names in arms)
    names = tuple(f"ordinary {i}" for i in stars["source_id"][known])
    strange = tuple(map(str, odd["source_id"]))
    data = XPSet(
        names + strange, np.concatenate([values, np.hstack([odd["bp"], odd["rp"]])]),
        np.concatenate([errors, np.hstack([odd["bp_err"], odd["rp_err"]])]),
        np.full(len(names) + len(strange), np.nan), ("",) * (len(names) + len(strange)),
    )  # fmt: skip
    ordinary = np.arange(len(data)) < len(names)
    x, error, _ = data.take(ordinary).scaled("power")
    fold = np.full(len(data), -1)
    fold[ordinary] = grouped_folds(names, ORDINARY_FOLDS, seed)
    rebuilt = {name: np.zeros_like(x) for name in ("ScatterVAE, 6 latents", "quadratic in ln Teff")}
    for number in range(ORDINARY_FOLDS):
        held = fold == number
        here = held[ordinary]
        model = train_xp(data.take(~held), XPSettings(normalisation="power", epochs=epochs, seed=seed))
        rebuilt["ScatterVAE, 6 latents"][here] = rebuilt_by(model, data.take(held))
        rebuilt["quadratic in ln Teff"][here] = Quadratic(teff[~here], x[~here], error[~here])(teff[here])
    observed = maker.sampled(x)
    print(f"\n{len(x)} real stars, {ORDINARY_FOLDS} folds; deviation from what is observed, in per cent\n")
    print(table(head(), ([name, *deviation(maker.sampled(c), observed)] for name, c in rebuilt.items())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="XP_FOLDER")
    parser.add_argument("--count", type=int, default=16_000)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--real-epochs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    mocks(args.folder, args.count, args.epochs, args.seed)
    real(args.folder, args.real_epochs, args.seed)


if __name__ == "__main__":
    main()
