"""A survey simulated as reference set: every other star's labels calibrate the catalogue, the rest judge it.

The stars with even rows among those of the survey's table become a reference table (errors 50 K, 0.1 and 0.05 dex);
`phdlspec calibrate` learns from it and is applied to the whole catalogue. Printed are ours minus the survey's, raw and
calibrated, median and robust scatter, over the unflagged stars that were not used. The survey is no truth: this shows
that the calibration carries over to other stars, not that the survey is right.

    python scripts/calibrate_against_survey.py dr10.fits dr10_labels.csv --work DIR
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from astropy.table import Table
from compare_with_survey import COLUMNS, DIGITS, robust, survey_labels
from harness import table_head

ERRORS = {"TEFF": 50.0, "LOGG": 0.1, "FE_H": 0.05}


def write_reference(catalog: Table, survey: dict[str, np.ndarray], rows: np.ndarray, path: Path) -> None:
    """The survey's labels of these rows as a reference table of `phdlspec calibrate learn`."""
    table = Table({"ID": [str(i) for i in catalog["OBSID"][rows]]}, meta={"SOLSCALE": "Asplund2009"})
    for name, column in COLUMNS.items():
        table[name] = survey[column][rows]
        table[f"{name}_ERR"] = np.full(len(rows), ERRORS[name])
    table.write(path, overwrite=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog")
    parser.add_argument("labels")
    parser.add_argument("--work", type=Path, required=True, help="folder for reference, calibration and catalogue")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    raw = Table.read(args.catalog, hdu=1)
    survey = survey_labels(raw, Table.read(args.labels))
    known = np.nonzero(np.isfinite([survey[c] for c in COLUMNS.values()]).all(axis=0))[0]
    files = "reference.ecsv", "calibration.json", "calibrated.fits"
    reference, learned, applied = (args.work / name for name in files)
    write_reference(raw, survey, known[::2], reference)
    common = ["--catalog", args.catalog]
    for step in (
        ["learn", *common, "--reference", str(reference), "--out", str(learned)],
        ["apply", *common, "--calibration", str(learned), "--out", str(applied)],
    ):
        code = subprocess.run([sys.executable, "-m", "phdlspec.cli", "calibrate", *step], check=False).returncode
        if code:
            sys.exit(code)
    calibrated = Table.read(applied, hdu=1)
    held_out = [i for i in known[1::2] if raw["FLAG"][i] == 0]
    print(f"\n{len(held_out)} unflagged stars that were not used\n")
    print(table_head("", "raw - survey", "calibrated - survey"))
    for name, column in COLUMNS.items():
        cells = []
        for catalog in (raw, calibrated):
            middle, scatter = robust(np.asarray(catalog[name], dtype=float)[held_out] - survey[column][held_out])
            cells.append(f"{middle:+.{DIGITS[name]}f} ± {scatter:.{DIGITS[name]}f}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
