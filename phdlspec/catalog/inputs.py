"""What a catalogue is made of: files, folders, globs, lists of paths, or one HDF5 of many spectra.

A packed HDF5 spares a survey millions of small files:

```
/                    attrs: format = "phdlspec-spectra", version = 1, survey, arms (A, 2) Å
├── wave             (P,) float64   vacuum Å
├── flux, ivar       (N, P) float32, of the flux over scale
├── mask             (N, P) uint8   1 = bad
├── resolving_power  (P,) float32
├── scale            (N,) float64, optional: unit of the stored flux
└── obsid, ra, dec   (N,)
```
Spectrum i of it is written `pack.h5[i]`.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from phdlspec.errors import UserError, first_line
from phdlspec.files import replacing
from phdlspec.foreign import lines_of
from phdlspec.hdf5_check import check_hdf5
from phdlspec.io import read_spectrum
from phdlspec.io.model_spectra import PACKED_FORMAT as FORMAT
from phdlspec.io.model_spectra import PACKED_VERSION as VERSION
from phdlspec.io.table import may_be_spectrum
from phdlspec.resolution import ResolvingPower, resolving_power_at
from phdlspec.spectrum import MAX_PIXELS, Spectrum

SPECTRUM_SUFFIXES = (".fits", ".fits.gz", ".fit", ".fit.gz", ".ecsv", ".csv")
LIST_SUFFIXES = (".txt", ".lst", ".list")


def expand_inputs(inputs: Sequence[str | Path], out: str | Path = "") -> list[str]:
    """One reference per spectrum, in a stable order and without repetition.

    A folder stands for the spectra in it and below, sorted by name; of tables in text for those with a wavelength and a
    flux, so that results, labels and lists of stars that lie there are no spectra. A text file (.txt, .lst, .list)
    stands for the paths on its lines; a pattern for the files that match it; a packed HDF5 for all its spectra. A path
    that does not exist is kept: it becomes a row with a reason. out : the catalogue to write, which is no input.
    """
    found: dict[str, None] = {}
    for item in inputs:
        for reference in _expand(str(item)):
            found.setdefault(reference)
    if out:
        for reference in [name for name in found if os.path.abspath(name) == os.path.abspath(out)]:
            del found[reference]
    if not found:
        named = ", ".join(map(str, inputs)) or "nothing"
        raise UserError(f"no spectra in {named}; expected FITS files, tables or folders")
    return list(found)


def _expand(item: str) -> list[str]:
    path = Path(item)
    if os.path.isdir(path):
        return sorted(str(p) for p in path.rglob("*") if _is_meant(p))
    if path.suffix in LIST_SUFFIXES and os.path.isfile(path):
        # Paths in a list are relative to the list.
        names = [line for line in lines_of(path) if not line.startswith("#")]
        return [name if Path(name).is_absolute() else str(path.parent / name) for name in names]
    if path.suffix in (".h5", ".hdf5") and os.path.isfile(path):
        return [f"{path}[{i}]" for i in range(_packed(str(path), os.stat(path).st_mtime_ns).count)]
    if not os.path.exists(path) and glob.has_magic(item) and not re.fullmatch(r".+\.(h5|hdf5|fits)\[\d+\]", item):
        matches = sorted(glob.glob(item, recursive=True))
        return [reference for match in matches for reference in _expand(match)] or [item]
    return [item]


def _is_meant(path: Path) -> bool:
    # A file of a folder that was named. A pipe or a device is a row with a reason, as all that cannot be read; hidden
    # files are half-written or of the system.
    name = path.name.lower()
    if not name.endswith(SPECTRUM_SUFFIXES) or name.startswith(".") or os.path.isdir(path):
        return False
    return not name.endswith((".csv", ".ecsv")) or not os.path.isfile(path) or may_be_spectrum(path)


def read_reference(
    reference: str, medium: str | None = None, resolving_power: ResolvingPower | None = None
) -> Spectrum:
    """The spectrum of a reference of `expand_inputs`."""
    packed = re.fullmatch(r"(.+\.(?:h5|hdf5))\[(\d+)\]", reference)
    if not packed:
        return read_spectrum(reference, medium=medium, resolving_power=resolving_power)
    path = packed[1]
    try:
        return _packed(path, os.stat(path).st_mtime_ns).spectrum(int(packed[2]), reference, resolving_power)
    except OSError as error:
        raise UserError(f"{reference}: cannot be read ({first_line(error)})") from error


# Dimensions and kinds of what a packed HDF5 holds.
_LAYOUT = {
    "wave": (1, "f"), "resolving_power": (1, "f"), "flux": (2, "f"), "ivar": (2, "f"), "mask": (2, "biu"),
    "obsid": (1, "SO"), "ra": (1, "f"), "dec": (1, "f"),
}  # fmt: skip
_NAMES = {"object": "OBJECT", "gaia_id": "GAIA_ID"}  # may be there


class _Packed:
    def __init__(self, path: str):
        check_hdf5(path, whole=False)
        try:
            self._file = h5py.File(path, "r")
            if self._file.attrs.get("format") != FORMAT:
                raise UserError(f"{path}: HDF5, but not a file of spectra (format {FORMAT!r} expected)")
            self.count = self._check_layout()
            self._wave = self._file["wave"][()].astype(float)
            self._power = self._file["resolving_power"][()].astype(float)
            self._arms = tuple((float(a), float(b)) for a, b in self._file.attrs["arms"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: a damaged file of spectra ({first_line(error)})") from error

    def _check_layout(self) -> int:
        """Number of spectra. Raises `ValueError` where something is of another kind or size, before it is read."""
        file = self._file
        self._layout = _LAYOUT | {name: (1, "SO") for name in _NAMES if name in file}
        for name, (ndim, kinds) in self._layout.items():
            item = file[name]
            if not isinstance(item, h5py.Dataset) or item.ndim != ndim or item.dtype.kind not in kinds:
                raise ValueError(f"{name} is of another kind")
        count, pixels = file["flux"].shape
        if not 0 < pixels <= MAX_PIXELS:
            raise ValueError(f"it tells of {pixels} pixels, expected at most {MAX_PIXELS}")
        if file["flux"].id.get_storage_size() < count:
            raise ValueError(f"it tells of {count} spectra and does not hold them")
        for name, (ndim, _) in self._layout.items():
            of_pixels = name in ("wave", "resolving_power")
            if file[name].shape != ((count, pixels) if ndim == 2 else (pixels,) if of_pixels else (count,)):
                raise ValueError(f"{name} is of another shape than flux")
        return int(count)

    def spectrum(self, i: int, reference: str, resolving_power: ResolvingPower | None) -> Spectrum:
        file = self._file
        if i >= self.count:
            raise UserError(f"{reference}: the file has {self.count} spectra, counted from 0")
        power = self._power if resolving_power is None else resolving_power_at(resolving_power, self._wave)
        scale = float(file["scale"][i]) if "scale" in file else 1.0
        meta = {
            "OBSID": _text(file["obsid"][i]), "RA": float(file["ra"][i]), "DEC": float(file["dec"][i]),
            "SURVEY": str(file.attrs.get("survey", "")),
            **{key: _text(file[name][i]) for name, key in _NAMES.items() if name in self._layout},
        }  # fmt: skip
        flux, ivar = (np.asarray(file[name][i], dtype=float) for name in ("flux", "ivar"))
        return Spectrum(
            self._wave, flux * scale, ivar / scale**2, file["mask"][i] > 0, power, meta, reference, self._arms
        )


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


@lru_cache(maxsize=4)
def _packed(path: str, modified: int) -> _Packed:
    return _Packed(path)


def write_packed(path: str | Path, spectra: Sequence[Spectrum]) -> None:
    """Write spectra that share their pixels into one HDF5; see the layout above.

    >>> phdlspec.write_packed("many.h5", [spectrum, spectrum])
    >>> bool(np.allclose(phdlspec.as_spectrum("many.h5[1]").flux, spectrum.flux))
    True
    """
    if not spectra or not all(isinstance(spectrum, Spectrum) for spectrum in spectra):
        raise UserError(f"{path}: expected one phdlspec.Spectrum or more to write; as_spectrum makes them")
    first = spectra[0]
    for spectrum in spectra:
        if not np.array_equal(spectrum.wave, first.wave):
            raise UserError(f"{spectrum.path or 'spectrum'}: its pixels are not those of the first spectrum")
    scale = np.array([_unit_of(s) for s in spectra])
    rows = {
        "flux": np.stack([s.flux / unit for s, unit in zip(spectra, scale)]).astype(np.float32),
        "ivar": np.stack([s.ivar * unit**2 for s, unit in zip(spectra, scale)]).astype(np.float32),
        "mask": np.stack([s.mask for s in spectra]).astype(np.uint8),
    }
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(
            format=FORMAT, version=VERSION, survey=str(first.meta.get("SURVEY", "")), arms=np.array(first.arms)
        )
        file["wave"], file["scale"] = first.wave, scale
        file["resolving_power"] = np.asarray(first.resolving_power_by_pixel, dtype=np.float32)
        for name, values in rows.items():
            file.create_dataset(name, data=values, chunks=(1, len(first)), compression="gzip", compression_opts=1)
        file["obsid"] = [str(s.meta.get("OBSID", s.stem)).encode() for s in spectra]
        told = {"object": [str(s.meta.get("OBJECT") or s.meta.get("DESIG") or "") for s in spectra],
                "gaia_id": [str(s.meta.get("GAIA_ID") or "") for s in spectra]}  # fmt: skip
        for name, texts in told.items():
            if any(texts):
                file[name] = [text.encode() for text in texts]
        for name in ("RA", "DEC"):
            file[name.lower()] = [float(s.meta.get(name, np.nan)) for s in spectra]


def _unit_of(spectrum: Spectrum) -> float:
    """What the flux is divided by so that it and its inverse variance are numbers of float32: a power of ten."""
    size = np.median(np.abs(spectrum.flux[spectrum.good]))
    return float(10.0 ** np.floor(np.log10(size))) if size > 0 and not 1e-4 < size < 1e6 else 1.0
