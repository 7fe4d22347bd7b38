"""How many stars of a catalogue may be used, by S/N, and how many could under the rule of before.

Before, a reduced chi2 of 3 or more with the *stated* noise forbade a star's use, whatever noise its fit had used; now
that is a note (IMPERFECT_FIT), and a bad fit is judged with the noise of the fit (POOR_FIT). Both stand in one
catalogue, so that the two rules are compared on the same fits.

    phdlspec catalog dr10/ --out dr10.fits
    python scripts/flagged_share.py dr10.fits
"""

from __future__ import annotations

import argparse

import numpy as np
from harness import table_head

import phdlspec
from phdlspec.flags import StarFlag, usable

EDGES = (0.0, 50.0, 150.0, np.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", help="of phdlspec catalog")
    parser.add_argument("--snr", default="SNRG", help="column of the S/N (default that of the file's header in g)")
    args = parser.parse_args()
    table = phdlspec.read_catalog(args.catalog)
    snr, flag = np.asarray(table[args.snr], dtype=float), np.asarray(table["FLAG"], dtype=np.int64)
    without = (flag & int(StarFlag.FAILED | StarFlag.UNREADABLE)) > 0
    now = ~usable(flag)
    before = now | ((flag & int(StarFlag.IMPERFECT_FIT)) > 0)
    print(table_head("S/N", "stars", "forbidden before", "forbidden now", "because of"))
    for low, high in zip(EDGES, EDGES[1:]):
        here = (snr > low) & (snr <= high) & ~without
        counts = {bit.name: int(((flag[here & now] & bit) > 0).sum()) for bit in StarFlag}
        reasons = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        print(f"| {low:g}–{high:g} | {here.sum()} | {before[here].sum()} | {now[here].sum()} | {reasons or '–'} |")


if __name__ == "__main__":
    main()
