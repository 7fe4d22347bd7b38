"""Making a catalogue: chunks of spectra, read ahead, fitted, written; in this process, in several, or on a cluster."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from phdlspec.catalog.chunks import (
    emulator_of,
    failed_row,
    fit_one,
    process_chunk,
    read_chunk,
    results_of,
    store_chunk,
    wrong_in_chunk,
)
from phdlspec.catalog.job import CatalogJob, Chunk
from phdlspec.catalog.progress import StarBar, heard
from phdlspec.catalog.reading import read_catalog
from phdlspec.catalog.rows import write_fits
from phdlspec.catalog.store import KEPT, ChunkStore, differences, job_digest
from phdlspec.console import say
from phdlspec.default_emulator import load_emulator
from phdlspec.emulator.bridge import bridged, told
from phdlspec.emulator.emulator import Emulator
from phdlspec.errors import UserError
from phdlspec.files import replacing
from phdlspec.fitting.progress import listening
from phdlspec.provenance import versions
from phdlspec.solar import SOLAR_SCALE
from phdlspec.work import Cluster, Processes, Runner, refuse_in_worker

log = logging.getLogger(__name__)
_JOB = "JOB"  # in the history of a catalogue's header: what it is made of and how

# --- schedules: each yields the size of a chunk when it is stored ------------------------------------------------


def _in_process(job: CatalogJob, todo: Sequence[Chunk], bar: StarBar) -> Iterator[int]:
    # While one chunk is fitted the next one is read.
    with ThreadPoolExecutor(max_workers=1) as reader:
        reading = [reader.submit(read_chunk, job, chunk) for chunk in todo[:1]]
        for chunk, following in zip(todo, [*todo[1:], None]):
            spectra = reading.pop().result()
            if following is not None:
                reading.append(reader.submit(read_chunk, job, following))
            size = len(chunk)
            with listening(bar.listener(size), job.settings.mode):
                results = results_of(job, spectra)
            store_chunk(job, chunk, results)
            yield len(chunk)


def _in_workers(runner: Runner, job: CatalogJob, todo: Sequence[Chunk], waiting: Callable[[], object]) -> Iterator[int]:
    chunks = {chunk.index: chunk for chunk in todo}
    tasks = ((chunk.index, (job, chunk)) for chunk in todo)
    broken = []
    for outcome in runner.run(process_chunk, tasks, waiting, job.time_limit(job.chunk)):
        chunk = chunks.pop(outcome.key)
        if isinstance(outcome.error, UserError):
            raise outcome.error
        if outcome.error is None:
            yield len(chunk)
        else:
            log.warning("chunk %d: %s; its stars are fitted one by one at the end", chunk.index, outcome.error)
            broken.append(chunk)
    for chunk in broken:
        _one_by_one(runner, job, chunk, waiting)
        yield len(chunk)


def _one_by_one(runner: Runner, job: CatalogJob, chunk: Chunk, waiting: Callable[[], object]) -> None:
    """Store a chunk of which some star kills its workers, takes for ever, or fails in a way that nobody foresaw."""
    rows = {}
    tasks = ((k, (job, reference)) for k, reference in enumerate(chunk.references))
    for outcome in runner.run(fit_one, tasks, waiting, job.time_limit(1)):
        if isinstance(outcome.error, UserError):
            raise outcome.error
        reference = chunk.references[outcome.key]
        rows[outcome.key] = outcome.value if outcome.error is None else failed_row(reference, str(outcome.error))
    names = rows[0].keys()
    whole = {name: np.concatenate([rows[k][name] for k in range(len(chunk))]) for name in names}
    ChunkStore(job.out, job.digest).write(chunk.index, chunk.references, whole)


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
    is read. Raises `UserError` where `job.out` exists and is not to be gone on with, unless `overwrite`, and where
    another run is making it.
    """
    refuse_in_worker()
    emulator = load_emulator(job.emulator, "cpu" if workers > 1 or scheduler else job.device)
    identity = job.identity(emulator.checkpoint_hash, told(bridged(emulator, job.settings.bridge)))
    store = ChunkStore(job.out, job_digest(identity))
    with store.lock():
        # A run that was stopped goes on, also one that was to overwrite.
        if not store.begun and _is_finished(job.out, identity, resume, overwrite):
            store.remove()  # what a run left that was killed while it cleared up
            if progress:
                say(f"{job.out}: was finished before with the same inputs and settings, nothing is fitted")
            return read_catalog(job.out)
        store.open(identity, resume)
        chunks = job.parts()
        finished = store.finished(
            [chunk.references for chunk in chunks], lambda index, arrays: wrong_in_chunk(chunks[index], arrays)
        )
        todo = [chunk for chunk in chunks if chunk.index not in finished]
        done = sum(len(chunks[index]) for index in finished)
        with StarBar(len(job.references), done, progress) as bar:
            for size in _fit(job, store, emulator, todo, workers, scheduler, bar):
                bar.finished(size)
        _write(store, chunks, _header(job, emulator, identity, command), job.columns)
        store.remove()
    return read_catalog(job.out)


