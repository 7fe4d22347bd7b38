"""Time of calibrating a large catalogue (figure to reach: 1,000,000 rows in 60 s on 2 cores).

    python scripts/calibration_benchmark.py --rows 1000000

Learns a calibration of 27 labels from a simulated survey, repeats its catalogue to the number of rows, and
times reading, correcting and writing apart, by the clock and (in all) in processor seconds, which other work on the
machine does not change.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from astropy.table import Table

from calibration.catalog import Catalog
from calibration.correction import correct
from calibration.learning import learn_corrections
from calibration.simulate import simulate
from calibration.tables import write_like


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, default=None, help="folder for the files (a temporary one)")
    args = parser.parse_args(argv)
    survey = simulate(seed=1)
    calibration = learn_corrections(Catalog.from_table(survey.catalog), survey.pairs, survey.clusters, survey.labels)
    index = np.arange(args.rows) % len(survey.catalog)
    table = Table(
        {
            name: np.asarray(survey.catalog[name])[index].astype(
                "f4" if survey.catalog[name].dtype.kind == "f" else "i8"
            )
            for name in survey.catalog.colnames
        },
        meta=dict(survey.catalog.meta),
    )
    table["OBSID"] = np.arange(args.rows)
    with tempfile.TemporaryDirectory() as folder:
        path = (args.keep or Path(folder)) / "catalog.fits"
        table.write(path, overwrite=True)
        del table
        start, processor = time.perf_counter(), time.process_time()
        catalog = Catalog.read(path)
        read = time.perf_counter()
        calibrated = correct(catalog, calibration)
        applied = time.perf_counter()
        write_like(path, calibrated.table, path.with_name("calibrated.fits"))
        written, processor = time.perf_counter(), time.process_time() - processor
    print(
        f"{args.rows} rows, {len(calibration.labels)} labels, {len(os.sched_getaffinity(0))} cores: read "
        f"{read - start:.1f} s, "
        f"calibrate {applied - read:.1f} s, write {written - applied:.1f} s, in all {written - start:.1f} s "
        f"({processor:.1f} processor seconds; load {os.getloadavg()[0]:.1f})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
