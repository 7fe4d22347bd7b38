"""Learning a bridge: corrections from spectra that differ in all they can, processes, bad input, mocks."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from astropy.table import Table
from scipy.sparse import csr_array

from phdlspec.bridge.learn import Step, at_own_labels, learn, learned, residuals_of
from phdlspec.bridge.low_rank import LowRank
from phdlspec.bridge.processes import fitted_process
from phdlspec.bridge.references import ReferenceStar, read_references
from phdlspec.bridge.residuals import Residual, SplineEquations, adapted, spline_basis, without_broad
from phdlspec.cli import main
from phdlspec.emulator.bridge import BridgedEmulator
from phdlspec.errors import UserError
from phdlspec.fitting.settings import FitSettings
from phdlspec.io import write_lamost
from phdlspec.labels import STRUCTURE
from phdlspec.lsf import NativeGrid, at_resolving_power, pixel_weights, project
from tests.phdlspec.bridge.made import crossed
from tests.phdlspec.fitting.test_driver import mock

GRID = NativeGrid(3690.0, 1.0 / 8750.0, 1500, 3500.0)
SETTINGS = FitSettings(mode="fast", seed=1, bridge="none")


def correction(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    lines, depths = random.uniform(3720, 4340, 25), random.normal(0, 0.03, 25)
    return sum(d * np.exp(-0.5 * (np.log(GRID.wave / w) / 2.5e-4) ** 2) for w, d in zip(lines, depths))


def residuals(noise: float = 0.005) -> tuple[list[Residual], np.ndarray, np.ndarray]:
    """Of stars of two resolving powers, steps and coverages, and velocities; labels, amplitudes and corrections."""
    random = np.random.default_rng(1)
    labels = np.column_stack([random.uniform(4200, 6500, 90), random.uniform(1, 5, 90), random.uniform(-1.5, 0.4, 90)])
    amplitudes = np.column_stack([6.0 * (5040.0 / labels[:, 0] - 0.95), (labels[:, 1] - 3.0) / 2.0])
    truth = amplitudes @ np.stack([correction(1), correction(2)])
    splines, found = spline_basis(GRID), []
    for i in range(90):
        wave = np.arange(3720.0, 4100.0 if i % 3 == 0 else 4330.0, 0.9 if i % 2 else 1.2)
        power, rv = 1400.0 + 500.0 * (i % 2), float(random.normal(0, 40))
        index, weight = pixel_weights(GRID, torch.tensor(wave), torch.full((len(wave),), power), 6.0, rv)
        rows = np.arange(len(wave))[:, None].repeat(index.shape[1], 1).ravel()
        seen = csr_array((weight.numpy().ravel(), (rows, index.numpy().ravel())), shape=(len(wave), GRID.size))
        sigma = np.full(len(wave), noise)
        value = seen @ truth[i] + random.normal(0, noise, len(wave))
        value[10] += 3.0 if i == 5 else 0.0  # a cosmic ray
        found.append(Residual(f"star {i}", labels[i], np.diag([50.0, 0.1, 0.1]) ** 2, value, sigma, sigma,
                              csr_array(seen @ splines), np.zeros((len(wave), 3))))  # fmt: skip
    return found, labels, truth


def seen(native: np.ndarray) -> np.ndarray:
    return at_resolving_power(torch.as_tensor(native), GRID, 1800.0).numpy()[:, 150:1300]


def test_pixel_weights_are_the_operator_of_project():
    wave = torch.arange(3750.0, 4300.0, 1.1, dtype=torch.float64)
    native = torch.as_tensor(correction(4))[None]
    index, weight = pixel_weights(GRID, wave, torch.full((len(wave),), 1700.0), 12.0, 35.0)
    expected = project(native, GRID, wave, 1700.0, 12.0, 35.0)[0]
    assert torch.allclose((native[0][index] * weight).sum(-1), expected, atol=1e-9)


def test_what_pixels_say_is_banded_and_whole():
    one = residuals()[0][1]
    weight = 1.0 / one.sigma**2
    told = SplineEquations.of(one.seen, weight, one.value)
    full = (one.seen.T @ csr_array(one.seen.multiply(weight[:, None]))).toarray()
    columns = np.random.default_rng(0).normal(size=(one.seen.shape[1], 3))
    assert np.allclose(told.times(columns), full @ columns, rtol=1e-3, atol=1e-3 * np.abs(full).max())


def test_corrections_are_found_in_spectra_that_differ_in_resolution_and_coverage():
    found, labels, truth = residuals()
    left = np.full(found[0].seen.shape[1], 0.002)
    clean = [one for i, one in enumerate(found) if i != 5]
    low_rank = LowRank.of([one.told(left) for one in clean], 2)
    splines, kept = spline_basis(GRID), [i for i in range(90) if i != 5 and i % 3]
    model = low_rank.amplitudes @ (splines @ low_rank.vectors).T
    model = model[[j for j, i in enumerate(i for i in range(90) if i != 5) if i % 3]]
    assert (seen(model) - seen(truth[kept])).std() < 0.15 * seen(truth[kept]).std()
    process = fitted_process(
        labels[[i for i in range(90) if i != 5]], low_rank.amplitudes,
        np.array([np.diag(c) for c in low_rank.covariances]),
    )  # fmt: skip
    smooth = process.mean(torch.as_tensor(labels[kept])).numpy() @ (splines @ low_rank.vectors).T
    assert (seen(smooth) - seen(truth[kept])).std() < 0.15 * seen(truth[kept]).std()


def test_where_no_star_has_pixels_as_much_is_left_as_beside():
    random = np.random.default_rng(9)
    found = [replace(one, value=one.value + random.normal(0, 0.02, len(one.value))) for one in residuals()[0]]
    emulator: Any = SimpleNamespace(native=GRID, checkpoint_hash="none")
    left = learned(Step(found, []), emulator, rank=2).left.numpy()
    inside, outside = left[(GRID.wave > 4250.0) & (GRID.wave < 4320.0)], left[GRID.wave > 4345.0]
    assert np.median(inside) > 0.01
    assert len(outside) > 50
    assert outside.min() > 0.5 * np.median(inside)


def test_a_wild_pixel_does_not_count():
    star = residuals()[0][5]
    model = np.zeros(star.seen.shape[1])
    cleaned = star.without_wild(model, np.full_like(model, 0.02), 6.0)
    assert np.isinf(cleaned.sigma[10])
    assert np.isfinite(cleaned.sigma).sum() > 0.95 * len(cleaned.sigma)


def test_errors_of_labels_go_and_what_models_lack_stays():
    found, truth, _ = residuals()
    random, errors = np.random.default_rng(3), np.array([100.0, 0.2, 0.1])
    pattern = np.stack([correction(k) for k in (11, 12, 13)], axis=1) / errors / 3.0
    lack, stars = np.array([80.0, 0.0, 0.0]), []  # the models are 80 K off, all of them
    for one, labels in zip(found, truth):
        by_label = one.seen @ (spline_basis(GRID).T @ pattern) / 3.0
        wrong = random.normal(0.0, errors)
        value = by_label @ (lack - wrong) + random.normal(0.0, 0.002, len(one.value))
        stars.append(replace(one, labels=labels + wrong, covariance=np.diag(errors**2), value=value, by_label=by_label))
    off = np.array([one.labels for one in at_own_labels(stars)]) - truth
    before = np.array([one.labels for one in stars]) - truth
    assert np.all(off.std(0) < 0.5 * before.std(0))
    assert np.all(np.abs(off.mean(0)) < 0.35 * errors)  # not the 80 K, which the bridge has to hold


def test_what_else_is_free_follows_a_label():
    random = np.random.default_rng(5)
    jacobian = random.normal(size=(200, 5))
    jacobian[:, 0] = 0.5 * jacobian[:, 3] + 0.1 * jacobian[:, 4]
    weight, free, held = np.full(200, 1e4), np.full(5, np.inf), np.full(5, 1e-6)
    assert np.abs(adapted(jacobian, [0, 1], weight, free)[:, 0]).max() < 1e-6
    assert np.allclose(adapted(jacobian, [0, 1], weight, held), jacobian[:, [0, 1]], atol=1e-4)


def test_what_an_instrument_bends_goes_and_lines_stay():
    wave = np.delete(np.arange(3900.0, 5200.0, 0.9), slice(300, 340))
    bent = 0.03 * np.sin(wave / 50.0)  # a wave of 310 Å
    lines = sum(
        -d * np.exp(-0.5 * ((wave - w) / 3.0) ** 2) for w, d in ((4100.0, 0.05), (4500.0, 0.02), (4900.0, 0.08))
    )
    bent_after, lines_after = without_broad(wave, np.column_stack([bent, lines]), np.ones_like(wave)).T
    assert bent_after.std() < 0.05 * bent.std()
    at_lines = lines < -0.005
    assert np.allclose(lines_after[at_lines], lines[at_lines], atol=0.012)


def test_a_bridge_learned_from_mocks_adds_what_they_had_more_than_the_emulator(toy_emulator):
    made, random, stars = crossed(toy_emulator).bridge, np.random.default_rng(7), []
    sky = BridgedEmulator(toy_emulator, replace(made, spectra=4.0 * made.spectra))
    for i in range(26):
        values = random.uniform((4400, 1.2, -0.9), (5600, 4.7, 0.3))
        anomalous = {"MG_FE": 0.3 if i % 5 == 0 else 0.0, "CA_FE": 0.0, "TI_FE": 0.0}
        known = dict(zip(STRUCTURE, map(float, values)))
        spectrum = mock(sky, snr=300.0, seed=30 + i, name=f"r{i}", red_velocity=0.0, **known, **anomalous)
        stars.append(ReferenceStar(f"r{i}", spectrum, values, np.array([60.0, 0.1, 0.06]), {}))
    bridge = learned(residuals_of(stars, toy_emulator, SETTINGS), toy_emulator, rank=3)
    learned_sky = BridgedEmulator(toy_emulator, bridge)
    labels = [{"TEFF": teff, "LOGG": logg, "FE_H": -0.2} for teff, logg in ((4600, 1.8), (4800, 4.4), (5300, 4.2))]
    theta = torch.as_tensor(np.stack([toy_emulator.labels.complete(one) for one in labels]), dtype=torch.float32)
    truth, found = (
        at_resolving_power(m.native_flux(theta) - toy_emulator.native_flux(theta), toy_emulator.native, 1800.0)
        for m in (sky, learned_sky)
    )
    inside = slice(400, 5500)
    assert (found - truth)[:, inside].std() < 0.6 * truth[:, inside].std()
    assert bridge.stars == {star.name for star in stars}


@pytest.fixture
def folder(toy_emulator, tmp_path):
    for i in range(6):
        write_lamost(mock(toy_emulator, seed=i, name=str(100 + i)), tmp_path / f"s{i}.fits")
    return tmp_path


def labels_table(folder, **changes) -> str:
    columns = {"OBSID": [str(100 + i) for i in range(6)], "TEFF": 5300.0, "TEFF_ERR": 50.0, "LOGG": 3.2,
               "LOGG_ERR": 0.1, "FE_H": -0.2, "FE_H_ERR": 0.05} | changes  # fmt: skip
    path = folder / "labels.ecsv"
    Table({k: v if isinstance(v, list) else [v] * 6 for k, v in columns.items() if v is not None}).write(
        path, overwrite=True
    )
    return str(path)


def test_bad_references_are_one_sentence(folder, toy_emulator, capsys, toy_checkpoint):
    spectra = [str(folder / f"s{i}.fits") for i in range(6)]
    with pytest.raises(UserError, match="TEFF_ERR"):
        read_references(spectra, labels_table(folder, TEFF_ERR=None), toy_emulator.labels)
    with pytest.raises(UserError, match="no column LOGG"):
        read_references(spectra, labels_table(folder, LOGG=None, LOGG_ERR=None), toy_emulator.labels)
    stars, left_out = read_references(spectra, labels_table(folder, TEFF=9000.0), toy_emulator.labels)
    assert not stars
    assert "TEFF = 9000, the models reach from" in left_out[0]
    stars, _ = read_references(spectra, labels_table(folder), toy_emulator.labels)
    with pytest.raises(UserError, match="6 reference stars with labels and errors, expected 25"):
        learn(stars, toy_emulator, SETTINGS)
    command = ["bridge", "learn", *spectra, "--labels", labels_table(folder), "--emulator", str(toy_checkpoint)]
    assert main([*command, "--out", str(folder / "b.safetensors")]) == 1
    assert "6 reference stars" in capsys.readouterr().err
    assert not (folder / "b.safetensors").exists()


def test_check_writes_a_page_and_refuses_stars_that_it_was_learned_from(folder, toy_emulator, capsys, toy_checkpoint):
    path = folder / "bridge.safetensors"
    crossed(toy_emulator).bridge.write(path)
    spectra = [str(folder / f"s{i}.fits") for i in range(6)]
    command = ["bridge", "check", str(path), *spectra, "--labels", labels_table(folder), "--emulator",
               str(toy_checkpoint), "--out", str(folder / "out")]  # fmt: skip
    assert main(command) == 0
    assert "6 held-out stars" in capsys.readouterr().out
    assert len(Table.read(folder / "out/check.ecsv")) == 6
    assert "data:image/png" in (folder / "out/check.html").read_text()
    labels_table(folder, STAR=[f"star {i}" for i in range(6)])
    assert main(command) == 1
    assert "0 of 6 stars are not of those that it was learned from" in capsys.readouterr().err
