"""One grid of atmospheres over the whole range of labels, from ATLAS9 ODFNEW and Kurucz's metal-poor models of 1993.

    python scripts/extend_atmospheres.py ck03_odfnew_grid.npz --metal-poor kurucz1993_metal_poor.npz --out atlas9.npz

Takes out the step in microturbulence, goes down to [M/H] -4.5 by differences and up to log g 5.2 by extrapolation
(`kurucz_grids.atmosphere_extension`), and writes what `phdlspec grid build --atmospheres` reads.
"""

from __future__ import annotations

import argparse

from kurucz_grids.atmosphere_extension import extended
from kurucz_grids.atmosphere_grid import AtmosphereGrid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("atmospheres", help="npz, Kurucz file or folder")
    parser.add_argument("--metal-poor", help="models of lower [M/H]: npz, Kurucz file or folder")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    grid = AtmosphereGrid.load(args.atmospheres)
    whole = extended(grid, AtmosphereGrid.load(args.metal_poor) if args.metal_poor else None)
    whole.save(args.out)
    spans = ", ".join(f"{axis[0]:g} to {axis[-1]:g}" for axis in whole.axes)
    print(f"{args.out}: {len(whole)} models ({len(grid)} as computed); Teff, log g, [M/H] {spans}")


if __name__ == "__main__":
    main()
