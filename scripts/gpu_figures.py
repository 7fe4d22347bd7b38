"""What a device does: parity with the CPU, stars a second, launches, spectra a second, a training step, a grid model.

    python scripts/gpu_figures.py --device cuda
    python scripts/gpu_figures.py --device cpu --stars 8 --chunks 8     # the same on a CPU

One command from a bare checkout with the extra [grids], in less than nine minutes: mocks are made from the shipped
emulator, and a grid model from grey atmospheres and 150,000 lines at random, so that nothing has to be fetched;
--atmospheres and --line-list take real ones. Every part prints what it has as soon as it has it. Launches are operators
that the host dispatches (kernels on a GPU), counted with torch's profiler in one chunk and divided by its stars: with
some microseconds each they bound what a GPU can do, whatever its speed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError
from itertools import product

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from kurucz_grids.atmosphere_grid import AtmosphereGrid
from kurucz_grids.atmospheres import Atmosphere
from kurucz_grids.linelists import LineList, read_line_list
from kurucz_grids.linelists.star_calibration import calibrated
from kurucz_grids.synthesis import Synthesizer
from phdlspec import load_emulator
from phdlspec.cores import CorePriors
from phdlspec.emulator.bridge import NONE
from phdlspec.emulator.emulator import Emulator
from phdlspec.emulator.network import Architecture, Network
from phdlspec.errors import UserError
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import FitSettings
from phdlspec.labels import GRID_LABELS
from phdlspec.mock import mock_lamost
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import LAMOST_WAVE

PARITY_STARS = 8
DEADLINE = 480.0  # s, after which no further part begins
LINES = 150_000
SPECIES = ("Fe", "Fe+", "Ti", "Ti+", "Cr", "Ni", "V", "Co", "Mn", "Ca", "Mg", "Si", "Ce+", "Nd+", "CH", "CN", "C2")


def mocks(n: int, emulator: Emulator) -> list[Spectrum]:
    """LAMOST spectra of S/N 80 of stars all over the range."""
    random, spectra = np.random.default_rng(3), []
    cores = CorePriors.shipped(emulator.metadata["grid"])
    for i in range(n):
        teff, fe_h = random.uniform(4700.0, 6800.0), random.uniform(-1.5, 0.3)
        logg = random.uniform(1.8, 4.6) if teff < 5400.0 else random.uniform(3.6, 4.6)
        theta = emulator.labels.complete({"TEFF": teff, "LOGG": logg, "FE_H": fe_h})
        values = torch.as_tensor(theta[None], dtype=torch.float32, device=emulator.device)
        with torch.no_grad():
            native = emulator.native_flux(values)[0].double().cpu().numpy()
        spectra.append(
            mock_lamost(
                native, emulator.native, teff, 80.0, 100 + i, rv=20.0, logg=logg, cores=cores, identifier=f"mock-{i}"
            )
        )
    return spectra


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(device: torch.device, work: Callable[[], object], repeats: int = 1) -> float:
    """Seconds of one call."""
    wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    wait(device)
    return (time.perf_counter() - start) / repeats


def parity(spectra: list[Spectrum], emulator: Emulator) -> None:
    """Fits on the device beside fits on the CPU, same random numbers."""
    settings = FitSettings(mode="fast", bridge=NONE)
    here = fit_batch(spectra, emulator, settings)
    there = fit_batch(spectra, load_emulator(None, "cpu"), settings)
    off = np.array([(a.value - b.value) / b.err for a, b in zip(here, there)])
    ratio = np.array([a.err / b.err for a, b in zip(here, there)])
    print(f"parity, {len(spectra)} stars: difference over error rms {np.sqrt(np.mean(off**2)):.1e}, largest "
          f"{np.abs(off).max():.1e}; errors {ratio.min():.3f} to {ratio.max():.3f} of the CPU's")  # fmt: skip


def speed(spectra: list[Spectrum], emulator: Emulator, chunk: int, settings: FitSettings) -> None:
    """Stars a second in chunks of one size, with the stages."""
    part, results = spectra[:chunk], list[Fitted]()
    seconds = timed(emulator.device, lambda: results.extend(fit_batch(part, emulator, settings)))
    stages = ", ".join(f"{name} {1e3 * value:.1f}" for name, value in results[0].seconds.items() if value > 1e-4)
    fell = sum(r.mode != "fast" for r in results) if settings.mode == "fast" else 0
    print(f"{settings.mode}, chunk of {chunk}: {len(part) / seconds:.2f} stars/s; ms a star: {stages}"
          + (f"; {fell} sampled in full" if fell else ""))  # fmt: skip


def launches(spectra: list[Spectrum], emulator: Emulator) -> None:
    """Operators a star that the host dispatches, and the host's seconds."""
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if emulator.device.type == "cuda" else [])
    start = time.process_time()
    with profile(activities=kinds) as trace:
        fit_batch(spectra, emulator, FitSettings(mode="fast", bridge=NONE))
        wait(emulator.device)
    host = time.process_time() - start
    views = ("view", "reshape", "expand", "permute", "transpose", "slice", "select", "detach", "squeeze", "as_strided")
    counts = {event.key: event.count for event in trace.key_averages() if event.key.startswith("aten::")}
    made = sum(count for key, count in counts.items() if not any(word in key for word in views))
    cuda = sum(e.count for e in trace.key_averages() if e.key.startswith("cudaLaunchKernel"))
    n = len(spectra)
    print(f"launches, chunk of {n}: {made / n:.0f} operators a star, {cuda / n:.0f} CUDA kernels a star, "
          f"{host / n:.3f} CPU s of the host a star (profiled)")  # fmt: skip


