"""What the studies of this folder share: where the data lie, mock stars, and tables as the docs have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from phdlspec.emulator.emulator import Emulator
from phdlspec.mock import mock_lamost
from phdlspec.spectrum import Spectrum

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"  # real spectra, lists and tables, where they are at hand


def table_head(*names: str) -> str:
    """The first two lines of a table in Markdown."""
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def table_row(*cells: Any) -> str:
    """A line of a table in Markdown; floats with three digits."""
    return f"| {' | '.join(f'{cell:.3g}' if isinstance(cell, float) else str(cell) for cell in cells)} |"


def table(names: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table in Markdown."""
    return "\n".join([table_head(*names), *(table_row(*row) for row in rows)])


def star_of_emulator(
    emulator: Emulator, labels: Mapping[str, float], snr: float, seed: int, **observed: Any
) -> Spectrum:
    """A mock LAMOST spectrum of the emulator's own star: measures noise and algebra, never accuracy.

    observed : what `phdlspec.mock.mock_lamost` takes besides.
    """
    theta = torch.as_tensor(emulator.labels.complete(labels)[None], dtype=torch.float32, device=emulator.device)
    with torch.no_grad():
        native = emulator.native_flux(theta)[0].double().cpu().numpy()
    return mock_lamost(native, emulator.native, labels["TEFF"], snr, seed, **observed)
