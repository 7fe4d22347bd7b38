import numpy as np
import pytest

from kurucz_grids import command
from kurucz_grids.sampling import sample_labels
from kurucz_grids.synthesizers import KuruczFactory
from phdlspec.cli import main
from phdlspec.errors import UserError
from phdlspec.wavelength import log_grid
from tests.kurucz_grids.fakes import FakeFactory

REAL_FACTORY = KuruczFactory


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """A tiny grid of atmospheres, and a synthesizer that asks for nothing."""
    monkeypatch.setattr(command, "KuruczFactory", lambda *_, **__: FakeFactory())
    layers = np.logspace(-3, 1, 5)
    nodes = [(t, g, m) for t in (3500.0, 8000.0) for g in (0.0, 5.0) for m in (-3.0, 1.0)]
    structure = np.stack([np.column_stack([layers] * 7) for _ in nodes])
    np.savez(tmp_path / "atmospheres.npz", params=np.column_stack([nodes, np.full(8, 2.0)]), structure=structure)
    (tmp_path / "lines.npz").touch()
    return ["--atmospheres", str(tmp_path / "atmospheres.npz"), "--line-list", str(tmp_path / "lines.npz")]


def test_build_then_info_check_and_collect(tmp_path, inputs, capsys):
    out = str(tmp_path / "grid.h5")
    command = ["grid", "build", "--n", "3", "--out", out, "--workers", "1", *inputs]
    assert main(command) == 0
    assert "3 models, 0 were there, 3 made" in capsys.readouterr().out
    assert main(["grid", "info", out]) == 0
    text = capsys.readouterr().out
    assert "models       3 of 3" in text
    assert "line_list_checksum" in text
    assert main(["grid", "check", out]) == 1
    assert "error    response" in capsys.readouterr().out
    assert main(["grid", "build", "--n", "3", "--out", out, "--collect"]) == 1
    assert "no grid in the making" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--workers", "0"), "0 workers were asked for"),
        (("--threads", "0"), "0 threads a worker were asked for"),
        (("--seed", "-1"), "the seed is -1"),
        (("--device", "abacus"), "--device abacus: not to be had here"),
    ],
)
def test_options_that_cannot_be(tmp_path, inputs, capsys, option, words):
    assert main(["grid", "build", "--n", "3", "--out", str(tmp_path / "grid.h5"), *inputs, *option]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "grid.h5.parts").exists()


def test_failed_models_are_told_and_how_to_try_again(tmp_path, inputs, monkeypatch, capsys):
    fails = FakeFactory(fail=(int(sample_labels(2, 1)[1, 0]),))
    monkeypatch.setattr(command, "KuruczFactory", lambda *_, **__: fails)
    out = str(tmp_path / "grid.h5")
    assert main(["grid", "build", "--n", "2", "--seed", "1", "--out", out, "--workers", "1", *inputs]) == 0
    text = capsys.readouterr().out
    assert "1 made" in text
    assert "--retry-failed" in text
    assert main(["grid", "info", out]) == 0
    assert "1 because of: ValueError: no convergence at layer 3" in capsys.readouterr().out


MOOG = "a title\n  4980.074      24.0     4.444    -2.324\n  5183.0        12.0     5.000    -1.000\n"
SODIUM = "  5889.951      11.0     0.000     0.108\n  5895.924      11.0     0.000    -0.194\n"


@pytest.mark.parametrize(
    ("text", "medium", "words"),
    [(MOOG, None, "nothing tells .* --medium"), (MOOG + SODIUM, "vacuum", "said to be in vacuum, but its lines lie")],
)
def test_medium_missing_or_contradicted(tmp_path, inputs, text, medium, words):
    (tmp_path / "l.moog").write_text(text)
    with pytest.raises(UserError, match=words):
        REAL_FACTORY(inputs[1], str(tmp_path / "l.moog"), medium=medium)()


@pytest.mark.parametrize(("text", "medium"), [(MOOG, "air"), (MOOG, "vacuum"), (MOOG + SODIUM, None)])
def test_medium_is_recorded(tmp_path, inputs, text, medium):
    (tmp_path / "l.moog").write_text(text)
    synthesizer = REAL_FACTORY(inputs[1], str(tmp_path / "l.moog"), medium=medium)()
    assert synthesizer.provenance["line_list_medium"] == (medium or "air")


def test_several_line_lists(tmp_path, inputs, monkeypatch):
    (tmp_path / "l.moog").write_text(MOOG + SODIUM)
    (tmp_path / "m.moog").write_text(MOOG)
    several = str(tmp_path / "l.moog"), str(tmp_path / "m.moog")
    assert REAL_FACTORY(inputs[1], several, medium="air")().provenance["line_list"] == " + ".join(several)
    asked = []
    monkeypatch.setattr(command, "KuruczFactory", lambda _, lists, *__, **___: asked.append(lists) or FakeFactory())
    asked_for = ["grid", "build", "--n", "1", "--workers", "1", "--out", str(tmp_path / "g.h5"), *inputs]
    assert main([*asked_for, several[0], "--line-list", several[1]]) == 0
    assert asked == [(inputs[3], *several)]


def test_options_of_the_physics_reach_the_factory(tmp_path, inputs, monkeypatch):
    asked = []
    monkeypatch.setattr(command, "KuruczFactory", lambda *_, **options: asked.append(options) or FakeFactory())
    asked_for = ["grid", "build", "--n", "1", "--workers", "1", *inputs]
    assert main([*asked_for, "--out", str(tmp_path / "g.h5"), "--medium", "vacuum"]) == 0
    assert main([*asked_for, "--out", str(tmp_path / "h.h5"), "--listed-gf"]) == 0
    assert asked == [{"medium": "vacuum", "calibrated": True}, {"medium": None, "calibrated": False}]


def test_import(tmp_path, capsys):
    wave = log_grid(3680.0, 9130.0, 1 / 40_000)
    np.savez(
        tmp_path / "a.npz",
        wave=wave,
        flux=np.ones((1, len(wave))),
        labels=[[5777.0, 4.4, 0.0]],
        label_names=["TEFF", "LOGG", "FE_H"],
    )
    out = str(tmp_path / "g.h5")
    options = ["--medium", "vacuum", "--resolving-power", "inf", "--origin", "test", "--out", out]
    assert main(["grid", "import", str(tmp_path / "a.npz"), *options]) == 0
    assert "1 of 1 spectra imported" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["info", "none.h5"], "there is no such grid"),
        (["check", "none.h5"], "there is no such grid"),
        (["info", "."], "a folder, expected the HDF5 file"),
        (["build", "--n", "3", "--out", "g.h5"], "--atmospheres is missing"),
        (["build", "--n", "3", "--out", "g.h5", "--atmospheres", "x", "--line-list", "y"], "no such file"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert main(["grid", *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
