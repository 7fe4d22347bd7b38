import numpy as np
import torch

from phdlspec.emulator.model_error import ModelError

WAVE = np.linspace(4000.0, 4800.0, 600)


def _stars(n, random):
    return np.column_stack([random.uniform(4000, 7500, n), random.uniform(0.5, 5, n), random.uniform(-2.5, 0.5, n)])


def _residuals(stars, random):
    """Ten times larger at 4000 K than at 6000 K; half of the variance is common to all pixels."""
    size = 1e-3 * 10.0 ** ((6000.0 - stars[:, 0]) / 2000.0)
    noise = random.normal(size=(len(stars), len(WAVE))) + random.normal(size=(len(stars), 1))
    return size[:, None] * noise / np.sqrt(2.0), size


def test_the_error_of_other_stars_is_foretold():
    random = np.random.default_rng(1)
    stars = _stars(80, random)
    residuals, _ = _residuals(stars, random)
    error = ModelError.measure(WAVE, residuals, stars)
    others = _stars(40, random)
    _, truth = _residuals(others, random)
    floor = error.floor(torch.as_tensor(WAVE), others)
    told = (floor.sigma**2 + (floor.factor**2).sum(1)).mean(1).sqrt().numpy()
    assert np.median(np.abs(np.log(told / truth))) < 0.25
    assert 0.2 < float((floor.factor**2).sum() / (told**2 * len(WAVE)).sum()) < 0.65


def test_beyond_the_measured_stars_the_trend_is_not_followed():
    random = np.random.default_rng(2)
    stars = _stars(80, random)
    error = ModelError.measure(WAVE, _residuals(stars, random)[0], stars)
    edge = np.array([[stars[:, 0].min(), 3.0, -0.5]])
    assert error.amplitude(edge) == error.amplitude(edge - [[2000.0, 0.0, 0.0]])


def test_few_models_have_one_amplitude():
    random = np.random.default_rng(3)
    stars = _stars(10, random)
    error = ModelError.measure(WAVE, _residuals(stars, random)[0], stars)
    assert np.array_equal(error.amplitude(stars), np.ones(10))


def test_it_survives_a_checkpoint_and_checkpoints_without_a_trend_are_read():
    random = np.random.default_rng(4)
    stars = _stars(80, random)
    error = ModelError.measure(WAVE, _residuals(stars, random)[0], stars)
    tensors = error.tensors()
    again = ModelError.of(tensors, WAVE)
    np.testing.assert_allclose(again.amplitude(stars), error.amplitude(stars), rtol=1e-5)
    old = ModelError.of({name: tensors[name] for name in ("model_error.sigma", "model_error.factor")}, WAVE)
    assert np.array_equal(old.amplitude(stars), np.ones(len(stars)))
