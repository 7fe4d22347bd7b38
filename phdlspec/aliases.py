"""Columns of other people's tables: which holds which label, its error and flag, who the star is and where.

One table of names for all readers. A column whose name says a label in another way (`[Fe/H]`, `feh`, `e_Teff`) is
understood; one that only comes near (`M_H`, `ALPHA_FE`, `[Mg/H]`) is refused with the way to say what is meant, because
what is dropped in silence is missed too late.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from astropy import units as u
from astropy.coordinates import Angle
from astropy.table import Table
from numpy.typing import NDArray

from phdlspec.errors import UserError, first_line
from phdlspec.labels import ELEMENTS, abundance_name, label_of, squashed
from phdlspec.tables import find_column, number_column, text_column

IDENTIFIERS: tuple[str, ...] = (
    *("ID", "OBSID", "STAR_ID", "GAIADR3_SOURCE_ID", "DR3_SOURCE_ID", "SOURCE_ID", "GAIA_SOURCE_ID"),
    *("EDR3_SOURCE_ID", "DR2_SOURCE_ID", "GaiaDR3", "GaiaEDR3", "Source", "APOGEE_ID", "SDSS4_APOGEE_ID", "TMASS_ID"),
    *("2MASS ID", "2MASS", "_2MASS", "DESIG", "SOBJECT_ID", "LAMOST_ID", "HD", "HIP", "KIC", "EPIC"),
)
TWO_MASS_NAMES: tuple[str, ...] = ("APOGEE_ID", "SDSS4_APOGEE_ID", "TMASS_ID", "2MASS ID", "2MASS", "_2MASS")
RIGHT_ASCENSIONS: tuple[str, ...] = (
    "RA", "RA_ICRS", "RAdeg", "RA_DEG", "ra_epoch2000", "_RA", "RAJ2000", "_RAJ2000", "ra_j2000", "RA_DR2", "f_ra",
)  # fmt: skip
DECLINATIONS: tuple[str, ...] = (
    *("DEC", "DE_ICRS", "DEdeg", "DEC_DEG", "dec_epoch2000", "_DE", "DEJ2000", "_DEJ2000", "dec_j2000", "DEC_DR2"),
    *("f_dec", "DE"),
)
CLUSTERS: tuple[str, ...] = ("CLUSTER", "CLUSTER_NAME", "Cl", "OpenCluster")
MEMBERSHIPS: tuple[str, ...] = ("P_MEMBER", "PROBA", "PROB", "PMEMB", "P_MEMB", "PMEMBER", "MEMBERSHIP", "PROBABILITY")

_ERRORS = ("{}_ERR", "{}_ERROR", "E_{}", "ERR_{}", "S_{}", "SIGMA_{}", "SIG_{}", "{}_UNC", "{}_SIGMA", "{}_E", "U_{}")
_FLAGS = ("{}_FLAG", "FLAG_{}")
_ALPHA = "O_FE, MG_FE, SI_FE, CA_FE or TI_FE"
_NEAR: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("MH", "PARAMMH", "METALLICITY", "MET", "ZH"), ("FE_H", "an overall metallicity is not the iron abundance")
    ),
    **dict.fromkeys(
        ("ALPHAFE", "ALPFE", "AFE", "ALPHAM", "PARAMALPHAM", "ALPHA", "ALPHAH"),
        (_ALPHA, "the mean of several elements is no label"),
    ),
    **dict.fromkeys(("VSINI", "VROT", "VMACRO"), ("VBROAD", "it is rotation and macroturbulence together")),
    **{
        f"{element.upper()}H": (abundance_name(element), f"[X/Fe] is wanted, which is [{element}/H] - [Fe/H]")
        for element in ELEMENTS
    },
}
_ION = re.compile(r"_*([A-Z][a-z]?)(I{1,2})_?[/_]?(?:Fe|H)_*$")


def near_label(name: str) -> tuple[str, str] | None:
    """The label that a column's name comes near, and why it is not that label; None where it comes near none."""
    ion = _ION.match(name)
    if ion and ion[1] in ELEMENTS:
        return abundance_name(ion[1]), f"it is of {ion[1]} {ion[2]} alone"
    return _NEAR.get(squashed(name))


@dataclass(frozen=True)
class LabelColumns:
    """Where a table holds a label: its columns of values, errors and flags, None where there is none."""

    value: str
    error: str | None
    flag: str | None


