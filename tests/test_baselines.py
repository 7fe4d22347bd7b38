"""The plain emulators that ours is measured against, and the runs of the comparison."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from phdlspec.errors import UserError
from tests.phdlspec import tiny

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import baselines  # noqa: E402
import prior_worth  # noqa: E402

LN_WAVE = torch.linspace(8.3, 8.31, 48, dtype=torch.float64)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return tiny.write_grid(tmp_path_factory.mktemp("grid") / "toy.h5", n=40)


class LinearGrid:
    """Spectra that are linear in the labels."""

    def __init__(self):
        random = np.random.default_rng(2)
        self.wave = np.linspace(4000.0, 4100.0, 30)
        self.slopes = random.normal(size=(4, 30))
        self.labels = random.normal(size=(20, 4))

    def flux(self, row: int) -> np.ndarray:
        return 1.0 + self.labels[row] @ self.slopes

    def jacobian(self, row: int) -> np.ndarray:
        return self.slopes


def test_taylor_blend_is_exact_for_linear_spectra():
    grid, train = LinearGrid(), np.arange(20)
    theta = np.array([0.3, -0.2, 0.5, 0.1])
    flux, change = baselines.taylor_blend(grid, train, theta, baselines.label_widths(grid, train))
    assert np.allclose(flux, 1.0 + theta @ grid.slopes)
    assert np.allclose(change, grid.slopes)


def toy_spectra() -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (200, 3) and fluxes (200, 48) with two lines, the deeper the larger a label."""
    x = 2.0 * torch.rand(200, 3, generator=torch.Generator().manual_seed(4)) - 1.0
    lines = torch.stack([torch.exp(-(((LN_WAVE - c) / 4e-4) ** 2)) for c in (8.303, 8.307)]).float()
    return x, torch.exp(-(0.4 + 0.3 * x[:, :2]) @ lines)


@pytest.mark.parametrize("make", [baselines.LabelPerceptron, baselines.PixelTransformer])
def test_a_baseline_learns_toy_spectra(make):
    torch.manual_seed(1)
    x, flux = toy_spectra()
    mean = flux[:150].mean(0)
    network = make(3, mean, hidden=32) if make is baselines.LabelPerceptron else make(3, LN_WAVE, mean, width=16)
    generator = torch.Generator().manual_seed(1)

    def loss(step: int) -> torch.Tensor:
        index = torch.randint(150, (network.batch,), generator=generator)
        return network.loss(x[index], flux[index], generator)

    @torch.no_grad()
    def error(trial: torch.nn.Module) -> float:
        return float((trial(x[150:]) - flux[150:]).pow(2).mean().sqrt())

    before = error(network)
    clock = time.process_time
    assert baselines.train_for(2.0 * torch.get_num_threads(), clock, network, loss, error, 5e-3) > 50
    assert error(network) < 0.3 * before
    assert prior_worth.derivatives(network, x[0]).shape == (3, 48)


def test_every_method_runs_once_and_is_scored(grid, tmp_path, monkeypatch, capsys):
    results, figure = tmp_path / "worth.jsonl", tmp_path / "worth.png"
    arguments = ["prior_worth.py", str(results), "--grid", str(grid.path), "--minutes", "0.005", "--sizes", "12"]
    arguments += ["--derivative-models", "1", "--device", "cpu", "--table", "--plot", str(figure)]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(prior_worth, "INFORMATIVE", tiny.ACTIVE)
    prior_worth.main()
    runs = [json.loads(line) for line in results.read_text().splitlines()][1:]
    assert [run["method"] for run in runs] == list(prior_worth.METHODS)
    assert all(0.0 < run["flux_rms_median"] <= run["flux_rms_p95"] < 1.0 for run in runs)
    assert "Spectra needed" in capsys.readouterr().out
    assert figure.is_file()
    prior_worth.main()  # nothing is left to do
    assert len(results.read_text().splitlines()) == 1 + len(runs)


def test_a_growing_grid_does_not_change_what_is_compared(grid, tmp_path):
    results = tmp_path / "worth.jsonl"
    everything = grid.done.copy()
    grid.done = everything & (np.arange(len(grid)) < 20)
    prior_worth.keep_to_rows(grid, results)
    grid.done = everything.copy()
    prior_worth.keep_to_rows(grid, results)
    assert grid.n_done == 20
    grid.done = everything & (np.arange(len(grid)) > 5)
    with pytest.raises(UserError, match="another grid"):
        prior_worth.keep_to_rows(grid, results)
    grid.done = everything


def test_spectra_needed_is_interpolated_in_logarithms():
    runs = [{"size": 100, "e": 1e-2}, {"size": 400, "e": 2.5e-3}]
    assert prior_worth.spectra_needed(runs, lambda run: run["e"], 5e-3) == pytest.approx(200.0)
    assert prior_worth.spectra_needed(runs, lambda run: run["e"], 1e-3) is None
