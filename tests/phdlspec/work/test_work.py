"""Tasks that work, fail, hang and kill their workers: an outcome for each of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phdlspec.errors import UserError
from phdlspec.work import Cluster, Outcome, Processes, TaskFailed, TimeIsUp, WorkerDied
from phdlspec.work import processes as module
from tests.phdlspec.work.jobs import do

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[3]


def outcomes(runner, *tasks: tuple[object, ...], time_limit: float | None = None) -> dict[int, Outcome[int]]:
    return {outcome.key: outcome for outcome in runner.run(do, enumerate(tasks), time_limit=time_limit)}


def test_each_task_has_its_outcome(tmp_path):
    tasks = [
        ("fine",),
        ("raise",),
        ("refuse",),
        ("die",),
        ("hang",),
        ("die once", tmp_path / "m"),
        ("exit",),
        ("fine",),
    ]
    with Processes(2) as processes:
        found = outcomes(processes, *tasks, time_limit=5.0)
    assert sorted(found) == list(range(len(tasks)))
    assert [found[i].value for i in (0, 5, 7)] == ["fine", "die once", "fine"]
    assert str(found[1].error) == "Unpicklable: 1 and 2"
    assert isinstance(found[2].error, UserError)
    assert str(found[2].error) == "a sentence"
    assert isinstance(found[3].error, WorkerDied)
    assert str(found[3].error) == "the worker process died 2 times: SIGSEGV"
    assert isinstance(found[4].error, TimeIsUp)
    assert isinstance(found[6].error, TaskFailed)


def test_a_worker_keeps_what_it_has_and_its_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with Processes(1, threads=1) as processes:
        counts = [outcomes(processes, ("remember",))[0].value for _ in range(3)]
        assert outcomes(processes, ("threads",))[0].value == (1, "1")
    assert counts == [1, 2, 3]
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_a_worker_that_leaves_without_a_word_is_missed():
    with Processes(1) as processes:
        found = outcomes(processes, ("leave",), ("fine",), time_limit=3.0)
    assert isinstance(found[0].error, TimeIsUp)
    assert found[1].value == "fine"


def test_a_worker_killed_with_the_lock_in_its_hands(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_STARTUP", 0.0)
    with Processes(2) as processes:
        found = outcomes(processes, ("lock", tmp_path / "mark"), *[("fine",)] * 6, time_limit=4.0)
    assert [found[i].value for i in range(7)] == ["lock", *["fine"] * 6]


def test_waiting_is_told_every_second():
    calls: list[float] = []
    with Processes(1) as processes:
        list(processes.run(do, [(0, ("hang",))], lambda: calls.append(time.monotonic()), 3.0))
    assert len(calls) >= 3


def _run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=120)


_WITHOUT_GUARD = """
from phdlspec.errors import UserError
from phdlspec.work import Processes, refuse_in_worker
from tests.phdlspec.work.jobs import do
refuse_in_worker()
try:
    with Processes(2) as processes:
        list(processes.run(do, [(0, ("fine",))]))
except UserError as error:
    print(error)
"""


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    ended = _run(_WITHOUT_GUARD, tmp_path)
    assert "put what starts them under `if __name__" in ended.stdout
    assert ended.stdout.count("\n") == 1
    assert ended.stderr.count("\n") <= 1


_BROKEN = """
import sys
if __name__ != "__main__":
    sys.exit(7)
from phdlspec.errors import UserError
from phdlspec.work import Processes
from tests.phdlspec.work.jobs import do
try:
    with Processes(2) as processes:
        list(processes.run(do, [(0, ("fine",))]))
except UserError as error:
    print(error)
"""


def test_workers_that_never_begin_end_the_run(tmp_path):
    assert _run(_BROKEN, tmp_path).stdout == "the worker processes die before they begin: exit code 7\n"


_PARENT = """
from phdlspec.work import Processes
from tests.phdlspec.work.jobs import do
if __name__ == "__main__":
    with Processes(2) as processes:
        print("begun", flush=True)
        for outcome in processes.run(do, [(0, ("remember",)), (1, ("hang",)), (2, ("remember",))]):
            print(outcome.key, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_its_parent(tmp_path, number):
    script = tmp_path / "script.py"
    script.write_text(_PARENT)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"begun\n"
    assert parent.stdout.readline() == b"0\n"
    parent.send_signal(number)
    try:
        patience = time.monotonic() + 30
        while _group_lives(parent.pid):
            parent.poll()
            assert time.monotonic() < patience
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()
        parent.stdout.close()


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_cluster_tells_the_same_outcomes(tmp_path):
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: the extra [cluster]")
    tasks = [("fine",), ("raise",), ("refuse",), ("die",), ("fine",)]
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, host="127.0.0.1", dashboard_address=None, silence_logs=True
        ) as local,
        Cluster(local.scheduler_address) as cluster,
    ):
        assert cluster.workers == 2
        found = outcomes(cluster, *tasks)
    assert [found[i].value for i in (0, 4)] == ["fine", "fine"]
    assert str(found[1].error) == "Unpicklable: 1 and 2"
    assert isinstance(found[2].error, UserError)
    assert isinstance(found[3].error, WorkerDied)


def test_a_cluster_that_is_not_there_is_one_sentence(monkeypatch):
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: the extra [cluster]")
    client = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: client(address, timeout="1s"))
    with pytest.raises(UserError, match="no Dask scheduler answers"):
        Cluster("tcp://127.0.0.1:9")
