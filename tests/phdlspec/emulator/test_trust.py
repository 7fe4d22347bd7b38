"""Where an emulator is trusted follows from its errors on held-out models."""

from __future__ import annotations

import json

import numpy as np
import pytest

from phdlspec.cli import main
from phdlspec.default_emulator import load_emulator
from phdlspec.emulator.checkpoint import load_checkpoint, save_checkpoint
from phdlspec.emulator.judging import JudgedErrors
from phdlspec.emulator.trust import distrust, trusted_range, untrusted_labels
from phdlspec.errors import UserError
from phdlspec.labels import GRID_LABELS


def validation(flux: float = 1e-3, **errors: float) -> dict:
    return {"flux_rms_median": flux, "derivative_error_median": dict.fromkeys(GRID_LABELS.names, 0.05) | errors}


def test_a_good_checkpoint_is_trusted():
    assert distrust(validation()) == ""
    assert untrusted_labels(validation()) == ()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (validation(TEFF=3.2), "derivative for TEFF is wrong by 320%"),
        (validation(LOGG=float("nan")), "derivative for LOGG"),
        (validation(0.03), "flux is wrong by 3.0% of the continuum"),
    ],
)
def test_a_poor_one_is_not_and_says_why(told, words):
    assert words in distrust(told)


def test_single_labels_whose_derivatives_are_wrong():
    assert distrust(validation(ZN_FE=2.0)) == ""
    assert untrusted_labels(validation(ZN_FE=2.0)) == ("ZN_FE",)


def test_the_range_ends_where_errors_grow():
    random = np.random.default_rng(2)
    stars = np.column_stack([random.uniform(4000, 7500, 400), random.uniform(0.5, 5.0, 400)])
    error = np.where(stars[:, 0] < 4600, 2e-2, 1e-3)
    found = trusted_range(stars, JudgedErrors(error, np.zeros((400, 1))))
    assert found["TEFF"][0] == pytest.approx(4600, abs=150)
    assert found["TEFF"][1] > 7450
    assert found["LOGG"][0] < 0.6  # though cool stars are bad at every gravity
    assert found["LOGG"][1] > 4.9
    bad = trusted_range(stars, JudgedErrors(np.full(400, 0.1), np.zeros((400, 1))))
    assert bad["LOGG"][0] == bad["LOGG"][1]


def test_a_poor_checkpoint_says_so_in_info_and_in_every_fit(toy_checkpoint, tmp_path, capsys):
    from tests.phdlspec.fitting.test_driver import mock

    good = load_checkpoint(toy_checkpoint)
    told = json.loads(json.dumps(good.metadata))
    told["validation"]["derivative_error_median"]["TEFF"] = 9.57
    poor = tmp_path / "poor.safetensors"
    save_checkpoint(poor, good.tensors, {k: v for k, v in told.items() if k not in ("format", "version")})
    assert main(["info", str(poor)]) == 0
    assert "trusted     nowhere: on held-out models the emulator's derivative for TEFF" in capsys.readouterr().out
    assert main(["info", str(toy_checkpoint)]) == 0
    assert "nowhere" not in capsys.readouterr().out
    emulator = load_emulator(poor, "cpu")
    assert not emulator.trusted(emulator.labels.complete({})).any()

    import phdlspec

    result = phdlspec.fit(mock(load_emulator(toy_checkpoint, "cpu")), emulator, mode="fast")
    assert result.flag & phdlspec.StarFlag.UNTRUSTED_REGION
    assert "derivative for TEFF is wrong by 957%" in repr(result)
    assert result["TEFF"].flag & phdlspec.LabelFlag.UNTRUSTED_REGION


def test_a_checkpoint_that_does_not_say_is_refused(toy_checkpoint, tmp_path):
    good = load_checkpoint(toy_checkpoint)
    silent = tmp_path / "silent.safetensors"
    kept = {k: v for k, v in good.metadata.items() if k not in ("format", "version", "validation")}
    save_checkpoint(silent, good.tensors, kept)
    with pytest.raises(UserError, match="does not say how it did on held-out models"):
        load_emulator(silent, "cpu")
