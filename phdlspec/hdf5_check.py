"""A look through HDF5 files of others by a child process: the library may crash or never return on a damaged one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from phdlspec.errors import UserError
from phdlspec.foreign import check_file

LONGEST = 60.0  # s that a look may take, however busy the machine is
MOST_COMPUTING = 10  # s of a processor, in which a look through a whole file takes tenths of one
_MEMORY = 1 << 30  # bytes that the child may take
SMALL, MOST_PACKED = 1 << 24, 1100  # bytes that nobody minds; no filter of HDF5 packs numbers tighter
MOST_CHUNK = 1 << 28  # bytes that are unpacked at once
MOST_TEXTS = 10_000_000  # in one array; each is read, for a damaged one may claim gigabytes
# Everything that is read of a file before its numbers: the tree, attributes, shapes, where the chunks lie, texts of any
# length.
_LOOK = f"""
import math, sys
path, whole, sys.path[:] = sys.argv[1], sys.argv[2] == "True", sys.argv[3:]
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, ({_MEMORY}, {_MEMORY}))
    resource.setrlimit(resource.RLIMIT_CPU, ({MOST_COMPUTING}, {MOST_COMPUTING} + 1))
except (ImportError, ValueError, OSError):
    pass
import h5py
def look(name, item):
    dict(item.attrs)
    if isinstance(item, h5py.Dataset):
        size, stored = item.size * item.dtype.itemsize, item.id.get_storage_size()
        if whole and size > {SMALL} + {MOST_PACKED} * stored:
            raise ValueError(name + " tells of more than the file holds")
        if item.chunks:
            item.id.get_num_chunks()
            if math.prod(item.chunks) * item.dtype.itemsize > {MOST_CHUNK}:
                raise ValueError(name + " is stored in too large pieces")
        if item.dtype.hasobject:
            if item.size > {MOST_TEXTS}:
                raise ValueError(name + " tells of too many texts")
            item[()]
try:
    with h5py.File(path, "r") as file:
        look("/", file)
        file.visititems(look)
except Exception as error:
    sys.exit(str(error) or type(error).__name__)
"""


def check_hdf5(path: str | Path, whole: bool = True) -> None:
    """Raise `UserError` where an HDF5 file is not readable, the HDF5 library crashes or hangs on it, or it tells of
    arrays that it does not hold. whole : its arrays are read as they are; of others only rows that are there.
    """
    path = Path(path)
    check_file(path)
    status = path.stat()
    problem = _problem(str(path), status.st_mtime_ns, status.st_size, whole)
    if problem:
        raise UserError(f"{path}: damaged, half-written or not HDF5 ({problem}); make or copy it again")


@lru_cache(maxsize=64)
def _problem(path: str, modified: int, size: int, whole: bool) -> str:
    command = [sys.executable, "-c", _LOOK, os.path.abspath(path), str(whole), *sys.path]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # each would reserve memory
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST, check=False, env=one_thread
        )
    except subprocess.TimeoutExpired:
        return f"the HDF5 library does not come to an end with it in {LONGEST:.0f} s"
    if child.returncode == -signal.SIGXCPU:
        return f"the HDF5 library does not come to an end with it in {MOST_COMPUTING} s of computing"
    if child.returncode < 0:
        return f"the HDF5 library crashes on it with signal {-child.returncode}"
    if child.returncode:
        return (child.stderr.decode(errors="replace").strip().splitlines() or ["it cannot be opened"])[-1]
    return ""
