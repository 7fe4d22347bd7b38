"""The result of one fit: labels with errors, percentiles, bounds and flags, and everything needed to draw it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from astropy.table import QTable, Table
from numpy.typing import NDArray

from phdlspec.columns import PARAMETER_UNITS, QUANTITIES
from phdlspec.flags import StarFlag
from phdlspec.labels import ELEMENTS, abundance_name
from phdlspec.solar import SOLAR_ABUNDANCES

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ModelSpectrum:
    """The best model of one spectrum on its pixels.

    wave (P,) vacuum Å; flux, sigma, model, continuum (P,) in the file's units (sigma with the model's own error);
    used (P,) bool; outlier (P,) bool; normalised (P,) model flux over continuum; jacobian (P, D) of `normalised`.
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


@dataclass(frozen=True)
class FitResult:
    """What a fit found.

    Attributes
    ----------
    names : parameters (D): the emulator's labels, RV, and LN_RESOLUTION, the logarithm of the factor on the
        spectrum's resolving power
    value, err : posterior mean and standard deviation (D,); p16, p50, p84 : percentiles
    crlb : Cramer-Rao bounds (D,), all other parameters and the continuum marginalised; inf where nothing is known
    label_flag : (D,) bits of `LabelFlag`; flag : bits of `StarFlag`; reason : sentence, for a star without result
    covariance : (D, D)
    mode : what was really done; stop_reason : of the optimiser; diagnostics : of the sampler; seconds : by stage
    chi2, npix, snr : of the best model; meta : of the spectrum; path : its file
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
    covariance: Array
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
    spectrum: ModelSpectrum | None = None
    draws: Array | None = None

    @classmethod
    def failed(
        cls, path: str, reason: str, flag: StarFlag = StarFlag.FAILED, meta: Mapping[str, Any] | None = None
    ) -> FitResult:
        """A star without a result: all values are NaN, the reason says why."""
        names = tuple(PARAMETER_UNITS)
        nan = np.full(len(names), np.nan)
        return cls(
            names, nan, nan, nan, nan, nan, nan, np.zeros(len(names), dtype=np.int64),
            np.full((len(names), len(names)), np.nan), int(flag), " ".join(reason.split()), "none",
            path=path, meta=dict(meta or {}),
        )  # fmt: skip

    @property
    def rchi2(self) -> float:
        """chi2 per degree of freedom."""
        return self.chi2 / max(self.npix - len(self.names), 1)

    @property
    def total_seconds(self) -> float:
        """Computing time of all stages."""
        return float(sum(self.seconds.values()))

    def __getitem__(self, name: str) -> float:
        """The value of a parameter."""
        return float(self.value[self.names.index(name)])

    @cached_property
    def labels(self) -> QTable:
        """One row per parameter: label, value, err, p16, p50, p84, crlb, flag, unit."""
        table = QTable({"label": list(self.names)})
        for quantity in QUANTITIES:
            table[quantity.name] = getattr(self, quantity.field)
            table[quantity.name].info.description = quantity.comment
        table["unit"] = [PARAMETER_UNITS[name] for name in self.names]
        return table

    def abundances(self) -> Table:
        """[X/H] and A(X) of the elements and of iron with their errors, from the full covariance."""
        iron = self.names.index("FE_H")
        rows = [("Fe", self.value[iron], self.err[iron])]
        for element in ELEMENTS:
            i = self.names.index(abundance_name(element))
            variance = self.covariance[i, i] + self.covariance[iron, iron] + 2.0 * self.covariance[i, iron]
            rows.append((element, self.value[i] + self.value[iron], float(np.sqrt(max(variance, 0.0)))))
        table = Table(rows=rows, names=("element", "x_h", "err"))
        table["a_x"] = [row["x_h"] + SOLAR_ABUNDANCES[row["element"]] for row in table]
        return table
