"""The emulator: normalised spectra and their derivatives for the labels, resolving powers and velocities asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from phdlspec.emulator.basis import PatchBasis
from phdlspec.emulator.checkpoint import Checkpoint
from phdlspec.emulator.model_error import MEASURED_AT, ModelError
from phdlspec.emulator.network import Architecture, Network
from phdlspec.emulator.slopes import coefficients_and_slopes
from phdlspec.emulator.trust import distrust, untrusted_labels
from phdlspec.errors import UserError, first_line
from phdlspec.labels import GRID_LABELS, GRID_ROLES, STRUCTURE, LabelSet, Role
from phdlspec.likelihood import ErrorFloor
from phdlspec.lsf import NativeGrid, at_resolving_power, project, project_with_derivatives
from phdlspec.resolution import ResolvingPower, resolving_power_at

Outside = Literal["raise", "flag", "allow"]
LabelValues = ArrayLike | Tensor | Mapping[str, float]
_JACOBIAN_BATCH = {"cpu": 8, "cuda": 256}  # stars whose derivatives on the native grid are computed at once


def choose_device(name: str) -> torch.device:
    """The torch device of `auto`, `cpu` or `cuda`."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but there is no GPU that torch can use; take --device cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}: expected auto, cpu or cuda") from error


@dataclass(frozen=True)
class _OnDevice:
    network: Network
    basis: PatchBasis


