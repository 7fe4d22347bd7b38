"""The tails that a mock study's 68% scatter does not show, from the JSON that `mock_study.py --out` wrote.

For each label, over the stars whose Cramer-Rao bound is below --informative: standard deviation of (fit - truth) over
the error, and how many fits are more than four errors off; for all stars, and for those whose *fitted* Teff and logg
lie in the emulator's trusted range, as a user can tell them.

    python scripts/mock_tails.py mocks.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from harness import table_head

from phdlspec import load_emulator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mocks", type=Path)
    parser.add_argument("--emulator")
    parser.add_argument("--informative", type=float, default=0.2, help="largest bound (dex; 200 K for TEFF)")
    args = parser.parse_args()
    found = json.loads(args.mocks.read_text())
    names, stars = found["names"], [s for s in found["stars"] if s["value"]]
    truth = np.array([s["truth"] for s in stars])
    value, err, crlb = (np.array([s[k] for s in stars])[:, : len(names)] for k in ("value", "err", "crlb"))
    models = np.array([s["row"] for s in stars])
    emulator = load_emulator(args.emulator, "cpu")
    trusted = emulator.trusted(value[:, : len(emulator.labels)])
    pull = (value - truth) / err
    print(
        table_head(
            "label", "stars", "std / error", "beyond 4 errors", "trusted stars", "std / error", "68%", "beyond 4 errors"
        )
    )
    for i, name in enumerate(names):
        limit = args.informative * (1000.0 if name == "TEFF" else 100.0 if name in ("RV", "VBROAD") else 1.0)
        use = crlb[:, i] < limit
        every, inner = pull[use, i], pull[use & trusted, i]
        if len(inner) < 8:
            continue
        print(
            f"| {name} | {len(every)} | {every.std():.2f} | {(np.abs(every) > 4).sum()} | {len(inner)} | "
            f"{inner.std():.2f} | {100 * (np.abs(inner) < 1).mean():.0f} | {(np.abs(inner) > 4).sum()} |"
        )
    far = np.unique(models[(np.abs(pull[:, : len(names) - 2]) > 4).any(axis=1) & ~trusted])
    print(
        f"\n{len(stars)} mocks of {len(np.unique(models))} models; {trusted.sum()} of "
        f"{len(np.unique(models[trusted]))} models in the trusted range; "
        f"beyond 4 errors outside it: models {far.tolist()}"
    )


if __name__ == "__main__":
    main()
