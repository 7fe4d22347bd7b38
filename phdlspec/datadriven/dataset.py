"""The data set of all models learned from data: spectra at rest on one grid, with labels where there are some.

On disk it is a packed HDF5 that `phdlspec catalog` reads too (`phdlspec.catalog.inputs`), with one group more:

```
/                wave, flux, ivar, mask, resolving_power, obsid, ra, dec: normalised spectra at rest
└── datadriven/  attrs: version, labels (JSON: name, set_name, unit, solar_scale of each)
    ├── file, star, reason (N,) str; velocity, snr (N,); level (N, C) float32
    └── value, error (N, L) float64, NaN = missing
```
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from phdlspec.catalog.inputs import expand_inputs, read_reference
from phdlspec.datadriven.label_table import MATCH_ARCSEC, GivenLabels, LabelInfo, match, read_label_table
from phdlspec.datadriven.rest_frame import PhysicsFit, at_rest, level_at_rest, normalised, read_physics_fit, velocity_of
from phdlspec.errors import UserError, first_line
from phdlspec.files import replacing
from phdlspec.hdf5_check import check_hdf5
from phdlspec.io.model_spectra import PACKED_FORMAT, PACKED_VERSION
from phdlspec.resolution import ResolvingPower
from phdlspec.spectrum import Spectrum

LEAST_COVER = 0.5  # of the grid that a spectrum must have
LEVEL_EVERY = 50  # pixels of the grid, 60 Å: the continuum that is divided out has nothing narrower than its knots
GROUP = "datadriven"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Dataset:
    """N spectra and their labels.

    wave : (P,) vacuum Å. flux, ivar : (N, P) float32, normalised, at rest; both 0 at bad pixels.
    resolving_power : (P,). files, obsids, stars : (N,); spectra of one star have the same `stars`.
    ra, dec : (N,) degrees. velocity : (N,) km/s, taken out. snr : (N,) median of the good pixels.
    reasons : (N,) why a spectrum is not there, '' where it is.
    level : (N, C) ln of the continuum that was divided out, at rest, at every `LEVEL_EVERY`-th pixel of the grid, less
    its median; NaN where there is none; (0, 0) where it was not kept.
    infos : of the L labels. values, errors : (N, L), NaN = missing.
    """

    wave: Array
    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    resolving_power: Array
    files: tuple[str, ...]
    obsids: tuple[str, ...]
    stars: tuple[str, ...]
    ra: Array
    dec: Array
    velocity: Array
    snr: Array
    reasons: tuple[str, ...]
    infos: tuple[LabelInfo, ...] = ()
    values: Array = field(default_factory=lambda: np.empty((0, 0)))
    errors: Array = field(default_factory=lambda: np.empty((0, 0)))
    level: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))

    def __len__(self) -> int:
        return len(self.files)

    @property
    def readable(self) -> NDArray[np.bool_]:
        """(N,) True where there is a spectrum."""
        return np.array([not reason for reason in self.reasons], dtype=bool)

    def take(self, rows: NDArray[Any]) -> Dataset:
        """Some of its spectra, by index or mask."""
        rows = np.arange(len(self))[rows]
        changes: dict[str, Any] = {
            name: tuple(getattr(self, name)[i] for i in rows) for name in ("files", "obsids", "stars", "reasons")
        }
        names = (
            "flux",
            "ivar",
            "ra",
            "dec",
            "velocity",
            "snr",
            *(("values", "errors") if self.infos else ()),
            *(("level",) if len(self.level) else ()),
        )
        changes |= {name: getattr(self, name)[rows] for name in names}
        return replace(self, **changes)

    def with_labels(self, tables: Sequence[GivenLabels]) -> Dataset:
        """The labels of these tables, one set each, in place of what it had."""
        names = [table.infos[0].set_name for table in tables]
        if len(set(names)) < len(names):
            raise UserError(f"two sets of labels are named {max(names, key=names.count)}; write NAME=TABLE for one")
        values, errors, stars = [], [], list(self.stars)
        for table in tables:
            rows = match(table, list(self.files), list(self.obsids), self.ra, self.dec)
            known = (rows >= 0)[:, None]
            values.append(np.where(known, table.values[rows], np.nan))
            errors.append(np.where(known, table.errors[rows], np.nan))
            if table.stars is not None:
                stars = [str(table.stars[r]) if r >= 0 and table.stars[r] else s for r, s in zip(rows, stars)]
        infos = tuple(info for table in tables for info in table.infos)
        return replace(self, infos=infos, values=np.hstack(values), errors=np.hstack(errors), stars=tuple(stars))

    def write(self, path: str | Path) -> None:
        """Write it as a packed HDF5."""
        with replacing(path) as temporary, h5py.File(temporary, "w") as file:
            arms = np.array([[self.wave[0], self.wave[-1]]])
            file.attrs.update(format=PACKED_FORMAT, version=PACKED_VERSION, survey="", arms=arms)
            file["wave"] = self.wave
            file["resolving_power"] = self.resolving_power.astype(np.float32)
            for name, rows in (("flux", self.flux), ("ivar", self.ivar), ("mask", (self.ivar <= 0).astype(np.uint8))):
                file.create_dataset(name, data=rows, chunks=(1, len(self.wave)), compression="gzip", compression_opts=1)
            file["obsid"] = [text.encode() for text in self.obsids]
            file["ra"], file["dec"] = self.ra, self.dec
            group = file.create_group(GROUP)
            group.attrs.update(version=1, labels=json.dumps([asdict(info) for info in self.infos]))
            for name, texts in (("file", self.files), ("star", self.stars), ("reason", self.reasons)):
                group[name] = [text.encode() for text in texts]
            group["velocity"], group["snr"] = self.velocity, self.snr
            group["value"], group["error"] = self.values, self.errors
            group["level"] = self.level

    @classmethod
    def read(cls, path: str | Path) -> Dataset:
        """Read a packed HDF5 that `write` made. Raises `UserError` for anything else."""
        check_hdf5(path)
        try:
            with h5py.File(path) as file:
                group = file[GROUP]
                text = {n: tuple(t.decode() for t in group[n][()]) for n in ("file", "star", "reason")}
                return cls(
                    file["wave"][()], file["flux"][()], file["ivar"][()], file["resolving_power"][()].astype(float),
                    text["file"], tuple(t.decode() for t in file["obsid"][()]), text["star"], file["ra"][()],
                    file["dec"][()], group["velocity"][()], group["snr"][()], text["reason"],
                    tuple(LabelInfo(**info) for info in json.loads(group.attrs["labels"])),
                    group["value"][()], group["error"][()],
                    group["level"][()] if "level" in group else np.empty((0, 0), dtype=np.float32),
                )  # fmt: skip
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"{path}: no data set of models from data, or a damaged one ({first_line(error)})"
            ) from error


def is_dataset(path: str | Path) -> bool:
    """Whether a file is an HDF5 that `Dataset.write` made."""
    if not h5py.is_hdf5(path):
        return False
    check_hdf5(path)
    with h5py.File(path) as file:
        return GROUP in file


def read_dataset(
    inputs: Sequence[str | Path | Spectrum],
    labels: Sequence[str | Path | Table | GivenLabels] = (),
    grid: Array | None = None,
    *,
    velocity: str = "auto",
    fits: str | Path | None = None,
    solar_scale: str | None = None,
    medium: str | None = None,
    resolving_power: ResolvingPower | None = None,
    progress: bool = False,
) -> Dataset:
    """Read spectra into a data set.

    Parameters
    ----------
    inputs : files, folders, patterns, lists, packed HDF5, or `Spectrum` objects; a single file of `Dataset.write` is
        taken as it is.
    labels : tables of labels, one set each.
    grid : (P,) vacuum Å; by default the pixels of the first spectrum that can be read.
    velocity : see `velocity_of`.
    fits : folder of `phdlspec fit`; a star with a result there gets its velocity and continuum.
    medium : of tables that do not state it.
    resolving_power : in place of what the files say, see `phdlspec.read_spectrum`.

    A spectrum that cannot be read is a row with a reason. Raises `UserError` where none can.
    """
    tables = [t if isinstance(t, GivenLabels) else read_label_table(t, solar_scale) for t in labels]
    if len(inputs) == 1 and not isinstance(inputs[0], Spectrum) and Path(inputs[0]).is_file() and is_dataset(inputs[0]):
        data = _check_grid(Dataset.read(inputs[0]), grid, str(inputs[0]))
    else:
        data = _gather(inputs, grid, velocity, None if fits is None else Path(fits), medium, resolving_power, progress)
    data = data.with_labels(tables) if tables else data
    return replace(data, stars=_joined_by_position(data))


def _check_grid(data: Dataset, grid: Array | None, path: str) -> Dataset:
    if grid is not None and (len(grid) != len(data.wave) or not np.allclose(grid, data.wave, rtol=1e-6)):
        raise UserError(
            f"{path}: its pixels are {len(data.wave)} at {data.wave[0]:.1f}-{data.wave[-1]:.1f} Å, the model's "
            f"{len(grid)} at {grid[0]:.1f}-{grid[-1]:.1f} Å; give the spectra themselves"
        )
    return data


def _gather(
    inputs: Sequence[str | Path | Spectrum],
    grid: Array | None,
    velocity: str,
    fits: Path | None,
    medium: str | None,
    resolving_power: ResolvingPower | None,
    progress: bool,
) -> Dataset:
    sources: list[str | Spectrum] = [item for item in inputs if isinstance(item, Spectrum)]
    paths = [item for item in inputs if not isinstance(item, Spectrum)]
    sources += expand_inputs(paths) if paths or not sources else []
    rows = []
    power: Array | None = None
    for source in tqdm(sources, desc="reading", unit="spectrum", disable=not progress):
        row = _SpectrumRow(source if isinstance(source, str) else source.path)
        try:
            spectrum = read_reference(source, medium, resolving_power) if isinstance(source, str) else source
            if grid is None:
                grid = np.array(spectrum.wave)
            if power is None:
                power = np.interp(grid, spectrum.wave, spectrum.resolving_power_by_pixel)
            row.fill(spectrum, grid, velocity, _fit_of(fits, spectrum))
        except UserError as error:
            row.reason = str(error)
        rows.append(row)
    if grid is None or power is None or all(row.reason for row in rows):
        raise UserError(f"none of the {len(rows)} spectra can be used; the first: {rows[0].reason}")
    empty = np.zeros(len(grid), dtype=np.float32)
    numbers: dict[str, Any] = {
        name: np.array([getattr(row, name) for row in rows]) for name in ("ra", "dec", "velocity", "snr")
    }
    return Dataset(
        wave=grid,
        flux=np.stack([empty if row.reason else row.flux for row in rows]),
        ivar=np.stack([empty if row.reason else row.ivar for row in rows]),
        level=np.stack([np.full_like(empty[::LEVEL_EVERY], np.nan) if row.reason else row.level for row in rows]),
        resolving_power=power,
        files=tuple(row.file for row in rows),
        obsids=tuple(row.obsid for row in rows),
        stars=tuple(row.obsid or row.file or f"spectrum {i}" for i, row in enumerate(rows)),
        reasons=tuple(row.reason for row in rows),
        **numbers,
    )


def _fit_of(folder: Path | None, spectrum: Spectrum) -> PhysicsFit | None:
    path = None if folder is None else folder / f"{spectrum.stem}.h5"
    return read_physics_fit(path) if path is not None and path.is_file() else None


class _SpectrumRow:
    # One spectrum on its way into a data set.

    def __init__(self, file: str):
        self.file, self.obsid, self.reason = file, "", ""
        self.ra = self.dec = self.velocity = self.snr = np.nan
        self.flux: NDArray[np.float32] = np.empty(0, dtype=np.float32)
        self.ivar = self.level = self.flux

    def fill(self, spectrum: Spectrum, grid: Array, velocity: str, fit: PhysicsFit | None) -> None:
        meta = spectrum.meta
        self.obsid = str(meta.get("OBSID", "") or "")
        self.ra, self.dec = (float(meta.get(name, np.nan)) for name in ("RA", "DEC"))
        name = spectrum.path or "spectrum"
        low, high = spectrum.wave[0], spectrum.wave[-1]
        inside = float(np.mean((grid >= low) & (grid <= high)))
        if inside < LEAST_COVER:
            raise UserError(
                f"{name}: covers {low:.0f}-{high:.0f} Å, which is {100 * inside:.0f}% of the "
                f"{grid[0]:.0f}-{grid[-1]:.0f} Å in use; spectra must share their wavelengths"
            )
        self.velocity = velocity_of(spectrum, velocity) if fit is None else fit.velocity
        flux, ivar, continuum = normalised(spectrum, fit)
        self.flux, self.ivar = at_rest(spectrum.wave, flux, ivar, self.velocity, grid)
        self.level = level_at_rest(spectrum.wave, continuum, self.velocity, grid[::LEVEL_EVERY])
        good = self.ivar > 0
        if good.mean() < 0.5 * LEAST_COVER:
            raise UserError(f"{name}: only {good.sum()} of {len(grid)} pixels are usable at rest")
        self.snr = float(np.median(self.flux[good] * np.sqrt(self.ivar[good])))


def _joined_by_position(data: Dataset) -> tuple[str, ...]:
    """Names of stars, in which spectra within `MATCH_ARCSEC` of each other are of one."""
    known = np.flatnonzero(np.isfinite(data.ra) & np.isfinite(data.dec))
    first = {name: i for i, name in reversed(list(enumerate(data.stars)))}
    pairs = [(i, first[name]) for i, name in enumerate(data.stars)]
    if len(known) > 1:
        sky = SkyCoord(data.ra[known] * u.deg, data.dec[known] * u.deg)
        one, two, _, _ = sky.search_around_sky(sky, MATCH_ARCSEC * u.arcsec)
        pairs += list(zip(known[one], known[two]))
    rows, columns = np.array(pairs).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(data), len(data)))
    _, component = connected_components(graph, directed=False)
    representative: dict[int, str] = {}
    return tuple(representative.setdefault(int(c), name) for c, name in zip(component, data.stars))
