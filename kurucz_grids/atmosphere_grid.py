"""A grid of model atmospheres and smooth interpolation in Teff, logg and [M/H].

ATLAS9 models share one scale of Rosseland optical depth (log tau = -6.875 + 0.125 i), so that models are
interpolated layer by layer, in the logarithm of every positive quantity and of the steps in column mass. In
each label the interpolant is a cubic Hermite polynomial whose slopes are those of the parabola through a node
and its two neighbours (Catmull-Rom on uneven nodes); where a neighbour does not exist the parabola is
one-sided. Slopes and cross slopes belong to the nodes, so that value *and first derivatives are continuous*
across cells, along a ragged edge too, and finite differences with small steps mean something.

The grid has an end: outside the cells whose eight corners exist, `interpolate` raises.
"""

from __future__ import annotations

import hashlib
import logging
import zipfile
import zlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kurucz_grids.atmospheres import Atmosphere, read_atmospheres
from phdlspec.errors import UserError, first_line
from phdlspec.files import writing

log = logging.getLogger(__name__)

AXES = ("teff", "logg", "mh")
PARAMS = (*AXES, "vturb_kms")
COLUMNS = ("rhox", "T", "Pgas", "xne", "abross", "accrad", "vturb_cms")
_QUANTITIES = 6  # all columns but vturb, which is one number a model
_MAX_LEFT_OUT = 0.05  # fraction of damaged models beyond which a grid is refused
_TAU_TOLERANCE = 0.1  # dex in log tau_Rosseland by which the layers of two models of one grid may differ


