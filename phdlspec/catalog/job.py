"""What a catalogue is made of and how: the job, and the chunks that it is cut into."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from phdlspec import __version__
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import FitSettings
from phdlspec.io.resolution import ResolvingPower
from phdlspec.provenance import configuration
from phdlspec.spectrum import Spectrum

CHUNK = 32  # spectra that are fitted and stored together
LONGEST = {"fast": 300.0, "full": 1800.0}  # s, after which a star in a worker process is given up


@dataclass(frozen=True)
class Chunk:
    """Spectra that are fitted and stored together: the chunk's number and a reference for each spectrum."""

    index: int
    references: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.references)


class Judge(Protocol):
    """Says of fitted spectra what the fit does not, in their diagnostics and flags; sent to workers as it is."""

    @property
    def identity(self) -> str:
        """What must be the same when a stopped run goes on."""

    def __call__(self, spectra: Sequence[Spectrum | Fitted], results: Sequence[Fitted]) -> list[Fitted]:
        """The results with what it says."""


@dataclass(frozen=True)
class CatalogJob:
    """What to fit and how.

    references : one a spectrum. emulator : checkpoint, None for the shipped one. chunk : spectra a chunk.
    threads : of each worker; 0 shares the machine's among them. digest : of `identity`, for workers. judge : of what
    the fit does not see.
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
    digest: str = ""
    judge: Judge | None = None

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return -(-len(self.references) // self.chunk)

    def part(self, index: int) -> Chunk:
        """One chunk."""
        return Chunk(index, self.references[index * self.chunk : (index + 1) * self.chunk])

    def parts(self) -> list[Chunk]:
        """All chunks."""
        return [self.part(index) for index in range(self.n_chunks)]

    def with_digest(self, digest: str) -> CatalogJob:
        """The job that its chunks are marked with."""
        return replace(self, digest=digest)

    def for_workers(self, threads: int, digest: str = "") -> CatalogJob:
        """The job as it is sent along with each chunk: without the references, which may be millions."""
        return replace(self, references=(), threads=self.threads or threads, digest=digest)

    def time_limit(self, stars: int) -> float:
        """Seconds after which a worker process that fits so many stars is given up."""
        return LONGEST[self.settings.mode] * stars

    def identity(self, checkpoint: str) -> dict[str, Any]:
        """What must be the same when a stopped run goes on."""
        inputs = hashlib.sha256("\n".join(self.references).encode()).hexdigest()
        return {
            "version of phdlspec": __version__, "list of inputs": inputs, "checkpoint": checkpoint,
            "size of chunks": self.chunk,
            "configuration": json.loads(json.dumps(configuration(self.settings))),
            "medium or resolving power": json.loads(json.dumps([self.medium, self.resolving_power], default=str)),
            "judge": "" if self.judge is None else self.judge.identity,
            "table of what is known": _contents(self.settings.known_table),
            "table of resolving powers": _contents(self.resolving_power),
        }  # fmt: skip


def _contents(table: object) -> str:
    # A table's name and a digest of what is in it; "" for what is no file.
    if not isinstance(table, (str, Path)) or not Path(table).is_file():
        return ""
    return f"{table}, SHA-256 {hashlib.sha256(Path(table).read_bytes()).hexdigest()[:16]}"
