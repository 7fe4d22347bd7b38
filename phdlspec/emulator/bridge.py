r"""The bridge: what ab initio spectra lack, learned from stars with known labels, and how sure that is.

The emulated flux f becomes

    f(labels) + sum_k g_k(Teff, log g, [Fe/H]) v_k(wavelength):

K spectra v_k with amplitudes that are Gaussian processes in three labels (`label_process`). No abundance has a say in
it, so that the derivatives by abundances are those of the emulator. Its error joins the emulator's: along each v_k the
variance of g_k and the scatter of real stars about it, and in each pixel what was left over of real spectra, by an
amplitude that is a function of the three labels too. It lives on the emulator's native grid, and goes through the same
operator to pixels, resolving power and velocity as the flux does. `phdlspec bridge learn` makes one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phdlspec.emulator.emulator import Emulator
from phdlspec.emulator.label_process import LabelProcess
from phdlspec.emulator.model_error import MEASURED_AT, interpolated
from phdlspec.errors import UserError, first_line
from phdlspec.labels import STRUCTURE
from phdlspec.likelihood import ErrorFloor
from phdlspec.lsf import at_resolving_power
from phdlspec.tensor_file import FileKind

KIND = FileKind("phdlspec-bridge", 1, "bridge", "phdlspec bridge learn")
DEFAULT, NONE = "default", "none"
SUPPORTED = 0.5  # share of the bridge that is known for a star, below which it is outside those that it is made of


@dataclass(frozen=True)
class Bridge:
    """What is added to an emulator's flux.

    Attributes
    ----------
    process : of K + 1 amplitudes: of the spectra and, last, of the logarithm of `left`
    spectra : (K, Pn) normalised flux on the native grid
    left : (Pn,) error of the independent rest, normalised flux
    metadata : checkpoint (SHA-256 of the emulator's), stars learned from, and more; sha256 : of the file, if it is one
    """

    process: LabelProcess
    spectra: Tensor
    left: Tensor
    metadata: dict[str, Any]
    sha256: str = ""

    def write(self, path: str | Path) -> None:
        """Write it as a safetensors file."""
        tensors = {"spectra": self.spectra.float(), "left": self.left.float(), **self.process.tensors()}
        KIND.write(path, tensors, self.metadata)

    @classmethod
    def read(cls, path: str | Path) -> Bridge:
        """Read a file of `write`. Raises `UserError` for anything else."""
        file = KIND.read(path)
        try:
            found = cls(
                LabelProcess.read(file.tensors), file.tensors["spectra"].float(), file.tensors["left"].float(),
                file.metadata, file.sha256,
            )  # fmt: skip
            found._check()
        except (KeyError, RuntimeError, TypeError, ValueError, IndexError) as error:
            raise UserError(f"{path}: a damaged bridge ({first_line(error)}); learn it again") from error
        return found

    def _check(self) -> None:
        k, pixels = self.spectra.shape
        n = len(self.process.at)
        sizes = (self.process.values.shape, self.process.size.shape, self.process.length.shape, self.left.shape)
        if sizes != ((n, k + 1), (k + 1,), (3,), (pixels,)) or not isinstance(self.metadata["checkpoint"], str):
            raise ValueError("its tensors do not fit each other")
        if not isinstance(self.metadata["stars"], list):
            raise ValueError("the stars it was learned from are not told")

    @property
    def importance(self) -> Tensor:
        """(K + 1,) of each amplitude: the mean square of its spectrum."""
        square = self.spectra.double().pow(2).mean(1)
        return torch.cat([square, torch.zeros_like(square[:1])])

    @property
    def stars(self) -> frozenset[str]:
        """Names of the stars it was learned from."""
        return frozenset(map(str, self.metadata["stars"]))


class BridgedEmulator(Emulator):
    """An emulator with a bridge; `plain` is the emulator without.

    Raises `UserError` for a bridge that was learned with another emulator.
    """

    def __init__(self, plain: Emulator, bridge: Bridge, name: str = "the bridge"):
        if bridge.metadata["checkpoint"] != plain.checkpoint_hash or bridge.spectra.shape[1] != plain.native.size:
            raise UserError(
                f"{name}: was learned with another emulator ({bridge.metadata['checkpoint'][:16]}, this one is "
                f"{plain.checkpoint_hash[:16]}); learn it again with this one, or take --bridge none"
            )
        self.__dict__.update(plain.__dict__)
        self.plain, self.bridge = plain, bridge
        self._process = bridge.process.to(plain.device)
        missing = -plain.native.size % plain.patch_width
        spectra = torch.nn.functional.pad(bridge.spectra, (0, missing)).to(plain.device)
        self._by_patch = spectra.reshape(len(spectra), -1, plain.patch_width).transpose(0, 1)  # (Q, K, W)
        self._which = [self.labels.index(name) for name in STRUCTURE]

    def crossed(self, flux: Tensor, theta: Tensor) -> Tensor:
        """Flux (Q, B, W) in patches with what is missing at labels (B, L); differentiable."""
        amplitudes = self._process.mean(theta[:, self._which])[:, :-1].to(flux.dtype)
        return flux + amplitudes @ self._by_patch

    def crossed_with_slopes(self, rows: Tensor, theta: Tensor) -> Tensor:
        """Flux and derivatives (Q, B, 1 + L - 1, W) with what is missing; only those by three labels change."""
        with torch.no_grad():
            amplitudes, slopes = self._process.mean_and_slopes(theta[:, self._which])
            added = torch.cat([amplitudes[:, None], slopes], dim=1)[..., :-1].to(rows.dtype)  # (B, 4, K)
            into = [0, *(1 + column for column in self._which)]
            rows = rows.clone()
            rows[:, :, into] += (added.flatten(0, 1) @ self._by_patch).reshape(len(rows), *added.shape[:2], -1)
        return rows

    def patches(self, theta: Tensor) -> Tensor:
        """Flux with the bridge in patches of the native grid, as `Emulator.patches`."""
        return self.crossed(super().patches(theta), theta)

    def patches_and_jacobian(self, theta: Tensor) -> Tensor:
        """Flux with the bridge and its derivatives, as `Emulator.patches_and_jacobian`."""
        return self.crossed_with_slopes(super().patches_and_jacobian(theta), theta)

    def error_floor(self, wave: Tensor, theta: Tensor) -> ErrorFloor:
        """The emulator's error and the bridge's, as `Emulator.error_floor`."""
        floor = super().error_floor(wave, theta)
        stars = theta[:, self._which].detach()
        amplitude = torch.exp(self._process.mean(stars)[:, -1:])
        width = (self._process.variance(stars) + self._process.scatter**2).sqrt()[:, :-1]
        native = torch.cat([self.bridge.spectra, self.bridge.left[None]]).to(stars.device).double()
        rows = at_resolving_power(native, self.native, MEASURED_AT)[None] * torch.cat([width, amplitude], 1)[..., None]
        grid = torch.as_tensor(self.native.wave, dtype=torch.float64, device=stars.device)
        rows = interpolated(wave.expand(len(stars), -1), grid, rows).to(floor.factor.dtype)
        factor = floor.factor.expand(len(stars), -1, -1)
        return ErrorFloor(torch.hypot(floor.sigma, rows[:, -1]), torch.cat([factor, rows[:, :-1]], dim=1))

    def support(self, theta: Tensor) -> NDArray[np.float64]:
        """How much of the bridge is known (B,) for labels (B, L or more): 1 among the stars learned from, 0 far off."""
        stars = theta[:, self._which].to(self.device)
        return np.asarray(self._process.support(stars, self.bridge.importance.to(self.device)).cpu())


def bridged(emulator: Emulator, which: str) -> Emulator:
    """The emulator with a bridge: "default" (the shipped one, with the shipped emulator), "none", or a file.

    One that has a bridge already is returned as it is. Raises `UserError` for a file that is none or for another
    emulator.
    """
    if isinstance(emulator, BridgedEmulator) or which == NONE:
        return emulator
    path = _path(which)
    if path is None:
        return emulator
    try:
        modified = os.stat(path).st_mtime_ns
    except OSError as error:
        raise UserError(f"{path}: there is no such bridge ({error.strerror}); `{KIND.maker}` makes one") from error
    return _with_bridge(emulator, str(path), modified, which)


def told(emulator: Emulator) -> str:
    """Which bridge an emulator has: the SHA-256 of its file, or "none"."""
    return (emulator.bridge.sha256 or "not of a file") if isinstance(emulator, BridgedEmulator) else NONE


def _path(which: str) -> Path | None:
    if which != DEFAULT:
        return Path(which)
    shipped = Path(str(resources.files("phdlspec") / "data" / "bridge.safetensors"))
    return shipped if shipped.is_file() else None


@lru_cache(maxsize=4)
def _with_bridge(emulator: Emulator, path: str, modified: int, which: str) -> Emulator:
    bridge = Bridge.read(path)
    if which == DEFAULT and bridge.metadata["checkpoint"] != emulator.checkpoint_hash:
        return emulator  # of a user's own, for which nothing was learned
    return BridgedEmulator(emulator, bridge, path)


def described(metadata: Mapping[str, Any]) -> list[str]:
    """What a bridge is, in lines for people."""
    return [
        f"emulator: {metadata['checkpoint'][:16]}",
        f"stars learned from: {len(metadata['stars'])}",
        *(f"{name}: {value}" for name, value in metadata.get("told", {}).items()),
    ]
