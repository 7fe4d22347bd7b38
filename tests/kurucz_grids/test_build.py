import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from kurucz_grids.build import build
from kurucz_grids.sampling import sample_labels
from phdlspec.errors import UserError
from phdlspec.gridfile import Grid
from phdlspec.gridfile.parts import GridParts
from tests.kurucz_grids.fakes import FakeFactory

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
SEED = 1


def _key(row):
    """What `FakeFactory` knows row `row` by."""
    return int(sample_labels(64, SEED)[row, 0])


def _build(path, n, factory, **options):
    return build({"survey": path}, n, SEED, factory, progress=False, **options)


def _contents(path):
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}


def _assert_same(first, second):
    a, b = _contents(first), _contents(second)
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name], equal_nan=a[name].dtype.kind == "f"), name


def test_both_forms_from_one_run_and_extension(tmp_path):
    outputs = {"survey": tmp_path / "s.h5", "full": tmp_path / "f.h5"}
    report = build(outputs, 3, SEED, FakeFactory(), progress=False)
    assert (report.total, report.before, report.made, report.failed) == (3, 0, 3, 0)
    longer = build(outputs, 5, SEED, FakeFactory(), progress=False)
    assert (longer.before, longer.made) == (3, 2)
    again = build(outputs, 5, SEED, FakeFactory(), progress=False)
    assert (again.before, again.made) == (5, 0)
    with Grid(outputs["survey"]) as survey, Grid(outputs["full"]) as full:
        assert survey.n_done == full.n_done == 5
        assert np.array_equal(survey.labels, sample_labels(5, SEED))
        assert survey.jacobian(4).shape == (32, 7909)
        assert full.flux(4).min() < survey.flux(4).min() < 1
        teff = survey.labels[2, 0]
        assert np.allclose(survey.continuum(2), 1e6 * teff / 5000, rtol=1e-5)
        assert survey.attrs["line_list_checksum"] == "1"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.h5", "s.h5"]


def test_a_range_of_teff_first_and_the_rest_later(tmp_path):
    path, teff = tmp_path / "grid.h5", sample_labels(8, SEED)[:, 0]
    middle = float(np.median(teff))
    assert _build(path, 8, FakeFactory(), teff_range=(0.0, middle)).made == 4
    with Grid(path) as grid:
        assert np.array_equal(grid.done, teff <= middle)
    assert _build(path, 8, FakeFactory()).made == 4
    _build(tmp_path / "whole.h5", 8, FakeFactory())
    _assert_same(path, tmp_path / "whole.h5")


def test_a_range_without_models_is_refused(tmp_path):
    with pytest.raises(UserError, match="none of the 8 models lies at 5000-4000 K"):
        _build(tmp_path / "grid.h5", 8, FakeFactory(), teff_range=(5000.0, 4000.0))


def test_models_that_fail_become_rows_with_a_reason(tmp_path):
    path = tmp_path / "grid.h5"
    factory = FakeFactory(fail=(_key(1),), crash=(_key(2),), nan=(_key(4),), hang=(_key(5),))
    report = _build(path, 7, factory, workers=2, row_timeout=4.0)
    assert (report.made, report.failed) == (3, 4)
    with Grid(path) as grid:
        assert list(grid.rows()) == [0, 3, 6]
        assert grid.reason[1] == "ValueError: no convergence at layer 3"
        assert grid.reason[2] == "the worker process died 2 times: SIGSEGV"
        assert "not finite" in grid.reason[4]
        assert "no result after 4 s" in grid.reason[5]
    # Failed rows stay as they are unless asked for.
    assert _build(path, 7, FakeFactory()).made == 0
    report = _build(path, 7, FakeFactory(), retry_failed=True)
    assert (report.before, report.made, report.failed) == (3, 4, 0)
    _build(tmp_path / "whole.h5", 7, FakeFactory())
    _assert_same(path, tmp_path / "whole.h5")


def test_a_killed_worker_is_replaced_and_its_row_done_again(tmp_path):
    path = tmp_path / "grid.h5"
    report = _build(path, 4, FakeFactory(crash_once=str(tmp_path / "crashed")))
    assert (tmp_path / "crashed").exists()
    assert (report.made, report.failed) == (4, 0)


def test_what_does_not_fit_the_rows_that_exist_is_refused(tmp_path):
    path = tmp_path / "grid.h5"
    _build(path, 3, FakeFactory())
    with pytest.raises(UserError, match="line_list_checksum = 1, now 2"):
        _build(path, 4, FakeFactory(version="2"))
    with pytest.raises(UserError, match="other labels"):
        build({"survey": path}, 4, 2, FakeFactory(), progress=False)
    with pytest.raises(UserError, match="holds 3 models and 2 were asked for"):
        _build(path, 2, FakeFactory())
    assert _build(path, 3, FakeFactory()).before == 3
    # The same where nothing is left to be made.
    with pytest.raises(UserError, match="line_list_checksum = 1, now 2"):
        _build(path, 3, FakeFactory(version="2"))
    with pytest.raises(UserError, match="holds the survey form and full was asked for"):
        build({"full": path}, 3, SEED, FakeFactory(), progress=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 0}, "0 models were asked for"),
        ({"seed": -1}, "the seed is -1"),
        ({"workers": 0}, "0 workers were asked for"),
        ({"threads": 0}, "0 threads a worker were asked for"),
        ({"outputs": {"survey": "."}}, "a folder, expected the name of an HDF5 file"),
    ],
)
def test_what_cannot_be_built_is_told_before_anything_is_made(tmp_path, change, words):
    arguments = {"outputs": {"survey": tmp_path / "grid.h5"}, "n": 2, "seed": SEED, "factory": FakeFactory()}
    with pytest.raises(UserError, match=words):
        build(**{**arguments, **change})
    assert not list(tmp_path.iterdir())


