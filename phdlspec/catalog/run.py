"""Making a catalogue: chunks of spectra, read ahead, fitted, written; in this process, in several, or on a cluster."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from astropy.io import fits
from astropy.table import Table
from tqdm import tqdm

from phdlspec.catalog.inputs import read_reference
from phdlspec.catalog.rows import read_catalog, to_arrays, to_table, write_fits
from phdlspec.catalog.store import ChunkStore
from phdlspec.default_emulator import load_emulator
from phdlspec.emulator.emulator import Emulator
from phdlspec.errors import UserError, first_line
from phdlspec.fitting.driver import fit_batch, out_of_memory
from phdlspec.fitting.result import FitResult
from phdlspec.fitting.settings import FitSettings
from phdlspec.flags import StarFlag
from phdlspec.io import reading
from phdlspec.io.resolution import ResolvingPower
from phdlspec.provenance import configuration, versions
from phdlspec.solar import SOLAR_SCALE
from phdlspec.spectrum import Spectrum

log = logging.getLogger(__name__)

CHUNK = 32  # spectra that are fitted and stored together


@dataclass(frozen=True)
class Chunk:
    """Spectra that are fitted and stored together: the chunk's number and a reference for each spectrum."""

    index: int
    references: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.references)


@dataclass(frozen=True)
class CatalogJob:
    """What to fit and how.

    references : one a spectrum. emulator : checkpoint, None for the shipped one. chunk : spectra a chunk.
    threads : of each worker; 0 shares the machine's among them.
    """

    references: tuple[str, ...]
    out: str
    settings: FitSettings
    emulator: str | None = None
    device: str = "auto"
    medium: str | None = None
    resolving_power: ResolvingPower | None = None
    chunk: int = CHUNK
    threads: int = 0

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return -(-len(self.references) // self.chunk)

    def part(self, index: int) -> Chunk:
        """One chunk."""
        return Chunk(index, self.references[index * self.chunk : (index + 1) * self.chunk])

    def for_workers(self, threads: int) -> CatalogJob:
        """The job as it is sent along with each chunk: without the references, which may be millions."""
        return replace(self, references=(), threads=self.threads or threads)

    def identity(self, checkpoint: str) -> dict[str, Any]:
        """What must be the same when a stopped run goes on."""
        inputs = hashlib.sha256("\n".join(self.references).encode()).hexdigest()
        return {
            "list of inputs": inputs, "checkpoint": checkpoint, "size of chunks": self.chunk,
            "configuration": json.loads(json.dumps(configuration(self.settings))),
            "medium or resolving power": json.loads(json.dumps([self.medium, self.resolving_power], default=str)),
        }  # fmt: skip


def read_chunk(job: CatalogJob, chunk: Chunk) -> list[Spectrum | FitResult]:
    """The spectra of a chunk; a result with the reason in the place of one that cannot be read."""
    return [_read(job, reference) for reference in chunk.references]


def _read(job: CatalogJob, reference: str) -> Spectrum | FitResult:
    try:
        with reading(reference):
            return read_reference(reference, job.medium, job.resolving_power)
    except UserError as error:
        return FitResult.failed(reference, str(error), StarFlag.UNREADABLE)


def fit_spectra(
    spectra: Sequence[Spectrum | FitResult], emulator: Emulator, settings: FitSettings
) -> list[FitResult]:
    """Results in the order of the spectra; a batch that does not fit into the memory is halved."""
    readable = [s for s in spectra if isinstance(s, Spectrum)]
    fitted = iter(_fit_halving(readable, emulator, settings))
    return [next(fitted) if isinstance(s, Spectrum) else s for s in spectra]


def _fit_halving(spectra: list[Spectrum], emulator: Emulator, settings: FitSettings) -> list[FitResult]:
    if not spectra:
        return []
    try:
        return fit_batch(spectra, emulator, settings)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        if len(spectra) == 1:
            reason = f"{spectra[0].path}: not enough memory to fit even one spectrum"
            return [FitResult.failed(spectra[0].path, reason, meta=spectra[0].meta)]
    if emulator.device.type == "cuda":
        torch.cuda.empty_cache()
    half = len(spectra) // 2
    log.warning("a batch of %d spectra does not fit into the memory: halved", len(spectra))
    return _fit_halving(spectra[:half], emulator, settings) + _fit_halving(spectra[half:], emulator, settings)


# --- one worker ------------------------------------------------------------------------------------------------


_WORKER: dict[tuple[str | None, str], Emulator] = {}  # the emulator of this process


def _emulator(job: CatalogJob) -> Emulator:
    if job.threads:
        torch.set_num_threads(job.threads)
    key = (job.emulator, job.device)
    if key not in _WORKER:
        _WORKER[key] = load_emulator(*key)
    return _WORKER[key]


def process_chunk(job: CatalogJob, chunk: Chunk) -> int:
    """Read, fit and store one chunk; the number of its spectra."""
    _store(job, chunk, fit_spectra(read_chunk(job, chunk), _emulator(job), job.settings))
    return len(chunk)


def _store(job: CatalogJob, chunk: Chunk, results: list[FitResult]) -> None:
    ChunkStore(job.out).write(chunk.index, to_arrays(results, chunk.references))


def _process_in(folder: str, job: CatalogJob, chunk: Chunk) -> int:
    # A cluster's workers are elsewhere; relative paths are those of the caller.
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: a worker of the cluster cannot enter this folder ({error.strerror}); the catalogue must be "
            "made in a folder that all workers share"
        ) from error
    return process_chunk(job, chunk)


