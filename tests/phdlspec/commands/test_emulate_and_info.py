"""`phdlspec emulate` and `phdlspec info`; direct synthesis stands in for itself with toy stars."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table

import phdlspec.abinitio
from phdlspec.cli import main
from phdlspec.fitting.driver import FitSettings, fit_batch
from tests.phdlspec import tiny


class ToySynthesis:
    """The truth behind the toy emulator, with the interface of `DirectSynthesis`."""

    def native_flux(self, theta, native):
        return tiny.toy_model(torch.as_tensor(theta))[0].float()

    def native_flux_and_jacobian(self, theta, native):
        flux, jacobian = tiny.toy_model(torch.as_tensor(theta))
        return flux.float(), jacobian.float()


@pytest.fixture
def options(toy_checkpoint):
    return ["--emulator", str(toy_checkpoint), "--device", "cpu"]


def test_one_star_in_every_format(options, tmp_path):
    for name in ("a.fits", "a.ecsv", "a.h5"):
        out = tmp_path / name
        assert main(["emulate", "--set", "TEFF=5200", "LOGG=3", "--out", str(out), *options]) == 0
    with fits.open(tmp_path / "a.fits") as hdus:
        flux, wave = hdus["FLUX"].data[0], hdus["WAVELENGTH"].data["WAVE"]
    table = Table.read(tmp_path / "a.ecsv")
    assert table.meta["medium"] == "vacuum"
    assert np.allclose(table["flux"], flux, atol=1e-6)
    assert wave[0] == pytest.approx(3750.0)
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.allclose(file["flux"][0], flux, atol=1e-6)


def test_a_table_of_stars(options, tmp_path, capsys):
    Table({"TEFF": [5000.0, 4100.0], "mg_fe": [0.2, 0.0]}).write(tmp_path / "stars.ecsv")
    out = tmp_path / "s.h5"
    assert main(["emulate", "--labels", str(tmp_path / "stars.ecsv"), "--out", str(out), *options]) == 0
    text = capsys.readouterr().out
    assert "2 spectra" in text
    assert "1 of them lie outside" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "TEFF=abc"], "expected LABEL=VALUE"), (["--set", "TEFF=100"], "outside the emulator's range"),
        (["--set", "TEFFF=5000"], "did you mean"), (["--labels", "none.ecsv"], "cannot be read"),
        (["--set", "TEFF=5000", "--wave-min", "3000"], "must be increasing"),
        (["--set", "TEFF=5000", "--ab-initio"], "needs --atmospheres"),
    ],
)  # fmt: skip
def test_mistakes_are_sentences(arguments, words, options, tmp_path, capsys):
    assert main(["emulate", *arguments, "--out", str(tmp_path / "x.fits"), *options]) == 1
    assert words in capsys.readouterr().err


def test_the_difference_to_direct_synthesis(options, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(phdlspec.abinitio, "synthesizer_of", lambda *files: ToySynthesis())
    out = tmp_path / "a.h5"
    assert main(["emulate", "--set", "TEFF=5200", "LOGG=3", "--ab-initio", "--out", str(out), *options]) == 0
    assert "emulator minus ab initio" in capsys.readouterr().out
    with h5py.File(out) as file:
        assert np.abs(file["flux"][()] - file["ab_initio"][()]).max() < 0.2


def test_refinement_takes_the_emulators_error_out(toy_emulator):
    theta = toy_emulator.labels.complete({"TEFF": 5300.0, "LOGG": 3.2, "FE_H": -0.2, "MG_FE": 0.15})
    direct = ToySynthesis()
    native = direct.native_flux(theta[:-1], toy_emulator.native).numpy()
    from phdlspec.mock import mock_lamost

    star = mock_lamost(native, toy_emulator.native, 5300.0, 300.0, 3, resolution_scale=1.0)
    plain, refined = (
        fit_batch([star], toy_emulator, FitSettings(mode="fast", refine=refine), direct=direct)[0]
        for refine in (False, True)
    )
    assert plain.diagnostics["emulator_rms"] > 1e-4
    assert refined.diagnostics["refine_steps"] >= 1
    i = refined.names.index("FE_H")
    assert abs(refined.value[i] + 0.2) <= abs(plain.value[i] + 0.2) + 0.5 * refined.err[i]


def test_info(toy_checkpoint, toy_grid, tmp_path, capsys):
    assert main(["info"]) == 0
    assert "torch" in capsys.readouterr().out
    assert main(["info", str(toy_checkpoint)]) == 0
    assert "trained on" in capsys.readouterr().out
    assert main(["info", str(toy_grid.path)]) == 0
    assert "60 complete models of 60" in capsys.readouterr().out
    fits.PrimaryHDU().writeto(tmp_path / "empty.fits")
    assert main(["info", str(tmp_path / "empty.fits")]) == 1
    assert main(["info", "none"]) == 1
    assert "no such file" in capsys.readouterr().err
