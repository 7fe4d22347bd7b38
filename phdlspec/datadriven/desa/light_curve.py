"""Light curves of Kepler, K2 and TESS, read by lightkurve, and plain tables, on one grid of 29.4 minutes.

Each file is a segment (a quarter, a campaign, a sector): flagged points are left out, lonely outliers too, and it is
divided by its median and a straight line. Nothing shorter than a segment is taken out, so rotation stays, and a longer
trend of the instrument goes. Segments of one target are stitched. Shorter cadences are averaged into the cells of the
grid.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from phdlspec.errors import UserError, first_line
from phdlspec.fits_files import open_fits
from phdlspec.foreign import reading
from phdlspec.spectrum import stem_of
from phdlspec.tables import FITS_ENDINGS, find_column, number_column, read_any_table

STEP = 0.02043365  # d, Kepler's long cadence
LONGEST_CADENCE = 0.025  # d; slower sampling loses eclipses and the upper half of the power spectrum
SHORTEST_SPAN = 5.0  # d, of the points of all segments together
FEWEST_POINTS = 100
OUTLIER_SIGMA = 6.0
TELESCOPES = ("Kepler", "TESS")
TIME_NAMES = ("TIME", "DATES", "BJD", "BKJD", "BTJD", "JD")
FLUX_NAMES = ("PDCSAP_FLUX", "FLUX", "SAP_FLUX")
QUALITY_NAMES = ("QUALITY", "SAP_QUALITY")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Segment:
    """One file as it was read. target : name of the star. time, flux : (n,), good points only, in order of time.
    ra, dec : degrees, NaN where the file does not say."""

    path: str
    target: str
    time: Array
    flux: Array
    ra: float = np.nan
    dec: float = np.nan


@dataclass(frozen=True)
class LightCurve:
    """A star's light curve: flux (T,) over its mean, minus one, in cells of `STEP` days; NaN where there is none."""

    target: str
    files: tuple[str, ...]
    flux: Array
    ra: float = np.nan
    dec: float = np.nan

    @property
    def time(self) -> Array:
        """(T,) days since the first cell."""
        return np.asarray(STEP * np.arange(len(self.flux)), dtype=np.float64)


