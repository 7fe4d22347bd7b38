"""Real light curves in the forms that `phdlspec desa` reads, and the rotation periods that catalogues give them.

  python scripts/desa_real.py --data KEPLER --out real/

KEPLER is a folder with `lightcurves/` and the catalogues of McQuillan et al. (2014), Santos et al. (2021) and of open
clusters. Written are real/curves.lst, which lists every light curve (quarters that come packed in one .npz are unpacked
into tables, flags as they are), and real/periods.ecsv. Stretches of 50 points in two days, as some collections have
them, are left out: `phdlspec desa` refuses them as too short.
"""

from __future__ import annotations

import argparse
import re
import warnings
from pathlib import Path

import numpy as np
from astropy.table import Table

from phdlspec.datadriven.desa.light_curve import read_segment
from phdlspec.datadriven.desa.light_curve_set import ENDINGS
from phdlspec.errors import UserError

ERROR = 0.02  # of a log period


def unpack(path: Path, out: Path) -> list[Path]:
    """Quarters of an .npz with arrays K<number>_Q<quarter>_<column>, as tables."""
    packed = np.load(path)
    found = []
    for key in sorted(name.removesuffix("_TIME") for name in packed if name.endswith("_TIME")):
        names = {"TIME": "TIME", "PDCSAP_FLUX": "FLUX", "SAP_QUALITY": "QUALITY"}
        table = Table({new: packed[f"{key}_{old}"] for old, new in names.items()})
        table.meta["OBJECT"] = f"KIC {key.split('_')[0][1:]}"
        found.append(out / f"{key}.ecsv")
        table.write(found[-1], format="ascii.ecsv", overwrite=True)
    return found


def periods(folder: Path) -> dict[int, float]:
    """Period (d) by number in the KIC or EPIC; Santos et al. before McQuillan et al. before the clusters."""
    clusters = Table.read(folder / "gyro_clusters_draft-2020April08.csv", format="ascii.csv")
    epic = clusters[np.asarray(clusters["ID_SOURCE"]) == "EPIC"]
    known = {int(number): float(p) for number, p in zip(epic["ID"], epic["PROT"]) if str(number).isdigit()}
    for file, kind in (("McQuillan2014_t1_mrt.txt", "ascii.mrt"), ("santos_2021_catalog.fit.gz", "fits")):
        table = Table.read(folder / file, format=kind)
        name = "PRot" if "PRot" in table.colnames else "Prot"
        known |= {int(number): float(period) for number, period in zip(table["KIC"], table[name])}
    return known


def main() -> None:
    """Unpack, list, look up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    (args.out / "quarters").mkdir(parents=True, exist_ok=True)
    files = sorted(p for p in (args.data / "lightcurves").rglob("*") if p.name.lower().endswith(ENDINGS))
    for packed in sorted((args.data / "lightcurves").glob("*.npz")):
        files += unpack(packed, args.out / "quarters")
    (args.out / "curves.lst").write_text("".join(f"{file.absolute()}\n" for file in files), encoding="utf-8")
    known, rows = periods(args.data), {}
    for file in files:
        try:
            target = read_segment(file).target
        except UserError as error:
            print(error)
            continue
        number = re.search(r"(?:KIC|EPIC)\D*(\d+)", target)
        if number and int(number[1]) in known:
            rows[target] = np.log10(known[int(number[1])])
    table = Table({"OBSID": list(rows), "LOG_PROT": list(rows.values())})
    table["LOG_PROT_ERR"] = ERROR
    table.write(args.out / "periods.ecsv", overwrite=True)
    print(f"{len(files)} files, {len(rows)} stars with a period: {', '.join(rows)}")


if __name__ == "__main__":
    main()
