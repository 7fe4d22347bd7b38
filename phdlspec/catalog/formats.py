"""The catalogue in other formats than FITS: the same columns with units and comments, header and correlations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from phdlspec.files import replacing
from phdlspec.hdf5_check import check_hdf5

ENDINGS = {"hdf5": ".h5", "parquet": ".parquet"}
NEEDS = {"hdf5": "h5py", "parquet": "pyarrow"}
TABLE = "catalog"  # its name in an HDF5


def write_also(table: Table, out: str | Path, kind: str) -> Path:
    """Write the table of the FITS catalogue `out` beside it as "hdf5" or "parquet"; the path of it.

    The correlations become a column CORRELATION (int8, lower triangles by rows; times SCALE of the header of the FITS
    extension, 1/127), text is text, the header the table's metadata.
    """
    path = Path(out).with_suffix(ENDINGS[kind])
    whole = Table(table, copy=False)
    whole.convert_bytestring_to_unicode()
    with fits.open(out) as hdus:
        if "CORRELATION" in hdus:
            whole["CORRELATION"] = np.asarray(hdus["CORRELATION"].data["CORRELATION"]).astype(np.int8)
            whole["CORRELATION"].info.description = "correlations of the parameters in units of 1/127, lower triangle"
    with replacing(path) as part:
        if kind == "hdf5":
            whole.write(part, path=TABLE, format="hdf5", serialize_meta=True, overwrite=True)
        else:
            whole.write(part, format="parquet", overwrite=True)
    return path


def read_also(path: Path) -> Table:
    """The table of a catalogue that `write_also` wrote."""
    if path.suffix == ENDINGS["hdf5"]:
        check_hdf5(path)
        return Table.read(path, path=TABLE, format="hdf5", character_as_bytes=False)
    return Table.read(path, format="parquet")
