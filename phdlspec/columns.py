"""Every column of a catalogue, declared once: name, unit, type, role and comment.

The FITS table, a star's ECSV, the quality page, the calibration's reader and the documentation's page of columns are
made from it. The columns of parameters follow from the label table and from what is told of each (`QUANTITIES`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from phdlspec.errors import UserError
from phdlspec.labels import ELEMENTS, LABELS, abundance_name


class ColumnRole(Enum):
    """What a column is about."""

    OBSERVATION = "observation"  # what was observed, from the file
    VALUE = "value"
    ERROR = "error"
    BOUND = "bound"
    FLAG = "flag"  # of a parameter
    FIT = "fit"  # how the fit went, and the star's flag
    PERCENTILE = "percentile"  # on request
    ON_HYDROGEN = "on hydrogen"  # [X/H] and its error, on request
    RAW = "raw"  # value before calibration
    RAW_ERROR = "raw error"
    CALIBRATION_FLAG = "calibration flag"


class Origin(Enum):
    """Where a fit's result holds what a column of the star tells."""

    RESULT = "an attribute"
    META = "what the spectrum's file says"
    DIAGNOSTICS = "the diagnostics"
    REFERENCE = "the reference of the input"


@dataclass(frozen=True)
class Parameter:
    """What a fit determines: a label, or a property of the observation. symbol : as people write it."""

    name: str
    unit: str
    comment: str
    symbol: str


@dataclass(frozen=True)
class Quantity:
    """What is told of each parameter.

    field : attribute of `Fitted`. name : column of the star's ECSV. suffix, dtype : of the catalogue's column.
    group : of the columns that a catalogue has on request (`ON_REQUEST`), "" where it always has them.
    """

    field: str
    name: str
    suffix: str
    dtype: str
    role: ColumnRole
    comment: str
    group: str = ""


@dataclass(frozen=True)
class Column:
    """One column of a catalogue.

    dtype : as numpy writes it, "U" for text. origin, key : where a result holds it. parameter : whose value, error,
    bound or flag it is; then key is the quantity's field. group : one of `ON_REQUEST`, or "".
    """

    name: str
    unit: str
    dtype: str
    role: ColumnRole
    comment: str
    origin: Origin = Origin.RESULT
    key: str = ""
    parameter: str = ""
    group: str = ""


# What a catalogue has beside its columns where it is asked for.
PERCENTILES, ON_HYDROGEN, FLAG_NAMES = "percentiles", "xh", "flag-names"
ON_REQUEST: Mapping[str, str] = {
    PERCENTILES: "<LABEL>_P16, _P50 and _P84 of every parameter",
    ON_HYDROGEN: "[X/H] and its error of every element, <X>_H and <X>_H_ERR, from the full covariance",
    FLAG_NAMES: "FLAG_NAMES, the bits of FLAG by name",
}

RV, LN_RESOLUTION = "RV", "LN_RESOLUTION"
PARAMETERS: tuple[Parameter, ...] = (
    *(Parameter(label.name, label.unit, label.description, label.symbol) for label in LABELS),
    Parameter(RV, "km/s", "radial velocity in the frame of the wavelengths", "RV"),
    Parameter(LN_RESOLUTION, "", "ln factor on the resolution", "ln(R factor)"),
)
PARAMETER_SYMBOLS: Mapping[str, str] = {parameter.name: parameter.symbol for parameter in PARAMETERS}
PARAMETER_UNITS: Mapping[str, str] = {parameter.name: parameter.unit for parameter in PARAMETERS}

QUANTITIES: tuple[Quantity, ...] = (
    Quantity("value", "value", "", "f4", ColumnRole.VALUE, "posterior mean"),
    Quantity("err", "err", "_ERR", "f4", ColumnRole.ERROR, "posterior standard deviation"),
    Quantity("p16", "p16", "_P16", "f4", ColumnRole.PERCENTILE, "16th percentile of the posterior", PERCENTILES),
    Quantity("p50", "p50", "_P50", "f4", ColumnRole.PERCENTILE, "median of the posterior", PERCENTILES),
    Quantity("p84", "p84", "_P84", "f4", ColumnRole.PERCENTILE, "84th percentile of the posterior", PERCENTILES),
    Quantity("crlb", "crlb", "_CRLB", "f4", ColumnRole.BOUND, "Cramer-Rao bound, all else marginalised"),
    Quantity("label_flag", "flag", "_FLAG", "i2", ColumnRole.FLAG, "bits, see LFLAG in the header"),
)
_SUFFIX: dict[ColumnRole, str] = {q.role: q.suffix for q in QUANTITIES if not q.group} | {
    ColumnRole.RAW: "_RAW", ColumnRole.RAW_ERROR: "_ERR_RAW", ColumnRole.CALIBRATION_FLAG: "_CALFLAG",
}  # fmt: skip


def column_name(parameter: str, role: ColumnRole) -> str:
    """Name of a parameter's column: `"MG_FE_ERR"` for MG_FE and `ColumnRole.ERROR`."""
    return parameter + _SUFFIX[role]


def _of_parameter(parameter: Parameter) -> list[Column]:
    return [
        Column(
            parameter.name + quantity.suffix,
            "" if quantity.role is ColumnRole.FLAG else parameter.unit,
            quantity.dtype,
            quantity.role,
            parameter.comment if quantity.role is ColumnRole.VALUE else f"{parameter.name}: {quantity.comment}",
            key=quantity.field,
            parameter=parameter.name,
            group=quantity.group,
        )
        for quantity in QUANTITIES
    ]