class Emulator:
    """Normalised stellar spectra as a function of 33 labels.

    Attributes
    ----------
    labels : LabelSet (33): those of the network and VBROAD
    wave : (P,) vacuum Å, of `flux`; resolving_power : number or (P,), of `flux`
    native : grid on which the network predicts
    device : where it computes; metadata : of the checkpoint; checkpoint_hash : its SHA-256
    model_error : ModelError measured on held-out models
    distrust : why it is not to be trusted at all, by its errors on held-out models; empty where it is
    untrusted_labels : those whose derivatives are wrong by more than half

    >>> emulator.flux({"TEFF": 5777, "LOGG": 4.44}).shape  # on LAMOST's pixels
    torch.Size([1, 3909])
    >>> flux, jacobian = emulator.flux_and_jacobian({"Teff": 4800, "log g": 2.5, "[Mg/Fe]": 0.2})
    >>> jacobian.shape  # the derivative by each label
    torch.Size([1, 3909, 33])
    >>> wave, flux = emulator.spectrum({"TEFF": 4800}, resolving_power="SDSS", wave=np.arange(4000.0, 9000.0, 2.0))
    >>> flux.shape
    (2500,)
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, resolving_power: ResolvingPower, wave: ArrayLike):
        self.metadata: dict[str, Any] = checkpoint.metadata
        self.checkpoint_hash = checkpoint.sha256
        self.device = device
        self.labels = LabelSet()
        self._of_grid, self._broadening = self.labels.place(*GRID_ROLES), self.labels.place(Role.BROADENING).start
        self._check_labels()
        self.distrust, self.untrusted_labels = self._judged()
        self.native = NativeGrid(**self.metadata["native"])
        try:
            self._parts = _assemble(checkpoint, self.native, device)
            self.model_error = ModelError.of(checkpoint.tensors, self.native.wave)
        except (KeyError, RuntimeError, TypeError) as error:
            what = first_line(error)
            raise UserError(f"the checkpoint's tensors do not fit its description ({what}); train it again") from error
        self._power = resolving_power
        self.wave: NDArray[np.float64] = np.asarray(wave, dtype=float)
        _ = self.resolving_power  # what is wrong with it is said here
        self._lower = torch.as_tensor(self.labels.lower, dtype=torch.float32, device=device)
        self._upper = torch.as_tensor(self.labels.upper, dtype=torch.float32, device=device)

    @property
    def resolving_power(self) -> float | NDArray[np.float64]:
        """R of `flux`, a number or one a pixel of `wave` (P,)."""
        return resolving_power_at(self._power, self.wave)

    def _check_labels(self) -> None:
        stored = {row["name"]: (row["lower"], row["upper"]) for row in self.metadata["labels"]}
        for label in GRID_LABELS:
            if stored.get(label.name) != (label.lower, label.upper):
                had = "from {:g} to {:g}".format(*stored[label.name]) if label.name in stored else "missing"
                raise UserError(
                    f"the checkpoint was trained for other labels: {label.name} is {had}, this version's is from "
                    f"{label.lower:g} to {label.upper:g}; train it again"
                )
        if tuple(stored) != GRID_LABELS.names:
            raise UserError("the checkpoint was trained for labels in another order; train it again")

    def _judged(self) -> tuple[str, tuple[str, ...]]:
        try:
            validation = self.metadata["validation"]
            return distrust(validation), untrusted_labels(validation)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError("the checkpoint does not say how it did on held-out models; train it again") from error

    def __repr__(self) -> str:
        low, high = self.native.wave[[0, -1]]
        trust = f"not to be trusted: {self.distrust}" if self.distrust else "see `trusted`"
        return (
            f"<Emulator {self.checkpoint_hash[:12]}: {len(self.labels)} labels, {low:.0f}-{high:.0f} Å, on "
            f"{self.device}; {trust}>"
        )

    # --- on the native grid ------------------------------------------------------------------------------------

    def _unit(self, theta: Tensor) -> Tensor:
        # Labels of the network (B, 32), scaled to -1 ... 1.
        lower, upper = self._lower[self._of_grid], self._upper[self._of_grid]
        return 2.0 * (theta[:, self._of_grid] - lower) / (upper - lower) - 1.0

    @property
    def patch_width(self) -> int:
        """W, native pixels of a patch."""
        return self._parts.basis.width

    def patches(self, theta: Tensor) -> Tensor:
        """Normalised flux in patches of the native grid (Q, B, W) for labels (B, L); VBROAD is not applied."""
        basis = self._parts.basis
        return torch.baddbmm(basis.mean[:, None], self._parts.network.by_patch(self._unit(theta)), basis.vectors)

    def patches_and_jacobian(self, theta: Tensor) -> Tensor:
        """Flux and its exact derivatives, per label unit, by all labels but VBROAD: (Q, B, 1 + L - 1, W)."""
        basis, unit = self._parts.basis, self._unit(theta)
        with torch.no_grad():
            coefficients = coefficients_and_slopes(self._parts.network, unit)
            coefficients[:, :, 1:] *= (2.0 / (self._upper[self._of_grid] - self._lower[self._of_grid]))[:, None]
            rows = torch.bmm(coefficients.flatten(1, 2), basis.vectors).reshape(*coefficients.shape[:3], -1)
            rows[:, :, 0] += basis.mean[:, None]
        return rows

    def native_flux(self, theta: Tensor) -> Tensor:
        """Normalised flux (B, Pn) on the native grid for labels (B, L); VBROAD is not applied."""
        return self.patches(theta).transpose(0, 1).flatten(1)[:, : self.native.size]

    def native_flux_and_jacobian(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Flux (B, Pn) and its exact derivatives (B, Pn, L - 1), per label unit, without VBROAD."""
        flux, by_label = self._native_by_label(theta)
        return flux, by_label.transpose(1, 2)

    def _native_by_label(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        # Flux (B, Pn) and derivatives (B, L - 1, Pn).
        batch = _JACOBIAN_BATCH.get(self.device.type, 8)
        rows = torch.cat([
            self.patches_and_jacobian(part).permute(1, 2, 0, 3).flatten(2)[..., : self.native.size]
            for part in theta.split(batch)  # type: ignore[no-untyped-call]
        ])  # fmt: skip
        return rows[:, 0], rows[:, 1:]

    # --- as observed -------------------------------------------------------------------------------------------

    def observe(
        self,
        theta: Tensor,
        wave: Tensor,
        resolving_power: Tensor | ArrayLike,
        rv: Tensor | float = 0.0,
    ) -> Tensor:
        """Flux (B, P) at observed pixels.

        Parameters
        ----------
        theta : (B, 33), assumed to lie within the bounds
        wave : (P,) or (B, P) vacuum Å; resolving_power : number, (P,) or (B, P); rv : number or (B,), km/s

        Differentiable in theta, resolving_power and rv.
        """
        vbroad = theta[:, self._broadening]
        return project(self.native_flux(theta), self.native, wave, resolving_power, vbroad, rv)

    def observe_and_jacobian(
        self,
        theta: Tensor,
        wave: Tensor,
        resolving_power: Tensor | ArrayLike,
        rv: Tensor | float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Flux (B, P) and exact derivatives (B, P, 35): the labels, RV (per km/s) and ln(resolving power)."""
        native, by_label = self._native_by_label(theta)
        vbroad = theta[:, self._broadening]
        with torch.no_grad():
            columns = project(by_label, self.native, wave, resolving_power, vbroad, rv)
            flux, *rest = project_with_derivatives(native, self.native, wave, resolving_power, vbroad, rv)
        return flux, torch.cat([columns, torch.stack(rest, dim=1)], dim=1).transpose(1, 2)

    # --- for users ---------------------------------------------------------------------------------------------

    def _checked(self, theta: LabelValues, outside: Outside) -> Tensor:
        given = self.labels.complete(theta) if isinstance(theta, Mapping) else theta
        try:
            values = torch.as_tensor(given, dtype=torch.float32, device=self.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"labels are a {type(theta).__name__}, expected numbers (B, {len(self.labels)}) or a mapping, as "
                "{'TEFF': 5777, 'LOGG': 4.44}"
            ) from error
        values = torch.atleast_2d(values)  # type: ignore[no-untyped-call]
        if values.ndim != 2 or values.shape[1] != len(self.labels):
            raise UserError(f"labels have shape {tuple(values.shape)}, expected (B, {len(self.labels)})")
        if not torch.isfinite(values).all():
            raise UserError("some labels are not finite")
        if outside == "raise":
            margin = 1e-6 * (self._upper - self._lower)
            bad = (values < self._lower - margin) | (values > self._upper + margin)
            if bad.any():
                row, column = (int(i) for i in torch.nonzero(bad)[0])
                label = self.labels.labels[column]
                raise UserError(
                    f"{label.name} = {float(values[row, column]):g} is outside the emulator's range "
                    f"{label.lower:g} to {label.upper:g} {label.unit}".rstrip()
                )
        answer: Tensor = values
        return answer

    def error_floor(self, wave: Tensor, theta: Tensor) -> ErrorFloor:
        """The emulator's own error in normalised flux, sigma (S, P) and factor (S, M, P), for S stars.

        wave (P,) or (S, P) is the rest wavelength of their pixels, vacuum Å; theta (S, L or more) begins with the
        labels in their units. Measured on held-out models, see `phdlspec.emulator.model_error`.
        """
        native, by_label = self._native_by_label(theta[:, : len(self.labels)].float())
        stars = theta[:, [self.labels.index(name) for name in STRUCTURE]].detach()
        flux, jacobian = (at_resolving_power(x, self.native, MEASURED_AT) for x in (native, by_label))
        return self.model_error.floor(wave, stars, flux, jacobian)

    def trusted(self, theta: ArrayLike | Tensor) -> NDArray[np.bool_]:
        """True (B,) for labels within the bounds and within the range that its errors on held-out models allow."""
        values = np.atleast_2d(torch.as_tensor(theta).detach().cpu().numpy())
        if self.distrust:
            return np.zeros(len(values), dtype=bool)
        good = self.labels.inside(values)
        for name, (low, high) in self.metadata.get("trusted", {}).items():
            column = values[:, self.labels.index(name)]
            good &= (column >= low) & (column <= high)
        return good

    def flux(self, theta: LabelValues, outside: Outside = "raise") -> Tensor:
        """Normalised flux (B, P) at `wave` and `resolving_power` for labels (B, 33), or for one star's by name.

        `outside` says what to do with labels beyond their bounds: "raise" an error, "flag" them with NaN fluxes, or
        "allow" extrapolation.
        """
        values = self._checked(theta, outside)
        with torch.no_grad():
            flux = self.observe(values, torch.as_tensor(self.wave, device=self.device), self.resolving_power)
        return self._flagged(flux, values, outside)

    def flux_and_jacobian(self, theta: LabelValues, outside: Outside = "raise") -> tuple[Tensor, Tensor]:
        """Flux (B, P) and its derivatives (B, P, 33) per label unit; arguments as for `flux`."""
        values = self._checked(theta, outside)
        wave = torch.as_tensor(self.wave, device=self.device)
        flux, jacobian = self.observe_and_jacobian(values, wave, self.resolving_power)
        jacobian = jacobian[..., : len(self.labels)]
        return self._flagged(flux, values, outside), self._flagged(jacobian, values, outside)

    def _pixels(self, wave: ArrayLike) -> NDArray[np.float64]:
        """Wavelengths (P,) within those of the network. Raises `UserError` for others."""
        try:
            pixels = np.atleast_1d(np.asarray(wave, dtype=float))
        except (TypeError, ValueError) as error:
            raise UserError(f"wave is a {type(wave).__name__}, expected wavelengths in vacuum Å") from error
        low, high = self.native.wave[[0, -1]]
        if pixels.ndim != 1 or not ((pixels >= low) & (pixels <= high)).all():
            raise UserError(
                f"wave: expected wavelengths (P,) in vacuum Å within {low:.0f}-{high:.0f}, those of the emulator"
            )
        return pixels

    def _flagged(self, result: Tensor, values: Tensor, outside: Outside) -> Tensor:
        if outside == "flag":
            beyond = torch.as_tensor(~self.labels.inside(values.cpu().numpy()), device=result.device)
            result = result.clone()
            result[beyond] = torch.nan
        return result

    def spectrum(
        self,
        labels: Mapping[str, float],
        resolving_power: ResolvingPower | None = None,
        wave: ArrayLike | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Wavelengths (P,) in vacuum Å and normalised flux (P,) of one star.

        Labels that are not given are scaled solar, with a VMIC that is typical of the star. `resolving_power` is a
        number, one a pixel with its wavelengths, a survey ("LAMOST") or a table.
        """
        theta = self._checked(self.labels.complete(labels)[None], "raise")
        pixels = self._pixels(self.wave if wave is None else wave)
        power = resolving_power_at(self._power if resolving_power is None else resolving_power, pixels)
        with torch.no_grad():
            flux = self.observe(theta, torch.tensor(pixels, device=self.device), power)
        return pixels, flux[0].cpu().numpy()


def _assemble(checkpoint: Checkpoint, native: NativeGrid, device: torch.device) -> _OnDevice:
    tensors = checkpoint.tensors
    architecture = Architecture(**checkpoint.metadata["architecture"])
    lower, upper, scale = (tensors[f"network.{name}"] for name in ("lower", "upper", "scale"))
    energy = torch.ones(architecture.n_patches, architecture.n_labels)
    network = Network(architecture, lower, upper, energy, scale)
    prefix = "network."
    network.load_state_dict({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})
    network.requires_grad_(False)
    basis = PatchBasis(tensors["basis.mean"], tensors["basis.vectors"], native.size)
    return _OnDevice(network.to(device).eval(), basis.to(device))
