"""What is done with one chunk of a catalogue: read its spectra, fit them, store the rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from phdlspec.catalog.inputs import read_reference
from phdlspec.catalog.job import CatalogJob, Chunk
from phdlspec.catalog.progress import Heartbeat
from phdlspec.catalog.rows import to_arrays
from phdlspec.catalog.store import ChunkStore
from phdlspec.default_emulator import load_emulator
from phdlspec.emulator.emulator import Emulator
from phdlspec.errors import UserError
from phdlspec.fitting.driver import fit_batch, out_of_memory
from phdlspec.fitting.progress import listening
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import FitSettings
from phdlspec.flags import StarFlag
from phdlspec.io import reading
from phdlspec.items import Arrays
from phdlspec.spectrum import Spectrum

log = logging.getLogger(__name__)

_EMULATORS: dict[tuple[str | None, str], Emulator] = {}  # of this process


def read_chunk(job: CatalogJob, chunk: Chunk) -> list[Spectrum | Fitted]:
    """The spectra of a chunk; a result with the reason in the place of one that cannot be read."""
    return [_read(job, reference) for reference in chunk.references]


def _read(job: CatalogJob, reference: str) -> Spectrum | Fitted:
    try:
        with reading(reference):
            return read_reference(reference, job.medium, job.resolving_power)
    except UserError as error:
        return Fitted.failed(reference, str(error), StarFlag.UNREADABLE)


def fit_spectra(spectra: Sequence[Spectrum | Fitted], emulator: Emulator, settings: FitSettings) -> list[Fitted]:
    """Results in the order of the spectra; a batch that does not fit into the memory is halved."""
    readable = [s for s in spectra if isinstance(s, Spectrum)]
    fitted = iter(_fit_halving(readable, emulator, settings))
    return [next(fitted) if isinstance(s, Spectrum) else s for s in spectra]


def results_of(job: CatalogJob, spectra: Sequence[Spectrum | Fitted]) -> list[Fitted]:
    """Results of a job's spectra, fitted and judged."""
    results = fit_spectra(spectra, emulator_of(job), job.settings)
    return results if job.judge is None else job.judge(spectra, results)


def _fit_halving(spectra: list[Spectrum], emulator: Emulator, settings: FitSettings) -> list[Fitted]:
    if not spectra:
        return []
    try:
        return fit_batch(spectra, emulator, settings)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        if len(spectra) == 1:
            reason = f"{spectra[0].path}: not enough memory to fit even one spectrum"
            return [Fitted.failed(spectra[0].path, reason, meta=spectra[0].meta)]
    if emulator.device.type == "cuda":
        torch.cuda.empty_cache()
    half = len(spectra) // 2
    log.warning("a batch of %d spectra does not fit into the memory: halved", len(spectra))
    return _fit_halving(spectra[:half], emulator, settings) + _fit_halving(spectra[half:], emulator, settings)


def emulator_of(job: CatalogJob, loaded: Emulator | None = None) -> Emulator:
    """The emulator of a job, which is loaded once a process; `loaded`: what it is where that is done already."""
    if job.threads:
        torch.set_num_threads(job.threads)
    key = (job.emulator, job.device)
    if key not in _EMULATORS:
        _EMULATORS[key] = loaded or load_emulator(*key)
    return _EMULATORS[key]


def process_chunk(job: CatalogJob, chunk: Chunk) -> int:
    """Read, fit and store one chunk; the number of its spectra."""
    beat = Heartbeat(ChunkStore(job.out).folder, chunk.index)

    def say(stage: str, share: float) -> None:
        beat.say(stage, share * len(chunk))

    with listening(say, job.settings.mode):
        store_chunk(job, chunk, results_of(job, read_chunk(job, chunk)))
    beat.end()
    return len(chunk)


def fit_one(job: CatalogJob, reference: str) -> Arrays:
    """The row of one spectrum, as arrays."""
    return to_arrays(results_of(job, read_chunk(job, Chunk(0, (reference,)))), [reference])


def failed_row(reference: str, reason: str) -> Arrays:
    """The row of a spectrum that could not be fitted."""
    return to_arrays([Fitted.failed(reference, f"{reference}: {reason}")], [reference])


def store_chunk(job: CatalogJob, chunk: Chunk, results: list[Fitted]) -> None:
    """Write the rows of a chunk."""
    arrays = to_arrays(results, chunk.references)
    ChunkStore(job.out, job.digest).write(chunk.index, chunk.references, arrays)


def wrong_in_chunk(chunk: Chunk, arrays: Arrays) -> str:
    """What is the matter with the stored rows of a chunk, "" for nothing."""
    expected = failed_row("", "")
    for name, values in expected.items():
        found = arrays.get(name)
        if found is None or found.dtype.kind != values.dtype.kind:
            return f"its {name} is missing or of another type"
        if found.shape != (len(chunk), *values.shape[1:]):
            return f"its {name} is of another shape"
    return ""
