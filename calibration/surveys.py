"""Labels from elsewhere: surveys, benchmark stars, temperatures and gravities, in the forms in which people
have them.

`read_labels(path)` tells the form by its columns:

==================  ==========================================================================================
form                what is taken, and what is left out
==================  ==========================================================================================
APOGEE allStar      DR16/DR17 names. A star with ASPCAPFLAG bit 23 (STAR_BAD) or STARFLAG bits 0, 3, 4, 9,
                    16 or 17 (bad pixels, very bright neighbour, low SNR, persistence, suspect velocity, broad
                    lines) gives nothing; TEFF, LOGG need their own BAD bits (16, 17) clear, [X/Fe] and
                    [Fe/H] their own flag 0; EXTRATARG bit 4 marks repeats
GALAH               DR3 and DR4 names. flag_sp == 0, flag_X_fe == 0, SNR (ccd 3) > 30; flag_fe_h == 0 in DR3
                    only: in DR4 the release itself warns that it is wrong
IRFM                the table "2MASS ID, IRFM TEFF, SOURCE": positions from the 2MASS names, mean over the
                    sources, error 80 K (no errors are published with it; ours is an assumption) and half the
                    range of the sources, in quadrature
benchmark stars     Gaia FGK benchmark stars v3 (`e_teff`, `e_logg`; no error of [Fe/H] there: 0.1 dex
                    assumed)
benchmark YAML      name -> teff, logg, feh, abundances A(X); Fe of its abundances is 7.5 - [Fe/H] (a slip of
                    sign in that file) and is not used
cluster gravities   "2MASS name, logg, cluster" without header; repeats averaged, error 0.05 dex assumed
anything else       see `calibration.references`; columns by any name that `phdlspec.aliases` knows (VizieR's
                    `e_Teff`, `[Fe/H]`, `_RAJ2000`; `feh`, `MgFe`)
==================  ==========================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # a dependency of astropy
from astropy.table import Table
from numpy.typing import NDArray

from calibration.references import LabelTable, Stars, refuse_duplicates
from phdlspec.aliases import IDENTIFIERS, TWO_MASS_NAMES, label_columns, positions, renamed
from phdlspec.errors import UserError, first_line
from phdlspec.foreign import MOST_SHORT, content_of, one_sentence
from phdlspec.labels import ELEMENTS, abundance_name
from phdlspec.solar import SOLAR_ABUNDANCES, SOLAR_SCALE
from phdlspec.tables import find_column, number_column, read_any_table, text_column

IRFM_ERROR_K = 80.0
BENCHMARK_FE_H_ERROR = 0.10
CLUSTER_LOGG_ERROR = 0.05

# APOGEE: ASPCAPFLAG bits STAR_BAD 23, TEFF_BAD 16, LOGG_BAD 17; STARFLAG bits BAD_PIXELS 0,
# VERY_BRIGHT_NEIGHBOR 3, LOW_SNR 4, PERSIST_HIGH 9, SUSPECT_RV_COMBINATION 16, SUSPECT_BROAD_LINES 17;
# EXTRATARG bit 4 a repeated entry.
_APOGEE_STAR_BAD = 1 << 23
_APOGEE_LABEL_BAD = {"TEFF": 1 << 16, "LOGG": 1 << 17}
_APOGEE_STARFLAG = sum(1 << bit for bit in (0, 3, 4, 9, 16, 17))
_APOGEE_REPEAT = 1 << 4

_GALAH_MIN_SNR = 30.0
_ABUNDANCES = ("FE_H", *map(abundance_name, ELEMENTS))
_TWO_MASS = re.compile(r"(?:2M|J|AP)?(\d{2})(\d{2})(\d{2})(\d{1,2})([+-])(\d{2})(\d{2})(\d{2})(\d?)$")


@one_sentence
def read_labels(
    path: str | Path,
    solar_scale: str | None = None,
    name: str | None = None,
    rename: Mapping[str, str] | None = None,
) -> LabelTable:
    """Read a table of reference labels of any of the forms above.

    Parameters
    ----------
    path : the file.
    solar_scale : overrides what the form or the header says.
    name : name of the set in messages and reports; the default is the file's stem.
    rename : columns under other names, see `phdlspec.aliases.renamed`.
    """
    path = Path(path)
    name = name or path.name.split(".")[0]
    if path.suffix in (".yaml", ".yml"):
        return _read_benchmark_yaml(path, name, solar_scale)
    if _is_cluster_gravity_list(path):
        return _read_cluster_gravities(path, name)
    table = renamed(read_any_table(path), rename or {}, str(path))
    for recognises, read in _FORMS:
        if recognises(table):
            return read(table, path, name, solar_scale)
    return _read_own(table, path, name, solar_scale)


def position_of_2mass(names: NDArray[np.str_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """RA and Dec in degrees, each (n,), that a 2MASS designation `2MHHMMSSss+DDMMSSs` encodes; NaN for other
    names."""
    ra, dec = np.full(len(names), np.nan), np.full(len(names), np.nan)
    for i, name in enumerate(names):
        found = _TWO_MASS.match(name.replace(" ", ""))
        if found is None:
            continue
        h, m, s, fraction, sign, d, am, asec, tenth = found.groups()
        ra[i] = 15 * (int(h) + int(m) / 60 + (int(s) + int(fraction) / 10 ** len(fraction)) / 3600)
        size = int(d) + int(am) / 60 + (int(asec) + (int(tenth) / 10 if tenth else 0)) / 3600
        dec[i] = -size if sign == "-" else size
    return ra, dec


def stars_of(table: Table, path: str | Path, ids: tuple[str, ...] = IDENTIFIERS) -> Stars:
    """Identifiers from the first of these columns that exists; positions from the table's own or its 2MASS names."""
    id_name, where = find_column(table, *ids), str(path)
    place = positions(table, where)
    names = find_column(table, *TWO_MASS_NAMES)
    if place is None and names is not None:
        place = position_of_2mass(text_column(table, names))
    if id_name is None and place is None:
        raise UserError(
            f"{path}: no identifier ({', '.join(ids[:4])} ...) and no position (RA, DEC) among its columns; name one "
            "with --rename OLD=ID"
        )
    return Stars(text_column(table, id_name) if id_name else None, *(place or (None, None)))


