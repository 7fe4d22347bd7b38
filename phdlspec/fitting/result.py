"""The result of one fit: labels with errors, percentiles, bounds and flags, and everything needed to draw it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import QTable
from numpy.typing import NDArray

from phdlspec.columns import PARAMETER_SYMBOLS, PARAMETER_UNITS, QUANTITIES
from phdlspec.errors import UserError, printable
from phdlspec.flags import LabelFlag, StarFlag, label_words, star_words
from phdlspec.labels import ELEMENTS, abundance_name, label_of
from phdlspec.solar import SOLAR_ABUNDANCES, SOLAR_SCALE

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ModelSpectrum:
    """The best model of one spectrum on its pixels.

    wave (P,) vacuum Å; flux, sigma, model, continuum (P,) in the file's units (sigma with the model's own error);
    used (P,) bool; outlier (P,) bool; normalised (P,) model flux over continuum; jacobian (P, D) of `normalised`;
    plain (P,) `normalised` without the bridge, where there is one.
    """

    wave: Array
    flux: Array
    sigma: Array
    model: Array
    continuum: Array
    used: NDArray[np.bool_]
    outlier: NDArray[np.bool_]
    normalised: Array
    jacobian: NDArray[np.float32]
    plain: Array | None = None


@dataclass(frozen=True)
class Given:
    """A label that was given from elsewhere, as `value` and `err` (0: exact), and what the spectrum alone says of it:
    `alone`, `alone_err`, with the bound `alone_crlb`. source : "fixed", "gaussian" or "parallax"."""

    name: str
    source: str
    value: float
    err: float
    alone: float
    alone_err: float
    alone_crlb: float

    @property
    def sigma(self) -> float:
        """By how many of both errors the two differ."""
        return abs(self.value - self.alone) / max(float(np.hypot(self.err, self.alone_err)), 1e-300)

    def __str__(self) -> str:
        error = f" ± {self.err:.4g}" if self.err else " exactly"
        return (
            f"{self.name} was given as {self.value:.5g}{error} ({self.source}); the spectrum alone says "
            f"{self.alone:.5g} ± {self.alone_err:.2g}, {self.sigma:.1f} sigma from it"
        )


class Measurement(float):
    """A fitted parameter: its value, as a number to compute with, and what is known of it.

    Attributes
    ----------
    name, unit : of the parameter, as in a catalogue
    value, err : posterior mean and standard deviation; p16, p50, p84 : percentiles
    crlb : Cramer-Rao bound, all else marginalised; inf where the spectrum says nothing
    flag : `LabelFlag`; 0 is good

    >>> teff = result["Teff"]
    >>> teff.name, teff.unit, teff.p16 < teff < teff.p84
    ('TEFF', 'K', True)
    >>> teff + 100.0 == teff.value + 100.0
    True
    """

    name: str
    err: float
    p16: float
    p50: float
    p84: float
    crlb: float
    unit: str
    flag: LabelFlag

    @classmethod
    def of(cls, result: Fitted, index: int) -> Measurement:
        """Parameter number `index` of a result."""
        found = cls(result.value[index])
        found.name = result.names[index]
        found.unit = PARAMETER_UNITS[found.name]
        found.flag = LabelFlag(int(result.label_flag[index]))
        for name in ("err", "p16", "p50", "p84", "crlb"):
            setattr(found, name, float(getattr(result, name)[index]))
        return found

    @property
    def value(self) -> float:
        """The value as a plain number."""
        return float(self)

    @property
    def words(self) -> list[str]:
        """The flag in words."""
        return label_words(int(self.flag))

    @property
    def quantity(self) -> u.Quantity:
        """The value with its unit."""
        return u.Quantity(float(self), self.unit)

    def __repr__(self) -> str:
        digits = 0 if self.name == "TEFF" else 3
        words = f" ({'; '.join(self.words)})" if self.words else ""
        return f"{self.name} = {float(self):.{digits}f} ± {self.err:.{digits}f} {self.unit}".rstrip() + words


@dataclass(frozen=True, eq=False, repr=False)
class Fitted:
    """What a fit found; `phdlspec.FitResult` is it with files and pictures.

    Printed, it is a table; `result["MG_FE"]` is one parameter with its error, unit and flag.

    Attributes
    ----------
    names : parameters (D): the emulator's labels, RV, and LN_RESOLUTION, the logarithm of the factor on the
        spectrum's resolving power
    value, err : posterior mean and standard deviation (D,); p16, p50, p84 : percentiles
    crlb : Cramer-Rao bounds (D,), all other parameters and the continuum marginalised; inf where nothing is known
    label_flag : (D,) bits of `LabelFlag`; flag : bits of `StarFlag`; reason : sentence, for a star without result
    cov : covariance (D, D); `covariance` has it by names
    mode : what was really done; stop_reason : of the optimiser; diagnostics : of the sampler; seconds : by stage
    chi2, npix, snr : of the best model; meta : of the spectrum; path : its file
    given : labels that were given from elsewhere; crlb_alone : bounds (D,) without them, None where nothing was given
    spectrum, draws : best model and equally weighted draws (N, D), where they were asked for
    """

    names: tuple[str, ...]
    value: Array
    err: Array
    p16: Array
    p50: Array
    p84: Array
    crlb: Array
    label_flag: NDArray[np.int64]
    cov: Array
    flag: int = 0
    reason: str = ""
    mode: str = ""
    stop_reason: str = ""
    chi2: float = float("nan")
    npix: int = 0
    snr: float = float("nan")
    path: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    given: tuple[Given, ...] = ()
    crlb_alone: Array | None = None
    spectrum: ModelSpectrum | None = None
    draws: Array | None = None

    @classmethod
    def failed(
        cls, path: str, reason: str, flag: StarFlag = StarFlag.FAILED, meta: Mapping[str, Any] | None = None
    ) -> Fitted:
        """A star without a result: all values are NaN, the reason says why."""
        names = tuple(PARAMETER_UNITS)
        nan = np.full(len(names), np.nan)
        return cls(
            names, nan, nan, nan, nan, nan, nan, np.zeros(len(names), dtype=np.int64),
            np.full((len(names), len(names)), np.nan), int(flag), " ".join(reason.split()), "none",
            path=path, meta=dict(meta or {}),
        )  # fmt: skip

    # --- the star ----------------------------------------------------------------------------------------------

    @property
    def rchi2(self) -> float:
        """chi2 per degree of freedom."""
        return self.chi2 / max(self.npix - len(self.names), 1)

    @property
    def total_seconds(self) -> float:
        """Computing time of all stages."""
        return float(sum(self.seconds.values()))

    @property
    def object_name(self) -> str:
        """What the star is called in its file: OBJECT, else its designation; "" where that does not say it."""
        named = (str(self.meta.get(key) or "").strip() for key in ("OBJECT", "DESIG"))
        return next((name for name in named if name), "")

    @property
    def title(self) -> str:
        """What the star is called: its name, else its identifier in the survey, else its file."""
        return self.object_name or str(self.meta.get("OBSID") or "").strip() or Path(self.path).name or "spectrum"

    @property
    def flag_words(self) -> list[str]:
        """The star's flag in words."""
        return star_words(self.flag)

    @property
    def flag_names(self) -> str:
        """The names of the star's flags, separated by blanks."""
        return " ".join(str(bit.name) for bit in StarFlag if self.flag & bit)

    # --- its labels --------------------------------------------------------------------------------------------

    def index(self, name: str) -> int:
        """Position of a parameter, also by another usual name (`[Mg/Fe]`, `Teff`)."""
        known = name if name in self.names else (label_of(str(name)) or str(name).upper())
        if known in self.names:
            return self.names.index(known)
        near = get_close_matches(str(name).upper(), self.names, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]}?" if near else f"; they are {' '.join(self.names)}"
        raise UserError(f"a fit has no parameter {name!r}{hint}")

    def __getitem__(self, name: str) -> Measurement:
        """One parameter: a number with `err`, `unit`, `flag` and more."""
        return Measurement.of(self, self.index(name))

    @cached_property
    def labels(self) -> QTable:
        """One row per parameter: label, value, err, p16, p50, p84, crlb, flag, unit."""
        table = QTable({"label": list(self.names)})
        for quantity in QUANTITIES:
            table[quantity.name] = getattr(self, quantity.field)
            table[quantity.name].info.description = quantity.comment
        if self.crlb_alone is not None:
            table["crlb_alone"] = self.crlb_alone
            table["crlb_alone"].info.description = "Cramer-Rao bound without what was given from elsewhere"
        table["unit"] = [PARAMETER_UNITS[name] for name in self.names]
        return table

    def covariance(self, labels: Sequence[str] | None = None) -> Array:
        """Posterior covariance (n, n) of some parameters in the order given, by default of all (`names`)."""
        if labels is None:
            return self.cov.copy()
        if isinstance(labels, str):
            raise UserError(f"covariance of {labels!r}: expected a list of names, as ['TEFF', 'LOGG']")
        at = [self.index(name) for name in labels]
        return self.cov[np.ix_(at, at)]

    def abundances(self) -> QTable:
        """Abundances of the elements and of iron in the three ways in which they are written, one element a row.

        Columns element, x_fe, x_fe_err, x_h, x_h_err ([X/Fe] and [X/H], dex), a_x (A(X) = log N_X / N_H + 12; its error
        is x_h_err), flag (`LabelFlag` of [X/Fe] and [Fe/H] together). The errors of [X/H] are from the full covariance.
        `meta["solar_scale"]` names the Sun.
        """
        iron, (x_h, x_h_err) = self.index("FE_H"), self.on_hydrogen()
        rows = [("Fe", 0.0, 0.0, self.value[iron], self.err[iron], self.label_flag[iron])]
        for k, element in enumerate(ELEMENTS):
            i = self.index(abundance_name(element))
            flag = self.label_flag[i] | self.label_flag[iron]
            rows.append((element, self.value[i], self.err[i], x_h[k], x_h_err[k], flag))
        table = QTable(rows=rows, names=("element", "x_fe", "x_fe_err", "x_h", "x_h_err", "flag"))
        solar = [SOLAR_ABUNDANCES[row["element"]] for row in table]
        table.add_column(np.asarray(table["x_h"]) + solar, name="a_x", index=5)
        table.meta["solar_scale"] = SOLAR_SCALE
        return table

    def on_hydrogen(self) -> tuple[Array, Array]:
        """[X/H] of the elements (28,) and their errors from the full covariance."""
        iron, at = self.index("FE_H"), [self.index(abundance_name(element)) for element in ELEMENTS]
        variance = self.cov[at, at] + self.cov[iron, iron] + 2.0 * self.cov[at, iron]
        return self.value[at] + self.value[iron], np.sqrt(variance.clip(0.0))

    # --- to look at --------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        if self.reason:
            return printable(f"{self.title}   no result: {self.reason}")
        lines = [f"{self.title}   S/N {self.snr:.0f}   reduced chi2 {self.rchi2:.2f}   {self.mode}"]
        lines += [f"  ! {words}" for words in self._notes]
        lines += [f"  {given}" for given in self.given]
        lines.append(f"  {'label':14s}{'':12s}{'value':>10s}{'error':>9s}{'bound':>9s}  flag")
        lines += [self._line(i) for i in self._told()]
        for bit, words in ((LabelFlag.NOT_MEASURED, "no number for"),
                           (LabelFlag.PRIOR_DOMINATED, "the spectrum says little about")):  # fmt: skip
            names = [name for name, flag in zip(self.names, self.label_flag) if flag & int(bit)]
            if names:
                lines.append(f"  {words}: {' '.join(names)}")
        set_bits = int(np.bitwise_or.reduce(self.label_flag[self._told()])) if self._told() else 0
        lines += [f"  flag {int(bit)}: {label_words(int(bit))[0]}" for bit in LabelFlag if set_bits & bit]
        return "\n".join(map(printable, [*lines, *self._verified()]))

    @property
    def _notes(self) -> list[str]:
        # What a user should see before the numbers: flags, and what was said of the spectrum and the fit.
        return [*self.flag_words, *map(str, self.meta.get("WARNINGS", ()))]

    @property
    def warnings(self) -> str:
        """What was said of the spectrum and the fit, in sentences separated by semicolons."""
        return "; ".join(map(str, self.meta.get("WARNINGS", ())))

    def _verified(self) -> list[str]:
        # What direct synthesis said, where it was asked.
        found = self.diagnostics
        if "emulator_rms" not in found:
            return []
        if not np.isfinite(found["emulator_rms"]):  # the labels have no atmosphere
            return [f"  ! not verified: {self.stop_reason}"]
        lines = [f"  emulator minus ab initio for this star: rms {found['emulator_rms']:.1e}"]
        if found["refine_steps"]:
            steps, shift = found["refine_steps"], found["refine_shift"]
            lines.append(f"  refined in {steps:.0f} steps; largest shift {shift:.2f} of its error")
        return lines

    def _told(self) -> list[int]:
        # The parameters that the spectrum says something about.
        silent = int(LabelFlag.PRIOR_DOMINATED | LabelFlag.NOT_MEASURED)
        return [i for i, flag in enumerate(self.label_flag) if not flag & silent]

    def _line(self, i: int) -> str:
        name, digits = self.names[i], 0 if self.names[i] == "TEFF" else 3
        numbers = f"{self.value[i]:10.{digits}f}{self.err[i]:9.{digits}f}{self.crlb[i]:9.{digits}f}"
        return f"  {name:14s}{PARAMETER_SYMBOLS[name]:12s}{numbers}  {int(self.label_flag[i]) or ''}".rstrip()

    def _repr_html_(self) -> str:
        if self.reason:
            return f"<p><b>{html.escape(self.title)}</b>: no result. {html.escape(self.reason)}</p>"
        notes = "".join(f"<li>{html.escape(words)}</li>" for words in self._notes) or "<li>no flags</li>"
        rows = "".join(self._html_row(i) for i in range(len(self.names)))
        head = "".join(f"<th>{name}</th>" for name in ("", "label", "value", "error", "bound", "unit", "remarks"))
        return (
            f"<p><b>{html.escape(self.title)}</b>, S/N {self.snr:.0f}, reduced χ² {self.rchi2:.2f}, "
            f"{html.escape(self.mode)}</p><ul>{notes}</ul><table><tr>{head}</tr>{rows}</table>"
        )

    def _html_row(self, i: int) -> str:
        name, digits = self.names[i], 0 if self.names[i] == "TEFF" else 3
        numbers = "".join(f"<td>{x[i]:.{digits}f}</td>" for x in (self.value, self.err, self.crlb))
        words = html.escape("; ".join(label_words(int(self.label_flag[i]))))
        grey = " style='color:#999'" if i not in self._told() else ""
        texts = f"<td>{PARAMETER_UNITS[name]}</td><td style='text-align:left'>{words}</td>"
        return f"<tr{grey}><td>{PARAMETER_SYMBOLS[name]}</td><td>{name}</td>{numbers}{texts}</tr>"
