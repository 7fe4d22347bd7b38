"""Wavelengths that a stellar model cannot explain: one table of intervals, which the user can change.

Masks are True = bad. Intervals in the frame 'observed' stay where they are whatever the star's velocity: the
Earth's atmosphere (up to the heliocentric correction of 30 km/s, a third of a resolution element, which the
margins allow for) and the instrument. Interstellar features have the velocity of the gas, not of the star:
within about 100 km/s of the Sun for most stars, so their intervals, too, are fixed in the heliocentric frame
and wide enough for that.

`DEFAULT_INTERVALS` are those that a fit leaves out:

>>> sorted({interval.name for interval in phdlspec.DEFAULT_INTERVALS})
['arms_join', 'dib', 'interstellar_na', 'sky', 'survey_edge', 'telluric']
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.errors import UserError
from phdlspec.foreign import MOST_SHORT, content_of, reading
from phdlspec.wavelength import SPEED_OF_LIGHT_KM_S


@dataclass(frozen=True)
class MaskInterval:
    """One interval of bad wavelengths.

    Attributes
    ----------
    name : group that is switched on and off together
    low, high : vacuum Å
    frame : 'observed' (heliocentric) or 'star' (shifted by the star's velocity)
    survey : the survey it applies to; empty for all
    reason : why

    >>> phdlspec.MaskInterval("CH band", 4290, 4325, reason="to see what it carries").name
    'CH band'
    """

    name: str
    low: float
    high: float
    frame: str = "observed"
    survey: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise UserError(f"mask interval {self.name} runs {self.low}-{self.high} Å, expected 0 < low < high")
        if self.frame not in ("observed", "star"):
            raise UserError(f"mask interval {self.name} has frame {self.frame!r}, expected 'observed' or 'star'")


def _line(name: str, wave: float, half_width: float, reason: str, survey: str = "") -> MaskInterval:
    return MaskInterval(name, wave - half_width, wave + half_width, "observed", survey, reason)


# Vacuum wavelengths. Sky lines: Hg 4046, 4358, 5460 of street lamps, [O I] and OH of the night sky.
DEFAULT_INTERVALS: tuple[MaskInterval, ...] = (
    MaskInterval("telluric", 6860.0, 6960.0, reason="O2 B band"),
    MaskInterval("telluric", 7150.0, 7340.0, reason="H2O"),
    MaskInterval("telluric", 7590.0, 7720.0, reason="O2 A band"),
    MaskInterval("telluric", 8120.0, 8370.0, reason="H2O"),
    MaskInterval("telluric", 8940.0, 9200.0, reason="H2O"),
    _line("sky", 4047.7, 3.0, "Hg I 4046"),
    _line("sky", 4359.6, 3.0, "Hg I 4358"),
    _line("sky", 5462.3, 3.0, "Hg I 5460"),
    _line("sky", 5578.9, 3.0, "[O I] 5577"),
    _line("sky", 6302.0, 3.0, "[O I] 6300"),
    _line("sky", 6365.5, 3.0, "[O I] 6363"),
    _line("sky", 6865.9, 3.0, "OH 6863"),
    MaskInterval("arms_join", 5800.0, 6000.0, survey="LAMOST", reason="join of the blue and the red arm"),
    _line("interstellar_na", 5891.58, 5.0, "interstellar Na D2"),
    _line("interstellar_na", 5897.56, 5.0, "interstellar Na D1"),
    _line("dib", 5782.1, 4.0, "diffuse interstellar band 5780"),
    _line("dib", 6285.6, 5.0, "diffuse interstellar band 6284"),
    MaskInterval("survey_edge", 3000.0, 3750.0, survey="LAMOST", reason="no light: the edge of the blue arm"),
)

MASK_NAMES: tuple[str, ...] = tuple(dict.fromkeys(interval.name for interval in DEFAULT_INTERVALS))


def intervals_of(given: Iterable[MaskInterval | Sequence[float]]) -> tuple[MaskInterval, ...]:
    """Intervals as `MaskInterval`; pairs (low, high) in vacuum Å, Quantities as well, are called "user"."""
    found = []
    try:
        for item in given:
            if isinstance(item, MaskInterval):
                found.append(item)
                continue
            low, high = (float(u.Quantity(end, u.AA).value) for end in item)
            found.append(MaskInterval("user", low, high))
    except (TypeError, ValueError, u.UnitsError) as error:
        raise UserError(
            f"masks {given!r}: expected intervals, as [(3700, 4100)] in vacuum Å; those of the survey are kept with "
            "[*phdlspec.DEFAULT_INTERVALS, (3700, 4100)]"
        ) from error
    return tuple(found)


def mask_table(
    off: Iterable[str] = (),
    extra: Iterable[MaskInterval] = (),
    intervals: tuple[MaskInterval, ...] = DEFAULT_INTERVALS,
) -> tuple[MaskInterval, ...]:
    """The intervals to use: `intervals` without the groups named in `off` ('all' for every one), and `extra`
    ones.

    >>> masks = phdlspec.mask_table(off=["dib"], extra=[phdlspec.MaskInterval("CH band", 4290, 4325)])
    >>> len(masks) - len(phdlspec.DEFAULT_INTERVALS)  # two less, one more
    -1
    """
    off = set(off)
    known = {interval.name for interval in intervals} | {"all"}
    unknown = sorted(off - known)
    if unknown:
        raise UserError(f"unknown mask {unknown[0]!r}, expected some of {' '.join(sorted(known))}")
    kept = () if "all" in off else tuple(i for i in intervals if i.name not in off)
    return (*kept, *extra)


def read_intervals(path: str | Path) -> tuple[MaskInterval, ...]:
    """A user's own intervals from an ECSV or CSV table: columns low, high (vacuum Å), optional name and
    frame."""
    try:
        with reading(path, "cannot be read"):
            table = Table.read(content_of(path, MOST_SHORT).decode(), format="ascii")
            columns = {name: table[name] for name in ("low", "high")}
            names = table["name"] if "name" in table.colnames else ["user"] * len(table)
            frames = table["frame"] if "frame" in table.colnames else ["observed"] * len(table)
            return tuple(
                MaskInterval(str(name), float(low), float(high), str(frame))
                for name, low, high, frame in zip(names, columns["low"], columns["high"], frames)
            )
    except UserError as error:
        raise UserError(f"{path}: not a table of intervals with the columns low and high ({error})") from error


def wavelength_mask(
    wave: NDArray[np.float64],
    intervals: Iterable[MaskInterval] = DEFAULT_INTERVALS,
    survey: str = "",
    rv_km_s: float | None = None,
) -> NDArray[np.bool_]:
    """True (P,) at the vacuum wavelengths (P,) in Å that an interval covers; ends included.

    `rv_km_s` moves the intervals whose frame is 'star'; while it is not known they are left out, as are intervals of
    other surveys than `survey`.
    """
    bad = np.zeros(np.shape(wave), dtype=bool)
    for interval in intervals:
        if interval.survey not in ("", survey) or (interval.frame == "star" and rv_km_s is None):
            continue
        shift = 1.0 + (rv_km_s or 0.0) / SPEED_OF_LIGHT_KM_S if interval.frame == "star" else 1.0
        bad |= (wave >= interval.low * shift) & (wave <= interval.high * shift)
    return bad
