"""Do real odd spectra rank as strange? Hot stars, noisy spectra and other layouts among the ordinary ones of DR10.

Hot is a Teff above 7500 K, noisy an S/N in g below 20, both as the survey has them; ordinary is what is neither, nor
hot by its lines (`scripts/vae_hot.py`), and is not of the model's training. Of each odd spectrum the share of the
ordinary ones that score lower. Other layouts are told apart by their headers: stars of types F, G, K with S/N of 20 or
more in g, and the rest, which are odd.

    phdlspec vae apply lamost dr10/ layouts/ --out all.ecsv
    python scripts/vae_odd.py all.ecsv --model lamost --labels dr10_labels.csv --hot hot.txt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from astropy.table import Table
from harness import table_head

from phdlspec.catalog.inputs import expand_inputs
from phdlspec.datadriven.scatter_vae import load_spectrum_model
from phdlspec.io import read_spectrum

HOT, NOISY = 7500.0, 20.0
AIM = 90.0


def ordinary_by_header(path: str) -> bool:
    """Whether a file's header tells a star of type F, G or K with a good signal."""
    meta = read_spectrum(path).meta
    kind, snr = str(meta.get("SUBCLASS", ""))[:1], float(meta.get("SNRG") or 0.0)
    return str(meta.get("CLASS")) == "STAR" and kind in ("F", "G", "K") and snr >= NOISY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="of `phdlspec vae apply`")
    parser.add_argument("--model", default="lamost")
    parser.add_argument("--labels", type=Path, required=True, help="file, teff_lasp, snrg of DR10")
    parser.add_argument("--hot", nargs="+", default=[], help="lists of spectra that are hot by their lines")
    args = parser.parse_args()

    found = Table.read(args.table)
    known = set(load_spectrum_model(args.model).metadata["files"])
    labels = {Path(str(row["file"])).name: row for row in Table.read(args.labels)}
    names = [Path(str(f)).name for f in found["FILE"]]
    own = np.array([name in labels for name in names])
    hot = np.array([name in labels and float(labels[name]["teff_lasp"]) > HOT for name in names])
    noisy = np.array([name in labels and float(labels[name]["snrg"]) < NOISY for name in names])
    lines = {Path(name).name for name in expand_inputs(args.hot)} if args.hot else set()
    by_lines = ~hot & np.array([name in lines for name in names])
    learned = np.array([name in known for name in names])
    score = np.asarray(found["ANOMALY"], dtype=float)
    lost = ~np.isfinite(score)
    common = own & ~hot & ~by_lines & ~noisy & ~learned & ~lost
    ordinary = np.sort(score[common])
    strange = 100 * np.mean(np.asarray(found["FLAG"])[common] & 1 > 0)
    print(f"{len(ordinary)} ordinary ones that training has not seen, {strange:.1f}% of them above the threshold\n")
    print(table_head("odd", "spectra", "of its training", "median rank", f"above {AIM:g}%", "no spectrum"))
    rank = 100.0 * np.searchsorted(ordinary, score) / len(ordinary)
    plain = np.array([not mine and ordinary_by_header(str(f)) for mine, f in zip(own, found["FILE"])])
    groups = {
        "hot": hot,
        "hot by its lines alone": by_lines,
        "noisy": noisy,
        "other layouts, odd": ~own & ~plain,
        "other layouts, F, G, K": plain,
    }
    for words, rows in groups.items():
        there = rows & ~lost
        print(f"| {words} | {rows.sum()} | {(rows & learned).sum()} | {np.median(rank[there]):.0f}% | "
              f"{(rank[there] > AIM).sum()} | {(rows & lost).sum()} |")  # fmt: skip
    print()
    for row in np.flatnonzero(hot | by_lines | noisy | ~own):
        told = found["REASON"][row] if lost[row] else f"{rank[row]:.0f}%, {found['SIGN'][row]}"
        print(f"{names[row]}: {told}")


if __name__ == "__main__":
    main()
