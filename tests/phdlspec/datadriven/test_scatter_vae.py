"""ScatterVAE of spectra: masks, calibration of the scatter, scores, files, bad input. No shipped model needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import phdlspec
from phdlspec.catalog.rows import to_arrays, to_table
from phdlspec.catalog.strangest import strangest_section
from phdlspec.cli import main
from phdlspec.datadriven.dataset import LEVEL_EVERY, Dataset, read_dataset
from phdlspec.datadriven.scatter_vae import (
    SpectrumSettings,
    VaeFlag,
    balmer,
    load_model,
    load_spectrum_model,
    train_spectra,
)
from phdlspec.datadriven.scatter_vae.basis import principal_components, project_onto
from phdlspec.datadriven.scatter_vae.calibration import HeldOutResiduals, calibrate, mean_squares
from phdlspec.datadriven.scatter_vae.check import check_spectra
from phdlspec.datadriven.scatter_vae.flux_shape import FluxShape
from phdlspec.datadriven.scatter_vae.judge import AnomalyJudge
from phdlspec.datadriven.scatter_vae.loading import model_path
from phdlspec.datadriven.scatter_vae.neighbours import Neighbours
from phdlspec.datadriven.scatter_vae.optimise import Schedule, optimise
from phdlspec.datadriven.scatter_vae.pretraining import emulated_spectra, population
from phdlspec.datadriven.scatter_vae.residuals import SpectrumResiduals, worst_windows
from phdlspec.datadriven.scatter_vae.score import FALSE_ALARMS, learn_reference
from phdlspec.datadriven.scatter_vae.second_lines import LAGS, doubled, projections
from phdlspec.datadriven.scatter_vae.signs import signs_of
from phdlspec.datadriven.training_folder import NOTHING_KEPT, TrainingFolder
from phdlspec.errors import UserError
from phdlspec.fitting.result import Fitted
from phdlspec.flags import StarFlag
from phdlspec.io import read_spectrum
from phdlspec.labels import LabelSet
from phdlspec.wavelength import LAMOST_WAVE

EXAMPLE = Path(phdlspec.__file__).parent / "data" / "example.fits.gz"


@pytest.fixture(scope="module")
def data() -> Dataset:
    theta = population(130, 3, LabelSet())
    return read_dataset(list(emulated_spectra(theta, 3, np.full(130, 80.0))), grid=LAMOST_WAVE)


@pytest.fixture(scope="module")
def model(data):
    settings = SpectrumSettings(latents=6, mocks=64, mock_epochs=1, epochs=12)
    return train_spectra(data.take(np.arange(110)), settings)


def strange(data: Dataset, wave: float, height: float, width: float) -> Dataset:
    line = height * np.exp(-0.5 * ((data.wave - wave) / width) ** 2)
    return replace(data, flux=np.where(data.ivar > 0, data.flux + line, 0.0).astype(np.float32))


def test_a_trained_model_explains_stars_that_it_had_not_seen(data, model):
    table = model.apply(data.take(np.arange(110, 130)))
    assert 0.7 < np.median(table["RCHI2"]) < 1.4
    assert (table["FLAG"] == 0).sum() >= 17
    assert model.metadata["held_out"]["spectra"] == 110


def test_planted_emission_is_strange_and_told_where(data, model):
    ordinary = data.take(np.arange(110, 130))
    table = model.apply(strange(ordinary, 6564.6, 0.5, 3.0))
    assert (table["ANOMALY"] > model.apply(ordinary)["ANOMALY"]).all()
    told = [abs(float(worst.split()[0]) - 6564.6) < 8.0 and " +" in worst for worst in table["WORST"]]
    assert sum(told) >= 18  # a kind of star that it has hardly seen may deviate more elsewhere
    bright = model.apply(strange(ordinary, 6564.6, 3.0, 3.0))  # one of the few that it learned from is odd itself
    assert ((bright["FLAG"] & VaeFlag.STRANGE) > 0).mean() > 0.8


def test_masked_pixels_are_neither_seen_nor_scored(data, model):
    few = data.take(np.arange(110, 115))
    red = data.wave > 6000.0
    without = replace(few, ivar=np.where(red, 0.0, few.ivar).astype(np.float32))
    absurd = replace(without, flux=np.where(red, 1e6, few.flux).astype(np.float32))
    one, other = model.apply(without), model.apply(absurd)
    for name in ("LATENTS", "RCHI2", "ANOMALY"):
        assert np.array_equal(one[name], other[name])
    assert (one["FLAG"] & VaeFlag.STRANGE == 0).sum() >= 4  # a missing arm is nothing strange


def test_applying_draws_nothing_and_survives_its_file(data, model, tmp_path):
    model.save(tmp_path / "m.safetensors")
    again = load_spectrum_model(tmp_path / "m.safetensors")
    few = data.take(np.arange(5))
    torch.manual_seed(1)
    one = model.apply(few)
    torch.manual_seed(2)
    other = again.apply(few)
    for name in ("LATENTS", "CHI2", "ANOMALY", "ANOMALY_PCT", "WORST"):
        assert np.array_equal(one[name], other[name])


def test_an_unreadable_spectrum_is_a_flagged_row(data, model):
    lost = replace(data.take(np.arange(3)), reasons=("", "broken", ""))
    table = model.apply(lost)
    assert table["FLAG"][1] == VaeFlag.UNREADABLE
    assert table["REASON"][1] == "broken"
    assert np.isnan(table["ANOMALY"][1])
    assert np.isfinite(table["ANOMALY"][0])


def test_spectra_on_another_grid_are_refused(data, model):
    shorter = replace(data, wave=data.wave[:-1], flux=data.flux[:, :-1], ivar=data.ivar[:, :-1])
    with pytest.raises(UserError, match="3908 pixels"):
        model.apply(shorter)


def test_five_spectra_are_too_few(data, tmp_path, capsys):
    data.take(np.arange(5)).write(tmp_path / "five.h5")
    assert main(["vae", "train", str(tmp_path / "five.h5"), "--out", str(tmp_path / "m.safetensors")]) == 1
    assert "5 spectra are too few to learn from, expected at least 100" in capsys.readouterr().err


def test_the_command_applies_a_model(data, model, tmp_path):
    model.save(tmp_path / "m.safetensors")
    data.take(np.arange(6)).write(tmp_path / "six.h5")
    out = tmp_path / "t.ecsv"
    assert main(["vae", "apply", str(tmp_path / "m.safetensors"), str(tmp_path / "six.h5"), "--out", str(out)]) == 0
    assert "ANOMALY_PCT" in out.read_text()


@pytest.mark.parametrize(("content", "message"), [(b"", "the file is empty"), (b"not a model", "not a model")])
def test_what_is_no_model_is_told(content, message, tmp_path):
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "m.safetensors")


def test_components_with_gaps_beat_plain_ones_where_the_gaps_are_not():
    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.normal(size=(60, 2)))[0]
    flux = 1.0 + random.normal(size=(300, 2)) * [3.0, 1.0] @ basis.T
    weight = np.where(random.random(flux.shape) < 0.7, 1e4, 0.0)
    seen = torch.as_tensor(np.where(weight > 0, flux, -50.0)).float()
    mean, found = principal_components(seen, torch.as_tensor(weight).float(), 2, iterations=30)
    rebuilt = project_onto(seen, torch.as_tensor(weight).float(), mean, found).numpy()
    assert np.abs(rebuilt - flux).max() < 0.02


def test_factors_on_noise_and_scatter_are_found():
    random = np.random.default_rng(1)
    noise = 10.0 ** random.uniform(-6, -2, (400, 48))
    scatter = np.full(noise.shape, 1e-4)
    squared = random.normal(size=noise.shape) ** 2 * (0.7 * noise + 2.0 * scatter)
    held = HeldOutResiduals(squared, noise, scatter, np.ones(noise.shape, dtype=bool))
    ln_noise, ln_scatter = calibrate(held)
    assert np.allclose(np.exp(ln_noise).mean(), 0.7, rtol=0.1)
    assert np.allclose(np.exp(ln_scatter).mean(), 2.0, rtol=0.1)


def test_balmer_lines_have_their_wings_with_the_continuum_put_back():
    wave, pixels = LAMOST_WAVE, np.arange(len(LAMOST_WAVE))
    bare = np.ones((3, len(wave)), dtype=np.float32)
    one = Dataset(
        wave, bare, bare * 1e4, np.full(len(wave), 1800.0), ("a", "b", "c"), ("", "", ""), ("a", "b", "c"),
        np.zeros(3), np.zeros(3), np.zeros(3), np.full(3, 100.0), ("", "", ""),
    )  # fmt: skip
    sigma = 12.0  # Å
    dips = sum(0.4 * np.exp(-0.5 * ((wave - line) / sigma) ** 2) for line in balmer.LINES)
    width = 0.4 * np.sqrt(2.0 * np.pi) * sigma
    level = np.zeros((3, len(pixels[::LEVEL_EVERY])), dtype=np.float32)
    level[1] = 1e-4 * wave[::LEVEL_EVERY]  # a slope is no line
    flux = bare * (1.0 - np.array([0.0, 0.0, 1.0])[:, None] * dips)
    found = balmer.balmer_strength(replace(one, flux=flux.astype(np.float32), level=level))
    assert found == pytest.approx([0.0, 0.0, width], abs=0.3)
    taken = np.log(flux[2])[::LEVEL_EVERY]  # splines that follow the lines
    smooth = np.exp(np.interp(pixels, pixels[::LEVEL_EVERY], taken))
    hidden = replace(one, flux=(flux / smooth).astype(np.float32), level=np.stack([taken] * 3).astype(np.float32))
    assert balmer.balmer_strength(hidden)[2] == pytest.approx(width, abs=0.3)
    assert np.isnan(balmer.balmer_strength(one)).all()  # no continuum was kept
    assert np.isnan(balmer.balmer_strength(replace(hidden, ivar=np.where(wave < 5500.0, 0.0, bare)))).all()


def test_hits_are_no_scatter():
    random = np.random.default_rng(1)
    noise = 10.0 ** random.uniform(-6, -2, (400, 48))
    scatter = np.full(noise.shape, 1e-4)
    true = 0.7 * noise + 2.0 * scatter
    deviation = random.normal(size=noise.shape) + 100.0 * (random.random(noise.shape) < 1e-3)
    good = np.ones(noise.shape, dtype=bool)
    ln_noise, ln_scatter = calibrate(HeldOutResiduals(deviation**2 * true, noise, scatter, good))
    found = np.exp(ln_noise) * noise + np.exp(ln_scatter) * scatter
    everything, plain = mean_squares(deviation * np.sqrt(true / found), good)
    assert plain == pytest.approx(1.0, abs=0.02)
    assert everything > 5.0


def test_a_star_beyond_all_others_is_far_from_its_neighbours():
    random = np.random.default_rng(8)
    lines = random.normal(size=(3, 200)) * 0.1
    latents = random.normal(size=(300, 3)) * [1.0, 0.3, 0.3]
    scatter = np.full((300, 200), 0.01)
    near = Neighbours.learn((1.0 + latents @ lines)[:250], scatter[:250])
    ordinary = near.distance(1.0 + latents[250:] @ lines)
    beyond = near.distance(1.0 + (np.abs(latents[250:]) + [3.5, 0.0, 0.0]) @ lines)
    assert np.median(ordinary) < 3.0
    assert beyond.min() > np.quantile(ordinary, 0.9)
    again = Neighbours.of_tensors(near.tensors())
    assert np.allclose(again.distance(1.0 + latents[250:] @ lines), ordinary, rtol=1e-3)


def residuals_of(deviation: np.ndarray) -> SpectrumResiduals:
    x = np.arange(deviation.shape[1])
    lines = 1.0 - 0.5 * np.exp(-0.5 * ((x % 50 - 25.0) / 3.0) ** 2) + 0.0 * deviation
    wave = 6000.0 * np.exp(2.3e-4 * np.arange(deviation.shape[1]))
    return SpectrumResiduals(
        deviation, np.ones(deviation.shape, dtype=bool), lines, np.full(deviation.shape, 0.01),
        np.ones(deviation.shape[1]), wave, np.zeros(len(deviation)),
    )  # fmt: skip


def test_the_threshold_has_its_false_alarms_and_percentiles_are_uniform():
    random = np.random.default_rng(2)
    snr = np.exp(random.uniform(3, 6, 2000))
    names = ("misfit", "window of 9", "shift", "emission", "noise")
    signs = signs_of(residuals_of(random.normal(size=(2000, 300))), {"noise": -np.log(snr)}, names)
    reference = learn_reference(signs[:1000], snr[:1000], dict.fromkeys(names, 0.0))
    score, _ = reference.score(signs[1000:], snr[1000:])
    alarms = float(np.mean(score > reference.threshold))
    assert 0.2 * FALSE_ALARMS < alarms < 3.0 * FALSE_ALARMS
    percentile = reference.percentile(score)
    assert np.allclose(np.quantile(percentile, [0.25, 0.5, 0.75]), [25, 50, 75], atol=6.0)


def test_a_shift_raises_its_own_sign():
    random = np.random.default_rng(4)
    plain = random.normal(size=(50, 300))
    left = residuals_of(plain)
    change = np.gradient(left.model, axis=1)
    change[:, 150:] = 0.0
    moved = replace(left, deviation=plain + 0.3 * change / left.sigma)
    before, after = (signs_of(r, {}, ["shift"])[:, 0] for r in (left, moved))
    assert np.median(after) > np.max(before)


def test_lines_to_either_side_raise_the_projection_of_their_lag():
    random = np.random.default_rng(4)
    plain = random.normal(size=(50, 300))
    left = residuals_of(plain)
    change = np.roll(left.model, 3, axis=1) + np.roll(left.model, -3, axis=1) - 2.0 * left.model
    moved = replace(left, deviation=plain + 0.3 * change / left.sigma)
    before, after = (projections(r)[:, LAGS.index(3.0)] for r in (left, moved))
    assert np.median(after) > np.max(before)


def test_a_pair_has_the_noise_of_its_star_and_broader_lines():
    random = np.random.default_rng(6)
    wave = LAMOST_WAVE[:1000]
    line = 0.6 * np.exp(-0.5 * ((np.arange(1000) - 500.0) / 2.0) ** 2)
    ivar = np.full((40, 1000), 1e4, dtype=np.float32)
    ivar[:, 200] = 0.0
    flux = (1.0 - line + 0.01 * random.normal(size=ivar.shape)).astype(np.float32)
    pairs, weights = doubled(np.where(ivar > 0, flux, 0.0), ivar, wave, 1)
    assert (weights[:, 198:203] == 0).any(axis=1).all()
    assert (pairs[weights == 0] == 0).all()
    assert np.std(pairs[:, 600:900]) == pytest.approx(0.01, rel=0.15)
    depth = 1.0 - pairs.mean(axis=0)
    assert depth[500] < 0.57
    assert depth[480:520].sum() == pytest.approx(line.sum(), rel=0.03)


def test_a_continuum_that_is_not_that_of_its_star_is_far_out_and_reddening_is_not():
    random = np.random.default_rng(7)
    x = np.linspace(-1.0, 1.0, 60)
    latents = random.normal(size=(400, 3))
    level = latents[:, :1] * x + random.normal(0.0, 0.3, (400, 1)) * x**2 + random.normal(0.0, 0.01, (400, 60))
    level[:, 30] = np.nan
    shape = FluxShape.learn(level[:300], latents[:300])
    ordinary = shape.distance(level[300:], latents[300:])
    wave = shape.distance(level[300:] + 0.05 * np.sin(12.0 * x), latents[300:])
    redder = shape.distance(level[300:] + 0.3 * x**2, latents[300:])
    assert np.median(ordinary) == pytest.approx(1.0, abs=0.2)
    assert wave.min() > ordinary.max()
    assert np.median(redder) < 1.3
    assert (FluxShape.learn(np.empty((0, 0)), latents).distance(np.empty((0, 0)), latents) == 1.0).all()


def test_worst_windows_do_not_overlap():
    deviation = np.zeros((1, 300))
    deviation[0, 100:109] = 8.0
    deviation[0, 200:203] = -5.0
    (windows,) = worst_windows(residuals_of(deviation), np.arange(300.0), count=2)
    assert abs(windows[0][0] - 104) < 1
    assert windows[0][2] == pytest.approx(24.0, abs=0.1)
    assert abs(windows[1][0] - 201) < 1
    assert windows[1][2] < 0


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not(tmp_path):
    def network():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU(), torch.nn.Linear(8, 1))

    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(5))

    def run(net, work=NOTHING_KEPT, stop_at=None):
        calls = [0]

        def loss(rows, weight):
            calls[0] += 1
            if stop_at is not None and calls[0] > stop_at:
                raise KeyboardInterrupt
            return (net(x[rows])[:, 0] - x[rows].sum(1)).square() + weight

        return optimise(net, loss, 64, Schedule(6, 16, 1e-2, 2, 6), 0, work=work)

    whole = network()
    run(whole)
    stopped = network()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("phdlspec.datadriven.scatter_vae.optimise.KEEP_EVERY", 0.0)
        with pytest.raises(KeyboardInterrupt):
            run(stopped, TrainingFolder(tmp_path), stop_at=14)
    resumed = network()
    run(resumed, TrainingFolder(tmp_path))
    for one, other in zip(whole.parameters(), resumed.parameters()):
        assert torch.equal(one, other)


def test_the_page_is_of_spectra_that_training_has_not_seen(data, model, tmp_path):
    model.save(tmp_path / "m.safetensors")
    data.take(np.arange(110, 130)).write(tmp_path / "other.h5")
    out = tmp_path / "report"
    assert main(["vae", "check", str(tmp_path / "m.safetensors"), str(tmp_path / "other.h5"), "--out", str(out)]) == 0
    assert "<h2>The strangest</h2>" in (out / "check.html").read_text()
    named = replace(data, files=tuple(f"folder/star{i}.fits" for i in range(len(data))))
    known = replace(model, metadata={"files": [f"star{i}.fits" for i in range(len(data))]})
    with pytest.raises(UserError, match="expected 5 or more that it has not seen"):
        check_spectra(known, named, out, "m")


def test_a_catalogue_says_what_the_model_says(model, tmp_path):
    theta = population(3, 9, LabelSet())
    spectra = list(emulated_spectra(theta, 9, np.full(3, 80.0)))
    model.save(tmp_path / "m.safetensors")
    lost = Fitted.failed("gone", "broken")
    judge = AnomalyJudge.of(tmp_path / "m.safetensors")
    results = judge([*spectra, lost], [Fitted.failed(s.path, "not fitted here") for s in spectra] + [lost])
    expected = model.apply(spectra)
    rows = to_table(to_arrays(results, ["a", "b", "c", "gone"]))
    assert np.allclose(rows["ANOMALY"][:3], expected["ANOMALY"], rtol=1e-5)
    assert np.isnan(rows["ANOMALY"][3])
    assert list((rows["FLAG"][:3] & int(StarFlag.STRANGE)) > 0) == list((expected["FLAG"] & 1) > 0)
    section = strangest_section(rows)
    assert len(section[-1].rows) == 3
    assert any(str(expected["WORST"][0]) in row[-1] for row in section[-1].rows)


def test_a_model_of_xp_is_no_judge_of_spectra(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="not a model"):
        AnomalyJudge.of(tmp_path / "m.safetensors")


def test_the_shipped_model_judges_the_bundled_example():
    model = load_spectrum_model("lamost")
    assert model_path("lamost").stat().st_size < 10e6
    table = model.apply([read_spectrum(EXAMPLE)])
    assert table["REASON"][0] == ""
    assert 0.5 < table["RCHI2"][0] < 5.0


def test_the_shipped_model_ranks_real_odd_spectra_high(shared_data):
    # Of the part of DR10 that it has not seen: a damaged Hβ, and a cool star with bands.
    odd = ("spec-59640-HD161911N490217V02_sp09-160", "spec-59636-TD062610N184524H01_sp08-172")
    files = [shared_data / "lamost" / "dr10" / f"{name}.fits.gz" for name in odd]
    model = load_spectrum_model("lamost")
    assert not set(model.metadata["files"]) & {f.name for f in files}
    assert (model.apply(files)["ANOMALY_PCT"] > 90.0).all()


def test_what_was_learned_with_other_stars_held_out_is_not_gone_on_with(data, tmp_path, monkeypatch):
    def stopped(data, settings, device, work):
        work.keep_done("fold0", {"held": np.arange(3)})
        raise KeyboardInterrupt

    monkeypatch.setattr("phdlspec.datadriven.scatter_vae.spectrum_training._train", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_spectra(data, SpectrumSettings(), parts=tmp_path / "m.parts")
    with pytest.raises(KeyboardInterrupt):  # the same spectra of the same stars
        train_spectra(data, SpectrumSettings(), parts=tmp_path / "m.parts")
    pairs = replace(data, stars=tuple(f"star {i // 2}" for i in range(len(data))))
    with pytest.raises(UserError, match="left by a training on other data"):
        train_spectra(pairs, SpectrumSettings(), parts=tmp_path / "m.parts")