# --- schedules: each yields the size of a chunk when it is stored ------------------------------------------------


def _in_process(job: CatalogJob, todo: Sequence[int]) -> Iterator[int]:
    # While one chunk is fitted the next one is read.
    emulator = _emulator(job)
    chunks = [job.part(index) for index in todo]
    with ThreadPoolExecutor(max_workers=1) as reader:
        reading = [reader.submit(read_chunk, job, chunk) for chunk in chunks[:1]]
        for chunk, following in zip(chunks, [*chunks[1:], None]):
            spectra = reading.pop().result()
            if following is not None:
                reading.append(reader.submit(read_chunk, job, following))
            _store(job, chunk, fit_spectra(spectra, emulator, job.settings))
            yield len(chunk)


def _end_with_parent() -> None:
    # A worker would wait for ever for the next chunk of a parent that was killed.
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _in_processes(job: CatalogJob, todo: Sequence[int], workers: int) -> Iterator[int]:
    sent = job.for_workers(max(1, (os.cpu_count() or 1) // workers))
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        min(workers, len(todo)), multiprocessing.get_context("spawn"), initializer=_end_with_parent
    )

    def submit(index: int) -> Future[int]:
        try:
            return pool.submit(process_chunk, sent, job.part(index))
        except OSError as error:  # the pool was closed while it still started workers
            raise BrokenProcessPool(str(error)) from error

    try:
        futures = [submit(index) for index in todo]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        # The pool does not end a worker that was just being started, and would wait for it for ever.
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        raise UserError(
            f"{job.out}: a worker was killed, perhaps because the memory was full; all finished chunks are kept, give "
            "the command again with --resume and fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _on_cluster(job: CatalogJob, todo: Sequence[int], address: str) -> Iterator[int]:
    try:
        from distributed import Client, KilledWorker
        from distributed import as_completed as completed_on_cluster
    except ImportError as error:
        raise UserError("--scheduler needs Dask: install phdlspec with the extra [cluster]") from error
    try:
        client = Client(address, timeout="20s")
    except (OSError, ValueError) as error:
        raise UserError(f"{address}: no Dask scheduler answers there ({first_line(error)})") from error
    sent = job.for_workers(threads=0)  # a cluster's workers have their own settings
    with client:
        folder = os.getcwd()
        futures = [client.submit(_process_in, folder, sent, job.part(index), pure=False) for index in todo]
        try:
            for future in completed_on_cluster(futures):
                yield future.result()
        except KilledWorker as error:
            raise UserError(
                f"{job.out}: workers of the cluster were killed again and again, perhaps because their memory was "
                "full; all finished chunks are kept, give the command again with --resume"
            ) from error


# --- the catalogue ---------------------------------------------------------------------------------------------


def make_catalog(
    job: CatalogJob,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
    progress: bool = True,
) -> Table:
    """Fit all spectra of a job and write the FITS catalogue `job.out`; the table of it, mapped from the file.

    Stopped at any moment, the same call with `resume=True` goes on and gives the same catalogue; one that is finished
    is read. Raises `UserError` where `job.out` exists and is not to be gone on with, unless `overwrite`.
    """
    emulator = load_emulator(job.emulator, "cpu" if workers > 1 or scheduler else job.device)
    store = ChunkStore(job.out)
    identity = job.identity(emulator.checkpoint_hash)
    # A run that was stopped goes on, also one that was to overwrite.
    if not store.begun and _is_finished(job.out, _digest(identity), resume, overwrite):
        if progress:
            print(f"{job.out}: was finished before with the same inputs and settings, nothing is fitted")
        return read_catalog(job.out)
    store.open(identity, resume)
    finished = store.finished()
    todo = [index for index in range(job.n_chunks) if index not in finished]
    if scheduler:
        chunks: Iterable[int] = _on_cluster(job, todo, scheduler)
    elif workers > 1 and len(todo) > 1:
        chunks = _in_processes(job, todo, workers)
    else:
        _WORKER.setdefault((job.emulator, job.device), emulator)
        chunks = _in_process(job, todo)
    done = sum(len(job.part(index)) for index in finished)
    with tqdm(total=len(job.references), initial=done, unit="star", disable=not progress) as bar:
        for size in chunks:
            bar.update(size)
    _write(store, job, _header(job, emulator, command))
    store.remove()
    return read_catalog(job.out)


def _digest(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def _is_finished(out: str, digest: str, resume: bool, overwrite: bool) -> bool:
    """True where `out` is the catalogue that is asked for; raises `UserError` where it is not and would be lost."""
    if not Path(out).exists():
        return False
    if resume and _digest_of(out) == digest:
        return True
    if not overwrite:
        other = ", not known to be made of these inputs and settings" if resume else ""
        raise UserError(f"{out}: exists already{other}; choose another --out, or add --overwrite to replace it")
    return False


def _digest_of(out: str) -> str | None:
    try:
        with fits.open(out) as hdus:
            return hdus["CATALOG"].header.get("JOBHASH") if "CORRELATION" in hdus else None
    except (OSError, KeyError):
        return None


def _header(job: CatalogJob, emulator: Emulator, command: str) -> dict[str, Any]:
    return {
        "EMUHASH": emulator.checkpoint_hash[:16], "SOLSCALE": SOLAR_SCALE, "SEED": job.settings.seed,
        "JOBHASH": _digest(job.identity(emulator.checkpoint_hash)),
        "CKPTHASH": emulator.checkpoint_hash, "VERSIONS": json.dumps(versions()),
        "CONFIG": json.dumps(configuration(job.settings)), "COMMAND": command,
    }  # fmt: skip


def _write(store: ChunkStore, job: CatalogJob, header: dict[str, Any]) -> None:
    path = Path(job.out)
    temporary = path.with_name(f".{path.name}.part.fits")
    try:
        write_fits(lambda: store.chunks(range(job.n_chunks)), temporary, header)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path}: the catalogue cannot be written ({error.strerror or error}); the finished chunks are kept, make "
            "room and give the command again with --resume"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def fit_many(
    spectra: Iterable[Spectrum], emulator: Emulator, mode: str = "fast", seed: int = 1, **settings: Any
) -> Table:
    """Fit spectra in memory; a table with one row each, in their order. `settings` are those of `FitSettings`."""
    chosen = FitSettings(mode=mode, seed=seed, **settings)
    everything = list(spectra)
    results = [
        result
        for start in range(0, len(everything), CHUNK)
        for result in fit_spectra(everything[start : start + CHUNK], emulator, chosen)
    ]
    table = to_table(to_arrays(results, [s.path for s in everything]))
    table.meta = {"EMUHASH": emulator.checkpoint_hash[:16], "SOLSCALE": SOLAR_SCALE, "SEED": seed}
    return table
