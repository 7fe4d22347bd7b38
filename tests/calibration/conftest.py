"""A small simulated survey and its calibration, made once."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from calibration.catalog import Catalog
from calibration.learning import learn_corrections
from calibration.simulate import SimulationSettings, simulate

SMALL = SimulationSettings(elements=("Mg", "C"), pairs=150, members=60, survey_sizes=(250, 120), test_stars=800)


@pytest.fixture(scope="session")
def survey():
    return simulate(SMALL, seed=11)


@pytest.fixture(scope="session")
def calibration(survey):
    return learn_corrections(Catalog.from_table(survey.catalog), survey.pairs, survey.clusters, survey.labels)


@pytest.fixture(scope="session")
def of_teff(calibration):
    """Of Teff alone: a report has a dozen figures for each label."""
    return replace(calibration, labels={"TEFF": calibration.labels["TEFF"]})


@pytest.fixture
def catalog(survey):
    """A fresh copy: applying a calibration changes the table."""
    return Catalog.from_table(copy.deepcopy(survey.catalog), "catalogue.fits")
