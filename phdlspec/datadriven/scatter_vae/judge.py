"""ScatterVAE as a judge of the spectra of a catalogue."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from phdlspec.datadriven.dataset import read_dataset
from phdlspec.datadriven.scatter_vae.flags import VaeFlag
from phdlspec.datadriven.scatter_vae.loading import load_spectrum_model, model_path
from phdlspec.datadriven.scatter_vae.spectrum_model import SpectrumModel
from phdlspec.errors import UserError
from phdlspec.fitting.result import Fitted
from phdlspec.flags import StarFlag
from phdlspec.spectrum import Spectrum


@dataclass(frozen=True)
class AnomalyJudge:
    """Adds anomaly, anomaly_pct and anomaly_in to the diagnostics, and `StarFlag.STRANGE`; the numbers are those of
    `phdlspec vae apply`.

    path : of a model of spectra. identity : digest of that file.
    """

    path: str
    identity: str

    @classmethod
    def of(cls, path: str | Path) -> AnomalyJudge:
        """Of a model, or the name of a shipped one. Raises `UserError` where it is none of spectra."""
        load_spectrum_model(path)
        file = model_path(path).resolve()
        return cls(str(file), hashlib.sha256(file.read_bytes()).hexdigest()[:32])

    def __call__(self, spectra: Sequence[Spectrum | Fitted], results: Sequence[Fitted]) -> list[Fitted]:
        """The results with what the model says; those with a spectrum that it cannot use as they are."""
        answer = list(results)
        rows = [i for i, spectrum in enumerate(spectra) if isinstance(spectrum, Spectrum)]
        model = _model(self.path, self.identity)
        try:
            data = read_dataset([s for s in spectra if isinstance(s, Spectrum)], grid=model.wave) if rows else None
        except UserError:  # not one of them can be used
            return answer
        if data is None:
            return answer
        for i, found in zip(rows, model.apply(data)):
            if found["REASON"]:
                continue
            told: dict[str, Any] = {"anomaly": float(found["ANOMALY"]), "anomaly_pct": float(found["ANOMALY_PCT"]),
                    "anomaly_in": f"{found['SIGN']}: {found['WORST']}"}  # fmt: skip
            strange = int(StarFlag.STRANGE) if found["FLAG"] & int(VaeFlag.STRANGE) else 0
            result = answer[i]
            answer[i] = replace(result, flag=result.flag | strange, diagnostics={**result.diagnostics, **told})
        return answer


@lru_cache(maxsize=1)
def _model(path: str, identity: str) -> SpectrumModel:
    return load_spectrum_model(path)
