"""From fits of reference stars to the input of `phdlspec calibrate report --diagnostics`.

Reads the HDF5 files of `phdlspec fit`, and a table with the column FILE (the stem of the fit) and reference labels
(TEFF, FE_H, MG_FE ...); stars that share their pixels are collected.

    python scripts/pixel_diagnostics.py results/*.h5 --reference stars.ecsv --out pulls.h5
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import numpy as np
from astropy.table import Table

from calibration.pixel_influence import Diagnostics
from phdlspec.flags import LabelFlag

DATASETS = ("wave", "flux", "sigma", "continuum", "normalised", "used", "jacobian")
LEAST_SHARE = 0.5  # of the stars that must constrain a label for it to be among the pulled ones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fits", nargs="+", type=Path)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    reference = Table.read(args.reference)
    rows = {str(row["FILE"]): row for row in reference}
    stars = []
    for path in args.fits:
        if path.stem not in rows:
            print(f"{path}: no row of the reference has FILE = {path.stem}; left out")
            continue
        with h5py.File(path) as file:
            group = file["spectrum"]
            star = {name: group[name][()] for name in DATASETS}
            star |= {name: file[name][()] for name in ("value", "label_flag")}
            star["names"] = [n.decode() for n in file["names"][()]]
        star["row"] = rows[path.stem]
        stars.append(star)
    if not stars:
        raise SystemExit("no fit has a reference")
    first = stars[0]
    same = [s for s in stars if np.array_equal(s["wave"], first["wave"]) and s["names"] == first["names"]]
    silent = np.mean([(s["label_flag"] & int(LabelFlag.PRIOR_DOMINATED)) > 0 for s in same], axis=0)
    chosen = [i for i in range(len(first["names"])) if silent[i] < LEAST_SHARE]
    names = tuple(first["names"][i] for i in chosen)
    residual, ivar, jacobian, displacement = [], [], [], []
    for s in same:
        with np.errstate(all="ignore"):
            residual.append(np.where(s["used"], s["flux"] / s["continuum"] - s["normalised"], np.nan))
            ivar.append(np.where(s["used"], (s["continuum"] / s["sigma"]) ** 2, 0.0))
        jacobian.append(s["jacobian"][:, chosen])
        known = [float(s["row"][n]) if n in reference.colnames else np.nan for n in names]
        displacement.append(s["value"][chosen] - known)
    arrays = (np.array(a, dtype=np.float32) for a in (residual, ivar, jacobian, displacement))
    Diagnostics(first["wave"], names, *arrays).write(args.out)
    print(f"{args.out}: {len(same)} stars, {len(names)} labels")


if __name__ == "__main__":
    main()