def label_columns(table: Table, where: str) -> dict[str, LabelColumns]:
    """The columns of every label that a table has, by label.

    A label's own name goes before an alias. Raises `UserError` where two aliases claim one label, and where a column
    with an error beside it comes near a label that the table does not have otherwise.
    """
    found: dict[str, str] = {}
    for column in table.colnames:
        label = label_of(column)
        if label is None or found.get(label, "").upper() == label:
            continue
        if label in found and column.upper() != label:
            raise UserError(
                f"{where}: {found[label]} and {column} are both {label}; rename one of them (--rename {column}=-)"
            )
        found[label] = column
    refuse_near(table, where, found)
    return {label: LabelColumns(name, error_of(table, name, label), flag_of(table, name, label)) for label, name in
            found.items()}  # fmt: skip


def refuse_near(table: Table, where: str, found: Iterable[str], need_error: bool = True) -> None:
    """Raise `UserError` for a column that comes near a label which is not among those `found`.

    need_error : only for columns that have errors beside them, as those of a reference must.
    """
    known = set(found)
    for column in table.colnames:
        near = near_label(column)
        if near is None or near[0] in known or (need_error and error_of(table, column) is None):
            continue
        if near[0] == _ALPHA and known & {name.strip() for name in _ALPHA.replace(" or ", ", ").split(",")}:
            continue
        target = near[0].split(",")[0]
        raise UserError(
            f"{where}: column {column} comes near {near[0]}, but {near[1]}; say what is meant with "
            f"--rename {column}={target}, or --rename {column}=- to leave it out"
        )


def error_of(table: Table, column: str, label: str = "") -> str | None:
    """The column of errors of a column of values, by the usual names."""
    return _beside(table, column, label, _ERRORS)


def flag_of(table: Table, column: str, label: str = "") -> str | None:
    """The column of flags of a column of values, by the usual names."""
    return _beside(table, column, label, _FLAGS)


def _beside(table: Table, column: str, label: str, forms: tuple[str, ...]) -> str | None:
    # VizieR writes `e__Fe_H_` beside `__Fe_H_`: underscores count once.
    there = {_once(name): str(name) for name in table.colnames}
    wanted = (_once(form.format(name)) for name in (column, label) if name for form in forms)
    return next((there[name] for name in wanted if name in there), None)


def _once(name: str) -> str:
    return re.sub(r"_+", "_", name).strip("_").lower()


def positions(
    table: Table, where: str, ra_names: tuple[str, ...] = RIGHT_ASCENSIONS, dec_names: tuple[str, ...] = DECLINATIONS
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Right ascension and declination (n,) in degrees, None where the table has none.

    Text is read as hours and degrees (`10 23 45.6`, `-05:14:07`), numbers as degrees unless their unit says hours.
    """
    names = find_column(table, *ra_names), find_column(table, *dec_names)
    if names[0] is None or names[1] is None:
        return None
    return _angle(table, names[0], u.hourangle, where), _angle(table, names[1], u.deg, where)


def _angle(table: Table, name: str, text_unit: u.UnitBase, where: str) -> NDArray[np.float64]:
    column = table[name]
    if column.dtype.kind in "fiu":
        values = number_column(table, name, where)
        return values * 15.0 if column.unit in (u.hourangle, u.hour) else values
    texts = text_column(table, name)
    known = np.flatnonzero(texts != "")
    angles = np.full(len(texts), np.nan)
    try:
        angles[known] = Angle(texts[known], unit=text_unit).deg
    except ValueError as error:
        raise UserError(f"{where}: column {name} is no angle ({first_line(error)}), expected degrees") from error
    return angles


def renamed(table: Table, names: Mapping[str, str], where: str) -> Table:
    """The table with columns renamed, `{"M_H": "FE_H"}`, and their errors and flags with them.

    "-" as the new name leaves a column out.
    """
    for old, new in names.items():
        column = find_column(table, old)
        if column is None:
            continue
        if new in ("", "-"):
            table.remove_column(column)
            continue
        taken = find_column(table, new)
        if taken is not None and taken != column:
            raise UserError(f"{where}: --rename {old}={new}: there is a column {taken} already; leave that out first")
        for forms in (_ERRORS, _FLAGS):
            beside = _beside(table, column, "", forms)
            if beside is not None:
                table.rename_column(beside, forms[0].format(new))
        table.rename_column(column, new)
    return table


def renames(texts: Iterable[str]) -> dict[str, str]:
    """The options `--rename OLD=NEW` as a mapping."""
    found = {}
    for text in texts:
        old, separator, new = text.rpartition("=")
        if not (separator and old and new):
            raise UserError(f"--rename {text}: expected OLD=NEW, as M_H=FE_H, or OLD=- to leave a column out")
        found[old] = new
    return found
