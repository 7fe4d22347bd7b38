"""The catalogue in other formats than FITS."""

from __future__ import annotations

from pathlib import Path

from astropy.table import Table

from phdlspec.errors import UserError

ENDINGS = {"hdf5": ".h5", "parquet": ".parquet"}


def write_also(table: Table, out: str | Path, kind: str) -> Path:
    """Write the table beside `out` as "hdf5" or "parquet"; the path of it."""
    path = Path(out).with_suffix(ENDINGS[kind])
    try:
        if kind == "hdf5":
            table.write(path, path="catalog", format="hdf5", serialize_meta=True, overwrite=True)
        else:
            table.to_pandas().to_parquet(path)
    except ImportError as error:
        raise UserError(f"{path}: parquet needs pandas and pyarrow, which are not installed") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error
    return path
