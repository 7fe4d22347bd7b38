"""One form of a grid that is being made: what is there of it, whether more may be added, and how a spectrum gets in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kurucz_grids.grid_writer import degrade_to, grid_attributes, make_manifest
from kurucz_grids.sampling import split_rows
from kurucz_grids.synthesizers import FineSpectrum
from phdlspec.errors import UserError
from phdlspec.gridfile import CONTINUUM_WAVE, Grid, SpectrumForm
from phdlspec.gridfile.parts import GridParts
from phdlspec.labels import GRID_LABELS

# The checksum of the line list speaks for its place and its medium.
MAY_DIFFER = {"created", "code_version", "line_list", "line_list_medium"}


@dataclass(frozen=True)
class RowStates:
    """Indices of the rows that are done, and of those that failed."""

    done: set[int]
    failed: set[int]

    @classmethod
    def common(cls, states: Sequence[RowStates]) -> RowStates:
        """What is so in each of several grids."""
        done = set.intersection(*(state.done for state in states))
        return cls(done, set.intersection(*(state.failed for state in states)) - done)


@dataclass(frozen=True)
class GridStore:
    """The grid of one form at `path`; `job` is known once it was begun, and sent to the workers with it."""

    form: SpectrumForm
    path: Path
    job: str = ""

    @property
    def parts(self) -> GridParts:
        """The folder of its rows."""
        return GridParts(self.path, self.job)

    def prepare(self, labels: NDArray[np.float64], seed: int, retry_failed: bool) -> RowStates:
        """What is there already; rows that are not what they should be are removed. Refuses a grid of other labels."""
        done: set[int] = set()
        failed: set[int] = set()
        if self.path.is_file():
            with Grid(self.path) as grid:
                self._check_form(grid.attrs)
                self._check_labels(grid.labels, labels, grid.attrs.get("seed"), seed)
                done |= set(map(int, grid.rows()))
                failed |= {i for i in range(len(grid)) if not grid.done[i] and grid.reason[i]}
        parts = self.parts
        if parts.exists():
            before = parts.manifest()["attrs"]
            self._check_form(before)
            self._check_labels(parts.labels()[0], labels, before.get("seed"), seed)
            done |= parts.whole_rows()
            failed |= set(parts.failures())
        return RowStates(done, set() if retry_failed else failed - done)

    def _check_form(self, before: Mapping[str, Any]) -> None:
        if before.get("form") != self.form.name:
            raise UserError(
                f"{self.path}: holds the {before.get('form')} form and {self.form.name} was asked for; give its --form "
                "or choose another --out"
            )

    def _check_labels(
        self, before: NDArray[np.float64], labels: NDArray[np.float64], seed_before: object, seed: int
    ) -> None:
        if len(before) > len(labels):
            raise UserError(
                f"{self.path}: holds {len(before)} models and {len(labels)} were asked for; give --n "
                f"{len(before)} or more, or another --out"
            )
        if not np.array_equal(before, labels[: len(before)]):
            raise UserError(
                f"{self.path}: was made with other labels (seed {seed_before}, now {seed}, or other "
                "atmospheres); repeat its settings or choose another --out"
            )

    def begin(self, labels: NDArray[np.float64], seed: int, provenance: Mapping[str, Any]) -> GridStore:
        """Write the manifest; the store with its job. Refuses to mix spectra of other origin."""
        before = self.refuse_other_origin(provenance)
        attrs = dict(before) if before is not None else grid_attributes(self.form, provenance, seed)
        parts = self.parts
        parts.write_manifest(make_manifest(attrs, self.form.wave), labels, split_rows(len(labels), seed))
        return replace(self, job=parts.job)

    def refuse_other_origin(self, provenance: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The attributes of the grid that is there, if any; `UserError` where its spectra were made of other things."""
        if self.parts.exists():
            before: Mapping[str, Any] = self.parts.manifest()["attrs"]
        elif self.path.is_file():
            with Grid(self.path) as grid:
                before = grid.attrs
        else:
            return None
        now = grid_attributes(self.form, provenance, before.get("seed"))
        for name in now.keys() - MAY_DIFFER:
            if name == "chemistry" and name not in before:  # not recorded by the first grids
                continue
            if before.get(name) != now[name]:
                raise UserError(
                    f"{self.path}: was made with {name} = {before.get(name)}, now {now[name]}; repeat its settings, "
                    "with the version of phdlspec that made it, or choose another --out"
                )
        return before

    def write(self, i: int, labels: NDArray[np.float64], spectrum: FineSpectrum) -> None:
        """Degrade a spectrum to this form and store it; `ValueError` where it is not finite."""
        wave = np.asarray(_numpy(spectrum.wave), dtype=float)
        stack = torch.cat(
            [
                torch.as_tensor(spectrum.flux, dtype=torch.float32)[None],
                torch.as_tensor(spectrum.jacobian, dtype=torch.float32),
            ]
        )
        low = degrade_to(self.form.wave, self.form.resolving_power, wave, stack, math.inf)
        continuum = np.interp(CONTINUUM_WAVE, wave, _numpy(spectrum.continuum))
        names = ("flux", *(f"derivative by {name}" for name in GRID_LABELS.names))
        for name, values in zip(names, low):
            _refuse_unless_finite(name, values, self.form.wave)
        _refuse_unless_finite("continuum", continuum, CONTINUUM_WAVE)
        self.parts.write_row(i, labels, low[0], continuum, low[1:])


def _refuse_unless_finite(name: str, values: NDArray[Any], wave: NDArray[np.float64]) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        where = wave[bad]
        raise ValueError(f"the {name} is not finite in {bad.sum()} pixels, {where[0]:.1f}-{where[-1]:.1f} Å")


def _numpy(values: Any) -> NDArray[Any]:
    return np.asarray(values.detach().cpu().numpy() if hasattr(values, "detach") else values)
