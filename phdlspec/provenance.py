"""What made a result: versions, checkpoint, configuration and command line."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from phdlspec import __version__
from phdlspec.emulator.bridge import bridged, told
from phdlspec.emulator.emulator import Emulator
from phdlspec.fitting.settings import FitSettings
from phdlspec.solar import SOLAR_SCALE


def configuration(settings: FitSettings) -> dict[str, Any]:
    """The settings as plain values; the masks by name, interval, frame and survey."""
    plain = asdict(settings)
    plain["masks"] = [f"{m.name} {m.low:.10g}-{m.high:.10g} {m.frame} {m.survey}".rstrip() for m in settings.masks]
    return plain


def versions() -> dict[str, str]:
    """Versions of the program and of what it computes with."""
    found = {"phdlspec": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "scipy", "astropy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def command_line(arguments: Sequence[str]) -> str:
    """The command as it can be given again: quoted as a shell needs it."""
    return shlex.join(("phdlspec", *arguments))


def provenance(emulator: Emulator, settings: FitSettings, arguments: Sequence[str]) -> dict[str, Any]:
    """For the header of a product."""
    return {
        "versions": versions(),
        "checkpoint": emulator.checkpoint_hash,
        "bridge": told(bridged(emulator, settings.bridge)),
        "device": str(emulator.device),
        "solar_scale": SOLAR_SCALE,
        "configuration": configuration(settings),
        "command": command_line(arguments),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
