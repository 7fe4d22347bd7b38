"""Model atmospheres in the formats of Kurucz: one model or many in a file, ATLAS9 or ATLAS12.

All of them are *decks*: a `TEFF … GRAVITY …` line, a title, `ABUNDANCE SCALE`/`ABUNDANCE CHANGE` lines (in
ATLAS12 followed by an `ABUNDANCE TABLE` that restates and overrides them) and `READ DECK6 n` with the names
of the columns and n layers. A file is read by these marks alone; names and extensions mean nothing.

[M/H] is that of iron on the project's solar scale, wherever the deck states abundances: `ABUNDANCE SCALE` says nothing
of a deck whose table is metal-poor already. Kurucz's own solar scales lie close, and where iron agrees the deck's scale
factor is taken, a round number that makes the nodes of a grid."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phdlspec.errors import UserError
from phdlspec.foreign import one_sentence
from phdlspec.solar import ATOMIC_NUMBER, SOLAR_ABUNDANCES

log = logging.getLogger(__name__)

MIN_LAYERS = 20

_DECK_COLUMNS = ("RHOX", "T", "P", "XNE", "ABROSS", "ACCRAD", "VTURB")
_ABSENT = -20.0  # log10 of a number fraction, as in the decks
_IRON_TOLERANCE = 0.02  # dex by which iron of Kurucz's solar scales (since 1995) and of ours differ
# dex in [X/Fe] beyond which a mixture is not scaled solar: what the solar scales differ by in elements that matter for
# the structure of an atmosphere (C, N and O were revised most).
_MIXTURE_TOLERANCE = dict.fromkeys("C N O".split(), 0.25) | dict.fromkeys("Na Mg Al Si Ca Ti Ni".split(), 0.15)
_POSITIVE = ("rhox", "temperature", "gas_pressure", "electron_density", "rosseland")


@dataclass(frozen=True)
class Atmosphere:
    """A plane-parallel model atmosphere of D layers from the top down, in cgs units.

    Attributes:
        teff, logg, mh: effective temperature (K), log10 of gravity (cgs), [M/H], which is [Fe/H].
        vturb_kms: microturbulence of the model's opacities (km/s).
        rhox: (D,) column mass (g/cm2), increasing.
        temperature, gas_pressure, electron_density: (D,) K, dyn/cm2, 1/cm3.
        rosseland: (D,) Rosseland mean opacity (cm2/g).
        radiative_acceleration: (D,) cm/s2.
        abundances: (99,) log10 of the number fraction N(Z)/N(all nuclei) for Z = 1…99 with the metal scale
            applied, or None where the source does not state them.
        source: where the model comes from, for messages and provenance.

    Raises:
        UserError: fewer than 20 layers, unequal lengths, values that are not finite or not positive, or a
            column mass that does not increase.
    """

    teff: float
    logg: float
    mh: float
    vturb_kms: float
    rhox: NDArray[np.float64]
    temperature: NDArray[np.float64]
    gas_pressure: NDArray[np.float64]
    electron_density: NDArray[np.float64]
    rosseland: NDArray[np.float64]
    radiative_acceleration: NDArray[np.float64]
    abundances: NDArray[np.float64] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        what = f"{self.source or 'model atmosphere'} (Teff {self.teff:g}, logg {self.logg:g}, [M/H] {self.mh:g})"
        if not np.isfinite([self.teff, self.logg, self.mh, self.vturb_kms]).all() or self.teff <= 0:
            raise UserError(f"{what}: Teff, gravity, metallicity and microturbulence must be finite numbers")
        size = len(self.rhox)
        if size < MIN_LAYERS:
            raise UserError(
                f"{what}: the model has {size} layers where at least {MIN_LAYERS} are needed; "
                "the file is probably truncated"
            )
        for name in (*_POSITIVE, "radiative_acceleration"):
            values = getattr(self, name)
            if len(values) != size:
                raise UserError(f"{what}: {name} has {len(values)} layers where rhox has {size}")
            good = np.isfinite(values) & (values > 0) if name in _POSITIVE else np.isfinite(values)
            if not good.all():
                raise UserError(
                    f"{what}: {name} of layer {int(np.argmin(good)) + 1} of {size} is "
                    f"{values[np.argmin(good)]}, expected a finite"
                    f"{' positive' if name in _POSITIVE else ''} number; fetch the model again"
                )
        if not (np.diff(self.rhox) > 0).all():
            layer = int(np.argmin(np.diff(self.rhox) > 0)) + 2
            raise UserError(
                f"{what}: the column mass does not increase at layer {layer}; layers must run "
                "from the top of the atmosphere downwards"
            )

    @cached_property
    def tau_rosseland(self) -> NDArray[np.float64]:
        """(D,) Rosseland optical depth by the trapezoidal rule, with the first layer's opacity above the
        top."""
        mean = 0.5 * (self.rosseland[1:] + self.rosseland[:-1])
        return np.asarray(
            self.rosseland[0] * self.rhox[0] + np.concatenate([[0.0], np.cumsum(mean * np.diff(self.rhox))])
        )


@one_sentence
def read_atmospheres(path: str | Path) -> list[Atmosphere]:
    """Read every model of a Kurucz deck, ATLAS9 or ATLAS12, one model or many.

    Published decks hold a few models that lack a layer though the deck goes on after them: among others such a
    model is left out, with a log line. Models whose mixture is not scaled solar are read with a warning.

    Raises:
        UserError: the file is missing, is no Kurucz deck, or one of its models is truncated or damaged.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="latin-1").splitlines()
    except OSError as err:
        raise UserError(f"{path}: the model atmosphere cannot be read ({err.strerror})") from err
    starts = [i for i, line in enumerate(lines) if re.match(r"\s*TEFF\s+[-+.\d]", line)]
    if not starts:
        raise UserError(
            f"{path}: not a Kurucz model atmosphere: no line 'TEFF … GRAVITY …' was found; "
            "expected an ATLAS9 or ATLAS12 deck"
        )
    models = []
    for first, last in zip(starts, [*starts[1:], len(lines)]):
        try:
            models.append(_parse_deck(lines[first:last], first + 1, str(path)))
        except _ShortModel as err:
            ended = any(line.startswith("BEGIN") for line in lines[first:last])
            if len(starts) == 1 or not ended:
                raise
            log.warning("%s: left out", err)
    _warn_of_mixtures(models, path)
    return models


