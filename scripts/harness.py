"""What the studies of this folder share: where the data lie, mock stars, fits that are kept, tables for the docs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from phdlspec.emulator.emulator import Emulator
from phdlspec.fitting.driver import fit_batch
from phdlspec.fitting.known import KnownStar
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import FitSettings
from phdlspec.mock import mock_lamost
from phdlspec.spectrum import Spectrum

Array = NDArray[np.float64]
_ARRAYS = ("value", "err", "crlb", "label_flag")  # of a kept fit

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


def _name(path: str | None, meta: Mapping[str, Any]) -> str:
    return str(path or meta.get("OBSID"))


@dataclass(frozen=True)
class KeptFit:
    """What studies ask of a fit (see `Fitted`), as it is kept in a file."""

    names: tuple[str, ...]
    value: Array
    err: Array
    crlb: Array
    label_flag: NDArray[np.int64]  # bits
    flag: int
    snr: float
    name: str  # of the spectrum
    diagnostics: dict[str, float]
    seconds: dict[str, float]

    @classmethod
    def of(cls, fitted: Fitted) -> KeptFit:
        """Of a fit."""
        told = (
            fitted.flag,
            fitted.snr,
            _name(fitted.path, fitted.meta),
            dict(fitted.diagnostics),
            dict(fitted.seconds),
        )
        return cls(fitted.names, fitted.value, fitted.err, fitted.crlb, fitted.label_flag, *told)

    @classmethod
    def read(cls, line: str) -> KeptFit:
        """From a line of a file."""
        told = json.loads(line)
        return cls(**told | {"names": tuple(told["names"])} | {name: np.array(told[name]) for name in _ARRAYS})

    @property
    def line(self) -> str:
        """For a file."""
        return json.dumps(asdict(self) | {name: getattr(self, name).tolist() for name in _ARRAYS}) + "\n"


def arguments_of_kept_mocks(doc: str | None) -> argparse.Namespace:
    """The command line of a study of ab initio mocks whose fits are kept; `doc` is the study's."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--snr", type=float, default=100.0)
    parser.add_argument("--n", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True, help="folder of the fits, gone on with where it exists")
    return parser.parse_args()


def kept_fits(
    spectra: Sequence[Spectrum],
    emulator: Emulator,
    settings: FitSettings,
    out: Path,
    known: Sequence[KnownStar] | None = None,
    batch: int = 16,
) -> list[KeptFit]:
    """Fits of spectra, those that the file `out` has already from there; it grows by one batch after the other.

    known : of each star, what is known of it from elsewhere. A file of other spectra is refused; emulator and settings
    are not looked at: another study takes another file.
    """
    done = [KeptFit.read(line) for line in out.read_text().splitlines()] if out.exists() else []
    for one, spectrum in zip(done, spectra):
        name = _name(spectrum.path, spectrum.meta)
        if one.name != name:
            raise SystemExit(f"{out}: has a fit of {one.name}, expected one of {name}; take another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    for first in tqdm(range(len(done), len(spectra), batch), desc=out.stem, disable=None):
        part = slice(first, first + batch)
        told = None if known is None else known[part]
        done += [KeptFit.of(result) for result in fit_batch(spectra[part], emulator, settings, known=told)]
        with out.open("a") as file:
            file.write("".join(one.line for one in done[first:]))
    return done[: len(spectra)]
