"""The calibration file: one readable JSON, with the evidence (every row that was fitted) beside it as a FITS
table.

CALIBRATION.json
    format "phdlspec-calibration", version, created, software, catalog, emulator_hash, solar_scale
    basis      axes: name, lower, upper, intervals (equal knots, cubic; see `calibration.splines`)
    references name, kind, stars given and used, solar scale
    labels     per label: coefficients, covariance (lower triangle, row by row), centre, scatter, zero point
               known
               or not, reach (occupied cells), smoothness, sets (scatter and discrepant fraction of each),
               nuisance (cluster values, depletion, survey zero points), held-out scatter
    skipped    label -> why it has no calibration
CALIBRATION.evidence.fits   LABEL SET KIND TEFF LOGG FE_H SNR DATUM FITTED HELD_OUT ERR_OURS ERR_REFERENCE
               ... of every fitted row; only the report needs it
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from astropy.table import Table
from msgspec import Meta, Struct
from numpy.typing import NDArray

from calibration.coverage import Coverage
from calibration.model import SetScatter
from calibration.splines import Axis, Basis
from phdlspec.errors import UserError, first_line
from phdlspec.files import file_sha256, replacing, write_text
from phdlspec.tables import read_any_table

COORDINATE_STEPS = 4
_Finite = Annotated[float, Meta(ge=-1e12, le=1e12)]
_Pairs = dict[str, tuple[float, float]]


class _Axis(Struct, forbid_unknown_fields=True):
    name: str
    lower: _Finite
    upper: _Finite
    intervals: Annotated[int, Meta(ge=1, le=1000)]


class _Set(Struct, forbid_unknown_fields=True):
    name: str
    kind: str
    tau: float
    wide: float
    discrepant: float
    rows: int


class _CalibratedLabel(Struct, forbid_unknown_fields=True):
    coefficients: list[_Finite]
    centre: list[_Finite]
    covariance_lower: list[_Finite]
    scatter: Annotated[float, Meta(ge=0.0, le=1e12)]
    has_zero_point: bool
    reach_cells: list[Annotated[int, Meta(ge=-(2**62), le=2**62)]]
    smoothness: list[float]
    sets: list[_Set]
    nuisance: _Pairs
    held_out: _Pairs


class _Reference(Struct):
    name: str
    kind: str
    given: int
    used: int


class _File(Struct, forbid_unknown_fields=True):
    """The schema of the JSON file."""

    format: str
    version: int
    created: str
    software: str
    catalog: str
    emulator_hash: str
    solar_scale: str
    basis: Annotated[list[_Axis], Meta(min_length=1, max_length=10)]
    references: list[_Reference]
    skipped: dict[str, str]
    labels: dict[str, _CalibratedLabel]
    evidence_sha256: str = ""  # calibrations of the first version have neither
    sha256: str = ""

    def problem(self) -> str:
        """What does not belong together in it, "" for nothing."""
        if any(axis.lower >= axis.upper for axis in self.basis):
            return "an axis has no range"
        size = 1 + len(self.basis) + sum(axis.intervals + 1 for axis in self.basis)
        for name, label in self.labels.items():
            found = (len(label.coefficients), len(label.centre), len(label.covariance_lower))
            if found != (size, size, size * (size + 1) // 2):
                return f"{name} has other sizes than its basis"
        return ""


FORMAT, VERSION, OLDEST = "phdlspec-calibration", 2, 1  # version 2: the file has a digest of itself and its evidence


@dataclass(frozen=True)
class LabelCalibration:
    """The bias of one label: coefficients (p,), covariance (p, p), centre (p,), and what is known about
    it."""

    label: str
    coefficients: NDArray[np.float64]
    covariance: NDArray[np.float64]
    centre: NDArray[np.float64]
    scatter: float
    has_zero_point: bool
    coverage: Coverage
    smoothness: list[float]
    sets: list[SetScatter]
    nuisance: dict[str, tuple[float, float]]
    held_out: dict[str, tuple[float, float]]

    def bias(self, design: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Bias and its standard error, each (n,), for the basis columns (n, p)."""
        columns = design - self.centre
        factor = np.linalg.cholesky(self.covariance + 1e-15 * np.trace(self.covariance) * np.eye(len(self.centre)))
        return columns @ self.coefficients, np.sqrt(((columns @ factor) ** 2).sum(axis=1))


