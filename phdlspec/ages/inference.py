"""From a catalogue to a table of ages: `infer` in memory, `make_ages` on disk and kill-safe."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Column, Table
from numpy.typing import NDArray
from tqdm import tqdm

from phdlspec import __version__
from phdlspec.ages.catalogue import AgeCatalogue
from phdlspec.ages.columns import COLUMNS, COMPARED, MOMENTS, QUANTITIES, STAGE_COLUMNS
from phdlspec.ages.fine_grid import IsochroneGrids
from phdlspec.ages.flags import AGE_WORDS
from phdlspec.ages.isochrones import Isochrones
from phdlspec.ages.photometry import common_bands, with_magnitudes
from phdlspec.ages.photometry_table import known_before, photometry_of
from phdlspec.ages.posterior import AgePosteriors, posteriors
from phdlspec.ages.priors import named_prior
from phdlspec.ages.readers import read_isochrones
from phdlspec.ages.selection import subgiants
from phdlspec.ages.stars import Photometry
from phdlspec.errors import UserError
from phdlspec.files import only_writer, parts_folder, remove_leftovers, replacing, write_text
from phdlspec.items import ItemFolder, item_indices
from phdlspec.tables import table_hdu

CHUNK = 2000
ENDINGS = (".fits", ".fits.gz", ".ecsv")
_COPIED = ("OBSID", "SOURCE_ID", "APOGEE_ID", "KIC", "STAR", "NAME", "FILE", "RA", "DEC", "SNR")

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class AgeSettings:
    """What is inferred from what.

    isochrones, compare : name of a set or path; compare : a second set, None for none
    photometry : table of parallaxes and magnitudes; None for columns of the catalogue itself
    prior : name; raw : labels before calibration; device : of torch
    """

    isochrones: str = "mist"
    compare: str | None = None
    photometry: str | None = None
    prior: str = "flat"
    raw: bool = False
    device: str = "cpu"


class AgeInference:
    """A catalogue, its photometry and the grids, ready for any rows.

    Raises `UserError` for whatever of them cannot be used.
    """

    def __init__(self, catalogue: str | Path | Table, settings: AgeSettings):
        self.settings, self.prior = settings, named_prior(settings.prior)
        self.catalogue = AgeCatalogue(catalogue, settings.raw)
        photometry = photometry_of(self.catalogue, settings.photometry)
        self.isochrones, errors, self.magnitudes_from = with_magnitudes(read_isochrones(settings.isochrones))
        bands = common_bands(list(photometry.bands), self.isochrones)
        self.photometry = _only(photometry, bands)
        self.grids = IsochroneGrids(self.isochrones, self.prior, bands, errors, settings.device)
        self.second: IsochroneGrids | None = None
        if settings.compare:
            other, errors, _ = with_magnitudes(read_isochrones(settings.compare))
            common_bands(bands, other)
            missing = [band for band in bands if band not in other.magnitudes]
            if missing:
                raise UserError(f"{other.facts.name}: has no magnitudes {', '.join(missing)}, which the first set has")
            self.second = IsochroneGrids(other, self.prior, bands, errors, settings.device)

    def __len__(self) -> int:
        return len(self.catalogue)

    def rows(self, start: int, stop: int) -> Arrays:
        """The columns of the rows start <= row < stop."""
        stars, used = self.catalogue.stars(start, stop)
        photometry = self.photometry.take(np.arange(start, min(stop, len(self))))
        stars = replace(stars, photometry=photometry, flag=stars.flag | known_before(photometry))
        chosen, by_magnitude = subgiants(stars.labels, photometry)
        errors = np.sqrt(np.einsum("nii->ni", stars.covariance))
        arrays: Arrays = {
            "TEFF": stars.labels[:, 0], "TEFF_ERR": errors[:, 0], "LOGG": stars.labels[:, 1], "LOGG_ERR": errors[:, 1],
            **used, "M_H_ERR": errors[:, 2], "SUBGIANT": chosen, "SUBGIANT_MK": by_magnitude,
            **_columns(posteriors(stars, self.grids)),
        }  # fmt: skip
        if self.second is not None:
            other = posteriors(stars, self.second)
            arrays |= {f"AGE2{suffix}": other.age[:, k] for k, (suffix, _) in enumerate(MOMENTS)}
            arrays |= {"MASS2": other.mass[:, 0], "AGE2_FLAG": other.flag}
        declared = [*COLUMNS, *(COMPARED if self.second else ())]
        return {column.name: arrays[column.name].astype(column.dtype) for column in declared}

    def table(self, parts: list[Arrays]) -> Table:
        """The table of all rows, with what names the stars in the catalogue, units, comments and provenance."""
        table = Table()
        for name in _COPIED:
            if name in self.catalogue.columns:
                own = self.catalogue.table[name]
                table[name] = Column(np.array(own), unit=own.unit, description=own.description)
        for column in [*COLUMNS, *(COMPARED if self.second else ())]:
            values = np.concatenate([part[column.name] for part in parts])
            table[column.name] = Column(values, unit=column.unit or None, description=column.comment)
        table.meta.update(self.header())
        return table

    def header(self) -> dict[str, Any]:
        """What the ages rest on."""
        facts = self.isochrones.facts
        told: dict[str, Any] = {
            "ISOCHRON": facts.name, "ISOREF": facts.reference, "ISOSCALE": facts.solar_scale,
            "ISOALPHA": facts.alpha_fe, "ISOSURF": facts.surface, "PRIOR": self.prior.description,
            "LABELS": self.catalogue.kind.words, "MAGSFROM": self.magnitudes_from if self.photometry.bands else "none",
            "BANDS": " ".join(self.photometry.bands) or "none", "VERSION": __version__,
        }  # fmt: skip
        if np.isfinite(facts.z_sun):
            told["ISOZSUN"] = facts.z_sun
        if np.isfinite(facts.settled):
            told["ISOSETTL"] = facts.settled
        if self.second is not None:
            told["ISOCHRO2"] = self.second.isochrones.facts.name
        return told


def infer(
    catalogue: str | Path | Table,
    isochrones: str = "mist",
    photometry: str | Path | None = None,
    prior: str = "flat",
    raw: bool = False,
    compare: str | None = None,
    device: str = "cpu",
) -> Table:
    """Ages and masses of the stars of a catalogue.

    Parameters
    ----------
    catalogue : file of `phdlspec catalog`, raw or calibrated, or any table with TEFF, LOGG, FE_H (or M_H) and errors,
        in a file or in memory
    isochrones : name of a set (mist, parsec, basti, dartmouth, yapsi) or path of its files
    photometry : table of parallaxes, magnitudes and extinctions; by default columns of the catalogue itself
    prior : name, see `phdlspec.ages.priors.PRIORS`
    raw : use the labels before calibration
    compare : a second set; its ages go into columns AGE2...
    device : of torch

    Returns
    -------
    Table of one row a star, `phdlspec.ages.columns.COLUMNS`. Raises `UserError` for input that cannot be used; a star
    that cannot be is a row with a flag.
    """
    photometry = None if photometry is None else str(photometry)
    job = AgeInference(catalogue, AgeSettings(isochrones, compare, photometry, prior, raw, device))
    return job.table([job.rows(start, start + CHUNK) for start in range(0, len(job), CHUNK)])


def make_ages(catalogue: str | Path, out: str | Path, settings: AgeSettings, progress: bool = True) -> Table:
    """Write the table of ages `out` (FITS or ECSV), `CHUNK` stars at a time; the table.

    Finished parts lie in `OUT.parts/` until all are done: stopped or killed, the same call goes on.
    """
    out = Path(out)
    if not out.name.lower().endswith(ENDINGS):
        raise UserError(f"{out}: the form of the output is not known by its ending, expected {' or '.join(ENDINGS)}")
    if out.exists() and out.resolve() == Path(catalogue).resolve():
        raise UserError(f"{out}: is the catalogue itself and would be lost; choose another --out")
    with only_writer(out):
        job = AgeInference(catalogue, settings)
        store = _AgeParts(out, _digest(job))
        starts = range(0, len(job), CHUNK)
        finished = store.whole(starts)
        with tqdm(total=len(job), unit="star", disable=not progress) as bar:
            for start in starts:
                if start not in finished:
                    store.write(start, job.rows(start, start + CHUNK))
                bar.update(min(CHUNK, len(job) - start))
        table = job.table([store.read(start) for start in starts])
        write_ages(table, out)
        store.remove()
    return table


def write_ages(table: Table, out: Path) -> None:
    """Write a table of ages as a whole, the words of the flags with it."""
    with replacing(out) as part:
        if out.name.lower().endswith(".ecsv"):
            told = table.copy(copy_data=False)
            told.meta["AFLAG"] = {int(bit): words for bit, words in AGE_WORDS.items()}
            told.write(part, format="ascii.ecsv", overwrite=True)
            return
        hdu = table_hdu(table, out)
        hdu.name = "AGES"
        for bit, words in AGE_WORDS.items():
            hdu.header.add_comment(f"AFLAG {int(bit)}: {words}")
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(part, overwrite=True)


def _columns(result: AgePosteriors) -> Arrays:
    arrays: Arrays = {
        name + suffix: getattr(result, field)[:, k]
        for field, name, _, _ in QUANTITIES
        for k, (suffix, _) in enumerate(MOMENTS)
    }
    arrays |= {name: result.stages[:, int(stage)] for stage, name in STAGE_COLUMNS.items()}
    return arrays | {"AGE_CHI2": result.chi2, "AGE_BITS": result.bits, "AGE_FLAG": result.flag}


def _only(photometry: Photometry, bands: list[str]) -> Photometry:
    place = [photometry.bands.index(band) for band in bands]
    return replace(
        photometry, bands=tuple(bands), magnitudes=photometry.magnitudes[:, place], errors=photometry.errors[:, place]
    )


# --- finished parts ----------------------------------------------------------------------------------------------


def _digest(job: AgeInference) -> str:
    """Stands for what a table of ages is made of: files, settings, isochrones, version of the program."""
    what = [repr(job.settings), __version__, _state(job.catalogue.path)]
    if job.settings.photometry:
        what.append(_state(Path(job.settings.photometry)))
    what += [_points(grids.isochrones) for grids in (job.grids, job.second) if grids is not None]
    return hashlib.sha256("\n".join(what).encode(errors="surrogateescape")).hexdigest()[:32]


def _state(path: Path) -> str:
    state = path.stat()
    return f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"


def _points(isochrones: Isochrones) -> str:
    found = hashlib.sha256()
    for values in (isochrones.mh, isochrones.log_age, isochrones.quantities["log_teff"], isochrones.quantities["mass"]):
        found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()


class _AgeParts:
    """The folder `OUT.parts/` of finished rows: `job.json` names what they belong to; those of another job go."""

    def __init__(self, out: Path, digest: str):
        self.folder = parts_folder(out)
        self._items = ItemFolder(self.folder, "stars", digest, "finished stars are kept")
        self._job = self.folder / "job.json"
        told = json.dumps({"job": digest})
        if not self._job.is_file() or self._job.read_text(encoding="utf-8", errors="replace") != told:
            self._forget()
            write_text(self._job, told)

    def whole(self, starts: range) -> set[int]:
        """Which parts are there and are what was written; others go, with a line that says why."""
        found = self._items.whole([""] * len(starts), lambda *_: "")
        return {starts[index] for index in found}

    def write(self, start: int, arrays: Arrays) -> None:
        self._items.write(start // CHUNK, "", arrays)

    def read(self, start: int) -> Arrays:
        return self._items.read(start // CHUNK, "")

    def remove(self) -> None:
        """All is done. What others put there stays."""
        self._forget()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _forget(self) -> None:
        remove_leftovers(self.folder)
        for index in item_indices(self.folder, "stars"):
            self._items.path(index).unlink(missing_ok=True)
        self._job.unlink(missing_ok=True)
