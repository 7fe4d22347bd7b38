"""The bridge beside an emulator: what it adds, what it leaves alone, its errors, its file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from phdlspec.emulator.bridge import Bridge, BridgedEmulator, bridged, told
from phdlspec.emulator.label_process import LabelProcess, scaled
from phdlspec.errors import UserError
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.settings import FitSettings
from phdlspec.flags import NOTES, StarFlag
from phdlspec.labels import STRUCTURE
from phdlspec.report import write_report
from tests.phdlspec.bridge.made import crossed, hand_made
from tests.phdlspec.fitting.test_driver import mock

SPREAD = {"TEFF": 4700.0, "LOGG": 3.1, "FE_H": -0.3}


@pytest.fixture(scope="module")
def with_bridge(toy_emulator):
    return crossed(toy_emulator)


def process() -> LabelProcess:
    random = np.random.default_rng(0)
    stars = torch.as_tensor(np.column_stack([
        random.uniform(4200, 6500, 80), random.uniform(1, 5, 80), random.uniform(-1.5, 0.4, 80)
    ]))  # fmt: skip
    at = scaled(stars)
    values = torch.stack([torch.sin(3.0 * at[:, 0]), at[:, 1] - 3.0], dim=1)
    size = torch.ones(2, dtype=torch.float64)
    return LabelProcess.of(
        at, values, torch.full_like(values, 1e-4), torch.tensor([0.25, 2.0, 1.5]).double(), size, 0.01 * size
    )


def test_a_process_follows_its_stars_with_exact_slopes_and_fades_far_from_them():
    found = process()
    stars = torch.tensor([[5000.0, 2.5, -0.2], [6000.0, 4.2, -0.8]], dtype=torch.float64)
    mean, slopes = found.mean_and_slopes(stars)
    truth = torch.stack([torch.sin(3.0 * 5040.0 / stars[:, 0]), stars[:, 1] - 3.0], dim=1)
    assert torch.allclose(mean, truth, atol=0.05)
    leaf = stars.clone().requires_grad_(True)
    for k in range(2):
        (slope,) = torch.autograd.grad(found.mean(leaf)[:, k].sum(), leaf)
        assert torch.allclose(slope, slopes[:, :, k], rtol=1e-8, atol=1e-10)
    far = torch.tensor([[3000.0, -4.0, -6.0]], dtype=torch.float64)
    assert torch.allclose(found.mean(far), torch.zeros(1, 2, dtype=torch.float64), atol=1e-3)
    assert torch.allclose(found.variance(far), torch.ones(1, 2, dtype=torch.float64), atol=1e-3)
    assert (found.variance(stars) < 0.01).all()
    one = torch.ones(2, dtype=torch.float64)
    assert found.support(far, one) < 0.01 < 0.98 < found.support(stars, one).min()


def test_derivatives_by_abundances_are_the_emulators_and_those_by_three_labels_are_exact(toy_emulator, with_bridge):
    theta = torch.as_tensor(toy_emulator.labels.complete(SPREAD)[None], dtype=torch.float32)
    plain, rows = toy_emulator.patches_and_jacobian(theta), with_bridge.patches_and_jacobian(theta)
    assert (rows[:, :, 0] - plain[:, :, 0]).abs().max() > 0.005
    assert torch.allclose(rows[:, :, 0], with_bridge.patches(theta), atol=1e-6)
    which = [1 + toy_emulator.labels.index(name) for name in STRUCTURE]
    others = [i for i in range(1, rows.shape[2]) if i not in which]
    assert torch.equal(rows[:, :, others], plain[:, :, others])
    for column in which:
        step = 2.0 if column == which[0] else 0.02
        up, down = theta.clone(), theta.clone()
        up[:, column - 1] += step
        down[:, column - 1] -= step
        added = with_bridge.patches(up) - toy_emulator.patches(up)
        less = with_bridge.patches(down) - toy_emulator.patches(down)
        change = (rows - plain)[:, :, column]
        assert torch.allclose(change, (added - less) / (2 * step), atol=0.02 * float(change.abs().max()) + 1e-9)


def test_its_error_grows_away_from_the_stars_it_was_learned_from(toy_emulator, with_bridge):
    wave = torch.as_tensor(np.arange(3900.0, 6600.0, 1.2))
    inside, outside = (
        torch.as_tensor(toy_emulator.labels.complete(labels)[None], dtype=torch.float32)
        for labels in (SPREAD, {"TEFF": 7450.0, "LOGG": 0.6, "FE_H": -2.4})
    )
    sizes = []
    for theta in (inside, outside):
        plain, floor = toy_emulator.error_floor(wave, theta), with_bridge.error_floor(wave, theta)
        assert floor.factor.shape[1] == plain.factor.shape[1] + 2
        assert (floor.sigma >= plain.sigma).all()
        sizes.append(float(floor.factor[:, -2:].abs().max()))
    assert sizes[1] > 3 * sizes[0]
    assert with_bridge.support(inside)[0] > 0.9 > 0.5 > with_bridge.support(outside)[0]


def test_an_anomalous_abundance_stays_and_the_spectrum_is_explained(toy_emulator, with_bridge):
    made = with_bridge.bridge
    with_bridge = BridgedEmulator(toy_emulator, replace(made, spectra=4.0 * made.spectra))
    labels = {"TEFF": 4900.0, "LOGG": 2.4, "FE_H": -0.3, "TI_FE": 0.0, "CA_FE": 0.0}
    settings = FitSettings(mode="fast", seed=2, bridge="none")
    skies = {"plain": toy_emulator, "real": with_bridge}
    stars = {
        (sky, mg): mock(model, snr=100.0, seed=8, name=f"{sky} {mg}", MG_FE=mg, **labels)
        for sky, model in skies.items() for mg in (0.0, 0.45)
    }  # fmt: skip
    plain = dict(zip(stars, fit_batch(list(stars.values()), toy_emulator, settings)))
    put_right = dict(zip(stars, fit_batch(list(stars.values()), with_bridge, settings, keep=True)))
    for mg in (0.0, 0.45):
        right, wrong, ideal = put_right["real", mg], plain["real", mg], plain["plain", mg]
        error = float(np.hypot(right["MG_FE"].err, ideal["MG_FE"].err))
        assert abs(right["MG_FE"] - ideal["MG_FE"]) < 2.0 * error
        assert abs(right["MG_FE"] - mg) < 3.0 * right["MG_FE"].err + 0.02
        assert abs(right["TEFF"] - 4900.0) < 3.0 * right["TEFF"].err
        assert wrong.diagnostics["stated_chi2"] - right.diagnostics["stated_chi2"] > 100
        assert right.diagnostics["bridge_support"] > 0.9
        assert right.spectrum.plain is not None
    # What separates the two stars is magnesium, with the bridge as without.
    separations = [fits["real", 0.45]["MG_FE"] - fits["real", 0.0]["MG_FE"] for fits in (plain, put_right)]
    assert abs(separations[1] - 0.45) < 3.0 * put_right["real", 0.45]["MG_FE"].err
    assert abs(separations[0] - separations[1]) < 3.0 * put_right["real", 0.45]["MG_FE"].err


def test_a_star_outside_it_has_a_note_and_the_report_tells_what_it_did(toy_emulator, with_bridge, tmp_path):
    star = mock(toy_emulator, TEFF=7200.0, LOGG=1.0, FE_H=-0.9)
    (result,) = fit_batch([star], with_bridge, FitSettings(mode="fast", seed=2), keep=True)
    assert result.flag & StarFlag.OUTSIDE_BRIDGE
    assert NOTES & StarFlag.OUTSIDE_BRIDGE
    write_report(result, tmp_path / "star.html", {})
    assert "without the bridge" in (tmp_path / "star.html").read_text()


def test_a_file_is_read_as_it_was_written_and_belongs_to_its_emulator(toy_emulator, with_bridge, tmp_path):
    path = tmp_path / "bridge.safetensors"
    with_bridge.bridge.write(path)
    model = bridged(toy_emulator, str(path))
    assert isinstance(model, BridgedEmulator)
    assert bridged(toy_emulator, str(path)) is model  # what was computed with it is kept
    assert told(model) == Bridge.read(path).sha256
    theta = torch.as_tensor(toy_emulator.labels.complete(SPREAD)[None], dtype=torch.float32)
    assert torch.allclose(model.patches(theta), with_bridge.patches(theta), atol=1e-6)
    assert bridged(toy_emulator, "none") is toy_emulator
    assert told(toy_emulator) == "none"
    other = replace(with_bridge.bridge, metadata={**with_bridge.bridge.metadata, "checkpoint": "0" * 64})
    other.write(path)
    with pytest.raises(UserError, match="learned with another emulator"):
        bridged(toy_emulator, str(path))
    with pytest.raises(UserError, match="no such bridge"):
        bridged(toy_emulator, str(tmp_path / "none.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        Bridge.read(path)
    broken = replace(hand_made(toy_emulator), left=torch.zeros(5))
    broken.write(path)
    with pytest.raises(UserError, match="damaged bridge"):
        Bridge.read(path)
