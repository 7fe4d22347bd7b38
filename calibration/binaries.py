"""Wide binaries: tables of pairs, and published differences between the two stars of a pair.

`read_pairs` reads the project's own schema (see `calibration.references`); `read_published_abundances` reads the
published tables of single pairs as people keep them: one row a species, columns such as `Delta[X/H]`,
`deltaX/H`, `XO2N`, `HD20782_error2`, or one row a star with columns `__Mg_H_`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from calibration.references import PairTable, Stars, refuse_duplicates
from phdlspec.aliases import renamed
from phdlspec.errors import UserError
from phdlspec.foreign import one_sentence
from phdlspec.labels import LABELS
from phdlspec.solar import SYMBOLS
from phdlspec.tables import find_column, number_column, read_any_table, text_column


@one_sentence
def read_pairs(path: str | Path, name: str | None = None, rename: Mapping[str, str] | None = None) -> PairTable:
    """Pairs of identifiers (ID_1, ID_2) or of positions, with an optional probability and known differences; `rename`
    as for `phdlspec.aliases.renamed`."""
    path = Path(path)
    table = renamed(read_any_table(path), rename or {}, str(path))
    sides = [_side(table, path, number) for number in ("1", "2")]
    first, second = sides[0].ids, sides[1].ids
    if first is not None and second is not None:
        keys = np.array([" and ".join(sorted(pair)) for pair in zip(first, second)])
        refuse_duplicates(str(path), "ID_1, ID_2", keys)
        if np.any(first == second):
            raise UserError(f"{path}: star {first[first == second][0]} is paired with itself")
    column = find_column(table, "P_PAIR")
    probability = number_column(table, column, path) if column else np.ones(len(table))
    difference = {}
    for label in LABELS:
        value, error = find_column(table, f"D_{label.name}"), find_column(table, f"D_{label.name}_ERR")
        if value is not None and error is None:
            raise UserError(f"{path}: {value} has no column of errors {value}_ERR beside it")
        if value is not None and error is not None:
            difference[label.name] = (number_column(table, value, path), number_column(table, error, path))
    return PairTable(name or path.name.split(".")[0], sides[0], sides[1], probability, difference)


def _side(table: Table, path: Path, number: str) -> Stars:
    ids = find_column(table, f"ID_{number}", f"OBSID_{number}", f"SOURCE_ID_{number}")
    ra, dec = find_column(table, f"RA_{number}"), find_column(table, f"DEC_{number}")
    if ids is None and (ra is None or dec is None):
        raise UserError(f"{path}: a table of pairs needs ID_1 and ID_2, or RA_1 DEC_1 RA_2 DEC_2")
    return Stars(
        text_column(table, ids) if ids else None,
        number_column(table, ra, path) if ra and dec else None,
        number_column(table, dec, path) if ra and dec else None,
    )


@dataclass(frozen=True)
class PublishedAbundances:
    """Published numbers by element: `values[column][element] = (value, error)`, error NaN where none is
    given.

    `columns` are the quantities of the table, such as stars or differences; species of one element (C I and
    CH, Ti I and Ti II) are combined by `read_published_abundances`.
    """

    path: Path
    values: dict[str, dict[str, tuple[float, float]]]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.values)

    def difference(self, first: str, second: str) -> dict[str, tuple[float, float]]:
        """First minus second [X/H] of two columns (stars), element by element, errors in quadrature."""
        for column in (first, second):
            if column not in self.values:
                raise UserError(f"{self.path}: no column {column}, there are {', '.join(self.columns)}")
        one, two = self.values[first], self.values[second]
        return {
            element: (one[element][0] - two[element][0], float(np.hypot(one[element][1], two[element][1])))
            for element in one
            if element in two
        }


_SPECIES = re.compile(r"^([A-Z][a-z]?)(?:\s*(I{1,3}))?$")
_BY_STAR = re.compile(r"^_*([A-Z][a-z]?)_H_*$")
_ERROR = re.compile(r"^(?P<base>.*?)_?(?P<word>error|err|total)(?P<number>\d?)(?P<rest>.*)$", re.IGNORECASE)


@one_sentence
def read_published_abundances(path: str | Path) -> PublishedAbundances:
    """Read a table of abundances or differences of abundances by element (or by star, with columns
    `__Mg_H_`).

    Molecules (CH, C2) are left to the atomic lines of the same table; ion stages are averaged with weights
    1/error^2. An error column belongs to the column whose name it carries (`XO2N_error`, `deltaX/H_nostrong`
    with `Error_nostrong`), the largest number winning (`error2` is the total), else to the only value column.
    """
    path = Path(path)
    table = read_any_table(path)
    by_star = {name: found.group(1) for name in table.colnames if (found := _BY_STAR.match(name))}
    if by_star:
        return _by_star(table, path, by_star)
    species_column = find_column(table, "element", "elem", "species")
    if species_column is None:
        raise UserError(f"{path}: no column of elements (element, elem or Species), found {', '.join(table.colnames)}")
    numeric = [name for name in table.colnames if name != species_column and table[name].dtype.kind in "fi"]
    skip = {"z", "tc", "t_c", "weight"}
    value_names = [n for n in numeric if not _is_error(n) and n.lower() not in skip and not n.startswith("delta[")]
    value_names = [n for n in value_names if n not in ("deltaTeff", "deltalogg", "deltavt", "Param", "Obs")]
    if find_column(table, "weight") and not value_names:
        value_names = [find_column(table, "weight") or ""]
    species = [str(name).strip() for name in table[species_column]]
    values = {}
    for name in value_names:
        error_name = _error_of(name, value_names, numeric)
        error = number_column(table, error_name, path) if error_name else np.full(len(table), np.nan)
        values[name] = _by_element(species, number_column(table, name, path), error)
    if not values:
        raise UserError(f"{path}: no column of numbers beside {species_column}")
    return PublishedAbundances(path, values)


def _by_star(table: Table, path: Path, by_star: dict[str, str]) -> PublishedAbundances:
    names = find_column(table, "Name", "ID", "star")
    stars = text_column(table, names) if names else np.array([str(i + 1) for i in range(len(table))])
    columns = {element: number_column(table, name, path) for name, element in by_star.items()}
    return PublishedAbundances(
        path,
        {
            str(star): {e: (float(c[i]), np.nan) for e, c in columns.items() if e in SYMBOLS and np.isfinite(c[i])}
            for i, star in enumerate(stars)
        },
    )


def _is_error(name: str) -> bool:
    return _ERROR.match(name) is not None


def _error_of(name: str, value_names: list[str], numeric: list[str]) -> str | None:
    """The error column of a value column, by name."""
    best: tuple[int, str] | None = None
    for candidate in numeric:
        found = _ERROR.match(candidate)
        if found is None:
            continue
        base, rest = found.group("base"), found.group("rest")
        belongs = base == name or (base == "" and rest != "" and name.endswith(rest))
        belongs |= (
            base == "" and rest == "" and not any(name != other and name.startswith(other) for other in value_names)
        )
        if belongs and (best is None or int(found.group("number") or 0) >= best[0]):
            best = (int(found.group("number") or 0), candidate)
    return best[1] if best else None


def _by_element(species: list[str], value: NDArray[Any], error: NDArray[Any]) -> dict[str, tuple[float, float]]:
    """Average the ion stages of each element; what is no atom (CH, C2) is left out."""
    rows: dict[str, list[int]] = {}
    for i, name in enumerate(species):
        found = _SPECIES.match(name)
        if found and found.group(1) in SYMBOLS and np.isfinite(value[i]):
            rows.setdefault(found.group(1), []).append(i)
    result = {}
    for element, index in rows.items():
        v, e = value[index], error[index]
        if len(index) > 1 and np.all(e > 0):
            weight = 1 / e**2
            result[element] = (float(np.sum(weight * v) / weight.sum()), float(weight.sum() ** -0.5))
        else:
            result[element] = (float(v.mean()), float(e.mean()))
    return result