def _warn_of_mixtures(models: list[Atmosphere], path: Path) -> None:
    unusual = [mixture for model in models if (mixture := _unlike_the_sun(model.abundances))]
    if unusual:
        ratios = ", ".join(f"[{element}/Fe] {value:+.2f}" for element, value in unusual[0].items())
        log.warning(
            "%s: the mixture of %d of %d models is not scaled solar (%s): a grid knows their [M/H] alone",
            path, len(unusual), len(models), ratios,
        )  # fmt: skip


def _over_sun(element: str, abundances: NDArray[np.float64]) -> float:
    """[X/H] of `Atmosphere.abundances`, NaN where the deck does not state it."""
    value, hydrogen = abundances[ATOMIC_NUMBER[element] - 1], abundances[0]
    return float(value - hydrogen + 12.0 - SOLAR_ABUNDANCES[element]) if min(value, hydrogen) > _ABSENT else np.nan


def _unlike_the_sun(abundances: NDArray[np.float64] | None) -> dict[str, float]:
    """[X/Fe] of the elements that are not scaled solar."""
    if abundances is None:
        return {}
    iron = _over_sun("Fe", abundances)
    over_iron = {name: _over_sun(name, abundances) - iron for name in _MIXTURE_TOLERANCE}
    return {name: value for name, value in over_iron.items() if abs(value) > _MIXTURE_TOLERANCE[name]}


class _ShortModel(UserError):
    """A model has fewer layers than its header promises."""


def _parse_deck(lines: list[str], number: int, source: str) -> Atmosphere:
    # `number` is that of the first line in the file.
    words = lines[0].split()
    try:
        teff, logg = float(words[1]), float(words[words.index("GRAVITY") + 1])
    except (ValueError, IndexError) as err:
        raise UserError(
            f"{source}: line {number}: cannot read Teff and gravity from {lines[0].strip()!r}; fetch it again"
        ) from err
    what = f"{source} (Teff {teff:g}, logg {logg:g})"
    deck = next((i for i, line in enumerate(lines) if line.strip().startswith("READ DECK")), None)
    if deck is None:
        raise UserError(f"{what}: the layers are missing: no line 'READ DECK6'; the file is probably truncated")
    try:
        columns, layers = _parse_layers(lines[deck:], number + deck)
        scale, abundances = _parse_abundances(lines[:deck])
    except _ShortModel as err:
        raise _ShortModel(f"{what}: {err}") from None
    except ValueError as err:
        raise UserError(f"{what}: {err}") from err
    at = {name: layers[:, i] for i, name in enumerate(columns)}
    return Atmosphere(
        teff=teff,
        logg=logg,
        mh=_metallicity(scale, abundances),
        vturb_kms=float(np.median(at["VTURB"])) / 1e5,
        rhox=at["RHOX"],
        temperature=at["T"],
        gas_pressure=at["P"],
        electron_density=at["XNE"],
        rosseland=at["ABROSS"],
        radiative_acceleration=at["ACCRAD"],
        abundances=abundances,
        source=source,
    )


