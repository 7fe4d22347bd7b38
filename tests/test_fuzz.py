"""Files of every kind that is read, changed at random: read, refused in one sentence, or made again, in little memory.

`scripts/fuzz.py` does it at length, and repeats an input that failed here: `--again KIND SEED`.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
import fuzz
from fuzz_kinds import kinds

EXAMPLES = 40  # of a kind whose inputs are cheap
MOST_MEMORY, MOST_TIME = 1000.0, 60.0  # MB, s: of one input, the second with the look of a child process at it


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the memory of an input is not known here")
@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.name)
def test_whatever_changes_in_a_file_of_any_kind(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    @settings(
        max_examples=max(2, EXAMPLES // kind.cost), deadline=None, database=None, suppress_health_check=HealthCheck,
        phases=(Phase.generate,), derandomize=True,
    )  # fmt: skip
    @given(st.integers(0, 2**32 - 1))
    def try_one(seed):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            outcome = fuzz.try_one(kind.name, seed)
        assert outcome.what in fuzz.RIGHT, f"fuzz.py --again '{kind.name}' {seed}: {outcome.what} {outcome.told}"
        assert outcome.memory < MOST_MEMORY
        assert outcome.seconds < MOST_TIME

    try_one()