def emulation(emulator: Emulator, batch: int) -> None:
    """Spectra a second on LAMOST's pixels, and Jacobians."""
    theta = np.resize(emulator.labels.complete({"TEFF": 5300.0, "LOGG": 3.5}), (batch, len(emulator.labels)))
    values = torch.as_tensor(theta, dtype=torch.float32, device=emulator.device)
    wave = torch.as_tensor(LAMOST_WAVE[100:-100].copy(), device=emulator.device)
    few = values[: max(batch // 16, 1)]
    with torch.no_grad():
        emulator.observe(values, wave, 1800.0)
        flux = timed(emulator.device, lambda: emulator.observe(values, wave, 1800.0), 3)
        native = timed(emulator.device, lambda: emulator.patches(values), 3)
        jacobian = timed(emulator.device, lambda: emulator.patches_and_jacobian(few), 3)
    print(f"emulator, batch of {batch}: {batch / flux:.0f} spectra/s on LAMOST's pixels, {batch / native:.0f} on the "
          f"native grid, {len(few) / jacobian:.0f} with all derivatives")  # fmt: skip


def training_step(emulator: Emulator, batch: int) -> None:
    """One step of Adam on coefficients and their derivatives along random directions, as in training."""
    device, architecture = emulator.device, Architecture(**emulator.metadata["architecture"])
    lower, upper = (torch.as_tensor(x) for x in (GRID_LABELS.lower, GRID_LABELS.upper))
    patches = architecture.n_patches
    energy, scale = torch.ones(patches, architecture.n_labels), torch.ones(patches, architecture.n_vectors)
    network = Network(architecture, lower, upper, energy, scale).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    x = 2.0 * torch.rand(batch, architecture.n_labels, device=device) - 1.0

    def step() -> None:
        optimiser.zero_grad()
        value, change = torch.func.jvp(network, (x,), (torch.ones_like(x),))[:2]
        (value.square().mean() + change.square().mean()).backward()
        optimiser.step()

    step()
    print(f"training, batch of {batch}: {1e3 * timed(device, step, 3):.0f} ms a step")


def grey_atmospheres() -> AtmosphereGrid:
    """Eddington's grey atmospheres about the Sun on the depth scale of ATLAS9."""
    tau = 10.0 ** (-6.875 + 0.125 * np.arange(72))

    def model(teff: float, logg: float, mh: float) -> Atmosphere:
        temperature = np.asarray(teff * (0.75 * (tau + 2.0 / 3.0)) ** 0.25, dtype=float)
        opacity = (0.05 + 0.4 * tau**0.5) * 10.0 ** (0.3 * mh)
        column = np.cumsum(np.gradient(tau) / opacity)
        pressure = 10.0**logg * column
        electrons = 1e-4 * pressure / (1.380649e-16 * temperature)
        push = np.full(len(tau), 1e-3)
        return Atmosphere(teff, logg, mh, 2.0, column, temperature, pressure, electrons, opacity, push)

    nodes = product((5250.0, 5500.0, 5750.0, 6000.0), (3.5, 4.0, 4.5, 5.0), (-0.5, 0.0, 0.5))
    return AtmosphereGrid.from_atmospheres([model(*node) for node in nodes])


def random_lines(count: int) -> LineList:
    """Lines at random, of atoms, ions and molecules, with widths as they usually are."""
    random = np.random.default_rng(5)
    return LineList.from_columns(
        random.choice(SPECIES, count),
        wave_vacuum=np.exp(random.uniform(np.log(3685.0), np.log(9120.0), count)),
        elow_ev=random.uniform(0.0, 6.0, count),
        loggf=random.normal(-2.5, 1.3, count),
        gamma_rad=np.full(count, 1e8),
        gamma_stark=np.full(count, 1e-6),
        gamma_vdw=np.full(count, 3e-8),
        vdw_exponent=np.full(count, 0.3),
        isotope_fraction=np.ones(count),
    )


def grid_model(atmospheres: str | None, line_list: list[str] | None, device: torch.device) -> None:
    """Seconds of one ab initio model with all derivatives; the first one compiles."""
    models = AtmosphereGrid.load(atmospheres) if atmospheres else grey_atmospheres()
    lines = calibrated(read_line_list(line_list)) if line_list else random_lines(LINES)
    try:
        synthesizer = Synthesizer(models, lines, device=device.type)
        times = [
            timed(device, partial(synthesizer.synthesize, {"TEFF": teff, "LOGG": 4.44})) for teff in (5772.0, 5600.0)
        ]
    except (UserError, PackageNotFoundError) as error:
        print(f"grid model: left out, the extra [grids] is missing ({error})")
        return
    print(f"grid model with all derivatives, {len(lines)} lines: {times[1]:.1f} s, the first {times[0]:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--stars", type=int, default=512, help="mocks, those of the largest chunk (default 512)")
    parser.add_argument("--chunks", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--full-stars", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1024, help="of the emulator (default 1024)")
    parser.add_argument("--atmospheres")
    parser.add_argument("--line-list", action="append")
    args = parser.parse_args()
    began = time.perf_counter()
    emulator = load_emulator(None, args.device)
    name = torch.cuda.get_device_name() if emulator.device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    spectra = mocks(max(args.stars, PARITY_STARS), emulator)
    fast, full = FitSettings(mode="fast", bridge=NONE), FitSettings(mode="full", sampler="hmc", bridge=NONE)
    parts: list[Callable[[], object]] = [lambda: parity(spectra[:PARITY_STARS], emulator)]
    parts += [partial(speed, spectra, emulator, chunk, fast) for chunk in args.chunks]
    parts += [
        lambda: launches(spectra[: min(args.chunks)], emulator),
        lambda: emulation(emulator, args.batch),
        lambda: training_step(emulator, 16),
        lambda: grid_model(args.atmospheres, args.line_list, emulator.device),
        lambda: speed(spectra, emulator, args.full_stars, full),
    ]
    for part in parts:
        if time.perf_counter() - began > DEADLINE:
            print("out of time: the rest is left out")
            break
        part()
    print(f"{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
