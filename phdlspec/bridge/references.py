"""Reference stars: spectra, their labels with errors, and what is expected of their abundances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phdlspec.catalog.inputs import expand_inputs, read_reference
from phdlspec.datadriven.label_table import GivenLabels, match, read_label_table
from phdlspec.errors import UserError
from phdlspec.fitting.known import KnownStar
from phdlspec.io import reading
from phdlspec.labels import ELEMENTS, STRUCTURE, LabelSet, abundance_name, typical_vmic
from phdlspec.resolution import ResolvingPower
from phdlspec.spectrum import Spectrum

Array = NDArray[np.float64]

# How stars of the Galaxy are made: [X/Fe] = -0.4 [Fe/H] times this, at most 0.4 times it.
ALPHA = {"O": 1.0, "Mg": 1.0, "Si": 0.7, "S": 0.7, "Ca": 0.7, "Ti": 0.7}
MOST_ALPHA = 0.4
ABUNDANCE_ERROR, MIXED_ERROR, VMIC_ERROR = 0.15, 0.3, 0.25  # dex, of C, N, O dex, km/s


@dataclass(frozen=True)
class ReferenceStar:
    """A star with known labels.

    name : of the star; spectra of one star share it. values, errors : (3,) of `STRUCTURE`, K and dex. others : value
    and error of other labels that are known.
    """

    name: str
    spectrum: Spectrum
    values: Array
    errors: Array
    others: dict[str, tuple[float, float]]

    def known(self, trust: float = 1.0) -> KnownStar:
        """What a fit is told: these labels, their errors times `trust`; abundances and vmic as they are expected."""
        return KnownStar.of(self.expected(trust))

    def expected(self, trust: float = 1.0) -> dict[str, tuple[float, float]]:
        """Values and errors of `known`, by label."""
        teff, logg, fe_h = self.values
        given = {"VMIC": (float(typical_vmic(teff, logg, fe_h)), VMIC_ERROR)}
        alpha = float(np.clip(-MOST_ALPHA * fe_h, 0.0, MOST_ALPHA))
        for element in ELEMENTS:
            error = MIXED_ERROR if element in ("C", "N", "O") else ABUNDANCE_ERROR
            given[abundance_name(element)] = (alpha * ALPHA.get(element, 0.0), error)
        given |= self.others
        given |= {name: (float(v), trust * float(e)) for name, v, e in zip(STRUCTURE, self.values, self.errors)}
        return given


def read_references(
    inputs: Sequence[str | Path],
    labels: str | Path,
    labelset: LabelSet,
    medium: str | None = None,
    resolving_power: ResolvingPower | None = None,
) -> tuple[list[ReferenceStar], list[str]]:
    """Stars with Teff, log g and [Fe/H] within the models, and why others are not used.

    Raises `UserError` where the table has no such labels or is of other stars.
    """
    table = read_label_table(labels)
    known = {info.name: i for i, info in enumerate(table.infos)}
    missing = [name for name in STRUCTURE if name not in known]
    if missing:
        raise UserError(f"{labels}: has no column {missing[0]}, expected TEFF, LOGG, FE_H, each with its error (_ERR)")
    spectra, left_out = _read(expand_inputs(inputs), medium, resolving_power)
    if not spectra:
        raise UserError(f"none of {len(left_out)} spectra can be read; the first: {left_out[0]}")
    ra, dec = (np.array([float(s.meta.get(key, np.nan)) for s in spectra]) for key in ("RA", "DEC"))
    rows = match(table, [s.path for s in spectra], [str(s.meta.get("OBSID", "") or "") for s in spectra], ra, dec)
    stars = []
    for spectrum, row in zip(spectra, rows):
        star = _star(spectrum, table, known, int(row), labelset)
        if isinstance(star, str):
            left_out.append(star)
        else:
            stars.append(star)
    return stars, left_out


def _read(
    references: Sequence[str], medium: str | None, resolving_power: ResolvingPower | None
) -> tuple[list[Spectrum], list[str]]:
    spectra, reasons = [], []
    for reference in references:
        try:
            with reading(reference):
                spectra.append(read_reference(reference, medium, resolving_power))
        except UserError as error:
            reasons.append(str(error))
    return spectra, reasons


def _star(
    spectrum: Spectrum, table: GivenLabels, known: dict[str, int], row: int, labelset: LabelSet
) -> ReferenceStar | str:
    path = spectrum.path or "spectrum"
    columns = [known[name] for name in STRUCTURE]
    if row < 0 or not np.isfinite(table.values[row, columns]).all():
        return f"{path}: the table has no Teff, log g and [Fe/H] with errors for it"
    values, errors = table.values[row], table.errors[row]
    for name in STRUCTURE:
        label, value = labelset[name], values[known[name]]
        if not label.lower < value < label.upper:
            return f"{path}: {name} = {value:g}, the models reach from {label.lower:g} to {label.upper:g} {label.unit}"
    others = {
        name: (float(values[i]), float(errors[i])) for name, i in known.items()
        if name in labelset and name not in STRUCTURE and labelset[name].lower <= values[i] <= labelset[name].upper
    }  # fmt: skip
    name = str(table.stars[row]) if table.stars is not None and table.stars[row] else ""
    name = name or str(spectrum.meta.get("OBSID", "") or "") or spectrum.stem
    return ReferenceStar(name, spectrum, values[columns], errors[columns], others)