def _on_hydrogen(element: str) -> list[Column]:
    name, place = f"{element.upper()}_H", abundance_name(element)
    words = f"[{element}/H] = [{element}/Fe] + [Fe/H]"
    return [
        Column(name + suffix, "dex", "f4", ColumnRole.ON_HYDROGEN, comment, key=key, parameter=place, group=ON_HYDROGEN)
        for suffix, key, comment in (("", "x_h", words), ("_ERR", "x_h_err", f"{name}: error, from the covariance"))
    ]


def _observed(name: str, unit: str, dtype: str, comment: str) -> Column:
    return Column(name, unit, dtype, ColumnRole.OBSERVATION, comment, Origin.META, name)


def _fit(name: str, unit: str, dtype: str, key: str, comment: str, origin: Origin = Origin.RESULT) -> Column:
    return Column(name, unit, dtype, ColumnRole.FIT, comment, origin, key)


def _diagnostic(name: str, unit: str, key: str, comment: str) -> Column:
    return _fit(name, unit, "f4", key, comment, Origin.DIAGNOSTICS)


_LABELS, _RV, _LN_RESOLUTION = PARAMETERS[:-2], PARAMETERS[-2], PARAMETERS[-1]
_ALL: tuple[Column, ...] = (
    _observed("OBSID", "", "U", "identifier in the survey"),
    Column("OBJECT", "", "U", ColumnRole.OBSERVATION, "name of the star in its file", key="object_name"),
    _observed("GAIA_ID", "", "U", "Gaia source_id of the file, of the release that its survey used"),
    Column("FILE", "", "U", ColumnRole.OBSERVATION, "where the spectrum came from", Origin.REFERENCE),
    _observed("RA", "deg", "f8", "right ascension"),
    _observed("DEC", "deg", "f8", "declination"),
    Column("SNR", "", "f4", ColumnRole.OBSERVATION, "median signal-to-noise ratio per used pixel", key="snr"),
    _observed("SNRG", "", "f4", "signal-to-noise ratio in g, of the file's header"),
    _observed("CLASS", "", "U", "class of the file's header"),
    _observed("SUBCLASS", "", "U", "subclass of the file's header"),
    *(column for parameter in (_RV, *_LABELS, _LN_RESOLUTION) for column in _of_parameter(parameter)),
    *(column for element in ELEMENTS for column in _on_hydrogen(element)),
    _fit("CHI2", "", "f4", "chi2", "of the best model, with the noise that the fit used"),
    _fit("RCHI2", "", "f4", "rchi2", "chi2 per degree of freedom"),
    _fit("NPIX", "", "i4", "npix", "pixels used"),
    _diagnostic("PARETO_K", "", "pareto_k",
                "shape of the importance weights' tail; above 0.63 the fast posterior is doubtful"),
    _diagnostic("ESS", "", "ess", "effective number of draws of the posterior"),
    _diagnostic("NOUTLIER", "", "outliers", "pixels left out because no noise explains them"),
    _diagnostic("MISFIT", "", "misfit", "rms of what the stated noise does not explain, in units of the continuum"),
    _diagnostic("RED_SHIFT", "km/s", "red_arm_km_s", "velocity of the last arm against the first, taken out"),
    _diagnostic("RV_SIG", "", "velocity_significance", "sigma by which the velocity stands above any other"),
    _diagnostic("ANOMALY", "", "anomaly", "-log10 probability of the strangest sign (--anomaly)"),
    _diagnostic("ANOMALY_PCT", "", "anomaly_pct", "percentage of ordinary stars that are less strange"),
    _fit("ANOMALY_IN", "", "U", "anomaly_in", "the strangest sign, and the windows that deviate most",
         Origin.DIAGNOSTICS),
    _fit("MODE", "", "U", "mode", "what was really done: fast, hmc, emcee, none"),
    _fit("STOP", "", "U", "stop_reason", "why the optimiser stopped"),
    _fit("FLAG", "", "i4", "flag", "bits, see SFLAG in the header; 0 is good, 128, 4096, 65536, 131072 are notes"),
    Column(
        "FLAG_NAMES", "", "U", ColumnRole.FIT, "names of the bits of FLAG", key="flag_names", group=FLAG_NAMES
    ),
    _fit("REASON", "", "U", "reason", "why there is no result"),
    _fit("WARNINGS", "", "U", "warnings", "what should be known of the spectrum and the fit, in words"),
    _fit("SECONDS", "s", "f4", "total_seconds", "share of the computing time"),
)  # fmt: skip


COLUMNS: tuple[Column, ...] = tuple(column for column in _ALL if not column.group)


def columns_with(groups: Collection[str] = ()) -> tuple[Column, ...]:
    """The columns of a catalogue with those of some of `ON_REQUEST`, in their order.

    Raises `UserError` for a group that there is not.
    """
    for group in groups:
        if group not in ON_REQUEST:
            raise UserError(f"there are no columns {group!r}, expected some of {', '.join(ON_REQUEST)}")
    return tuple(column for column in _ALL if not column.group or column.group in groups)


def calibration_columns(parameter: str) -> dict[ColumnRole, Column]:
    """The columns that a calibration adds for a parameter."""
    unit = PARAMETER_UNITS[parameter]
    told = {
        ColumnRole.RAW: ("f4", unit, f"{parameter} before calibration"),
        ColumnRole.RAW_ERROR: ("f4", unit, f"error of {parameter} before calibration"),
        ColumnRole.CALIBRATION_FLAG: ("u1", "", f"where the calibration of {parameter} does not reach (bits)"),
    }
    return {
        role: Column(column_name(parameter, role), unit, dtype, role, comment, parameter=parameter)
        for role, (dtype, unit, comment) in told.items()
    }
