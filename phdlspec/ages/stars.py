"""The data of stars that ages are inferred from: labels with their covariance, and photometry."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Photometry:
    """Parallaxes, magnitudes and extinctions of n stars; NaN where unknown.

    parallax, parallax_err (n,) mas; magnitudes, errors (n, B) of `bands`; av, av_err (n,): a Gaussian prior on the
    extinction in V (mag), cut at zero.
    """

    bands: tuple[str, ...]
    parallax: Array
    parallax_err: Array
    magnitudes: Array
    errors: Array
    av: Array
    av_err: Array

    def take(self, rows: NDArray[np.intp]) -> Photometry:
        """Some of the stars."""
        return Photometry(
            self.bands, self.parallax[rows], self.parallax_err[rows], self.magnitudes[rows], self.errors[rows],
            self.av[rows], self.av_err[rows],
        )  # fmt: skip


def no_photometry(n: int) -> Photometry:
    """For stars of which the labels are all that is known."""
    none = np.full(n, np.nan)
    return Photometry((), none, none, np.empty((n, 0)), np.empty((n, 0)), none, none)


@dataclass(frozen=True)
class AgeStars:
    """n stars with labels.

    Attributes
    ----------
    labels : (n, 3) Teff (K), log g, [M/H]; NaN where unknown
    covariance : (n, 3, 3)
    photometry : of the same stars
    flag : (n,) bits of `AgeFlag` that are known before the inference
    """

    labels: Array
    covariance: Array
    photometry: Photometry
    flag: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __post_init__(self) -> None:
        if len(self.flag) != len(self.labels):
            object.__setattr__(self, "flag", np.zeros(len(self.labels), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.intp]) -> AgeStars:
        """Some of the stars."""
        return replace(
            self, labels=self.labels[rows], covariance=self.covariance[rows], photometry=self.photometry.take(rows),
            flag=self.flag[rows],
        )  # fmt: skip

    @property
    def usable(self) -> NDArray[np.bool_]:
        """True (n,) where labels are finite and the covariance is positive definite."""
        finite = np.array(np.isfinite(self.labels).all(axis=1) & np.isfinite(self.covariance).all(axis=(1, 2)))
        good = finite.copy()
        scale = np.sqrt(np.abs(np.einsum("nii->ni", self.covariance[finite])))
        with np.errstate(all="ignore"):
            unit = self.covariance[finite] / scale[:, :, None] / scale[:, None, :]
        unit = np.where(np.isfinite(unit), unit, 0.0)
        good[finite] = (np.linalg.eigvalsh(unit)[:, 0] > 1e-6) & (scale > 0).all(axis=1)
        return good