class AtmosphereGrid:
    """Model atmospheres on the nodes of a (possibly ragged) grid in Teff, logg, [M/H].

    Args:
        params: (N, 4) Teff (K), logg, [M/H], microturbulence (km/s) of the models.
        structure: (N, D, 7) columns `COLUMNS`, cgs. Models with missing (NaN) layers are left out, with a
            log line.
        titles: (N,) titles of the models.
        source: name of the file or folder, for messages.

    Attributes:
        params, structure, titles: as above, complete models only, sorted by [M/H], Teff, logg.
        axes: the distinct values of Teff, logg and [M/H].
        checksum: sha256 over parameters and structures; the same after saving and loading.

    >>> float(atmospheres.interpolate(5100.0, 3.7, 0.1).teff)
    5100.0
    """

    def __init__(
        self,
        params: NDArray[np.float64],
        structure: NDArray[np.float64],
        titles: Iterable[str] = (),
        source: str = "",
    ) -> None:
        self.source = source
        params, structure = np.asarray(params, float), np.asarray(structure, float)
        listed = list(titles)
        self._refuse_other_shapes(params, structure, listed)
        names = np.array(listed or [""] * len(params), dtype=str)
        params, structure, names = self._whole_models(params, structure, names)
        order = np.lexsort((params[:, 1], params[:, 0], params[:, 2]))
        self.params = np.ascontiguousarray(params[order])
        self.structure = np.ascontiguousarray(structure[order])
        self.titles = names[order]
        self._check()
        self.axes = tuple(np.unique(self.params[:, i]) for i in range(3))
        index = tuple(np.searchsorted(self.axes[i], self.params[:, i]) for i in range(3))
        self._exists = np.zeros([len(a) for a in self.axes], dtype=bool)
        self._exists[index] = True
        self._node = np.full(self._exists.shape, -1)
        self._node[index] = np.arange(len(self.params))

    def _refuse_other_shapes(self, params: NDArray[Any], structure: NDArray[Any], listed: list[str]) -> None:
        source = self.source
        if (
            params.ndim != 2
            or params.shape[1] != len(PARAMS)
            or structure.ndim != 3
            or structure.shape[::2] != (len(params), len(COLUMNS))
            or len(listed) not in (0, len(params))
        ):
            raise UserError(
                f"{source}: an atmosphere grid needs params (N, {len(PARAMS)}), structure (N, D, {len(COLUMNS)}) and "
                f"titles (N,) or none, got {params.shape}, {structure.shape} and {len(listed)} titles"
            )
        finite = np.isfinite(params).all(axis=1)
        if not finite.all():
            raise UserError(
                f"{source}: the parameters of model {np.argmin(finite) + 1} are {params[np.argmin(finite)]}, expected "
                f"finite numbers {', '.join(PARAMS)}; correct or drop it"
            )

    def _whole_models(
        self, params: NDArray[Any], structure: NDArray[Any], names: NDArray[np.str_]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.str_]]:
        """Those that lack no layer and are on the common scale of depth; the others are told."""
        source = self.source
        for reason, find in (
            ("with missing layers", _incomplete),
            ("off the common depth scale", _off_scale),
        ):
            bad = find(structure)
            for row in params[bad]:
                log.warning("%s: model Teff %g, logg %g, [M/H] %g %s: left out", source, *row[:3], reason)
            if bad.mean() > _MAX_LEFT_OUT:
                raise UserError(
                    f"{source}: {bad.sum()} of {len(bad)} models {reason}; a grid needs whole models on one "
                    "scale of Rosseland optical depth, as ATLAS9 has"
                )
            params, structure, names = params[~bad], structure[~bad], names[~bad]
        if not len(params):
            raise UserError(f"{source}: the atmosphere grid holds no complete model")
        return params, structure, names

    def _check(self) -> None:
        for i in range(5):
            if not (self.structure[:, :, i] > 0).all():
                bad = self.params[np.argmin((self.structure[:, :, i] > 0).all(1))]
                raise UserError(
                    f"{self.source}: {COLUMNS[i]} of the model at Teff {bad[0]:g}, logg {bad[1]:g}, "
                    f"[M/H] {bad[2]:g} is not positive everywhere; fetch the grid again"
                )
        same = (np.diff(self.params[:, :3], axis=0) == 0).all(1)
        if same.any():
            bad = self.params[np.argmax(same)]
            raise UserError(
                f"{self.source}: two models at Teff {bad[0]:g}, logg {bad[1]:g}, [M/H] {bad[2]:g}; put "
                "models of other microturbulence or composition into a folder of their own"
            )

    @classmethod
    def load(cls, path: str | Path) -> AtmosphereGrid:
        """The grid in an npz file, in a Kurucz file of many models, or in all the Kurucz files of a folder.

        The npz holds `params`, `structure` and, if it likes, `titles`, and the names of parameters and columns in
        their order, `param_names` and `columns` (without them the order is that of `PARAMS` and `COLUMNS`).
        """
        path = Path(path)
        try:
            if path.is_dir():
                return cls._of_folder(path)
            if not path.is_file():
                raise UserError(f"{path}: there is no such atmosphere grid; expected an npz of ATLAS9 models")
            with path.open("rb") as stream:
                zipped = stream.read(4) == b"PK\x03\x04"
        except OSError as err:
            raise UserError(f"{path}: the atmospheres cannot be read ({err.strerror}); see to permissions") from err
        if zipped:
            return cls._of_npz(path)
        if path.suffix == ".npz":
            raise UserError(f"{path}: the atmosphere grid is damaged (no whole npz file); fetch it again")
        return cls.from_atmospheres(read_atmospheres(path), str(path))

    @classmethod
    def _of_folder(cls, path: Path) -> AtmosphereGrid:
        models: list[Atmosphere] = []
        refused: list[UserError] = []
        for file in sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")):
            try:
                models += read_atmospheres(file)
            except UserError as error:
                refused.append(error)
        if not models:
            raise (
                refused[0]
                if refused
                else UserError(f"{path}: the folder holds no model atmosphere; expected Kurucz files")
            )
        for reason in refused:
            log.warning("left out: %s", reason)
        return cls.from_atmospheres(models, str(path))

    @classmethod
    def _of_npz(cls, path: Path) -> AtmosphereGrid:
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            missing = [name for name in ("params", "structure") if name not in arrays]
            if missing:
                raise UserError(
                    f"{path}: the npz file has no array {missing[0]!r}; expected params (N, 4) and structure (N, D, 7)"
                )
            params = _in_order(arrays, "params", "param_names", PARAMS, path)
            structure = _in_order(arrays, "structure", "columns", COLUMNS, path)
            titles = [str(title) for title in np.atleast_1d(arrays.get("titles", []))]
            return cls(params, structure, titles, str(path))
        except (ValueError, OSError, EOFError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error) as err:
            raise UserError(f"{path}: the atmosphere grid is damaged ({first_line(err)}); fetch it again") from err

    @classmethod
    def from_atmospheres(cls, models: list[Atmosphere], source: str = "") -> AtmosphereGrid:
        """A grid of models read one by one; of those with one layer too few, NaN takes its place.

        Raises `UserError` if their numbers of layers differ by more.
        """
        sizes = {len(m.rhox) for m in models}
        depth = max(sizes)
        if depth - min(sizes) > 1:
            raise UserError(
                f"{source}: models of {' and '.join(map(str, sorted(sizes)))} layers are mixed; a grid "
                "needs one number of layers"
            )
        structure = np.stack(
            [np.pad(_columns(m), ((0, depth - len(m.rhox)), (0, 0)), constant_values=np.nan) for m in models]
        )
        params = np.array([[m.teff, m.logg, m.mh, m.vturb_kms] for m in models])
        return cls(params, structure, [m.source for m in models], source)

    def save(self, path: str | Path) -> None:
        """Write the grid to an npz file that `load` reads."""
        with writing(path) as file:
            np.savez_compressed(
                file, params=self.params, structure=self.structure, titles=self.titles, param_names=PARAMS,
                columns=COLUMNS,
            )  # fmt: skip

    @cached_property
    def checksum(self) -> str:
        digest = hashlib.sha256(self.params.astype("<f8").tobytes())
        digest.update(self.structure.astype("<f8").tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.params)

    def model(self, index: int) -> Atmosphere:
        """The model of row `index` of `params`, as computed."""
        teff, logg, mh, vturb = (float(v) for v in self.params[index])
        return _atmosphere(teff, logg, mh, vturb, self.structure[index, :, :_QUANTITIES].T, f"{self.source}[{index}]")

    def contains(self, teff: float, logg: float, mh: float) -> bool:
        """Whether `interpolate` can be asked for these labels."""
        return self._locate((teff, logg, mh)) is not None

    def interpolate(self, teff: float, logg: float, mh: float) -> Atmosphere:
        """The atmosphere at any labels inside the grid, in well under a millisecond.

        Raises:
            UserError: labels outside the grid, or in a cell of its ragged edge that lacks a corner.
        """
        cell = self._locate((teff, logg, mh))
        if cell is None:
            ends = ", ".join(f"{name} {axis[0]:g} to {axis[-1]:g}" for name, axis in zip(AXES, self.axes))
            raise UserError(
                f"no atmosphere at Teff {teff:g}, logg {logg:g}, [M/H] {mh:g}: the grid {self.source} "
                f"spans {ends} with a ragged edge and is never extrapolated; choose labels inside"
            )
        nodes, weights = cell
        # (corners, kinds) weights against (corners, kinds, quantities, layers) node data.
        logs = np.tensordot(weights.ravel(), self._hermite[nodes].reshape(weights.size, -1), axes=1)
        values = from_logs(logs.reshape(_QUANTITIES, -1).T).T
        vturb = float(weights[:, 0] @ self.params[nodes, 3])
        return _atmosphere(float(teff), float(logg), float(mh), vturb, values, f"{self.source} interpolated")

    def _locate(self, point: tuple[float, float, float]) -> tuple[NDArray[np.intp], NDArray[np.float64]] | None:
        """Nodes (C,) that surround a point and their weights (C, 8) for value, slopes and cross slopes."""
        nodes_1d, weights_1d = [], []
        for axis, x in zip(self.axes, point):
            if not axis[0] <= x <= axis[-1]:
                return None
            i = int(np.searchsorted(axis, x))
            if axis[i] == x:  # on a node plane: the neighbours' weights vanish and they need not exist
                nodes_1d.append([i])
                weights_1d.append(np.array([[1.0, 0.0]]))
                continue
            h = axis[i] - axis[i - 1]
            t = (x - axis[i - 1]) / h
            nodes_1d.append([i - 1, i])
            weights_1d.append(
                np.array(
                    [
                        [(1 + 2 * t) * (1 - t) ** 2, h * t * (1 - t) ** 2],
                        [t * t * (3 - 2 * t), h * t * t * (t - 1)],
                    ]
                )
            )
        nodes = self._node[np.ix_(*nodes_1d)].ravel()
        if (nodes < 0).any():
            return None
        a, b, c = weights_1d
        weights = a[:, None, None, :, None, None] * b[None, :, None, None, :, None] * c[None, None, :, None, None, :]
        return nodes, weights.reshape(len(nodes), 8)

    @cached_property
    def _hermite(self) -> NDArray[np.float64]:
        """(N, 8, quantities, D) `to_logs` of the structure at the nodes with its slopes: kinds value, c, b, bc, a,
        ac, ab, abc for the axes a = Teff, b = logg, c = [M/H]."""
        logs = to_logs(self.structure[:, :, :_QUANTITIES]).transpose(0, 2, 1)
        dense = np.zeros((*self._exists.shape, 2, 2, 2, *logs.shape[1:]))
        dense[self._exists, 0, 0, 0] = logs[self._node[self._exists]]
        dense[:, :, :, 1, 0, 0] = self._slopes(dense[:, :, :, 0, 0, 0], 0)
        dense[:, :, :, :, 1, 0] = self._slopes(dense[:, :, :, :, 0, 0], 1)
        dense[:, :, :, :, :, 1] = self._slopes(dense[:, :, :, :, :, 0], 2)
        data = np.empty((len(self.params), 8, *logs.shape[1:]))
        data[self._node[self._exists]] = dense[self._exists].reshape(-1, 8, *logs.shape[1:])
        return data

    def _slopes(self, values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        """Slopes at the nodes along one axis: of the parabola through three neighbours, centred where both
        exist, one-sided at an edge, of a line where there are but two nodes, zero where there is one."""
        x = self.axes[axis]
        f = np.moveaxis(values, axis, 0)
        exists = np.moveaxis(self._exists, axis, 0)
        slopes = np.zeros_like(f)
        size = len(x)

        def secant(i: int, j: int) -> NDArray[np.float64]:
            return np.asarray((f[j] - f[i]) / (x[j] - x[i]))

        for i in range(size):
            left = exists[i - 1] if i > 0 else np.zeros_like(exists[0])
            right = exists[i + 1] if i + 1 < size else np.zeros_like(exists[0])
            for neighbour, far, use in ((i - 1, i - 2, left & ~right), (i + 1, i + 2, right & ~left)):
                if use.any():
                    slope = secant(i, neighbour)
                    if 0 <= far < size:
                        bend = (secant(neighbour, far) - slope) / (x[far] - x[i])
                        parabola = slope + bend * (x[i] - x[neighbour])
                        slope = np.where(_wide(exists[far], f.ndim - 1), parabola, slope)
                    slopes[i] = np.where(_wide(use, f.ndim - 1), slope, slopes[i])
            if (left & right).any():
                h0, h1 = x[i] - x[i - 1], x[i + 1] - x[i]
                slope = (h1 * secant(i - 1, i) + h0 * secant(i, i + 1)) / (h0 + h1)
                slopes[i] = np.where(_wide(left & right, f.ndim - 1), slope, slopes[i])
        return np.moveaxis(slopes, 0, axis)


def to_logs(structure: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithms of a structure (…, D, quantities): of the column mass those of its steps, which keep it increasing."""
    logs = np.log(np.maximum(structure, 1e-30))
    logs[..., 1:, 0] = np.log(np.maximum(np.diff(structure[..., 0], axis=-1), 1e-30))
    return logs


def from_logs(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `to_logs`."""
    structure = np.exp(logs)
    structure[..., 0] = np.cumsum(structure[..., 0], axis=-1)
    return structure


def _in_order(
    arrays: dict[str, NDArray[Any]], name: str, names_of: str, wanted: tuple[str, ...], path: Path
) -> NDArray[Any]:
    """An array of an npz with its last axis in the order wanted, as the file names it."""
    values, names = arrays[name], [str(n) for n in np.atleast_1d(arrays.get(names_of, wanted))]
    if sorted(names) != sorted(wanted):
        raise UserError(f"{path}: {names_of} is {', '.join(names)}; expected {', '.join(wanted)}, in any order")
    if values.ndim < 2 or values.shape[-1] != len(wanted):
        return values  # refused with its shape
    return values[..., [names.index(n) for n in wanted]]


def _incomplete(structure: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,) models with layers that are not numbers."""
    return np.asarray(~np.isfinite(structure).all(axis=(1, 2)))


def _off_scale(structure: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,) models whose layers are off the median model's Rosseland optical depths (one published model
    starts two layers deeper than all the others: Teff 3750, logg 0, [M/H] -1)."""
    rhox, opacity = structure[:, :, 0], structure[:, :, 4]
    steps = 0.5 * (opacity[:, 1:] + opacity[:, :-1]) * np.diff(rhox, axis=1)
    log_tau = np.log10(np.maximum(opacity[:, :1] * rhox[:, :1] + np.cumsum(steps, axis=1), 1e-30))
    distance = np.median(np.abs(log_tau - np.median(log_tau, axis=0)), axis=1)
    return np.asarray(distance > _TAU_TOLERANCE)


def _wide(mask: NDArray[np.bool_], ndim: int) -> NDArray[np.bool_]:
    return mask.reshape(mask.shape + (1,) * (ndim - mask.ndim))


def _atmosphere(
    teff: float, logg: float, mh: float, vturb_kms: float, values: NDArray[np.float64], source: str
) -> Atmosphere:
    rhox, temperature, gas_pressure, electron_density, rosseland, acceleration = values
    return Atmosphere(
        teff,
        logg,
        mh,
        vturb_kms,
        rhox,
        temperature,
        gas_pressure,
        electron_density,
        rosseland,
        acceleration,
        source=source,
    )


def _columns(model: Atmosphere) -> NDArray[np.float64]:
    """(D, 7) `COLUMNS` of one model."""
    vturb = np.full(len(model.rhox), model.vturb_kms * 1e5)
    return np.column_stack(
        [
            model.rhox,
            model.temperature,
            model.gas_pressure,
            model.electron_density,
            model.rosseland,
            model.radiative_acceleration,
            vturb,
        ]
    )