def _fit(
    job: CatalogJob, store: ChunkStore, emulator: Emulator, todo: Sequence[Chunk], workers: int, scheduler: str | None,
    bar: StarBar,
) -> Iterator[int]:  # fmt: skip
    """Fit the chunks in one of three ways; yields the size of each when it is stored."""
    digest = store.job

    def waiting() -> None:
        bar.under_way(*heard(store.folder))

    if scheduler and todo:
        with Cluster(scheduler) as cluster:  # its workers have their own settings
            yield from _in_workers(cluster, job.for_workers(0, digest), todo, waiting)
    elif workers > 1 and len(todo) > 1:
        workers = min(workers, len(todo))
        sent = job.for_workers(max(1, (os.cpu_count() or 1) // workers), digest)
        with Processes(workers, sent.threads) as processes:
            yield from _in_workers(processes, sent, todo, waiting)
    else:
        emulator_of(job, emulator)
        yield from _in_process(job.with_digest(digest), todo, bar)


def _is_finished(out: str, identity: dict[str, Any], resume: bool, overwrite: bool) -> bool:
    """True where `out` is the catalogue that is asked for; raises `UserError` where it is not and would be lost."""
    if not Path(out).exists():
        return False
    before = _job_of(out) if resume else None
    if before is not None and not differences(before, identity):
        return True
    if not overwrite:
        other = "" if before is None else f", made with another {differences(before, identity)}"
        other = ", not known to be made of these inputs and settings by this version" if resume and not other else other
        raise UserError(f"{out}: exists already{other}; choose another --out, or add --overwrite to replace it")
    return False


def _job_of(out: str) -> dict[str, Any] | None:
    """What a finished catalogue says that it was made of; None where it does not say."""
    try:
        with fits.open(out) as hdus:
            lines = "".join(hdus["CATALOG"].header["HISTORY"]) if "CORRELATION" in hdus else ""
        found = json.JSONDecoder().raw_decode(lines.split(f"{_JOB}: ", 1)[1])[0]
    except (OSError, KeyError, IndexError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _header(job: CatalogJob, emulator: Emulator, identity: dict[str, Any], command: str) -> dict[str, Any]:
    return {
        "EMUHASH": emulator.checkpoint_hash[:16], "SOLSCALE": SOLAR_SCALE, "SEED": job.settings.seed,
        "CKPTHASH": emulator.checkpoint_hash, "BRIDGE": told(bridged(emulator, job.settings.bridge)),
        "VERSIONS": json.dumps(versions()), "COMMAND": command,
        # Lines of a header lose blanks at their ends: there are none.
        _JOB: json.dumps(identity, separators=(",", ":")).replace(" ", "\\u0020"),
    }  # fmt: skip


def _write(store: ChunkStore, chunks: Sequence[Chunk], header: dict[str, Any], groups: Sequence[str]) -> None:
    with replacing(store.out, KEPT) as temporary:
        write_fits(lambda: (store.read(chunk.index, chunk.references) for chunk in chunks), temporary, header, groups)