def read_segment(path: str | Path) -> Segment:
    """Read one file. Raises `UserError` where it is no light curve, or one that cannot be used."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such file, expected a light curve")
    with reading(path):
        return _checked(_segment(path))


def _segment(path: Path) -> Segment:
    if path.name.lower().endswith(FITS_ENDINGS):
        with open_fits(path) as hdus:
            seismic = hdus[0].data is not None and hdus[0].data.ndim == 2 and hdus[0].data.shape[1] == 2
            telescope = str(hdus[0].header.get("TELESCOP", "")).strip()
            mission = len(hdus) > 1 and (hdus[1].name == "LIGHTCURVE" or telescope in TELESCOPES)
            if seismic:
                return _from_image(path, hdus[0])
        if mission:
            return _from_mission(path)
    return _from_table(path)


def _from_image(path: Path, hdu: fits.PrimaryHDU) -> Segment:
    """KEPSEISMIC: an image of days and parts per million, which lightkurve 2.6 does not read. Cells that were not
    observed are exactly 0."""
    time, ppm = np.array(hdu.data, dtype=float).T
    good = np.isfinite(time) & np.isfinite(ppm) & (ppm != 0)
    header = hdu.header
    target = str(header.get("OBJECT") or stem_of(path))
    ra, dec = (float(header.get(name) or np.nan) for name in ("RA_OBJ", "DEC_OBJ"))
    return Segment(str(path), target, time[good], 1.0 + 1e-6 * ppm[good], ra, dec)


def _lightkurve() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import lightkurve
    except ImportError as error:
        raise UserError(
            'files of Kepler, K2 and TESS need lightkurve: pip install "phdlspec[light-curves]"; tables do not'
        ) from error
    found: ModuleType = lightkurve
    return found


def _from_mission(path: Path) -> Segment:
    lightkurve = _lightkurve()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            everything = lightkurve.read(str(path), quality_bitmask="none")
            curve = lightkurve.read(str(path), quality_bitmask="default")
    except (lightkurve.LightkurveError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: lightkurve cannot read it ({first_line(error)}); fetch the file again") from error
    if len(curve) == 0:
        raise UserError(f"{path}: all of its {len(everything)} points are flagged as bad; leave it out")
    flux: Array = np.ma.filled(np.ma.asarray(curve.flux.value, dtype=float), np.nan)
    time = np.asarray(curve.time.value, dtype=float)
    good = np.isfinite(flux) & np.isfinite(time)
    ra, dec = (float(curve.meta.get(name) or np.nan) for name in ("RA", "DEC"))
    target = str(curve.meta.get("OBJECT") or curve.meta.get("LABEL") or stem_of(path))
    return Segment(str(path), target, time[good], flux[good], ra, dec)


def _from_table(path: Path) -> Segment:
    table = read_any_table(path)
    time_name, flux_name = find_column(table, *TIME_NAMES), find_column(table, *FLUX_NAMES)
    if time_name is None or flux_name is None:
        raise UserError(f"{path}: no columns TIME (days) and FLUX in it, it has {', '.join(table.colnames[:8])}")
    time, flux = number_column(table, time_name, path), number_column(table, flux_name, path)
    good = np.isfinite(time) & np.isfinite(flux)
    quality = find_column(table, *QUALITY_NAMES)
    if quality is not None:
        unflagged = np.nan_to_num(number_column(table, quality, path), nan=1.0).astype(np.int64) & _BAD_BITS == 0
        if len(good) and not unflagged.any():
            raise UserError(f"{path}: all of its {len(good)} points are flagged as bad; leave it out")
        good &= unflagged
    header = {str(key).upper(): value for key, value in table.meta.items()}
    ra, dec = (float(header.get(name, np.nan)) for name in ("RA", "DEC"))
    return Segment(str(path), str(header.get("OBJECT") or stem_of(path)), time[good], flux[good], ra, dec)


# What lightkurve leaves out of Kepler's by default: attitude tweak, safe mode, coarse point, Earth point, desaturation,
# manual exclusion, no data, sudden drop of sensitivity or thruster firing. Other bits tell what was corrected.
_BAD_BITS = sum(1 << bit for bit in (0, 1, 2, 3, 5, 8, 14, 16, 20))


def _checked(segment: Segment) -> Segment:
    path, order = segment.path, np.argsort(segment.time, kind="stable")
    time, flux = segment.time[order], segment.flux[order]
    if len(time) < FEWEST_POINTS:
        raise UserError(f"{path}: has {len(time)} usable points, expected {FEWEST_POINTS} or more")
    step = np.diff(time)
    again = int((step == 0).sum())
    if again:
        first = time[:-1][step == 0][0]
        raise UserError(f"{path}: {again} of its times stand there twice, the first {first:.5f}; keep one row a time")
    cadence = float(np.median(step))
    if cadence > LONGEST_CADENCE:
        raise UserError(
            f"{path}: one point every {cadence:.3g} d, expected 30 minutes ({LONGEST_CADENCE} d) or less; "
            "is its time in days?"
        )
    if not np.median(flux) > 0:
        raise UserError(f"{path}: its median flux is {np.median(flux):.3g}, expected a positive one (not magnitudes)")
    if np.ptp(flux) == 0:
        raise UserError(f"{path}: its flux is {flux[0]:.3g} everywhere; leave it out")
    return Segment(path, segment.target, time, flux, segment.ra, segment.dec)


def stitch(segments: Sequence[Segment]) -> LightCurve:
    """The light curve of a star from its segments. Raises `UserError` where they overlap or are too short together."""
    segments = sorted(segments, key=lambda s: s.time[0])
    for one, other in zip(segments, segments[1:]):
        if other.time[0] < one.time[-1]:
            raise UserError(
                f"{other.path}: overlaps in time with {one.path} of the same star {one.target}; "
                "give one file a quarter, in one cadence"
            )
    span = sum(s.time[-1] - s.time[0] for s in segments)
    if span < SHORTEST_SPAN:
        raise UserError(f"{segments[0].path}: {span:.1f} d of {segments[0].target}, expected {SHORTEST_SPAN:g} or more")
    start = segments[0].time[0]
    cells = int(np.rint((segments[-1].time[-1] - start) / STEP)) + 1
    total, count = np.zeros(cells), np.zeros(cells)
    for segment in segments:
        flux = _flattened(segment.time, segment.flux)
        good = np.isfinite(flux)
        cell = np.rint((segment.time[good] - start) / STEP).astype(np.int64)
        np.add.at(total, cell, flux[good])
        np.add.at(count, cell, 1.0)
    with np.errstate(invalid="ignore"):
        flux = np.where(count > 0, total / count, np.nan)
    first = segments[0]
    return LightCurve(first.target, tuple(s.path for s in segments), flux, first.ra, first.dec)


def _flattened(time: Array, flux: Array) -> Array:
    """Flux over its median and a line through it, minus one; NaN at single points far off both of their neighbours."""
    relative = flux / np.median(flux)
    x = (time - time.mean()) / max(time[-1] - time[0], STEP)
    slope, level = np.polyfit(x, np.clip(relative, *np.percentile(relative, (5, 95))), 1)
    flat = relative / (level + slope * x) - 1.0
    middle = np.median(np.stack([flat[:-2], flat[1:-1], flat[2:]]), axis=0)
    off = np.zeros(len(flat))
    off[1:-1] = flat[1:-1] - middle
    scatter = 1.4826 * np.median(np.abs(np.diff(flat))) / np.sqrt(2.0)
    return np.where(np.abs(off) > OUTLIER_SIGMA * max(scatter, 1e-9), np.nan, flat)
