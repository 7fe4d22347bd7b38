"""Labels that are known from elsewhere: bounds that close, Gaussian priors, log g of a parallax, tables, bad input."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from astropy.table import Table

from phdlspec.errors import UserError
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.known import KnownPrior, KnownStar, fixed_values, parse_fixed, parse_gaussian
from phdlspec.fitting.known_table import read_known
from phdlspec.fitting.levenberg_marquardt import levenberg_marquardt
from phdlspec.fitting.priors import prior_expansion, prior_value
from phdlspec.fitting.settings import FitSettings
from phdlspec.flags import LabelFlag, StarFlag
from tests.phdlspec.fitting.test_driver import TRUTH, mock
from tests.phdlspec.fitting.test_problem import make_problem


def test_a_fixed_label_stays_and_the_others_gain():
    problem, truth = make_problem(2, snr=100.0, seed=5)
    labels = problem.coordinates.labels
    star = KnownStar({"TEFF": float(truth[0, 0])})
    values = fixed_values([star, KnownStar()], labels)
    closed = problem.coordinates.closed_on(values)
    fixed = replace(problem, coordinates=closed)
    best = levenberg_marquardt(fixed, closed.coordinates(truth))
    assert best.converged.all()
    assert closed.parameters(best.z)[0, 0].item() == pytest.approx(float(truth[0, 0]), abs=0.01)
    free = levenberg_marquardt(problem, problem.coordinates.coordinates(truth))
    assert torch.allclose(closed.parameters(best.z)[1], problem.coordinates.parameters(free.z)[1], atol=1e-2)


def test_gaussian_and_parallax_are_priors_with_exact_derivatives():
    problem, truth = make_problem(2, dtype=torch.float64)
    stars = [
        KnownStar.of({"FE_H": (-0.3, 0.1), "PARALLAX": (5.0, 0.02), "KS": (7.0, 0.02), "AV": (0.1, 0.05)}),
        KnownStar.of({"MG_FE": (0.1, 0.05)}),
    ]
    prior = KnownPrior.of(stars, problem.coordinates.labels, torch.device("cpu"))
    z = problem.coordinates.coordinates(truth)
    value, gradient, _ = prior_expansion((prior,), problem.coordinates, z)
    for d in range(z.shape[1]):
        step = torch.zeros_like(z)
        step[:, d] = 1e-5
        ends = [prior_value((prior,), problem.coordinates, z + sign * step) for sign in (1.0, -1.0)]
        assert torch.allclose(gradient[:, d], (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-6)
    one = prior.select(torch.tensor([1]))
    of_one = prior_value((one,), problem.coordinates.select(torch.tensor([1])), z[1:])
    assert torch.allclose(of_one, value[1:])


def test_the_parallax_of_the_sun_gives_its_gravity():
    distance = 10.0  # pc; M_Ks of the Sun is 3.27
    star = KnownStar.of({"PARALLAX": (1000.0 / distance, 0.1), "KS": (3.27, 0.02), "AV": (0.0, 0.0)})
    assert star.logg is not None
    assert star.logg.value(5772.0, 4.438, 0.0) == pytest.approx(4.438, abs=0.06)
    assert 0.09 < star.logg.error < 0.13


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"TEFF": 9000.0}, "reach from"),
        ({"TEF": 5000.0}, "did you mean TEFF"),
        ({"FE_H": (-0.5, -0.1)}, "error"),
        ({"FE_H": math.nan}, "finite"),
        ({"PARALLAX": 3.0, "KS": 8.0}, "PARALLAX_ERR"),
    ],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(UserError, match=words):
        KnownStar.of(given)


@pytest.mark.parametrize("parallax", [(-1.0, 0.1), (0.3, 0.1)])
def test_a_parallax_that_says_nothing_is_told(parallax):
    star = KnownStar.of({"PARALLAX": parallax, "KS": 8.0})
    assert star.logg is None
    assert "parallax" in star.unused[0]


def test_words_of_the_command_line():
    assert parse_fixed("teff=5772") == ("TEFF", 5772.0)
    assert parse_gaussian("FE_H=-0.5±0.1") == ("FE_H", (-0.5, 0.1))
    assert parse_gaussian("[Fe/H]=-0.5+-0.1") == ("FE_H", (-0.5, 0.1))
    for text in ("TEFF", "TEFF=hot"):
        with pytest.raises(UserError):
            parse_fixed(text)
    for text in ("FE_H=-0.5", "FE_H=-0.5±0"):
        with pytest.raises(UserError):
            parse_gaussian(text)


def _written(tmp_path, **columns) -> str:
    path = tmp_path / "known.csv"
    Table(columns).write(path, format="ascii.csv", overwrite=True)
    return str(path)


class _Star:
    def __init__(self, stem="spectrum", **meta):
        self.stem, self.meta = stem, meta


def test_a_table_is_matched_by_name_file_or_position(tmp_path):
    table = read_known(_written(tmp_path, OBSID=["a", "b"], TEFF=[5000.0, np.nan], TEFF_ERR=[50.0, 50.0]))
    assert table.of(_Star(OBSID="a")).gaussian == {"TEFF": (5000.0, 50.0)}
    assert not table.of(_Star(OBSID="b"))
    assert not table.of(_Star(OBSID="c"))
    table = read_known(_written(tmp_path, FILE=["x/spec-1.fits.gz"], LOGG=[2.5], LOGG_ERR=[0.0]))
    assert table.of(_Star("spec-1")).fixed == {"LOGG": 2.5}
    table = read_known(_written(tmp_path, RA=[10.0], DEC=[60.0], LOGG=[2.5], LOGG_ERR=[0.1]))
    assert table.of(_Star(RA=10.0 + 1.0 / 3600.0, DEC=60.0)).gaussian == {"LOGG": (2.5, 0.1)}
    assert not table.of(_Star(RA=10.1, DEC=60.0))
    table = read_known(_written(tmp_path, OBSID=["a"], TEFF=[9900.0], TEFF_ERR=[0.0]))
    assert "reach from" in table.of(_Star(OBSID="a")).unused[0]


def test_a_column_that_is_no_label_is_told(tmp_path, caplog):
    columns = {"TEFF": [5000.0], "TEFF_ERR": [50.0], "MG_FEE": [0.1], "MG_FEE_ERR": [0.1], "SNR": [50.0]}
    read_known(_written(tmp_path, OBSID=["a"], **columns))
    assert "known.csv: MG_FEE: no label of the models, not used" in caplog.text


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"OBSID": ["a"], "TEFF": [5000.0]}, "TEFF_ERR"),
        ({"OBSID": ["a", "a"], "TEFF": [5000.0, 5001.0], "TEFF_ERR": [1.0, 1.0]}, "rows 1 and 2"),
        ({"RA": [1.0, 1.0], "DEC": [2.0, 2.0], "TEFF": [5000.0, 5001.0], "TEFF_ERR": [1.0, 1.0]}, "rows 1 and 2"),
        ({"OBSID": ["a"], "TEFF": [5000.0], "TEFF_ERR": [np.nan]}, "row 1"),
        ({"OBSID": ["a"], "COLOUR": [1.0]}, "no column is a label"),
        ({"TEFF": [5000.0], "TEFF_ERR": [1.0]}, "OBSID, FILE"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(tmp_path, columns, words):
    with pytest.raises(UserError, match=words):
        read_known(_written(tmp_path, **columns))


def test_a_fit_says_what_was_given_and_what_the_spectrum_says(toy_emulator, tmp_path):
    star = mock(toy_emulator, name="a")
    free, told, wrong = (
        fit_batch([star], toy_emulator, FitSettings(mode="fast", known=known))[0]
        for known in ({}, {"TEFF": TRUTH["TEFF"], "LOGG": (TRUTH["LOGG"], 0.05)}, {"TEFF": TRUTH["TEFF"] + 900.0})
    )
    teff, logg = (told.names.index(name) for name in ("TEFF", "LOGG"))
    assert told.value[teff] == TRUTH["TEFF"]
    assert told.err[teff] == told.crlb[teff] == 0.0
    assert told.label_flag[teff] & LabelFlag.GIVEN
    assert not told.label_flag[teff] & LabelFlag.PRIOR_DOMINATED
    assert told.err[logg] < 1.1 * min(0.05, free.err[logg])  # with the noise of the draws
    assert not told.flag & StarFlag.GIVEN_DISAGREES
    of_teff = next(one for one in told.given if one.name == "TEFF")
    assert of_teff.alone == pytest.approx(free.value[teff], abs=2.0 * free.err[teff])
    assert told.crlb_alone is not None
    assert (told.crlb <= 1.001 * told.crlb_alone).all()
    assert wrong.flag & StarFlag.GIVEN_DISAGREES
    assert any("sigma" in words for words in wrong.meta["WARNINGS"])


def test_unknown_labels_are_refused_before_the_fit():
    with pytest.raises(UserError, match="unknown label"):
        FitSettings(known={"COLOUR": 1.0})
