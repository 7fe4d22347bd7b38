"""Cluster members, and what a cluster may and may not tell.

Readers: the project's own schema (see `calibration.references`), a list "2MASS name, logg, cluster" and a
list of APOGEE file names `4162_M67/aspcapStar-v304-2M08493465+1151256.fits` (Ness et al. 2015). One file may
hold several clusters: each becomes a reference of its own.

**Diffusion.** M67 is not flat in logg: at the turn-off heavy elements have sunk below the photosphere, by
0.1-0.2 dex in [Fe/H] (Souto et al. 2019; Liu et al. 2019); the convective envelope of a giant has mixed them
back. So a cluster is constant only up to a depletion d(logg), which is fitted with the amplitude of each
label free: the columns of `depletion_basis` are the template (strongest at the turn-off, fading along the
main sequence, gone in subgiants) and narrow deviations from it, each with a Gaussian prior. With nothing but
the cluster the trend at the turn-off then simply stays uncertain; with binaries or a survey they decide.
Alternatives: a logg range, or a user's template.

**Dredge-up.** C and N change along the giant branch: a cluster or a pair with an evolved star says nothing
about them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from calibration.references import ClusterTable, Stars, refuse_duplicates
from calibration.surveys import cluster_gravity_rows, position_of_2mass, stars_of
from phdlspec.aliases import CLUSTERS, MEMBERSHIPS, renamed
from phdlspec.errors import UserError
from phdlspec.foreign import one_sentence
from phdlspec.tables import find_column, number_column, read_any_table, text_column

# First dredge-up changes these, so no reference built on "one composition" constrains them in evolved stars.
DREDGED_LABELS: tuple[str, ...] = ("C_FE", "N_FE")
EVOLVED_LOGG = 3.6
OCCAM_LEAST = 0.01  # the limit that OCCAM's authors use for each of their probabilities

_APOGEE_FILE = re.compile(r"(?:\d+_)?([^/\s]+)/aspcapStar-[^-]+-(2M\d{8}[+-]\d{7})\.fits$")


@one_sentence
def read_clusters(path: str | Path, rename: Mapping[str, str] | None = None) -> list[ClusterTable]:
    """All clusters of a file, in alphabetical order; repeated lines of a star in the two lists are merged.

    A table may call its columns by any name that `phdlspec.aliases` knows; `rename` adds others. Of OCCAM's table
    (Myers et al. 2022) the stars count that their velocity and proper motion make members; its probability from [Fe/H]
    is not used, because [Fe/H] is what shall be calibrated.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file, expected a table of cluster members")
    if path.suffix in (".txt", ".dat", ".list"):
        with path.open(errors="replace") as file:
            first_line = file.readline().strip()
        if _APOGEE_FILE.match(first_line):
            return _from_names(*_apogee_file_rows(path))
        if len(first_line.split()) == 3 and first_line.startswith("2M"):
            ids, _, cluster = cluster_gravity_rows(path)
            return _from_names(ids, cluster)
    table = renamed(read_any_table(path), rename or {}, str(path))
    stars = stars_of(table, path)
    column = find_column(table, *CLUSTERS)
    names = text_column(table, column) if column else np.full(len(table), path.name.split(".")[0])
    probability = _memberships(table, path)
    clusters = []
    for name in np.unique(names[probability > 0]):
        rows = np.flatnonzero((names == name) & (probability > 0))
        members = stars.take(rows)
        if members.ids is not None:
            refuse_duplicates(f"{path} ({name})", "ID", members.ids)
        clusters.append(ClusterTable(str(name), members, probability[rows]))
    return clusters


def _memberships(table: Table, path: Path) -> NDArray[np.float64]:
    """Probability (n,) that a star is a member; 1 where the table does not say."""
    of_occam = [find_column(table, name) for name in ("RV_PROB", "PM_PROB")]
    if all(of_occam):
        chances = [np.nan_to_num(number_column(table, str(name), path)) for name in of_occam]
        return np.where(np.minimum(*chances) > OCCAM_LEAST, 1.0, 0.0)
    column = find_column(table, *MEMBERSHIPS)
    if column is None:
        return np.ones(len(table))
    probability = np.nan_to_num(number_column(table, column, path))
    in_per_cent = column.upper() != MEMBERSHIPS[0] and 1.0 < probability.max(initial=0.0) <= 100.0
    return probability / 100.0 if in_per_cent else probability


