"""Finished chunks of a catalogue on disk: a kill at any moment loses and doubles nothing, and nothing is believed.

```
CATALOG.fits.parts/
    job.json            what the catalogue is made of and how
    under_way_0000013   how far a worker is with a chunk (`phdlspec.catalog.progress`)
    chunk_0000012.npz   the rows of one finished chunk (see `phdlspec.items`)
```
Each chunk says to which job and which inputs it belongs, and carries a checksum. What others put there stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from phdlspec.catalog.progress import remove_heartbeats
from phdlspec.errors import UserError
from phdlspec.files import disk_errors, only_writer, parts_folder, remove_leftovers, write_text
from phdlspec.items import Arrays, ItemFolder, WrongItem, digest, item_indices, item_path

SHOWN = 60  # characters of a setting
KEPT = "all finished chunks are kept, and --resume goes on from there"


def job_digest(identity: Mapping[str, Any]) -> str:
    """32 characters that stand for what a catalogue is made of and how."""
    return digest(json.dumps(identity, sort_keys=True))


def made_of(references: Sequence[str]) -> str:
    """Digest of the inputs of a chunk."""
    return digest(*references)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What two jobs differ in, in words; "" where they are the same."""
    return ", and another ".join(
        _difference(key, before.get(key), value) for key, value in now.items() if before.get(key) != value
    )


def _difference(name: str, before: object, now: object) -> str:
    """A setting that is not the same, with both values where these can be told in a few words."""
    if isinstance(before, list) and isinstance(now, list):  # of a long list only what differs
        before, now = ([item for item in one if item not in other] for one, other in ((before, now), (now, before)))
    told = [str(value)[:SHOWN] if value not in (None, "", [], {}) else "nothing" for value in (before, now)]
    return f"{name} ({told[0]} before, now {told[1]})"


class ChunkStore:
    """The folder beside a catalogue in the making. job : digest of the job, for a worker."""

    def __init__(self, out: str | Path, job: str = ""):
        self.out, self.job = Path(out), job
        self.folder = parts_folder(self.out)

    @property
    def begun(self) -> bool:
        """True where a run was stopped that can go on."""
        return self._description.exists()

    @property
    def _description(self) -> Path:
        return self.folder / "job.json"

    @cached_property
    def _items(self) -> ItemFolder:
        return ItemFolder(self.folder, "chunk", self.job, KEPT)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only run that makes this catalogue; another is refused."""
        with only_writer(self.out):
            yield

    def open(self, identity: Mapping[str, Any], resume: bool) -> None:
        """Make the folder, or go on in it. Raises `UserError` where it belongs to another job."""
        if self.begun:
            self._refuse_other(identity)
            if not resume:
                raise UserError(f"{self.folder}: a run was stopped here; add --resume to go on, or remove the folder")
            remove_leftovers(self.folder)
            remove_heartbeats(self.folder)
            return
        chunks = item_indices(self.folder, "chunk")
        if chunks and resume:
            raise UserError(
                f"{self.folder}: holds finished chunks, but no job.json that tells what they are of; put it back, or "
                "remove the folder"
            )
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        for index in chunks:  # of an unknown job
            item_path(self.folder, "chunk", index).unlink(missing_ok=True)
        remove_leftovers(self.folder)
        write_text(self._description, json.dumps(dict(identity), indent=1), KEPT)

    def _refuse_other(self, identity: Mapping[str, Any]) -> None:
        try:
            before = json.loads(self._description.read_text(encoding="utf-8"))
            if not isinstance(before, dict):
                raise ValueError("no table of names and values")
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{self._description}: damaged ({error}); put it back, or remove {self.folder} and start again"
            ) from error
        if different := differences(before, identity):
            raise UserError(
                f"{self.folder}: was left by a run with another {different}; give the same again, choose another "
                "--out, or remove the folder"
            )

    def finished(self, chunks: Sequence[Sequence[str]], wrong: Callable[[int, Arrays], str]) -> set[int]:
        """Indices of the whole chunks, of those planned (the references of each); others are removed and told.

        wrong : what is the matter with the arrays of a chunk, "" for nothing.
        """
        return self._items.whole([*map(made_of, chunks)], wrong)

    def write(self, index: int, references: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store a finished chunk."""
        self._items.write(index, made_of(references), arrays, small=True)

    def read(self, index: int, references: Sequence[str]) -> Arrays:
        """The rows of a chunk. Raises `UserError` where it is not what was written."""
        try:
            return self._items.read(index, made_of(references))
        except WrongItem as error:
            raise UserError(f"{self._items.path(index)}: {error}; give the command again with --resume") from error

    def remove(self) -> None:
        """Remove what is ours after the catalogue is written; the folder too, unless it holds something else."""
        # The description goes first: killed here, the catalogue counts as finished, not as one that lacks chunks.
        self._description.unlink(missing_ok=True)
        for index in item_indices(self.folder, "chunk"):
            self._items.path(index).unlink(missing_ok=True)
        remove_heartbeats(self.folder)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
