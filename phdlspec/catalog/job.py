"""What a catalogue is made of and how: the job, and the chunks that it is cut into."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from phdlspec import __version__
from phdlspec.columns import columns_with
from phdlspec.emulator.bridge import NONE
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import FitSettings
from phdlspec.items import digest
from phdlspec.provenance import configuration
from phdlspec.resolution import ResolvingPower
from phdlspec.spectrum import Spectrum

CHUNK = 32  # spectra that are fitted and stored together
_OPTIONS = {  # of the fit's settings
    "mode": "--mode", "sampler": "--sampler", "seed": "--seed", "priors": "--prior", "known": "--fix or --gaussian",
    "masks": "--mask-off or --mask-file", "resolution_width": "--resolution-width", "known_table": "--known",
    "bridge": "--bridge",
}  # fmt: skip
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
    the fit does not see. columns : on request (`phdlspec.columns.ON_REQUEST`).
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
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        columns_with(self.columns)  # refuses those that there are not

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

    def identity(self, checkpoint: str, bridge: str = NONE) -> dict[str, Any]:
        """What must be the same when a stopped run goes on, by what a user would change to have it otherwise."""
        inputs = hashlib.sha256("\n".join(self.references).encode(errors="surrogateescape")).hexdigest()
        settings = {_OPTIONS.get(name, name): value for name, value in configuration(self.settings).items()}
        identity = {
            "version of phdlspec": __version__, "list of inputs": inputs, "--emulator": checkpoint,
            "--chunk": self.chunk, "--medium": self.medium, "--resolving-power": _with_content(self.resolving_power),
            "--anomaly": "" if self.judge is None else self.judge.identity, "--columns": sorted(self.columns),
            "layout of catalogues": digest(*(column.name for column in columns_with(self.columns)))[:8],
            **settings, "--known": _with_content(self.settings.known_table), "--bridge": bridge,
        }  # fmt: skip
        plain: dict[str, Any] = json.loads(json.dumps(identity, default=str))
        return plain


def _with_content(value: object) -> object:
    # A table's name with a digest of what is in it; what is no file as it is.
    if not isinstance(value, (str, Path)) or not Path(value).is_file():
        return value
    return f"SHA-256 {hashlib.sha256(Path(value).read_bytes()).hexdigest()[:16]} of {value}"