def _read_own(table: Table, path: Path, name: str, solar_scale: str | None) -> LabelTable:
    stars = stars_of(table, path)
    if stars.ids is not None:
        refuse_duplicates(str(path), "ID", stars.ids)
    values = {}
    for label, columns in label_columns(table, str(path)).items():
        if columns.error is None:
            raise UserError(f"{path}: {columns.value} has no column of errors {label}_ERR beside it")
        value = number_column(table, columns.value, path)
        if columns.flag is not None:
            value[_bits(table, columns.flag, path) != 0] = np.nan
        values[label] = (value, number_column(table, columns.error, path))
    header = {str(key).upper(): value for key, value in table.meta.items()}
    return LabelTable(name, stars, values, solar_scale or header.get("SOLSCALE"))


def _bits(table: Table, column: str, path: Path) -> NDArray[np.int64]:
    """A flag column as integers; a missing flag counts as set."""
    values = number_column(table, column, path)
    return np.where(np.isfinite(values), values, -1).astype(np.int64)


def _read_apogee(table: Table, path: Path, name: str, solar_scale: str | None) -> LabelTable:
    stars = stars_of(table, path, ("APOGEE_ID", "SDSS4_APOGEE_ID"))
    good = np.ones(len(table), dtype=bool)
    aspcap = np.zeros(len(table), dtype=np.int64)
    flag = find_column(table, "ASPCAPFLAG")
    if flag is not None:
        aspcap = _bits(table, flag, path)
        good &= (aspcap & _APOGEE_STAR_BAD) == 0
    flag = find_column(table, "STARFLAG")
    if flag is not None:
        good &= (_bits(table, flag, path) & _APOGEE_STARFLAG) == 0
    flag = find_column(table, "EXTRATARG")
    if flag is not None:
        good &= (_bits(table, flag, path) & _APOGEE_REPEAT) == 0
    values = {}
    for label in ("TEFF", "LOGG", *_ABUNDANCES):
        column, error_column = find_column(table, label), find_column(table, f"{label}_ERR")
        if column is None or error_column is None:
            continue
        value, error = number_column(table, column, path), number_column(table, error_column, path)
        bad = ~good | ((aspcap & _APOGEE_LABEL_BAD.get(label, 0)) != 0) | ~(error > 0)
        flag = find_column(table, f"{label}_FLAG")
        if flag is not None:
            bad |= _bits(table, flag, path) != 0
        value[bad] = np.nan
        values[label] = (value, error)
    chosen = _first_of_each(stars, good)
    values = {label: (value[chosen], error[chosen]) for label, (value, error) in values.items()}
    return LabelTable(name, stars.take(chosen), values, solar_scale or "APOGEE-DR17")


