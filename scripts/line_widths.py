"""What Kurucz computed for the widths of lines, against the rules of `kurucz_grids.linelists.damping`.

Prints, for a gfall file, the straight lines through log10 of the Stark width against log10 of the upper level's squared
effective quantum number (the rule that is used where a list gives none), its scatter, and the ratio to Cowley's (1971).

    python scripts/line_widths.py ../shared/data/linelists/native/gf0600_sample.dat
"""

from __future__ import annotations

import argparse

import numpy as np

from kurucz_grids.linelists import read_line_list
from kurucz_grids.linelists.damping import effective_quantum_number_squared, stark, upper_level_ev

LARGEST = 24.0  # of the squared effective quantum number: levels beyond are nearly free


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gfall")
    lines = read_line_list(parser.parse_args().gfall)
    z, charge = lines.z1.astype(int), lines.charge.astype(int)
    upper = upper_level_ev(lines.wave_vacuum, lines.elow_ev.astype(float))
    squared = effective_quantum_number_squared(z, charge, upper)
    log_width, log_squared = np.log10(lines.gamma_stark.astype(float)), np.log10(squared)
    cowley = np.log10(np.where(charge == 0, 2.26e-7, 5.42e-7 / (charge + 1.0) ** 2) * squared**2)
    rule = np.log10(stark(z, charge, upper))
    print("particles | lines | fit a, b | scatter (dex) | off the rule | off Cowley's")
    for name, kind in (("atoms", charge == 0), ("ions", charge > 0)):
        mine = kind & (z > 1) & (squared < LARGEST) & (log_width > -9)
        b, a = np.polyfit(log_squared[mine], log_width[mine], 1)
        off = log_width[mine] - a - b * log_squared[mine]
        median = (np.median(log_width[mine] - x[mine]) for x in (rule, cowley))
        print(
            f"{name} | {mine.sum()} | {a:.2f}, {b:.2f} | {1.4826 * np.median(np.abs(off)):.2f} | "
            + " | ".join(f"{x:+.2f}" for x in median)
        )


if __name__ == "__main__":
    main()
