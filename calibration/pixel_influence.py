r"""Why an element needs a correction: which pixels move its abundance away from a reference.

Near its optimum a fit is linear: with residual r (data minus model), Jacobian J = d model / d labels and
inverse variance w, labels move by (J' W J)^-1 J' W r. Taken at the reference's labels, where the residual is
r + J (fit - reference), the movement back to the fit is a sum over pixels,

    fit - reference = sum_p c_p,     c_p = (J' W J + P)^-1 J_p w_p [r_p + J_p . (fit - reference)],

so every pixel's influence c_p on every label is known, and they add up to the whole difference (P = 0 and r at the
optimum). A correction that a few windows explain points to lines (gf, non-LTE, blends); one spread over all
to the continuum, the resolution or the parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from phdlspec.errors import UserError, first_line
from phdlspec.hdf5_check import check_hdf5

FORMAT = "phdlspec-pulls"  # as the first files were called


def pixel_influence(
    residual: ArrayLike,
    jacobian: ArrayLike,
    ivar: ArrayLike,
    displacement: ArrayLike | None = None,
    prior_precision: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Influence (P, L) of each pixel on each label, in the label's units.

    Parameters
    ----------
    residual : (P,) data minus best model; not finite or with ivar <= 0 means a pixel that was not used.
    jacobian : (P, L) derivative of the model with respect to every fitted parameter (continuum terms too, if
    fitted). ivar : (P,) inverse variance of the pixels.
    displacement : (L,) fit minus reference; None for the influence about the fit itself, which add up to 0.
    prior_precision : (L,) or (L, L) of the prior in the fit; none by default.

    Raises `UserError` if the labels cannot be told apart (singular information matrix).
    """
    r, j, w = (np.asarray(a, dtype=float) for a in (residual, jacobian, ivar))
    if j.ndim != 2 or r.shape != w.shape or r.shape != j.shape[:1]:
        raise UserError(f"pixels need residual (P,), jacobian (P, L), ivar (P,); got {r.shape}, {j.shape}, {w.shape}")
    used = np.isfinite(r) & np.isfinite(j).all(axis=1) & (w > 0) & np.isfinite(w)
    r, w = np.where(used, r, 0.0), np.where(used, w, 0.0)
    j = np.where(used[:, None], j, 0.0)
    information = (j * w[:, None]).T @ j
    if prior_precision is not None:
        prior = np.asarray(prior_precision, dtype=float)
        information = information + (np.diag(prior) if prior.ndim == 1 else prior)
    size = np.sqrt(np.diag(information))
    if not np.all((size > 0) & np.isfinite(size)) or np.linalg.cond(information / np.outer(size, size)) > 1e12:
        raise UserError(
            "the Jacobian does not tell its labels apart, or its numbers are too large: leave out labels without "
            "information"
        )
    if displacement is not None:
        r = r + j @ np.asarray(displacement, dtype=float)
    return np.linalg.solve(information, (j * (w * r)[:, None]).T).T


def windows(wave: NDArray[Any], influence: NDArray[Any], width: float = 20.0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Centres (K,) in Angstrom and the summed influence (K, L) of windows of one width."""
    number = np.floor((wave - wave[0]) / width).astype(int)
    total = np.zeros((number.max() + 1, influence.shape[1]))
    np.add.at(total, number, np.nan_to_num(influence))
    return wave[0] + (np.arange(len(total)) + 0.5) * width, total


@dataclass(frozen=True)
class Diagnostics:
    """Fits of reference stars: wave (P,), labels (L,), residual and ivar (N, P), jacobian (N, P, L), and the
    displacement fit - reference (N, L), NaN where the reference has no value."""

    wave: NDArray[Any]
    labels: tuple[str, ...]
    residual: NDArray[Any]
    ivar: NDArray[Any]
    jacobian: NDArray[Any]
    displacement: NDArray[Any]

    @classmethod
    def read(cls, path: str | Path) -> Diagnostics:
        """Read the HDF5 file (attribute format = "phdlspec-pulls", data sets named as the attributes
        above)."""
        check_hdf5(path)
        try:
            with h5py.File(path, "r") as file:
                if file.attrs.get("format") != FORMAT:
                    raise UserError(f"{path}: is no file of pixel diagnostics (format {FORMAT!r} expected)")
                labels = tuple(n.decode() if isinstance(n, bytes) else str(n) for n in file["labels"][()])
                arrays = [file[name][()] for name in ("wave", "residual", "ivar", "jacobian", "displacement")]
        except (OSError, KeyError) as error:
            raise UserError(f"{path}: cannot be read as pixel diagnostics ({first_line(error)})") from error
        return cls(arrays[0], labels, arrays[1], arrays[2], arrays[3], arrays[4])

    def write(self, path: str | Path) -> None:
        """Write the HDF5 file."""
        with h5py.File(path, "w") as file:
            file.attrs["format"] = FORMAT
            file["labels"] = [name.encode() for name in self.labels]
            for name in ("wave", "residual", "ivar", "jacobian", "displacement"):
                file[name] = getattr(self, name)

    def mean_influence(self) -> NDArray[np.float64]:
        """Mean influence (P, L) over the stars; a label without a reference value counts as displaced by 0."""
        total = np.zeros((len(self.wave), len(self.labels)))
        for residual, jacobian, ivar, displacement in zip(self.residual, self.jacobian, self.ivar, self.displacement):
            total += pixel_influence(residual, jacobian, ivar, np.nan_to_num(displacement))
        return total / len(self.residual)
