"""One process, two workers and a Dask cluster: the same catalogue, and a sentence where a worker dies."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.table import Table

from phdlspec.catalog import CatalogJob, expand_inputs, make_catalog
from phdlspec.errors import UserError
from phdlspec.fitting.settings import FitSettings
from phdlspec.flags import StarFlag
from phdlspec.io import write_lamost
from phdlspec.mock import mock_lamost

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(toy_emulator, tmp_path_factory) -> Path:
    """Two mock stars and a file that is no spectrum."""
    folder = tmp_path_factory.mktemp("stars")
    for i, teff in enumerate((5200.0, 6100.0)):
        theta = toy_emulator.labels.complete({"TEFF": teff, "LOGG": 4.0, "FE_H": -0.2})
        with torch.no_grad():
            native = toy_emulator.native_flux(torch.as_tensor(theta[None], dtype=torch.float32))[0].numpy()
        mock = mock_lamost(native, toy_emulator.native, teff, 150.0, i, rv=20.0, identifier=f"star {i}")
        write_lamost(mock, folder / f"spec-{i}.fits.gz")
    (folder / "spec-2.fits").write_text("no spectrum")
    return folder


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str | None]:
    """Address of a Dask cluster of two processes on this machine; None where Dask is not installed."""
    try:
        from distributed import LocalCluster
    except ImportError:
        yield None
        return
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=True
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module", autouse=True)
def in_the_folder(folder, scheduler) -> Iterator[None]:
    """Be in the folder of the stars, where the workers of the cluster are not."""
    before = Path.cwd()
    os.chdir(folder)
    yield
    os.chdir(before)


def job(out: Path, checkpoint: Path) -> CatalogJob:
    # One thread each: another number of threads would change the order of sums.
    settings = FitSettings(mode="fast")
    return CatalogJob(tuple(expand_inputs(["."])), str(out), settings, str(checkpoint), "cpu", chunk=1, threads=1)


@pytest.fixture(scope="module")
def alone(toy_checkpoint, tmp_path_factory) -> Table:
    """The catalogue of one process."""
    threads = torch.get_num_threads()
    table = make_catalog(job(tmp_path_factory.mktemp("alone") / "c.fits", toy_checkpoint), progress=False)
    torch.set_num_threads(threads)
    return table


def assert_same(first: Table, second: Table) -> None:
    assert first.colnames == second.colnames
    for name in first.colnames:
        if name != "SECONDS":
            np.testing.assert_array_equal(np.asarray(first[name]), np.asarray(second[name]), err_msg=name)


def test_one_process_fits_what_can_be_read(alone):
    assert list(alone["OBSID"]) == ["star 0", "star 1", ""]
    assert np.isfinite(np.asarray(alone["TEFF"], dtype=float)).tolist() == [True, True, False]
    assert int(alone["FLAG"][2]) == int(StarFlag.UNREADABLE)


def test_two_workers_make_the_same_catalogue(alone, toy_checkpoint, tmp_path):
    assert_same(make_catalog(job(tmp_path / "c.fits", toy_checkpoint), workers=2, progress=False), alone)


def test_a_dask_cluster_makes_the_same_catalogue(alone, toy_checkpoint, tmp_path, scheduler):
    if scheduler is None:
        pytest.skip("Dask is not installed: the extra [cluster]")
    made = make_catalog(job(tmp_path / "c.fits", toy_checkpoint), scheduler=scheduler, progress=False)
    assert_same(made, alone)


def test_a_cluster_that_is_not_there_is_one_sentence(toy_checkpoint, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: the extra [cluster]")
    client = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: client(address, timeout="1s"))
    with pytest.raises(UserError, match="no Dask scheduler answers"):
        make_catalog(job(tmp_path / "c.fits", toy_checkpoint), scheduler="tcp://127.0.0.1:9", progress=False)


def test_a_killed_worker_is_replaced_and_loses_nothing(alone, toy_checkpoint, tmp_path):
    others = set(multiprocessing.active_children())  # of the cluster

    def kill_one() -> None:
        while not (workers := set(multiprocessing.active_children()) - others):
            time.sleep(0.01)
        workers.pop().kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    made = make_catalog(job(tmp_path / "c.fits", toy_checkpoint), workers=2, progress=False)
    killer.join()
    assert_same(made, alone)


_DEADLY = """
import os, signal, sys
from pathlib import Path
from phdlspec.catalog import CatalogJob, make_catalog
import phdlspec.catalog.chunks as chunks
from phdlspec.fitting.driver import FitSettings
fit = chunks.fit_batch
def deadly(spectra, *more):
    if any("spec-0" in s.path for s in spectra):
        os.kill(os.getpid(), signal.SIGSEGV)
    return fit(spectra, *more)
chunks.fit_batch = deadly  # in the workers too: they run this script
if __name__ == "__main__":
    references = [f"spec-{i % 2}.fits.gz" for i in range(4)]
    references = tuple(os.path.join(".", name) if i > 1 else name for i, name in enumerate(references))
    job = CatalogJob(references, sys.argv[1], FitSettings(mode="fast"), sys.argv[2], "cpu", chunk=2, threads=1)
    make_catalog(job, workers=2, progress=False)
"""


def test_a_star_that_kills_its_worker_is_a_row_with_a_reason(alone, toy_checkpoint, tmp_path):
    (tmp_path / "script.py").write_text(_DEADLY)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    out = tmp_path / "c.fits"
    command = [sys.executable, str(tmp_path / "script.py"), str(out), str(toy_checkpoint)]
    subprocess.run(command, env=environment, check=True, timeout=300, stderr=subprocess.DEVNULL)
    table = Table.read(out, hdu="CATALOG")
    assert [int(flag) & int(StarFlag.FAILED) > 0 for flag in table["FLAG"]] == [True, False] * 2
    assert "the worker process died 2 times: SIGSEGV" in str(table["REASON"][0])
    assert float(table["TEFF"][1]) == float(alone["TEFF"][1])


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="children of a process are read from /proc, Linux only")
def test_workers_end_with_a_parent_that_is_killed(toy_checkpoint, tmp_path):
    """They hold a pipe of ours: it closes when the last of them is gone."""
    code = (
        "import pickle, sys; from phdlspec.catalog import make_catalog; "
        "make_catalog(pickle.load(sys.stdin.buffer), workers=2)"
    )
    read, write = os.pipe()
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=write, stderr=write, start_new_session=True
    )
    assert parent.stdin is not None
    with parent.stdin as stdin:
        pickle.dump(job(tmp_path / "c.fits", toy_checkpoint), stdin)
    os.close(write)
    try:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        while len(children.read_text().split()) < 2:  # workers or the process that makes them
            assert parent.poll() is None
            time.sleep(0.05)
        parent.kill()
        closed, start = b"some", time.monotonic()
        while closed and time.monotonic() - start < 60.0:
            closed = os.read(read, 65536) if select.select([read], [], [], 1.0)[0] else closed
        assert not closed
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        os.close(read)
        parent.wait()


def test_what_a_worker_is_sent_does_not_grow_with_the_survey():
    def sent(count: int) -> int:
        whole = CatalogJob(tuple(f"spec-{i:08d}.fits" for i in range(count)), "c.fits", FitSettings(mode="fast"))
        return len(pickle.dumps((whole.for_workers(threads=1, digest="0" * 32), whole.part(0))))

    assert sent(10_000) == sent(100)
