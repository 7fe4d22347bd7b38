"""Lux on a small linear world: monotone, unbiased, silent about test labels, and clear about bad input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from astropy.table import Table

from phdlspec.cli import main
from phdlspec.datadriven.dataset import Dataset
from phdlspec.datadriven.folds import grouped_folds
from phdlspec.datadriven.label_table import LabelInfo
from phdlspec.datadriven.lux import Lux, LuxFlag, train
from phdlspec.datadriven.lux.check import write_check
from phdlspec.datadriven.lux.held_out import SpectrumPairs, learn_errors
from phdlspec.datadriven.lux.label_map import CANDIDATES, MapCandidates, stacked_shares
from phdlspec.datadriven.lux.model import objective
from phdlspec.datadriven.lux.optimise import optimise, start
from phdlspec.datadriven.lux.sweeps import gradient
from phdlspec.datadriven.lux.training import _prepare
from phdlspec.errors import UserError

N, P, K = 240, 150, 4
INFOS = (LabelInfo("TEFF", "apogee", "K", "Asplund2009"), LabelInfo("FE_H", "apogee", "dex", "Asplund2009"))


def world(seed: int = 3) -> tuple[Dataset, np.ndarray]:
    """A linear world with masked pixels, 40% of the labels missing, and the true labels (N, 2)."""
    random = np.random.default_rng(seed)
    z = random.normal(size=(N, K))
    sigma = random.uniform(0.01, 0.05, size=(N, 1)) * np.ones((1, P))
    flux = 1 + z @ random.normal(size=(K, P)) * 0.05 + sigma * random.normal(size=(N, P))
    ivar = np.where(random.random((N, P)) < 0.1, 0.0, 1 / sigma**2)
    truth = np.array([5000.0, -0.5]) + z @ random.normal(size=(K, 2)) * np.array([300.0, 0.2])
    errors = np.ones((N, 2)) * np.array([30.0, 0.02])
    values = truth + errors * random.normal(size=(N, 2))
    missing = random.random((N, 2)) < 0.4
    values[missing], errors[missing] = np.nan, np.nan
    files = tuple(f"star{i}.fits" for i in range(N))
    nan = np.full(N, np.nan)
    return Dataset(
        np.linspace(5000, 5300, P), np.where(ivar > 0, flux, 0).astype(np.float32), ivar.astype(np.float32),
        np.full(P, 1800.0), files, files, files, nan, nan, np.zeros(N), np.full(N, 40.0), ("",) * N,
        INFOS, values, errors,
    ), truth  # fmt: skip


@pytest.fixture(scope="module")
def trained() -> tuple[Lux, Dataset, np.ndarray]:
    data, truth = world()
    held = grouped_folds(data.stars, 4, seed=1) == 0
    return train(data.take(~held), latents=K), data.take(held), truth[held]


def test_the_objective_never_rises_and_its_gradient_is_right():
    stars = _prepare(world()[0], "cpu").stars
    assert max(np.diff(optimise(stars, K).values)) <= 1e-6 * N
    parameters = start(stars, K, 0)
    _, slope = gradient(parameters, stars)
    step = torch.randn(parameters.label_loadings.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    up, down = (
        objective(dataclasses.replace(parameters, label_loadings=parameters.label_loadings + s * 1e-4 * step), stars)
        for s in (1, -1)
    )
    assert (up - down) / 2e-4 == pytest.approx(float((slope.label_loadings * step).sum()), rel=0.02)


def test_labels_and_errors_of_stars_not_seen(trained):
    model, data, truth = trained
    found = model.predict(data)
    pull = (found.values - truth) / np.sqrt(np.einsum("nll->nl", found.covariance))
    assert (np.std(found.values - truth, axis=0) < np.array([90.0, 0.06])).all()
    assert (np.abs(pull.mean(0)) < 0.4).all()
    assert ((pull.std(0) > 0.6) & (pull.std(0) < 1.5)).all()


def test_slopes_of_a_label_map_are_those_of_its_values():
    random = torch.Generator().manual_seed(2)
    z = torch.randn(60, 5, generator=random, dtype=torch.float64)
    label = z @ torch.randn(5, 2, generator=random, dtype=torch.float64) + z[:, :2] ** 2 - 0.3 * z[:, :1] ** 3
    maps = MapCandidates.fit(z, torch.ones(5).double(), label, torch.full_like(label, 0.01), torch.zeros(2, 5).double())
    found = maps.mean(torch.eye(len(CANDIDATES)).double()[:, -4:-3].expand(-1, 2))  # products of three, little ridge
    inside = 0.5 * z[:4]
    step = 1e-5 * torch.eye(5).double()
    slopes = torch.stack([(found.correction(inside + s) - found.correction(inside - s)) / 2e-5 for s in step], dim=2)
    torch.testing.assert_close(found.jacobian(inside), slopes, rtol=1e-5, atol=1e-7)
    assert (found.correction(inside) - label[:4]).abs().max() > 0.1  # of other latents
    assert (found.correction(z) - label).abs().median() < 0.1
    outside = found.correction(100 * z)[:, 0] / (100 * z).norm(dim=1)
    assert outside.abs().max() < 20  # a line beyond the training stars, no cube


def test_noise_is_what_spectra_of_one_star_differ_by_and_not_what_they_state():
    data, _ = world()
    again, _ = world()
    random = np.random.default_rng(5)
    noisier = []
    for one in (data, again):  # each spectrum has twice the noise that its ivar states
        sigma = np.divide(3**0.5, np.sqrt(one.ivar), out=np.zeros_like(one.ivar), where=one.ivar > 0)
        noisier.append((one.flux + sigma * random.normal(size=one.flux.shape)).astype(np.float32))
    twice = dataclasses.replace(
        data, flux=np.concatenate(noisier), ivar=np.tile(data.ivar, (2, 1)),
        files=data.files + tuple(f"again_{f}" for f in data.files), stars=data.stars * 2, obsids=data.obsids * 2,
        ra=np.tile(data.ra, 2), dec=np.tile(data.dec, 2), velocity=np.tile(data.velocity, 2), snr=np.tile(data.snr, 2),
        reasons=data.reasons * 2, values=np.tile(data.values, (2, 1)), errors=np.tile(data.errors, (2, 1)),
    )  # fmt: skip
    held = grouped_folds(twice.stars, 4, seed=1) == 0
    model = train(twice.take(~held), latents=K)
    assert model.errors.pairs == 180
    found = model.predict(twice.take(held))
    half = len(found.values) // 2
    noise = np.sqrt(np.einsum("nll->nl", found.noise))
    ratio = (found.values[:half] - found.values[half:]) / np.hypot(noise[:half], noise[half:])
    assert ((ratio.std(0) > 0.75) & (ratio.std(0) < 1.25)).all()
    assert (np.einsum("nll->nl", found.covariance) >= noise**2).all()


def test_wrong_differences_do_not_widen_the_errors():
    random = np.random.default_rng(4)
    spread = np.exp(random.normal(0, 1, 400))
    difference = random.normal(size=400) * np.sqrt(spread + 0.5**2 + 0.3**2)
    difference[:30] *= 6.0
    nothing = SpectrumPairs(np.empty((0, 1)), np.empty((0, 1)))
    found = learn_errors(difference[:, None], spread[:, None, None], np.full((400, 1), 0.3), nothing)
    pull = difference / np.sqrt(found.full(spread[:, None, None])[:, 0, 0] + 0.3**2)
    assert 1.4826 * np.median(np.abs(pull)) == pytest.approx(1.0, abs=0.15)


def test_an_error_is_what_two_thirds_of_the_differences_are_within():
    random = np.random.default_rng(6)
    difference = random.normal(size=(600, 1))
    difference[:90] *= 4.0  # strange stars
    nothing = SpectrumPairs(np.empty((0, 1)), np.empty((0, 1)))
    given = np.full((600, 1), 0.5)
    found = learn_errors(difference, np.full((600, 1, 1), 0.25), given, nothing)
    error = np.sqrt(found.full(np.full((1, 1, 1), 0.25))[0, 0, 0] + 0.25)
    assert np.mean(np.abs(difference) < error) == pytest.approx(0.683, abs=0.03)


def test_maps_that_err_apart_share_and_a_bad_one_gets_little():
    random = torch.Generator().manual_seed(1)
    tries = 0.3 * torch.randn(3, 400, 2, generator=random, dtype=torch.float64)
    tries[2] *= 10.0
    tries[:, ::3, 0] = torch.nan  # labels that are not known
    shares = stacked_shares(tries, torch.full((400, 2), 0.01).double())
    torch.testing.assert_close(shares.sum(0), torch.ones(2).double())
    assert (shares[:2] - 0.5).abs().max() < 0.1
    assert shares[2].max() < 0.05


def test_labels_of_test_stars_change_nothing(trained):
    model, data, _ = trained
    shuffled = dataclasses.replace(data, values=data.values[::-1].copy(), errors=data.errors[::-1].copy())
    np.testing.assert_array_equal(model.predict(shuffled).values, model.predict(data).values)


def test_a_strange_spectrum_is_flagged_and_a_file_holds_the_model(trained, tmp_path):
    model, data, _ = trained
    model.save(tmp_path / "m.safetensors")
    again = Lux.load(tmp_path / "m.safetensors")
    np.testing.assert_allclose(again.predict(data).values, model.predict(data).values)
    strange = dataclasses.replace(data, flux=(data.flux * np.linspace(0.2, 3, P)).astype(np.float32))
    assert (again.apply(strange)["FLAG"] & int(LuxFlag.OUTSIDE_TRAINING | LuxFlag.POOR_FIT) > 0).all()


def test_a_stopped_training_goes_on_to_the_same(tmp_path):
    data = world()[0]
    stars = _prepare(data, "cpu").stars
    states = []
    whole = optimise(stars, K, save=states.append)
    again = optimise(stars, K, state=states[len(states) // 2])
    torch.testing.assert_close(again.parameters.loadings, whole.parameters.loadings, rtol=0, atol=0)


def test_the_data_set_there_and_back(tmp_path):
    data = world()[0]
    data.write(tmp_path / "pack.h5")
    again = Dataset.read(tmp_path / "pack.h5")
    np.testing.assert_array_equal(again.values, data.values)
    assert again.infos == data.infos


@pytest.mark.parametrize(
    ("latents", "change", "words"),
    [
        (1, {}, "1 latents cannot carry 2 labels"),
        (100, {}, "too few for 100 latents"),
        (K, {"values": np.full((N, 2), np.nan)}, "TEFF of apogee is known for 0"),
    ],
)
def test_bad_input_is_one_sentence(latents, change, words):
    with pytest.raises(UserError, match=words):
        train(dataclasses.replace(world()[0], **change), latents=latents)


def test_other_wavelengths_are_refused(trained):
    model, data, _ = trained
    with pytest.raises(UserError, match="pixels at"):
        model.predict(dataclasses.replace(data, wave=data.wave + 500.0))


def labels_of(data: Dataset, rows: slice, **meta) -> Table:
    table = Table({"FILE": data.files[rows], "STAR": data.stars[rows]})
    for i, info in enumerate(data.infos):
        table[info.name], table[f"{info.name}_ERR"] = data.values[rows, i], data.errors[rows, i]
    table.meta.update(meta)
    return table


def test_commands_train_apply_and_check(tmp_path, capsys):
    data, truth = world()
    spectra, model, out = tmp_path / "pack.h5", tmp_path / "m.safetensors", tmp_path / "labels.fits"
    data.write(spectra)
    labels_of(data, slice(0, 200), SOLSCALE="Asplund2009").write(tmp_path / "apogee.ecsv")
    labels_of(data, slice(0, None), SOLSCALE="Asplund2009").write(tmp_path / "all.ecsv")
    assert main(["lux", "train", str(spectra), "--labels", str(tmp_path / "apogee.ecsv"), "--out", str(model),
                 "--latents", "4"]) == 0  # fmt: skip
    assert "held-out stars" in capsys.readouterr().out
    assert not model.with_name("m.safetensors.parts").exists()
    assert main(["lux", "apply", str(model), str(spectra), "--out", str(out)]) == 0
    table = Table.read(out)
    assert list(table["FILE"][:2]) == ["star0.fits", "star1.fits"]
    new = slice(200, None)
    assert np.std((table["TEFF"][new] - truth[new, 0]) / table["TEFF_ERR"][new]) < 1.6
    assert table["COVARIANCE"].shape == (N, 2, 2)
    assert (table["TEFF_NOISE"] <= table["TEFF_ERR"]).all()
    np.testing.assert_allclose(table["COVARIANCE"][:, 0, 0] ** 0.5, table["TEFF_ERR"], rtol=1e-3)
    assert main(["lux", "check", str(model), str(spectra), "--labels", f"apogee={tmp_path / 'all.ecsv'}", "--out",
                 str(tmp_path / "report")]) == 0  # fmt: skip
    page, found = (tmp_path / "report" / "check.html").read_text(), Table.read(tmp_path / "report" / "check.ecsv")
    assert page.count("<img") == 3
    assert list(found["label"]) == ["TEFF", "FE_H"]
    assert ((found["pull"] > 0.6) & (found["pull"] < 1.5)).all()


def test_check_refuses_labels_of_another_solar_scale_or_other_labels(trained, tmp_path):
    model, data, _ = trained
    other = tuple(dataclasses.replace(info, solar_scale="Grevesse2007") for info in INFOS)
    with pytest.raises(UserError, match="FE_H is on the solar scale Grevesse2007, the model's on Asplund2009"):
        write_check(model, dataclasses.replace(data, infos=other), tmp_path, "m")
    with pytest.raises(UserError, match="same columns in the same order"):
        write_check(model, dataclasses.replace(data, infos=INFOS[::-1]), tmp_path, "m")


def test_stars_that_were_trained_on_are_judged_by_the_fold_that_had_not_seen_them(trained, tmp_path):
    model, _, _ = trained
    data, _ = world()
    seen = data.take(np.isin(data.files, model.metadata["files"]))
    write_check(model, seen, tmp_path, "m")
    scatter = Table.read(tmp_path / "check.ecsv")["scatter"]
    fitted = model.predict(seen).values - seen.values
    assert (scatter > 1.02 * 1.4826 * np.nanmedian(np.abs(fitted - np.nanmedian(fitted, axis=0)), axis=0)).any()


def test_two_surveys_give_their_difference_of_scale():
    data, truth = world()
    random = np.random.default_rng(8)
    values = np.hstack([truth, truth + np.array([60.0, 0.1])]) + random.normal(size=(N, 4)) * np.array([30.0, 0.02] * 2)
    errors = np.ones((N, 4)) * np.array([30.0, 0.02] * 2)
    which = random.random(N)
    values[which < 0.45, 2:] = values[which > 0.55, :2] = np.nan
    infos = (*INFOS, *(dataclasses.replace(info, set_name="galah") for info in INFOS))
    two = dataclasses.replace(data, infos=infos, values=values, errors=np.where(np.isfinite(values), errors, np.nan))
    model = train(two, latents=4)
    assert model.names == ("TEFF", "FE_H", "GALAH_TEFF", "GALAH_FE_H")
    found = model.predict(data).values
    assert np.median(found[:, 2] - found[:, 0]) == pytest.approx(60.0, abs=8.0)
    assert np.median(found[:, 3] - found[:, 1]) == pytest.approx(0.1, abs=0.006)


def test_the_folder_of_another_training_is_refused(tmp_path):
    data, _ = world()
    parts = tmp_path / "m.parts"
    parts.mkdir()
    (parts / "job.json").write_text('{"job": "another"}')
    (parts / "done_1.npz").touch()
    with pytest.raises(UserError, match="left by a training on other data"):
        train(data, latents=K, parts=parts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ivar": np.zeros((N, P), np.float32)}, "only 0 pixels are usable"),
        ({"values": np.full((N, 2), 5000.0)}, "TEFF of apogee has one value for all stars"),
        ({"infos": (), "values": np.empty((N, 0)), "errors": np.empty((N, 0))}, "no labels to learn from"),
    ],
)
def test_data_of_which_nothing_can_be_learned_are_one_sentence(change, words):
    with pytest.raises(UserError, match=words):
        train(dataclasses.replace(world()[0], **change), latents=K)


def test_wrong_options_are_one_sentence(tmp_path, capsys):
    spectra = tmp_path / "pack.h5"
    world()[0].write(spectra)
    for arguments, words in (
        (["--out", "m.fits"], "ends in .safetensors"),
        (["--out", str(tmp_path / "m.safetensors"), "--latents", "few"], "a positive number or auto"),
        (["--out", str(tmp_path / "m.safetensors"), "--restarts", "0"], "expected at least 1"),
        (["--out", str(tmp_path / "m.safetensors")], "there is no such file"),
    ):
        assert main(["lux", "train", str(spectra), "--labels", str(tmp_path / "none.ecsv"), *arguments]) == 1
        assert words in capsys.readouterr().err
