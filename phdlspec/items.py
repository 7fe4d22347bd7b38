"""Finished pieces of long work on disk, each of which says what it is: nothing that was touched in between is believed.

An item is an npz of arrays and of `about`, a JSON text: the digest of the job that it belongs to, its index, a digest
of what it was made of, and the SHA-256 of all this with the names, types, shapes and bytes of the arrays. Items that
were swapped, doubled, cut, edited or retyped are told from those that were written here, and made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phdlspec.files import writing

log = logging.getLogger(__name__)

Arrays = dict[str, NDArray[Any]]


class WrongItem(Exception):
    """Why a file is not the item that it should be."""


def digest(*what: bytes | str) -> str:
    """32 hexadecimal digits that stand for some texts or bytes."""
    found = hashlib.sha256()
    for piece in what:
        content = piece.encode(errors="surrogateescape") if isinstance(piece, str) else piece
        found.update(len(content).to_bytes(8, "big"))
        found.update(content)
    return found.hexdigest()[:32]


def write_item(
    path: Path, about: Mapping[str, str | int], arrays: Mapping[str, NDArray[Any]], kept: str = "", small: bool = False
) -> None:
    """Store arrays and what they are; `small`: compressed. `kept`: see `phdlspec.files.disk_errors`."""
    text = json.dumps({**about, "sha256": checksum(about, arrays)}, sort_keys=True)
    save = np.savez_compressed if small else np.savez
    with writing(path, kept) as file:
        save(file, about=np.array(text), **arrays)  # type: ignore[arg-type]


def read_item(path: Path, about: Mapping[str, str | int]) -> Arrays:
    """The arrays of an item. Raises `WrongItem` where it is not whole, or not what `about` says."""
    if not path.is_file():
        raise WrongItem("there is no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        told = dict(json.loads(str(arrays.pop("about")[()])))
    except Exception as error:  # bytes that were changed raise whatever they look like
        raise WrongItem(f"it is damaged, or of another kind ({type(error).__name__})") from error
    if told.pop("sha256", None) != checksum(told, arrays):
        raise WrongItem("its content is not that of its checksum")
    for name, value in about.items():
        if told.get(name) != value:
            raise WrongItem(f"it is of another {name}")
    return arrays


def checksum(about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of a description and of names, types, shapes and bytes of arrays."""
    found = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode())
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {values.dtype.str} {values.shape}".encode())
        found.update(values.tobytes())
    return found.hexdigest()


class ItemFolder:
    """The items of one job in a folder: files `NAME_0000012.npz`. Others that lie there are left alone.

    job : digest of the job. kept : what to say of finished items when the disk is full. `made_of` of an item is a
    digest of what it has to be made of.
    """

    def __init__(self, folder: Path, name: str, job: str, kept: str):
        self.folder, self.name, self.job, self.kept = folder, name, job, kept

    def path(self, index: int) -> Path:
        """File of an item."""
        return item_path(self.folder, self.name, index)

    def write(self, index: int, made_of: str, arrays: Mapping[str, NDArray[Any]], small: bool = False) -> None:
        """Store a finished item."""
        write_item(self.path(index), self._about(index, made_of), arrays, self.kept, small)

    def read(self, index: int, made_of: str) -> Arrays:
        """The arrays of an item. Raises `WrongItem`."""
        return read_item(self.path(index), self._about(index, made_of))

    def whole(self, made_of: Sequence[str], wrong: Callable[[int, Arrays], str]) -> set[int]:
        """Indices of the items that are there and right; others are removed with a line that says why.

        made_of : of each item that is planned. wrong : what is the matter with an item's arrays, "" for nothing.
        """
        found = set()
        for index in sorted(item_indices(self.folder, self.name)):
            if index >= len(made_of):
                continue
            try:
                reason = wrong(index, self.read(index, made_of[index]))
            except WrongItem as error:
                reason = str(error)
            if reason:
                log.warning("%s: %s; it is made again", self.path(index), reason)
                self.path(index).unlink(missing_ok=True)
            else:
                found.add(index)
        return found

    def _about(self, index: int, made_of: str) -> dict[str, str | int]:
        return {"job": self.job, "index": index, "input": made_of}


def item_path(folder: Path, name: str, index: int, ending: str = ".npz") -> Path:
    """File of an item of a folder."""
    return folder / f"{name}_{index:07d}{ending}"


def item_indices(folder: Path, name: str, ending: str = ".npz") -> set[int]:
    """Indices of the items that lie in a folder, by their names."""
    pattern = re.compile(rf"{re.escape(name)}_(\d{{7,}}){re.escape(ending)}")
    matches = ((pattern.fullmatch(path.name), path) for path in folder.glob(f"{name}_*{ending}"))
    return {int(match[1]) for match, path in matches if match and path.is_file()}
