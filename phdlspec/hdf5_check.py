"""A look through HDF5 files of others by a child process: the library may crash or never return on a damaged one."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from phdlspec.errors import UserError

LONGEST = 60.0  # s that a look may take
_MEMORY = 1 << 30  # bytes that the child may take
MOST_TEXTS = 10_000_000  # in one array; each is read, for a damaged one may claim gigabytes
# Everything that is read of a file before its numbers: the tree, attributes, shapes, where the chunks lie, texts of any
# length.
_LOOK = f"""
import sys
path, sys.path[:] = sys.argv[1], sys.argv[2:]
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, ({_MEMORY}, {_MEMORY}))
except (ImportError, ValueError, OSError):
    pass
import h5py
def look(name, item):
    dict(item.attrs)
    if isinstance(item, h5py.Dataset):
        item.shape, item.dtype, item.id.get_storage_size()
        if item.chunks:
            item.id.get_num_chunks()
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


def check_hdf5(path: str | Path) -> None:
    """Raise `UserError` where an HDF5 file is not readable, or the HDF5 library crashes or hangs on it."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    status = path.stat()
    problem = _problem(str(path), status.st_mtime_ns, status.st_size)
    if problem:
        raise UserError(f"{path}: damaged, half-written or not HDF5 ({problem}); make or copy it again")


@lru_cache(maxsize=64)
def _problem(path: str, modified: int, size: int) -> str:
    command = [sys.executable, "-c", _LOOK, os.path.abspath(path), *sys.path]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # each would reserve memory
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST, check=False, env=one_thread
        )
    except subprocess.TimeoutExpired:
        return f"the HDF5 library does not come to an end with it in {LONGEST:.0f} s"
    if child.returncode < 0:
        return f"the HDF5 library crashes on it with signal {-child.returncode}"
    if child.returncode:
        return (child.stderr.decode(errors="replace").strip().splitlines() or ["it cannot be opened"])[-1]
    return ""