def _parse_layers(lines: list[str], number: int) -> tuple[list[str], NDArray[np.float64]]:
    words = re.split(r"[\s,]+", lines[0].strip())
    if len(words) < 4 or not words[2].isdigit():
        raise ValueError(
            f"line {number}: {lines[0].strip()!r} is cut off or damaged, expected 'READ DECK6', the number of layers "
            "and the names of the columns; fetch it again"
        )
    size, columns = int(words[2]), [w for w in words[3:] if w]
    missing = [name for name in _DECK_COLUMNS if name not in columns]
    if missing:
        raise ValueError(f"the deck lacks the column {missing[0]}; it has {' '.join(columns)}")
    rows = []
    for line in lines[1 : size + 1]:
        if not re.match(r"\s*[-+.\dNnIi]", line):
            break
        rows.append(line.split())
    width = len(_DECK_COLUMNS)
    cut = bool(rows) and len(rows) == len(lines) - 1 and len(rows[-1]) < width  # within the last line of the file
    if len(rows) != size or cut:
        raise _ShortModel(
            f"the file is truncated: {len(rows) - cut} whole layers where its header promises {size}; fetch it again"
        )
    if columns[:width] != list(_DECK_COLUMNS):
        raise ValueError(
            f"the deck's columns start with {' '.join(columns[:width])}, expected {' '.join(_DECK_COLUMNS)}"
        )
    layers = np.empty((size, width))
    for i, row in enumerate(rows):
        try:
            layers[i] = [float(word.replace("D", "E").replace("d", "e")) for word in row[:width]]
        except ValueError as err:
            raise ValueError(
                f"line {number + 1 + i} is damaged or its columns touch: {' '.join(row[:width])!r}; expected "
                f"{width} numbers apart from each other, so correct it or fetch the model again"
            ) from err
    return columns[:width], layers


def _metallicity(scale: float, abundances: NDArray[np.float64] | None) -> float:
    """[M/H] of iron, or of the deck's scale factor where both agree or iron is not stated."""
    listed = float(np.log10(scale))
    iron = np.nan if abundances is None else _over_sun("Fe", abundances)
    if np.isnan(iron) or abs(iron - listed) <= _IRON_TOLERANCE:
        return round(listed, 3) + 0.0
    return round(iron, 2) + 0.0


def _parse_abundances(lines: list[str]) -> tuple[float, NDArray[np.float64] | None]:
    """Metal scale factor, and log10 number fractions by Z (scale applied) or None if there are none."""
    text = "\n".join(lines)
    found = re.search(r"ABUNDANCE SCALE\s+(\S+)", text)
    try:
        scale = float(found.group(1)) if found else 1.0
    except ValueError:
        scale = np.nan
    if found and not 0 < scale < np.inf:
        raise ValueError(f"ABUNDANCE SCALE is {found.group(1)}, expected a positive number; correct it")
    given: dict[int, float] = {}
    for line in lines:
        for change in re.findall(r"ABUNDANCE CHANGE((?:\s+\d+\s+[-+.\d]+)+)", line):
            values = change.split()
            given.update((int(z), float(v)) for z, v in zip(values[::2], values[1::2]))
    if "ABUNDANCE TABLE" in text:
        table = text.split("ABUNDANCE TABLE")[1]
        for z, name, value, change in re.findall(r"(\d+)([A-Z][A-Za-z]?)\s*(-?\d+\.\d+)(?:\s*(-?\d+\.\d+))?", table):
            given[int(z)] = float(value) + (float(change) if change and name not in ("H", "He") else 0.0)
    if not given:
        return scale, None
    abundances = np.full(99, _ABSENT)
    for z, value in given.items():
        if not 1 <= z <= 99:
            raise ValueError(f"ABUNDANCE CHANGE names the atomic number {z}, expected 1 to 99")
        if z <= 2:  # a number fraction
            abundances[z - 1] = np.log10(max(value, 10.0**_ABSENT))
        elif value > _ABSENT:
            abundances[z - 1] = value + np.log10(scale)
    return scale, abundances
