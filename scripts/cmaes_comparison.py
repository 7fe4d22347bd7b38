"""The batched CMA-ES beside the `cma` package on real fits: same posterior, same starts, same populations.

    python scripts/cmaes_comparison.py phdlspec/data/example.fits.gz spec-*.fits.gz --mocks 2

Each star is searched from the optimum that `phdlspec.fitting.levenberg_marquardt` finds, as the full mode does, and
from the entry of the look-up, where all the way is left to the search. Log posteriors are relative to that optimum: of
the search's best point, and after that point has been polished. Seconds are CPU seconds of one thread for one star, so
that other jobs on the machine do not count; the batched code is run once on all stars and its time divided among them.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from harness import table_head
from least_squares_comparison import mock_stars, prepare_problem
from torch import Tensor

from phdlspec import load_emulator, read_spectrum
from phdlspec.fitting.cmaes import (
    MAX_ITERATIONS,
    MAX_RESTARTS,
    SPREAD,
    TOLERANCE,
    WORTHWHILE,
    Searched,
    default_population,
    first_covariance,
    search,
)
from phdlspec.fitting.levenberg_marquardt import Optimum, levenberg_marquardt
from phdlspec.fitting.preparation import groups, prepare
from phdlspec.fitting.problem import Problem
from phdlspec.fitting.random import StarRandom
from phdlspec.spectrum import Spectrum

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import cma


@dataclass(frozen=True)
class Row:
    """One star, one start, one code: ln posterior over the polished optimum's, before and after polishing."""

    star: str
    start: str
    code: str
    found: float
    polished: float
    evaluations: int
    restarts: int
    seconds: float
    reason: str

    def __str__(self) -> str:
        return (
            f"| {self.star} | {self.start} | {self.code} | {self.found:+.2f} | {self.polished:+.3f} | "
            f"{self.evaluations} | {self.restarts} | {self.seconds:.1f} | {self.reason} |"
        )


def search_with_cma(problem: Problem, local: Optimum, seed: int) -> tuple[Searched, str]:
    """What `search` does, for one star, with the package, and why that stopped; in coordinates in which the first
    population is round."""
    root = torch.linalg.cholesky(first_covariance(local.expansion.hessian))[0]
    z, value = local.z[0], float(local.expansion.log_posterior[0])
    evaluations, attempt, reason = 0, 0, ""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randn(SPREAD, problem.n_dim, generator=generator, dtype=z.dtype)
    near = problem.near((z + spread @ root.mT)[None])
    for attempt in range(MAX_RESTARTS + 1):
        options = {
            "seed": seed + attempt, "popsize": 2 * default_population(problem.n_dim) * 2**attempt,
            "maxiter": MAX_ITERATIONS, "tolfun": TOLERANCE, "verbose": -9,
        }  # fmt: skip
        strategy = cma.CMAEvolutionStrategy(np.zeros(problem.n_dim), 1.0, options)
        while not strategy.stop():
            points = strategy.ask()
            score = -near.log_posterior((z + torch.as_tensor(np.stack(points)).to(z) @ root.mT)[None])[0]
            strategy.tell(points, score.nan_to_num(nan=1e30, posinf=1e30).cpu().tolist())
        evaluations += int(strategy.result.evaluations)
        reason = ", ".join(strategy.stop())
        gain = -float(strategy.result.fbest) - value
        if gain > 0:
            z = z + root @ torch.as_tensor(strategy.result.xbest).to(z)
            value += gain
        if gain < WORTHWHILE:
            break
    one = torch.tensor([evaluations]), torch.tensor([attempt])
    return Searched(z[None], z.new_tensor([value]), *one, local.stop_reason), reason


def compare(problem: Problem, start: Tensor, names: list[str]) -> Iterator[Row]:
    """Both codes from both starts for the stars of one problem; `start` (S, D) is the look-up's."""
    optimum = levenberg_marquardt(problem, start)
    for label, local in (("optimum", optimum), ("look-up", levenberg_marquardt(problem, start, max_iterations=1))):
        begin = time.process_time()
        ours = search(problem, local, StarRandom(1, names, problem.device))
        share = (time.process_time() - begin) / len(names)
        after = levenberg_marquardt(problem, ours.z).expansion.log_posterior
        for s, name in enumerate(names):
            index = torch.tensor([s], device=problem.device)
            one = problem.select(index)
            best = optimum.expansion.log_posterior[s]
            yield Row(
                name, label, "batched", float(ours.log_posterior[s] - best), float(after[s] - best),
                int(ours.evaluations[s]), int(ours.restarts[s]), share, ours.stop_reason[s].value,
            )  # fmt: skip
            begin = time.process_time()
            reasons, steps = local.stop_reason[s : s + 1], local.iterations[index]
            single = Optimum(local.z[index], local.expansion.select(index), reasons, steps)
            theirs, reason = search_with_cma(one, single, seed=s + 1)
            seconds = time.process_time() - begin
            polished = levenberg_marquardt(one, theirs.z).expansion.log_posterior[0]
            yield Row(
                name, label, "cma", float(theirs.log_posterior[0] - best), float(polished - best),
                int(theirs.evaluations[0]), int(theirs.restarts[0]), seconds, reason,
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spectra", nargs="*", help="files that `phdlspec fit` reads")
    parser.add_argument("--mocks", type=int, default=0, help="mock stars of the emulator besides")
    parser.add_argument("--snr", type=float, default=80.0, help="of the mocks (default 80)")
    parser.add_argument("--emulator")
    args = parser.parse_args()
    torch.set_num_threads(1)
    emulator = load_emulator(args.emulator)
    spectra: list[Spectrum] = [read_spectrum(path) for path in args.spectra]
    spectra += mock_stars(emulator, args.mocks, args.snr, seed=1)
    print(
        table_head(
            "star", "start", "code", "ln posterior", "polished", "evaluations", "restarts", "CPU s", "stopped by"
        )
    )
    for group in groups([prepare(spectrum, emulator.native) for spectrum in spectra]):
        members = [spectra[i] for i in group]
        problem, start = prepare_problem(members, emulator)
        for row in compare(problem, start, [spectrum.stem for spectrum in members]):
            print(row, flush=True)


if __name__ == "__main__":
    main()