def _apogee_file_rows(path: Path) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    ids, names = [], []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        found = _APOGEE_FILE.match(line.strip())
        if found is None:
            raise UserError(f"{path}: line {number} is not CLUSTER/aspcapStar-...-2M<name>.fits as the first one")
        names.append(found.group(1))
        ids.append(found.group(2))
    return np.array(ids), np.array(names)


def _from_names(ids: NDArray[np.str_], cluster: NDArray[np.str_]) -> list[ClusterTable]:
    """Clusters of 2MASS names, whose positions the names hold."""
    tables = []
    for name in np.unique(cluster):
        members = np.unique(ids[cluster == name])
        tables.append(ClusterTable(str(name), Stars(members, *position_of_2mass(members)), np.ones(len(members))))
    return tables


@dataclass(frozen=True)
class Diffusion:
    """How a cluster may depart from one composition.

    Attributes
    ----------
    kind : "template" (default), "range" (only stars inside `logg_range` are used and they are taken as equal)
    or
        "none" (all stars equal: for clusters known to be so).
    logg_range : (low, high), used by "range".
    table : (logg (n,), relative depletion (n,)) of a user's template, peak about 1; None is the built-in one.
    amplitude_prior : mean and sigma in dex of the depletion of [Fe/H] at the peak (negative = depleted).
    ratio_sigma : sigma in dex of the amplitude of an [X/Fe], whose mean is 0.
    deviation : sigma of the departures from the template's shape, relative to the amplitude's sigma.
    """

    kind: str = "template"
    logg_range: tuple[float, float] = (0.0, 3.7)
    table: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    amplitude_prior: tuple[float, float] = (-0.10, 0.10)
    ratio_sigma: float = 0.10
    deviation: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in ("template", "range", "none"):
            raise UserError(f"diffusion {self.kind!r} is unknown, expected template, range or none")
        if not self.logg_range[0] < self.logg_range[1]:
            raise UserError(f"the logg range {self.logg_range[0]} to {self.logg_range[1]} is empty")

    def shape(self, logg: ArrayLike) -> NDArray[np.float64]:
        """Relative depletion (n,), 1 at the turn-off."""
        logg = np.asarray(logg, dtype=float)
        if self.table is not None:
            return np.asarray(np.interp(logg, self.table[0], self.table[1]))
        rise = 1 / (1 + np.exp(-(logg - 3.9) / 0.06))
        fade = 1 / (1 + np.exp((logg - 4.50) / 0.10))
        return rise * (0.35 + 0.65 * fade)

    def basis(self, label: str, logg: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Columns (n, k) of the depletion with their prior mean (k,) and sigma (k,), in dex.

        The first column is the template; the others are triangles centred on logg 3.8, 4.0 ... 4.8.
        """
        if self.kind != "template":
            return np.zeros((len(logg), 0)), np.zeros(0), np.zeros(0)
        mean, sigma = self.amplitude_prior if label == "FE_H" else (0.0, self.ratio_sigma)
        centres = np.arange(3.8, 4.85, 0.2)
        bumps = np.clip(1 - np.abs(logg[:, None] - centres) / 0.2, 0, None)
        columns = np.column_stack([self.shape(logg), bumps])
        means = np.concatenate([[mean], np.zeros(len(centres))])
        return columns, means, np.concatenate([[sigma], np.full(len(centres), self.deviation * sigma)])

    def usable(self, logg: NDArray[Any]) -> NDArray[np.bool_]:
        """Which members may be compared at all."""
        if self.kind == "range":
            return (logg >= self.logg_range[0]) & (logg <= self.logg_range[1])
        return np.asarray(np.isfinite(logg))


def constrains(label: str, logg: NDArray[Any]) -> NDArray[np.bool_]:
    """False for an evolved star's dredged-up elements, True otherwise; (n,)."""
    if label in DREDGED_LABELS:
        return logg > EVOLVED_LOGG
    return np.ones(len(logg), dtype=bool)


@one_sentence
def read_diffusion_template(path: str | Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A template from a table with columns LOGG and DEPLETION (relative, about 1 at its peak)."""
    table = read_any_table(path)
    logg, depletion = find_column(table, "LOGG"), find_column(table, "DEPLETION")
    if logg is None or depletion is None:
        raise UserError(f"{path}: a diffusion template needs the columns LOGG and DEPLETION")
    x, y = number_column(table, logg, path), number_column(table, depletion, path)
    if len(x) < 2 or not np.all(np.isfinite(x) & np.isfinite(y)):
        raise UserError(f"{path}: a diffusion template needs at least two finite rows")
    order = np.argsort(x)
    return tuple(x[order]), tuple(y[order])