@dataclass(frozen=True)
class Calibration:
    """All labels of one calibration, bound to the checkpoint that made the catalogue.

    >>> learned.write("calibration.json").name
    'calibration.json'
    >>> sorted(calibration.Calibration.read("calibration.json").labels)
    ['MG_FE']
    """

    emulator_hash: str
    solar_scale: str
    created: str
    software: str
    catalog: str
    basis: Basis
    labels: dict[str, LabelCalibration]
    skipped: dict[str, str]
    references: list[dict[str, Any]]
    evidence: Table | None = field(default=None, compare=False)

    @property
    def identity(self) -> str:
        """Twelve hexadecimal digits of the content, written into calibrated catalogues."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()[:12]

    def bias(self, label: str, raw: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Bias (raw minus true) of a label and its error at raw (TEFF, LOGG, FE_H) (n, 3)."""
        if label not in self.labels:
            raise UserError(
                f"{label} is not calibrated: {self.skipped.get(label, 'it is no label of this calibration')}"
            )
        return self.labels[label].bias(self.basis.design(self.calibrated_coordinates(raw)))

    def calibrated_coordinates(self, raw: NDArray[Any]) -> NDArray[np.float64]:
        """(TEFF, LOGG, FE_H) with their own biases taken out, (n, 3).

        The biases are functions of the calibrated values, so raw = x + bias(x) is solved by iteration.
        """
        x = np.array(raw, dtype=float)
        axes = [(i, self.labels[axis.name]) for i, axis in enumerate(self.basis.axes) if axis.name in self.labels]
        for _ in range(COORDINATE_STEPS if axes else 0):
            columns = self.basis.design(x)
            for i, label in axes:
                x[:, i] = raw[:, i] - (columns - label.centre) @ label.coefficients
        return x

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "created": self.created,
            "software": self.software,
            "catalog": self.catalog,
            "emulator_hash": self.emulator_hash,
            "solar_scale": self.solar_scale,
            "basis": [asdict(axis) for axis in self.basis.axes],
            "references": self.references,
            "skipped": self.skipped,
            "labels": {name: _label_content(label) for name, label in self.labels.items()},
        }

    def write(self, path: str | Path) -> Path:
        """Write the JSON file and its evidence; both appear complete or not at all."""
        path = Path(path)
        content = self._content()
        if self.evidence is not None:
            with replacing(evidence_path(path)) as part:
                self.evidence.write(part, format="fits", overwrite=True)
            content["evidence_sha256"] = file_sha256(evidence_path(path))
        write_text(path, json.dumps({**content, "sha256": _digest(content)}, indent=1))
        return path

    @classmethod
    def read(cls, path: str | Path) -> Calibration:
        """Read a calibration file; its evidence is read where it lies beside it."""
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: cannot be read as a calibration ({first_line(error)})") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UserError(f"{path}: is no calibration file (format {FORMAT!r} expected)")
        version = content.get("version")
        if type(version) is not int or not OLDEST <= version <= VERSION:
            raise UserError(
                f"{path}: calibration version {version!r:.20}, this program reads versions {OLDEST} to {VERSION}"
            )
        _check(path, content)
        return cls(
            emulator_hash=content["emulator_hash"],
            solar_scale=content["solar_scale"],
            created=content["created"],
            software=content["software"],
            catalog=content["catalog"],
            basis=Basis(tuple(Axis(**axis) for axis in content["basis"])),
            labels={name: _read_label(name, label) for name, label in content["labels"].items()},
            skipped=content["skipped"],
            references=content["references"],
            evidence=_read_evidence(evidence_path(path), content.get("evidence_sha256", "")),
        )


def _check(path: Path, content: dict[str, Any]) -> None:
    try:
        problem = msgspec.convert(content, _File).problem()
    except (ValueError, RecursionError) as error:
        problem = first_line(error)
    found = _digest({k: v for k, v in content.items() if k != "sha256"})
    sealed = "sha256" in content or content["version"] > OLDEST
    if not problem and sealed and content.get("sha256") != found:
        problem = "its content is not that of its sha256"
    if problem:
        raise UserError(f"{path}: is an incomplete or altered calibration ({problem}); learn it again")


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def evidence_path(path: Path) -> Path:
    """Where the evidence of a calibration file lies."""
    return path.with_name(f"{path.name.removesuffix('.json')}.evidence.fits")


def _read_evidence(path: Path, sha256: str) -> Table | None:
    if not path.is_file():
        return None
    if sha256 and file_sha256(path) != sha256:
        raise UserError(
            f"{path}: was changed since the calibration was learned; learn it again, or remove the file, which only "
            "the report needs"
        )
    try:
        return read_any_table(path)
    except UserError as error:
        raise UserError(
            f"{path}: cannot be read as evidence ({first_line(error)}); learn the calibration again, or "
            "remove the file, which only the report needs"
        ) from error


def _rounded(values: NDArray[Any]) -> list[float]:
    return [float(f"{value:.9g}") for value in np.ravel(values)]


def _label_content(label: LabelCalibration) -> dict[str, Any]:
    rows, columns = np.tril_indices(len(label.centre))
    return {
        "coefficients": _rounded(label.coefficients),
        "centre": _rounded(label.centre),
        "covariance_lower": _rounded(label.covariance[rows, columns]),
        "scatter": label.scatter,
        "has_zero_point": label.has_zero_point,
        "reach_cells": [int(cell) for cell in label.coverage.cells],
        "smoothness": label.smoothness,
        "sets": [asdict(found) for found in label.sets],
        "nuisance": {name: list(pair) for name, pair in label.nuisance.items()},
        "held_out": {name: list(pair) for name, pair in label.held_out.items()},
    }


def _read_label(name: str, content: dict[str, Any]) -> LabelCalibration:
    size = len(content["centre"])
    covariance = np.zeros((size, size))
    rows, columns = np.tril_indices(size)
    covariance[rows, columns] = content["covariance_lower"]
    covariance[columns, rows] = content["covariance_lower"]
    return LabelCalibration(
        label=name,
        coefficients=np.array(content["coefficients"]),
        covariance=covariance,
        centre=np.array(content["centre"]),
        scatter=content["scatter"],
        has_zero_point=content["has_zero_point"],
        coverage=Coverage(np.array(content["reach_cells"], dtype=np.int64)),
        smoothness=content["smoothness"],
        sets=[SetScatter(**found) for found in content["sets"]],
        nuisance={key: (pair[0], pair[1]) for key, pair in content["nuisance"].items()},
        held_out={key: (pair[0], pair[1]) for key, pair in content["held_out"].items()},
    )
