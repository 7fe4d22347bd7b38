import io
import sys

import pytest

from phdlspec.catalog import progress
from phdlspec.catalog.progress import Heartbeat, StarBar, heard, remove_heartbeats


def test_the_bar_counts_stars_under_way(monkeypatch):
    monkeypatch.setattr(progress, "OFTEN", -1.0)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with StarBar(40, 8) as bar:
        bar.under_way("optimise", 10.5)
        bar.finished(32)
    shown = sys.stderr.getvalue()
    assert "18.5/40 stars" in shown
    assert "optimise" in shown
    assert "40.0/40 stars" in shown


def test_workers_say_how_far_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "OFTEN", -1.0)
    first, second = Heartbeat(tmp_path, 0), Heartbeat(tmp_path, 12)
    first.say("posterior", 3.25)
    second.say("look-up", 1.5)
    (tmp_path / "under_way_0000013").write_text("")  # just being written
    stage, stars = heard(tmp_path)
    assert stars == pytest.approx(4.75)
    assert stage in ("posterior", "look-up")
    first.end()
    assert heard(tmp_path)[1] == pytest.approx(1.5)
    remove_heartbeats(tmp_path)
    assert not list(tmp_path.iterdir())
    Heartbeat(tmp_path / "gone", 0).say("look-up", 1.0)  # nothing depends on it
