"""What has sunk below the surface: planted in a toy, found again; what is given or not understood is left alone."""

from dataclasses import replace

import numpy as np
import pytest

from phdlspec.ages import read_isochrones
from phdlspec.ages.settling import SUN_AGE, SUN_TEFF, excess_of_the_sun, with_settling
from phdlspec.ages.stages import Stage
from tests.phdlspec.ages import toys

PLANTED = 0.06


def _of_the_sun(mh: float, name: str) -> float:
    main = slice(toys.MAIN)
    at_nodes = []
    for log_age in toys.AGES:
        one = toys.isochrone(log_age, mh)
        at_nodes.append(np.interp(1.0, one["mass"][main], one[name][main]))
    return float(np.interp(np.log10(SUN_AGE), toys.AGES, at_nodes))


@pytest.fixture(scope="module")
def isochrones(tmp_path_factory):
    """The toy, moved so that one solar mass at the Sun's age is the Sun at [M/H] = PLANTED."""
    made = read_isochrones(toys.write_npz(tmp_path_factory.mktemp("toy") / "toy.npz"))
    quantities = {name: values.copy() for name, values in made.quantities.items()}
    for i, mh in enumerate(made.mh):
        teff, log_l = (_of_the_sun(mh, name) for name in ("log_teff", "log_l"))
        quantities["log_teff"][i] += np.log10(SUN_TEFF) - 0.12 * (mh - PLANTED) - teff
        quantities["log_l"][i] += -0.4 * (mh - PLANTED) - log_l
    return replace(made, quantities=quantities)


def test_a_set_whose_sun_is_no_sun_keeps_its_surfaces(tmp_path):
    toy = read_isochrones(toys.write_npz(tmp_path / "toy.npz"))
    assert np.isnan(excess_of_the_sun(toy))
    assert np.isnan(toy.facts.settled)
    assert with_settling(toy) is toy


def test_the_excess_of_the_sun_is_found(isochrones):
    assert excess_of_the_sun(isochrones) == pytest.approx(PLANTED, abs=0.005)


def test_dwarfs_lack_it_giants_do_not(isochrones):
    settled = with_settling(isochrones)
    assert settled.facts.settled == excess_of_the_sun(isochrones)
    lacking = isochrones.quantities["surface_mh"] - settled.quantities["surface_mh"]
    stage = isochrones.quantities["stage"]
    np.testing.assert_allclose(lacking[stage == Stage.MAIN_SEQUENCE], settled.facts.settled)
    np.testing.assert_allclose(lacking[stage == Stage.GIANT], 0.0)
    one = lacking[0, 3][stage[0, 3] == Stage.SUBGIANT]
    assert (np.diff(one) < 0).all()
    assert one[0] == pytest.approx(settled.facts.settled)
    assert one[-1] == pytest.approx(0.0)


def test_a_set_that_gives_its_surfaces_keeps_them(isochrones):
    given = replace(isochrones, facts=replace(isochrones.facts, surface=True))
    assert with_settling(given) is given