def test_rows_without_a_manifest_never_get_into_another_grid(tmp_path):
    path = tmp_path / "grid.h5"
    _build(path, 3, FakeFactory())
    parts = GridParts(path)
    parts.folder.mkdir()
    rows = parts.row_path(1), parts.row_path(3)
    for row in rows:  # what a removal that was killed leaves
        row.write_bytes(b"of another time")
    _build(path, 4, FakeFactory())
    _build(tmp_path / "whole.h5", 4, FakeFactory())
    _assert_same(path, tmp_path / "whole.h5")
    parts.folder.mkdir()
    rows[0].write_bytes(b"of another time")
    path.unlink()
    with pytest.raises(UserError, match="holds models, but no manifest.json"):
        _build(path, 4, FakeFactory())
    assert rows[0].exists()


def test_what_others_put_beside_the_rows_stays(tmp_path):
    path = tmp_path / "grid.h5"
    notes = GridParts(path).folder / "notes" / "thesis.tex"
    notes.parent.mkdir(parents=True)
    notes.write_text("chapter one")
    _build(path, 2, FakeFactory())
    assert path.is_file()
    assert [p.name for p in GridParts(path).folder.iterdir()] == ["notes"]
    assert notes.read_text() == "chapter one"


def test_models_that_all_fail_are_not_remembered(tmp_path):
    path = tmp_path / "grid.h5"
    with pytest.raises(UserError, match="first 1 models all failed"):
        _build(path, 1, FakeFactory(fail=(_key(0),)))
    assert not path.exists()
    assert _build(path, 1, FakeFactory()).made == 1
    # One that fails where others are is that model's fault.
    assert _build(path, 2, FakeFactory(fail=(_key(1),))).failed == 1


def test_workers_leave_without_a_word(tmp_path, capfd):
    with pytest.raises(UserError, match="no such library"):
        _build(tmp_path / "a.h5", 3, FakeFactory(broken=True))
    _build(tmp_path / "b.h5", 2, FakeFactory(), workers=2)
    assert capfd.readouterr().err == ""


def test_a_synthesizer_that_cannot_work_ends_the_build(tmp_path):
    with pytest.raises(UserError, match="cannot be made: RuntimeError: no such library"):
        _build(tmp_path / "a.h5", 3, FakeFactory(broken=True))
    keys = tuple(int(teff) for teff in sample_labels(64, SEED)[:, 0])
    with pytest.raises(UserError, match="first 8 models all failed"):
        _build(tmp_path / "b.h5", 64, FakeFactory(fail=keys))


_BUILD = """
import signal, sys
from kurucz_grids.build import build
from tests.kurucz_grids.fakes import FakeFactory
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where the tests run in the background
    try:
        factory = FakeFactory(seconds=float(sys.argv[3]))
        build({"survey": sys.argv[1]}, int(sys.argv[2]), 1, factory, workers=2)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def _start(tmp_path, n, seconds):
    script = tmp_path / "make.py"
    script.write_text(_BUILD)
    return subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "grid.h5"), str(n), str(seconds)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )


def test_kills_of_all_processes_at_random_moments_lose_and_double_nothing(tmp_path):
    kills = int(os.environ.get("PHDLSPEC_TEST_KILLS", "2"))
    n = 8 * (kills + 1)  # more than two workers make between the first new row and the kill
    chance = random.Random(7)
    parts = GridParts(tmp_path / "grid.h5")
    progress = []
    for _ in range(kills):
        process = _start(tmp_path, n, 0.2)
        known = len(parts.rows()) if parts.exists() else 0
        patience = time.monotonic() + 600
        while time.monotonic() < patience and process.poll() is None:
            if parts.exists() and len(parts.rows()) > known:
                break
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        progress.append(len(parts.rows()))
    assert progress == sorted(progress)
    assert 0 < progress[0] < progress[-1] < n
    assert _start(tmp_path, n, 0.0).wait(timeout=120) == 0
    _build(tmp_path / "whole.h5", n, FakeFactory())
    _assert_same(tmp_path / "grid.h5", tmp_path / "whole.h5")
    assert not parts.folder.exists()


def _group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_the_rows_and_no_processes(tmp_path, number):
    process = _start(tmp_path, 40, 0.3)
    parts = GridParts(tmp_path / "grid.h5")
    patience = time.monotonic() + 600
    while not (parts.exists() and parts.rows()):
        assert time.monotonic() < patience
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=120) == 130
    patience = time.monotonic() + 600
    while _group_lives(process.pid) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not _group_lives(process.pid)
    assert 0 < Grid(tmp_path / "grid.h5").n_done < 40
