"""The headline command of the README on the bundled example: labels against those that the star was made with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.table import Table

import phdlspec
from phdlspec.cli import main
from phdlspec.flags import LabelFlag

DATA = Path(phdlspec.__file__).parent / "data"
# What no fit with this checkpoint may be off by, in the label's unit, beside four of its own errors.
FLOOR = {"TEFF": 30.0, "LOGG": 0.1, "FE_H": 0.05, "RV": 3.0}


def test_the_bundled_example_is_measured(tmp_path):
    assert main(["fit", str(DATA / "example.fits.gz"), "--out", str(tmp_path), "--mode", "fast", "--no-report"]) == 0
    found = Table.read(tmp_path / "example.ecsv")
    truth = {str(row["label"]): float(row["value"]) for row in Table.read(DATA / "example_truth.ecsv")}
    row = {str(name): i for i, name in enumerate(found["label"])}
    shown = [n for n in truth if n in row and not int(found["flag"][row[n]]) & int(LabelFlag.PRIOR_DOMINATED)]
    assert {"TEFF", "LOGG", "FE_H", "MG_FE", "RV"} <= set(shown)
    value, err = (np.array([float(found[name][row[n]]) for n in shown]) for name in ("value", "err"))
    off = np.abs(value - [truth[n] for n in shown])
    assert (err > 0).all()
    allowed = 4.0 * err + [FLOOR.get(n, 0.0) for n in shown]
    assert (off < allowed).all(), {n: (float(o), float(e)) for n, o, e in zip(shown, off, err)}
    assert off[shown.index("TEFF")] < 100.0
    assert off[shown.index("FE_H")] < 0.1
