"""Files appear whole or not at all, a full disk is one sentence, and one process at a time writes an output."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from phdlspec.errors import UserError
from phdlspec.files import DiskFullError, only_writer, remove_leftovers, replacing, write_text, writing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_the_place_of_the_old_one_when_it_is_whole(tmp_path):
    path = tmp_path / "new folder" / "a.fits.gz"
    write_text(path, "first Å")
    with replacing(path) as temporary:
        temporary.write_text("second")
        assert temporary.name.endswith(".fits.gz")
        assert path.read_text(encoding="utf-8") == "first Å"
    assert path.read_text() == "second"
    assert names(path.parent) == ["a.fits.gz"]


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_text("before")

    def fail() -> None:
        with writing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "before"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')"),
        OSError("Not enough space on disk: requested 8388608, available 0."),
    ],
)
def test_a_full_disk_is_one_sentence(tmp_path, error):
    words = "a.h5: the disk is full; finished rows are kept; make room"
    with pytest.raises(DiskFullError, match=words), replacing(tmp_path / "a.h5", "finished rows are kept"):
        raise error
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_disk(tmp_path):
    with pytest.raises(DiskFullError), replacing(tmp_path / "a"), open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")


def test_what_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/a.txt: cannot be written"):
        write_text(tmp_path / "file" / "a.txt", "text")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UserError, match="folder.txt: cannot be written"):
        write_text(tmp_path / "folder.txt", "text")
    assert names(tmp_path) == ["file", "folder.txt"]


_HOLD = """
import sys
from phdlspec.files import only_writer
with only_writer(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path):
    path = tmp_path / "c.fits"
    repository = str(Path(__file__).resolve().parents[2])
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": repository},
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match="c.fits: another run is making it"), only_writer(path):
        pass
    holder.kill()
    holder.communicate()
    with only_writer(path):
        assert names(tmp_path) == [".c.fits.lock"]
    assert names(tmp_path) == []


def test_leftovers_of_killed_runs_go_and_other_files_stay(tmp_path):
    (tmp_path / ".part-123-row.npz").touch()
    (tmp_path / "notes.txt").touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["notes.txt"]
