"""Files that may not be read or written, and files that vanish, shrink or grow while they are read."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

import phdlspec.fits_files as fits_files
import phdlspec.io as io
from calibration.store import Calibration
from phdlspec.catalog import expand_inputs, write_packed
from phdlspec.catalog.inputs import read_reference
from phdlspec.emulator.checkpoint import load_checkpoint
from phdlspec.errors import UserError
from phdlspec.fits_files import fits_size
from phdlspec.foreign import check_file, lines_of
from phdlspec.gridfile import Grid
from phdlspec.io import read_spectrum, write_lamost
from phdlspec.results import FitResult
from phdlspec.spectrum import Spectrum
from phdlspec.tables import read_any_table, write_table
from phdlspec.wavelength import LAMOST_WAVE

NOBODY = 65534


@contextmanager
def as_an_ordinary_user():
    """Root may read and write everything: be somebody else for a while."""
    me = os.geteuid()
    if me:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(me)


@pytest.fixture
def folder():
    """One that everybody may enter, as those of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)
        os.chmod(name, 0o755)


def a_spectrum() -> Spectrum:
    flux = 100.0 + np.random.default_rng(1).normal(size=len(LAMOST_WAVE))
    return Spectrum(LAMOST_WAVE, flux, np.ones(len(flux)), resolving_power=1800.0)


@pytest.fixture
def path(tmp_path):
    write_lamost(a_spectrum(), tmp_path / "a.fits")
    return tmp_path / "a.fits"


READERS = {
    "spectrum": read_spectrum, "table": read_any_table, "checkpoint": load_checkpoint, "grid": Grid,
    "calibration": Calibration.read, "packed": lambda path: read_reference(f"{path}[0]"),
    "fit": lambda path: FitResult.read(path),
    "list": lines_of,
}  # fmt: skip


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("barred", ["file", "folder"])
def test_what_may_not_be_read_is_one_sentence(folder, kind, barred):
    path = folder / ("a.h5" if kind in ("packed", "fit", "grid") else "a.fits")
    path.write_text("something")
    (path if barred == "file" else folder).chmod(0)
    with as_an_ordinary_user(), pytest.raises(UserError, match=r"(?i)permission denied"):
        READERS[kind](path)


def test_where_may_not_be_written_is_one_sentence(folder):
    folder.chmod(0o555)
    with as_an_ordinary_user(), pytest.raises(UserError, match="a.fits: cannot be written .Permission denied"):
        write_table(Table({"a": [1.0]}), folder / "a.fits")


def test_a_file_that_vanishes_while_it_is_read(path, monkeypatch):
    def gone(file):
        check_file(file)
        path.unlink(missing_ok=True)

    monkeypatch.setattr(io, "check_file", gone)
    with pytest.raises(UserError, match="a.fits: has vanished"):
        read_spectrum(path)


@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_file_that_is_written_over_while_it_is_read(path, monkeypatch, size):
    def changing(stream, *sizes):
        found = fits_size(stream, *sizes)
        os.truncate(path, size)  # shorter than the header, or than the data
        return found

    monkeypatch.setattr(fits_files, "fits_size", changing)
    with pytest.raises(UserError, match="a.fits: "):
        read_spectrum(path)


def test_a_file_that_grows_while_it_is_read(path, monkeypatch):
    expected = read_spectrum(path).flux

    def growing(stream, *sizes):
        found = fits_size(stream, *sizes)
        with path.open("ab") as file:
            file.write(b"\0" * 10_000_000)
        return found

    monkeypatch.setattr(fits_files, "fits_size", growing)
    assert np.array_equal(read_spectrum(path).flux, expected)


def test_a_packed_file_that_is_replaced_between_two_spectra(tmp_path):
    path = tmp_path / "pack.h5"
    write_packed(path, [a_spectrum(), a_spectrum()])
    first, second = expand_inputs([path])
    assert len(read_reference(first)) == len(LAMOST_WAVE)
    path.write_bytes(b"something else, by another program")
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match="not HDF5"):
        read_reference(second)
