"""Does the report's external error by SNR find the true one? Over all labels of a simulated survey.

    python scripts/calibration_external.py --seed 101

Quoted errors of `calibration.simulate` are too small by 0.02 dex (1 K in Teff), in quadrature. For each
bin of signal-to-noise the medians over the labels of the external error found, of the error that the fit claims, and
of the claim after calibration, each divided by the true error.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from harness import table_head

from calibration.catalog import Catalog
from calibration.external import external_errors
from calibration.learning import learn_corrections
from calibration.simulate import SimulationSettings, simulate


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=101)
    args = parser.parse_args(argv)
    survey = simulate(seed=args.seed)
    calibration = learn_corrections(Catalog.from_table(survey.catalog), survey.pairs, survey.clusters, survey.labels)
    assert calibration.evidence is not None
    names = np.asarray(calibration.evidence["LABEL"]).astype(str)
    ratios: dict[tuple[str, float, float], list[tuple[float, ...]]] = {}
    for name, label in calibration.labels.items():
        extra = SimulationSettings().external_scatter * {"TEFF": 50.0}.get(name, 1.0)
        for one in external_errors(calibration.evidence[names == name]):
            true = np.hypot(one.claimed, extra)
            found = (one.external / true, one.claimed / true, np.hypot(one.claimed, label.scatter) / true, one.rows)
            ratios.setdefault((one.set_name, one.low, one.high), []).append(found)
    print(
        table_head(
            "set", "SNR", "labels", "rows", "external / true (16-84 %)", "claimed / true", "after calibration / true"
        )
    )
    for (name, low, high), rows in ratios.items():
        external, claimed, after, count = np.array(rows).T
        spread = "{:.2f}-{:.2f}".format(*np.percentile(external, [16, 84]))
        cells = f"{np.median(external):.2f} ({spread}) | {np.median(claimed):.2f} | {np.median(after):.2f}"
        print(f"| {name} | {low:g}-{high:g} | {len(rows)} | {np.median(count):.0f} | {cells} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
