"""What Lux costs: training and application on simulated linear spectra of any size.

The spectra are a random linear model with noise of S/N 20 to 150, a tenth of the pixels masked and 40% of the labels
missing: the cost does not depend on what they look like. Reading files is not in it.

    python scripts/lux_cost.py --stars 10000 --pixels 3909 --latents 49 --labels 25 --threads 2

With --sweeps 1 the training is cut short: enough to measure the application, which is all from flux to labels with
their covariance and the distance from the training stars, with a curved map.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from phdlspec.datadriven.dataset import Dataset
from phdlspec.datadriven.label_table import LabelInfo
from phdlspec.datadriven.lux import Lux
from phdlspec.datadriven.lux.held_out import LabelErrorModel
from phdlspec.datadriven.lux.label_map import LabelMap, MapCandidates
from phdlspec.datadriven.lux.lux import Limits
from phdlspec.datadriven.lux.model import Parameters, StarArrays, infer
from phdlspec.datadriven.lux.optimise import optimise


def simulate(n: int, pixels: int, latents: int, labels: int, seed: int = 0) -> StarArrays:
    """Stars of a random linear model."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, latents, generator=g)
    loadings = torch.randn(pixels, latents, generator=g) * 0.1 * 0.93 ** torch.arange(latents)
    sigma = 1.0 / (20 + 130 * torch.rand(n, 1, generator=g))
    flux = z @ loadings.T
    flux += 1.0 + sigma * torch.randn(n, pixels, generator=g)
    good = torch.rand(n, pixels, generator=g) > 0.1
    ivar = (good / sigma**2).float()
    flux *= good
    mixing = torch.randn(labels, latents, generator=g).double() / latents**0.5
    y = z.double() @ mixing.T + 0.1 * torch.randn(n, labels, generator=g).double()
    known = torch.rand(n, labels, generator=g) > 0.4
    return StarArrays(flux, ivar, y * known, known.double() / 0.01)


def learned_map(parameters: Parameters, stars: StarArrays) -> LabelMap:
    """The mean of the candidates for the label map, as training ends."""
    z, covariance, _ = infer(parameters, stars.without_labels())
    known = stars.label_ivar > 0
    residual = torch.where(known, stars.label - z @ parameters.label_loadings.T, torch.nan)
    variance = torch.where(known, 1.0 / stars.label_ivar, torch.nan)
    signal = 1.0 / covariance.diagonal(dim1=1, dim2=2).mean(0)
    maps = MapCandidates.fit(z, signal, residual, variance, parameters.label_loadings)
    return maps.mean(torch.full(maps.coefficients.shape[:2], 1.0 / len(maps.coefficients), dtype=torch.float64))


def model_of(parameters: Parameters, label_map: LabelMap) -> Lux:
    """A model with these parameters and a curved map, for its cost alone."""
    pixels, latents = parameters.loadings.shape
    labels = len(parameters.label_mean)
    ones, none = np.ones(labels), np.zeros(labels)
    infos = tuple(LabelInfo(f"X{i}", "simulated", "dex", "not stated") for i in range(labels))
    return Lux(
        np.arange(1.0, pixels + 1), np.ones(pixels, bool), np.ones(pixels), parameters, label_map,
        LabelErrorModel(ones, np.eye(labels)), infos, none, ones, np.zeros(latents), np.eye(latents),
        Limits(9.0, 9.0, -ones, ones), {}, (), np.empty((0, labels)),
    )  # fmt: skip


def dataset_of(stars: StarArrays) -> Dataset:
    """The same spectra as a data set."""
    names, nan = tuple(map(str, range(len(stars)))), np.full(len(stars), np.nan)
    wave = np.arange(1.0, stars.flux.shape[1] + 1)
    return Dataset(wave, stars.flux.numpy(), stars.ivar.numpy(), wave, names, names, names, nan, nan, nan, nan,
                   ("",) * len(names))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("stars", 10000), ("pixels", 3909), ("latents", 49), ("labels", 25), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--sweeps", type=int, help="stop the training after so many")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stars = simulate(args.stars, args.pixels, args.latents, args.labels)
    start, cpu = time.perf_counter(), time.process_time()

    def tell(stage: str, value: float) -> None:
        print(
            f"{time.perf_counter() - start:7.1f} s  {time.process_time() - cpu:7.1f} CPU s  {stage:8s} {value:.1f}",
            flush=True,
        )

    state = optimise(stars, args.latents, sweeps=args.sweeps, report=tell)
    rises = np.append(np.diff(state.values), -np.inf)
    print(f"objective: {len(state.values)} values, largest change {rises.max():+.3f} (a rise would be positive)")
    start, cpu = time.perf_counter(), time.process_time()
    label_map = learned_map(state.parameters, stars)
    wall, used = time.perf_counter() - start, time.process_time() - cpu
    print(f"label maps of all shapes: {wall:.1f} s by the clock, {used:.1f} CPU s")
    model, data = model_of(state.parameters, label_map), dataset_of(stars)
    start, cpu = time.perf_counter(), time.process_time()
    model.predict(data)
    wall, used = time.perf_counter() - start, time.process_time() - cpu
    print(f"applied: {args.stars / wall:.0f} stars/s by the clock, {args.stars / used:.0f} per CPU second")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
