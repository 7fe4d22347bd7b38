"""A quick stand-in for a synthesizer, importable by worker processes."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from phdlspec.wavelength import log_grid

WAVE = log_grid(3685.0, 9120.0, 1 / 40_000)
_CENTRES = np.geomspace(3800.0, 9000.0, 28)


@dataclass(frozen=True)
class FakeFactory:
    """Spectra with one line an abundance label; rows may be told to fail, crash, hang or hold NaN."""

    seconds: float = 0.0
    fail: tuple[int, ...] = ()
    crash: tuple[int, ...] = ()
    crash_once: str = ""
    nan: tuple[int, ...] = ()
    hang: tuple[int, ...] = ()
    version: str = "1"
    broken: bool = False

    def __call__(self) -> FakeSynthesizer:
        if self.broken:
            raise RuntimeError("no such library")
        return FakeSynthesizer(self)


class FakeSynthesizer:
    """See `FakeFactory`, whose tuples name rows by the integer part of their TEFF."""

    def __init__(self, what: FakeFactory):
        self.what = what
        self.provenance = {"line_list_checksum": what.version, "settings": {"points": 1}}

    def synthesize(self, labels: np.ndarray) -> SimpleNamespace:
        what = self.what
        key = int(labels[0])
        time.sleep(what.seconds)
        if key in what.hang:
            time.sleep(1000)
        if key in what.fail:
            raise ValueError("no convergence\nat layer 3")
        if key in what.crash:
            os.kill(os.getpid(), signal.SIGSEGV)
        if what.crash_once and not Path(what.crash_once).exists():
            Path(what.crash_once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        profile = np.exp(-0.5 * (np.log(WAVE / _CENTRES[:, None]) / 2e-4) ** 2)
        depth = 0.3 * 10.0 ** (0.5 * labels[4:, None])
        absorbed = depth * profile
        flux = np.exp(-absorbed.sum(0))
        jacobian = np.zeros((32, len(WAVE)))
        jacobian[4:] = -flux * absorbed * 0.5 * np.log(10)
        jacobian[0] = (1 - flux) * 1e-4
        if key in what.nan:
            flux[500] = np.nan
        continuum = np.full(len(WAVE), 1e6 * labels[0] / 5000)
        return SimpleNamespace(wave=WAVE, flux=flux, jacobian=jacobian, continuum=continuum)
