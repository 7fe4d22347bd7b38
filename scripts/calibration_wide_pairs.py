"""Wide pairs with published abundances: are their known differences recovered?

    python scripts/calibration_wide_pairs.py ../shared/data/reference/wide_binaries

The eight stars are put among simulated ones: their raw labels are the published ones plus the bias that the
simulated survey has for its most similar star, so that raw differences are wrong. The pairs are given to the fit
as wide binaries, without their known difference, together with the simulated references. Printed is the difference
of each pair before and after calibration beside the published one, and the errors of all differences over several
simulated surveys.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table, vstack

from calibration.binaries import read_published_abundances
from calibration.catalog import Catalog
from calibration.correction import correct
from calibration.learning import learn_corrections
from calibration.references import PairTable, Stars
from calibration.simulate import EMULATOR_HASH, SimulationSettings, Survey, simulate

ELEMENTS = ("Mg", "Si", "Ca", "Ti", "Cr", "Ni")
LABELS = ("FE_H", *(f"{element.upper()}_FE" for element in ELEMENTS))
# Teff, logg of the first and second star (Brewer et al. 2016; Biazzo et al. 2015; Mack et al. 2014; Teske et al.
# 2016), rounded: they only say where in the diagram a pair lies.
PAIRS = {
    "HD 240430 - HD 240429": ((5803, 4.33), (5878, 4.43)),
    "XO-2N - XO-2S": ((5290, 4.43), (5320, 4.42)),
    "HD 20782 - HD 20781": ((5790, 4.41), (5320, 4.48)),
    "WASP-94A - WASP-94B": ((6190, 4.21), (6110, 4.30)),
}
WASP_94_X_H = 0.30  # its table has differences only; [X/H] of the second star, an assumption
ERROR = {"TEFF": 15.0}
ABUNDANCE_ERROR = 0.015


@dataclass(frozen=True)
class Recovered:
    """One pair: P(agrees in [Fe/H]), and label -> (published, raw, calibrated) difference of the two stars."""

    name: str
    agrees: float
    differences: dict[str, tuple[float, float, float]]


def recovered(folder: Path, seed: int = 4) -> list[Recovered]:
    """Calibrate the pairs of the folder of published tables among simulated stars."""
    design = SimulationSettings(elements=ELEMENTS, pairs=300, survey_sizes=(500, 200), test_stars=10)
    survey = simulate(design, seed=seed)
    truth = _stars(folder)
    raw = _with_bias(truth, survey)
    catalog = vstack([survey.catalog, raw], metadata_conflicts="silent")
    catalog.meta.update({"EMUHASH": EMULATOR_HASH, "SOLSCALE": "Asplund2009"})
    ids = np.array(raw["OBSID"]).astype(str)
    first = np.concatenate([survey.pairs[0].first.ids, ids[0::2]])
    second = np.concatenate([survey.pairs[0].second.ids, ids[1::2]])
    pairs = PairTable("binaries", Stars(first), Stars(second), np.ones(len(first)))
    calibration = learn_corrections(Catalog.from_table(catalog), [pairs], survey.clusters, survey.labels)
    evidence = calibration.evidence
    assert evidence is not None
    good = np.array(evidence[(evidence["LABEL"] == "FE_H") & (evidence["SET"] == "binaries")]["GOOD"])
    calibrated = correct(Catalog.from_table(catalog), calibration).table[-len(raw) :]
    return [
        Recovered(
            name,
            float(good[i - len(PAIRS)]),
            {
                label: (_difference(truth, label, i), _difference(raw, label, i), _difference(calibrated, label, i))
                for label in LABELS
            },
        )
        for i, name in enumerate(PAIRS)
    ]


def _difference(table: Table, label: str, pair: int) -> float:
    return float(table[label][2 * pair] - table[label][2 * pair + 1])


def _stars(folder: Path) -> Table:
    """Published labels, two rows a pair, in the order of `PAIRS`."""
    brewer = read_published_abundances(folder / "brewer.csv").values
    biazzo = read_published_abundances(folder / "biazzo2015_XO2.csv").values
    mack = read_published_abundances(folder / "mack14_abundances.csv").values
    teske = read_published_abundances(folder / "teske16_wasp94AB.csv").values["deltaX/H_nostrong"]
    x_h = [
        *({element: star[element][0] for element in ("Fe", *ELEMENTS)} for star in (
            brewer["HD 240430"], brewer["HD 240429"], biazzo["XO2N"], biazzo["XO2S"], mack["HD20782"], mack["HD20781"]
        )),
        {element: WASP_94_X_H + teske[element][0] for element in ("Fe", *ELEMENTS)},
        {element: WASP_94_X_H for element in ("Fe", *ELEMENTS)},
    ]  # fmt: skip
    places = [place for sides in PAIRS.values() for place in sides]
    return Table(
        rows=[
            {"TEFF": float(teff), "LOGG": logg, "FE_H": x["Fe"]} | {f"{e.upper()}_FE": x[e] - x["Fe"] for e in ELEMENTS}
            for (teff, logg), x in zip(places, x_h)
        ]
    )


def _with_bias(truth: Table, survey: Survey) -> Table:
    """Raw catalogue rows: the stars with the bias of the simulated star nearest in Teff, logg and [Fe/H]."""
    names, size = ("TEFF", "LOGG", "FE_H"), np.array([150, 0.15, 0.1])
    place = np.column_stack([survey.truth[name] for name in names]) / size
    here = np.column_stack([truth[name] for name in names]) / size
    similar = ((place[None] - here[:, None]) ** 2).sum(axis=2).argmin(axis=1)
    raw = Table({"OBSID": np.arange(len(truth)) + 10_000_000, "SNR": np.full(len(truth), 100.0)})
    for name in truth.colnames:
        raw[name] = truth[name] + survey.bias[name][similar]
        raw[f"{name}_ERR"] = ERROR.get(name, ABUNDANCE_ERROR)
    return raw


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the published tables of wide pairs")
    parser.add_argument("--seeds", type=int, default=3, help="simulated surveys; the first is printed in full")
    args = parser.parse_args(argv)
    found = [recovered(args.folder, seed) for seed in range(4, 4 + args.seeds)]
    print("| pair | P(agrees) | " + " | ".join(LABELS) + " |\n|---|---|" + "---|" * len(LABELS))
    for pair in found[0]:
        cells = ("{:+.3f}, {:+.3f}, {:+.3f}".format(*pair.differences[label]) for label in LABELS)
        print(f"| {pair.name} | {pair.agrees:.2f} | " + " | ".join(cells) + " |")
    published, raw, calibrated = np.array(
        [pair.differences[label] for pairs in found for pair in pairs for label in LABELS]
    ).T
    print("(published, raw, calibrated)")
    for name, error in (("raw", raw - published), ("calibrated", calibrated - published)):
        print(f"{name}: rms {np.sqrt(np.mean(error**2)):.3f}, largest {np.abs(error).max():.3f} of {len(error)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
