"""Files that would hang a run, or fill the memory, are one sentence at once."""

from __future__ import annotations

import gzip
import os
import time

import h5py
import numpy as np
import pytest

from phdlspec import hdf5_check
from phdlspec.catalog.inputs import expand_inputs, read_reference, write_packed
from phdlspec.errors import UserError, plain
from phdlspec.io import read_spectrum, write_lamost
from phdlspec.spectrum import Spectrum
from phdlspec.wavelength import LAMOST_WAVE


def a_spectrum(scale: float = 1.0) -> Spectrum:
    flux = scale * (100.0 + np.sin(np.arange(len(LAMOST_WAVE))))
    ivar = np.full(len(LAMOST_WAVE), scale**-2.0)
    return Spectrum(LAMOST_WAVE, flux, ivar, np.zeros(len(flux), bool), 1800.0, {"OBSID": "7", "RA": 1.0, "DEC": 2.0})


def refused(path) -> str:
    started = time.monotonic()
    with pytest.raises(UserError) as told:
        read_spectrum(path)
    assert time.monotonic() - started < 30.0
    assert str(told.value) == plain(str(told.value))
    return str(told.value)


def card(text: str) -> bytes:
    return text.ljust(80).encode()


HEADERS = {
    "huge NAXIS": ["BITPIX  = 8", "NAXIS   = 9223372036854775807", "NAXIS1  = 5"],
    "negative NAXIS1": ["BITPIX  = 8", "NAXIS   = 1", "NAXIS1  = -2880"],
    "data beyond the file": ["BITPIX  = -64", "NAXIS   = 2", "NAXIS1  = 1000000", "NAXIS2  = 1000000"],
    "no NAXIS2": ["BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 1"],
    "odd BITPIX": ["BITPIX  = 7", "NAXIS   = 0"],
    "words for numbers": ["BITPIX  = 8", "NAXIS   = 'two'"],
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cards", HEADERS.values(), ids=HEADERS)
def test_headers_that_cannot_be(tmp_path, cards, packed):
    content = b"".join(map(card, ["SIMPLE  =                    T", *cards, "END"])).ljust(2880)
    path = tmp_path / "spec.fits"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert "damaged or truncated" in refused(path)


def test_a_header_without_end(tmp_path):
    path = tmp_path / "spec.fits"
    path.write_bytes(card("SIMPLE  =                    T") * 36 * 3)
    assert "without its END" in refused(path)


def test_a_small_gzip_of_very_many_zeros(tmp_path):
    path = tmp_path / "spec.fits.gz"
    write_lamost(a_spectrum(), tmp_path / "whole.fits")
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write((tmp_path / "whole.fits").read_bytes())
        for _ in range(64):
            file.write(bytes(1 << 20))
    assert len(read_spectrum(path)) == len(LAMOST_WAVE)  # what is not told of in the headers is not unpacked


def test_a_changed_byte_in_a_gzip_is_seen(tmp_path):
    path = tmp_path / "spec.fits.gz"
    write_lamost(a_spectrum(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    refused(path)


def test_a_pipe_in_a_folder_is_a_row_with_a_reason(tmp_path):
    os.mkfifo(tmp_path / "spec.fits")
    (tmp_path / "link.csv").symlink_to("/dev/zero")
    references = expand_inputs([tmp_path])
    assert len(references) == 2
    for reference in references:
        assert "expected a regular file" in refused(reference)


def test_tables_too_long_and_lines_that_do_not_end(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("wave," * 1_000_000)
    assert "its first line does not end" in refused(path)
    wave = np.linspace(4000, 5000, 1_000_001)
    with pytest.raises(UserError, match="expected at most 1000000"):
        Spectrum(wave, wave, wave, np.zeros(len(wave), bool), 1800.0)


@pytest.mark.parametrize(("start", "separator"), [("", ","), ("\ufeff", ","), ("", "\t"), ("# made by hand\n", " ")])
def test_marks_and_separators(tmp_path, start, separator):
    rows = [f"{w:.3f},{100 + i % 3},1,{'True' if i == 5 else 'False'}" for i, w in enumerate(LAMOST_WAVE[:300])]
    text = "\n".join(["wave_vac,flux,err,mask", *rows]).replace(",", separator)
    path = tmp_path / "a.csv"
    path.write_text(start + text, encoding="utf-8")
    found = read_spectrum(path, resolving_power=1800.0)
    assert np.flatnonzero(found.mask).tolist() == [5]


def test_names_do_not_reach_the_terminal_as_they_are(tmp_path):
    path = tmp_path / "a\x1b[31m\nb\udce9.fits"
    path.write_bytes(b"SIMPLE")
    message = refused(path)
    assert "\x1b" not in message
    message.encode()
    assert len(str(UserError("x" * 200_000))) == 1000


@pytest.mark.parametrize("scale", [1e-19, 1e-17, 1.0, 1e9])
def test_packed_spectra_keep_physical_units(tmp_path, scale):
    path, spectrum = tmp_path / "a.h5", a_spectrum(scale)
    write_packed(path, [spectrum, spectrum])
    found = read_reference(f"{path}[1]")
    np.testing.assert_allclose(found.flux, spectrum.flux, rtol=1e-6)
    np.testing.assert_allclose(found.ivar, spectrum.ivar, rtol=1e-6)
    assert not found.mask.any()


def _claim(file, pixels):
    for name in ("flux", "ivar"):
        del file[name]
        file.create_dataset(name, (1, pixels), np.float32, chunks=(1, 1000))


PACKED = {
    "a group for data": lambda file: (file.__delitem__("flux"), file.create_group("flux")),
    "text for numbers": lambda file: (file.__delitem__("wave"), file.__setitem__("wave", b"text")),
    "a billion pixels": lambda file: _claim(file, 10**9),
    "no mask": lambda file: file.__delitem__("mask"),
    "no arms": lambda file: file.attrs.__delitem__("arms"),
}


@pytest.mark.parametrize("change", PACKED.values(), ids=PACKED)
def test_packed_files_that_cannot_be(tmp_path, change):
    path = tmp_path / "a.h5"
    write_packed(path, [a_spectrum()])
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(UserError, match="damaged file of spectra"):
        expand_inputs([path])


def test_an_hdf5_on_which_the_library_hangs_or_crashes(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    write_packed(path, [a_spectrum()])
    cases = (("while True: pass", 1.0, "does not come to an end"), ("import os; os.abort()", 60.0, "signal 6"))
    for look, longest, reason in cases:
        monkeypatch.setattr(hdf5_check, "LONGEST", longest)
        hdf5_check._problem.cache_clear()
        monkeypatch.setattr(hdf5_check, "_LOOK", look)
        with pytest.raises(UserError, match=reason):
            expand_inputs([path])
    hdf5_check._problem.cache_clear()
