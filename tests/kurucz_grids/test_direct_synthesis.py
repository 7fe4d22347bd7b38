"""Direct synthesis as phdlspec asks for it: the protocol is met, the native grid served, other physics told."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kurucz_grids import direct_synthesis as provider
from phdlspec.direct_synthesis import DirectSynthesis, load_direct_synthesis
from phdlspec.errors import UserError
from phdlspec.labels import GRID_LABELS
from phdlspec.lsf import NativeGrid

NATIVE = NativeGrid(5100.0, 1 / 8750, 150, 3500.0)
PROVENANCE = {"line_list_checksum": "lines", "atmospheres_checksum": "models", "synthesis_version": 3}


class FakeSynthesizer:
    """A flux of 0.8 and derivatives that are the number of the label."""

    settings = SimpleNamespace(points=100_000.0)
    provenance = PROVENANCE

    def synthesize(self, labels, derivatives):
        wave = 5050.0 * np.exp(np.arange(6000) / self.settings.points)
        flux = torch.full((len(wave),), 0.8)
        rows = torch.arange(len(GRID_LABELS), dtype=torch.float32)[:, None].expand(-1, len(wave))
        return SimpleNamespace(wave=wave, flux=flux, jacobian=rows if derivatives else None)


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    monkeypatch.setattr(provider, "_of_files", lambda *files: FakeSynthesizer())


def test_flux_and_derivatives_come_on_the_native_grid():
    found: DirectSynthesis = load_direct_synthesis("atmospheres.npz", ["lines.npz"], PROVENANCE)
    theta = GRID_LABELS.complete({})
    flux, jacobian = found.native_flux_and_jacobian(theta, NATIVE)
    assert flux.numpy() == pytest.approx(np.full(NATIVE.size, 0.8))
    assert jacobian[:, 7].numpy() == pytest.approx(np.arange(len(GRID_LABELS)), rel=1e-5)
    assert torch.equal(found.native_flux(theta, NATIVE), flux)


def test_other_physics_than_the_emulators_is_told(caplog):
    with caplog.at_level(logging.WARNING):
        load_direct_synthesis("atmospheres.npz", ["lines.npz"], PROVENANCE)
        assert not caplog.records
        load_direct_synthesis("atmospheres.npz", ["lines.npz"], {**PROVENANCE, "line_list_checksum": "another"})
    assert "in its line list:" in caplog.text


@pytest.mark.parametrize(("atmospheres", "lines"), [(None, ["lines.npz"]), ("atmospheres.npz", None)])
def test_missing_files_are_asked_for(atmospheres, lines):
    with pytest.raises(UserError, match="needs --atmospheres and --line-list"):
        load_direct_synthesis(atmospheres, lines, PROVENANCE)
