"""Catalogues in other formats say all that the FITS table says."""

from __future__ import annotations

import numpy as np
import pytest

from phdlspec.catalog.formats import write_also
from phdlspec.catalog.reading import read_catalog
from phdlspec.catalog.rows import covariance, to_arrays, write_fits
from phdlspec.cli import main
from phdlspec.errors import UserError
from phdlspec.fitting.result import Fitted


@pytest.fixture
def catalogue(tmp_path):
    random = np.random.default_rng(1)
    results = []
    for i in range(3):
        empty = Fitted.failed("", "")
        size = len(empty.names)
        root = random.normal(size=(size, size))
        matrix = root @ root.T
        fields = {"value": random.normal(size=size), "err": np.sqrt(np.diag(matrix)), "cov": matrix, "flag": 0}
        results.append(Fitted(**{**vars(empty), **fields, "meta": {"OBSID": f"00{i}", "RA": 1.0 * i}}))
    arrays = to_arrays(results, ["a.fits", "b.fits", "c.fits"])
    write_fits(lambda: iter([arrays]), tmp_path / "c.fits", {"EMUHASH": "abc", "COMMAND": "phdlspec catalog"})
    return tmp_path / "c.fits"


@pytest.mark.parametrize("kind", ["hdf5", "parquet"])
def test_nothing_is_lost(catalogue, kind, capsys):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    table = read_catalog(catalogue)
    other = read_catalog(write_also(table, catalogue, kind))
    assert list(other["OBSID"]) == ["000", "001", "002"]
    assert other["OBSID"].dtype.kind == "U"
    assert other["TEFF"].unit == table["TEFF"].unit
    assert other["TEFF"].description == table["TEFF"].description
    assert other.meta["EMUHASH"] == "abc"
    assert "phdlspec catalog" in other.meta["COMMAND"]
    names, matrix = covariance(str(catalogue), 1)
    lower = np.tril_indices(len(names), -1)
    sizes = np.sqrt(np.diag(matrix))
    assert np.allclose(other["CORRELATION"][1] / 127.0, (matrix / np.outer(sizes, sizes))[lower], atol=1e-3)
    assert main(["info", str(catalogue.with_suffix({"hdf5": ".h5", "parquet": ".parquet"}[kind]))]) == 0
    assert "catalogue of 3 stars, 3 that may be used" in capsys.readouterr().out


def test_what_is_no_catalogue(tmp_path):
    (tmp_path / "c.fits").write_bytes(b"words")
    for name in ("c.fits", "none.fits"):
        with pytest.raises(UserError, match="catalogue"):
            read_catalog(tmp_path / name)
