"""The emulator as most people want it: the shipped checkpoint, seen with LAMOST's pixels and resolving power."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from numpy.typing import ArrayLike

from phdlspec.caller import undisturbed
from phdlspec.emulator.checkpoint import load_checkpoint
from phdlspec.emulator.emulator import Emulator, choose_device
from phdlspec.errors import UserError
from phdlspec.resolution import ResolvingPower
from phdlspec.wavelength import LAMOST_WAVE


@undisturbed
def load_emulator(
    path: str | Path | None = None,
    device: str = "auto",
    resolving_power: ResolvingPower = 1800.0,
    wave: ArrayLike | None = None,
) -> Emulator:
    """Load an emulator.

    Parameters
    ----------
    path : a checkpoint of `phdlspec train`; by default the shipped one.
    device : "auto" (a GPU if there is one), "cpu" or "cuda".
    resolving_power : of `flux`: a number, a survey ("LAMOST"), a table or a pair of arrays; wave : its pixels, by
        default LAMOST's (vacuum Å).

    Raises `UserError` for a missing, damaged or foreign checkpoint and for a device that is not there.

    >>> emulator = phdlspec.load_emulator(device="cpu", resolving_power="LAMOST")
    >>> emulator.wave.shape == emulator.resolving_power.shape
    True
    """
    if path is None:
        path = Path(str(resources.files("phdlspec") / "data" / "default.safetensors"))
        if not path.is_file():
            raise UserError("this installation has no default emulator: give a checkpoint of `phdlspec train`")
    checkpoint = load_checkpoint(path)
    return Emulator(checkpoint, choose_device(device), resolving_power, LAMOST_WAVE if wave is None else wave)
