import numpy as np
import torch

from phdlspec.continuum import continuum_basis
from phdlspec.emulator.model_error import ModelError, reference_bounds

WAVE = np.exp(np.linspace(np.log(4000.0), np.log(4800.0), 800))
SPAN = np.array([3500.0, 2.0, 1.0])
STARS_AT = 5500.0, 3.0, -0.5


def _lines(seed):
    """Derivatives (3, P) of three labels: as many combs of lines."""
    random = np.random.default_rng(seed)
    return np.array(
        [
            sum(np.exp(-0.5 * ((WAVE - centre) / 1.5) ** 2) for centre in random.uniform(4020, 4780, 25)) / unit
            for unit in SPAN
        ]
    )


JACOBIAN = _lines(0)
FLUX = np.ones(len(WAVE))


def _stars(n, random):
    return np.column_stack([random.uniform(4000, 7500, n), random.uniform(0.5, 5, n), random.uniform(-2.5, 0.5, n)])


def _size(stars):
    """Ten times larger at 4000 K than at 6000 K."""
    return 10.0 ** ((6000.0 - stars[:, 0]) / 2000.0)


def _measure(stars, random, offsets):
    """Residuals of independent noise of 1e-3, and labels off by normal numbers of size `offsets` in label units."""
    noise = 1e-3 * random.normal(size=(len(stars), len(WAVE)))
    labels = random.normal(size=(len(stars), 3)) * offsets
    residuals = _size(stars)[:, None] * (noise + labels @ JACOBIAN)
    return ModelError.measure(WAVE, residuals, stars, ((FLUX, JACOBIAN) for _ in stars), SPAN), labels


def _floor(error, stars):
    flux, jacobian = (torch.as_tensor(x).expand(len(stars), *x.shape) for x in (FLUX, JACOBIAN))
    return error.floor(torch.as_tensor(WAVE), torch.as_tensor(stars), flux, jacobian)


def test_the_error_of_other_stars_is_foretold():
    random = np.random.default_rng(1)
    error, _ = _measure(_stars(80, random), random, np.zeros(3))
    others = _stars(40, random)
    told = (_floor(error, others).sigma ** 2).mean(1).sqrt().numpy()
    assert np.median(np.abs(np.log(told / (1e-3 * _size(others))))) < 0.25


def test_labels_that_are_off_widen_the_bounds_by_as_much():
    """The bound with the model error is the pure one and the labels' own scatter, in quadrature."""
    random = np.random.default_rng(5)
    offsets = np.array([150.0, 0.0, 0.08])
    stars = np.tile(STARS_AT, (400, 1))
    error, _ = _measure(stars, random, offsets / _size(stars[:1]))
    floor = _floor(error, stars[:1])
    weight = np.mean(np.diff(np.log(WAVE))) / 2.3e-4 / 0.01**2
    noise = np.diag(np.full(len(WAVE), 1.0 / weight)) + floor.factor[0].numpy().T @ floor.factor[0].numpy()
    design = np.vstack([JACOBIAN, continuum_basis(WAVE)]).T
    prior = np.diag(np.append(12.0 / SPAN**2, np.zeros(design.shape[1] - 3)))
    with_error = np.sqrt(np.diag(np.linalg.inv(design.T @ np.linalg.solve(noise, design) + prior)))[:3]
    flux, jacobian, basis, span = map(torch.as_tensor, (FLUX, JACOBIAN, continuum_basis(WAVE), SPAN))
    pure = reference_bounds(flux, jacobian, WAVE, basis, span).numpy()
    np.testing.assert_allclose(np.sqrt(with_error**2 - pure**2)[[0, 2]], offsets[[0, 2]], rtol=0.15)
    assert with_error[1] < 1.1 * pure[1]


def test_beyond_the_measured_stars_the_trend_is_not_followed():
    random = np.random.default_rng(2)
    stars = _stars(80, random)
    error, _ = _measure(stars, random, np.zeros(3))
    edge = np.array([[stars[:, 0].min(), 3.0, -0.5]])
    assert error.amplitude(edge) == error.amplitude(edge - [[2000.0, 0.0, 0.0]])


def test_few_models_have_one_amplitude():
    random = np.random.default_rng(3)
    stars = _stars(10, random)
    error, _ = _measure(stars, random, np.zeros(3))
    assert np.array_equal(error.amplitude(stars), np.ones(10))


def test_it_survives_a_checkpoint():
    random = np.random.default_rng(4)
    stars = _stars(80, random)
    error, _ = _measure(stars, random, np.full(3, 0.01))
    again = ModelError.of(error.tensors(), WAVE)
    for name in ("sigma", "factor"):
        one, two = (getattr(_floor(e, stars[:3]), name) for e in (error, again))
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-9)