def _first_of_each(stars: Stars, good: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Rows of the good stars, the first of each identifier."""
    rows = np.flatnonzero(good)
    if stars.ids is None:
        return rows
    named = rows[stars.ids[rows] != ""]
    _, first = np.unique(stars.ids[named], return_index=True)
    return np.sort(np.concatenate([named[first], rows[stars.ids[rows] == ""]]))


def _read_galah(table: Table, path: Path, name: str, solar_scale: str | None) -> LabelTable:
    stars = stars_of(table, path, ("gaiadr3_source_id", "dr3_source_id", "tmass_id", "star_id", "sobject_id"))
    is_dr4 = find_column(table, "snr_px_ccd3", "gaiadr3_source_id") is not None
    good = _bits(table, find_column(table, "flag_sp"), path) == 0  # type: ignore[arg-type]
    snr = find_column(table, "snr_px_ccd3", "snr_c3_iraf")
    if snr is not None:
        good &= number_column(table, snr, path) > _GALAH_MIN_SNR
    values = {}
    for label in ("TEFF", "LOGG", *_ABUNDANCES):
        column, error_column = find_column(table, label), find_column(table, f"e_{label}")
        if column is None or error_column is None:
            continue
        value, error = number_column(table, column, path), number_column(table, error_column, path)
        bad = ~good | ~(error > 0)
        flag = find_column(table, f"flag_{label}")
        if flag is not None and not (is_dr4 and label == "FE_H"):
            bad |= _bits(table, flag, path) != 0
        value[bad] = np.nan
        values[label] = (value, error)
    chosen = _first_of_each(stars, good)
    values = {label: (value[chosen], error[chosen]) for label, (value, error) in values.items()}
    scale = solar_scale or ("GALAH-DR4" if is_dr4 else "GALAH-DR3")
    return LabelTable(name, stars.take(chosen), values, scale)


def _read_irfm(table: Table, path: Path, name: str, solar_scale: str | None) -> LabelTable:
    ids = text_column(table, "2MASS ID")
    teff = number_column(table, "IRFM TEFF", path)
    known, mean, half_range = _average_repeats(ids, teff)
    ra, dec = position_of_2mass(known)
    error = np.hypot(IRFM_ERROR_K, half_range)
    notes = (f"{len(ids) - len(known)} repeated stars averaged over their sources",)
    return LabelTable(name, Stars(known, ra, dec), {"TEFF": (mean, error)}, solar_scale, notes)


def _average_repeats(ids: NDArray[np.str_], values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Distinct identifiers, the mean value of each and half the range of its repeats."""
    known, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    mean = np.bincount(inverse, weights=values) / counts
    low, high = np.full(len(known), np.inf), np.full(len(known), -np.inf)
    np.minimum.at(low, inverse, values)
    np.maximum.at(high, inverse, values)
    return known, mean, (high - low) / 2


def _read_benchmark_stars(table: Table, path: Path, name: str, solar_scale: str | None) -> LabelTable:
    stars = stars_of(table, path, ("hd", "hip"))
    fe_h = number_column(table, "fe_h", path)
    values = {
        "TEFF": (number_column(table, "teff", path), number_column(table, "e_teff", path)),
        "LOGG": (number_column(table, "logg", path), number_column(table, "e_logg", path)),
        "FE_H": (fe_h, np.full(len(fe_h), BENCHMARK_FE_H_ERROR)),
    }
    return LabelTable(
        name, stars, {k: _without_bad_errors(v) for k, v in values.items()}, solar_scale or "differential"
    )


def _without_bad_errors(pair: tuple[NDArray[Any], NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    value, error = pair
    return np.where(error > 0, value, np.nan), error


def _read_benchmark_yaml(path: Path, name: str, solar_scale: str | None) -> LabelTable:
    try:
        stars = yaml.safe_load(content_of(path, MOST_SHORT).decode())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML ({first_line(error)})") from error
    if not isinstance(stars, dict) or not stars or not all(map(_is_benchmark_star, stars.values())):
        raise UserError(f"{path}: expected stars by name with teff, logg, feh and abundances")
    scale = solar_scale or SOLAR_SCALE
    values: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
    for label, key in (("TEFF", "teff"), ("LOGG", "logg"), ("FE_H", "feh")):
        values[label] = _without_bad_errors(_values_and_errors(stars, key, path))
    fe_h, fe_error = values["FE_H"]
    abundances = {star: entries.get("abundances") or {} for star, entries in stars.items()}
    for element in ELEMENTS:
        absolute, uncertainty = _values_and_errors(abundances, element, path)
        if np.isfinite(absolute).any():
            x_fe = absolute - SOLAR_ABUNDANCES[element] - fe_h
            values[abundance_name(element)] = _without_bad_errors((x_fe, np.hypot(uncertainty, fe_error)))
    notes = ("A(Fe) of the abundances is not used: it is 7.5 - [Fe/H] in this file",)
    return LabelTable(name, Stars(np.array(list(stars), dtype=str)), values, scale, notes)


def _is_benchmark_star(entries: object) -> bool:
    return isinstance(entries, dict) and "teff" in entries and isinstance(entries.get("abundances") or {}, dict)


def _values_and_errors(
    stars: Mapping[str, Mapping[str, Any]], key: str, path: Path
) -> tuple[NDArray[Any], NDArray[Any]]:
    """One entry of all stars, each (n,): `4983 61` -> 4983, 61; anything missing is NaN."""
    pairs = np.full((len(stars), 2), np.nan)
    for i, (star, entries) in enumerate(stars.items()):
        words = str(entries.get(key)).split()
        try:
            pairs[i] = [float(word) for word in words] if len(words) == 2 else np.nan
        except ValueError as error:
            wrong = f"{key} of {star} is {' '.join(words)!r}"
            raise UserError(f"{path}: {wrong}, expected a number and its error, as 4983 61") from error
    return pairs[:, 0], pairs[:, 1]


def _is_cluster_gravity_list(path: Path) -> bool:
    """Three columns without a header: a 2MASS name, a number and the cluster."""
    if path.suffix not in (".txt", ".dat", ".list") or not path.is_file():
        return False
    with path.open(errors="replace") as file:
        words = file.readline().split()
    return len(words) == 3 and _TWO_MASS.match(words[0]) is not None


def cluster_gravity_rows(path: Path) -> tuple[NDArray[np.str_], NDArray[np.float64], NDArray[np.str_]]:
    """Name, logg and cluster, each (n,), of every line of a cluster gravity list."""
    rows = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            name, logg, cluster = line.split()
            rows.append((name, float(logg), cluster))
        except ValueError as error:
            wrong = f"line {number} is {line.strip()!r}"
            raise UserError(f"{path}: {wrong}, expected three entries: name, logg as a number, cluster") from error
    ids, gravities, clusters = zip(*rows)
    return np.array(ids), np.array(gravities), np.array(clusters)


def _read_cluster_gravities(path: Path, name: str) -> LabelTable:
    ids, logg, _ = cluster_gravity_rows(path)
    known, mean, half_range = _average_repeats(ids, logg)
    ra, dec = position_of_2mass(known)
    return LabelTable(name, Stars(known, ra, dec), {"LOGG": (mean, np.hypot(CLUSTER_LOGG_ERROR, half_range))})


Reader = Callable[[Table, Path, str, "str | None"], LabelTable]
_FORMS: tuple[tuple[Callable[[Table], bool], Reader], ...] = (
    (lambda table: find_column(table, "APOGEE_ID", "SDSS4_APOGEE_ID") is not None, _read_apogee),
    (lambda table: find_column(table, "flag_sp") is not None, _read_galah),
    (lambda table: {"2MASS ID", "IRFM TEFF"} <= set(table.colnames), _read_irfm),
    (
        lambda table: find_column(table, "theta_ld") is not None and find_column(table, "e_teff") is not None,
        _read_benchmark_stars,
    ),
)
