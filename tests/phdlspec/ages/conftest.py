"""The toy set of isochrones, in its forms."""

import pytest

from phdlspec.ages.readers import read_isochrones
from tests.phdlspec.ages.toys import write_npz


@pytest.fixture(scope="session")
def toy_path(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("isochrones") / "toy.npz")


@pytest.fixture(scope="session")
def toy(toy_path):
    return read_isochrones(toy_path)
