"""The wide pairs with published abundances, among simulated stars: their known differences survive the "
"calibration."""

from __future__ import annotations

import numpy as np
from astropy.table import Table, vstack

from calibration.apply import apply
from calibration.binaries import read_composition
from calibration.catalog import Catalog
from calibration.learn import learn
from calibration.references import PairTable, Stars
from calibration.simulate import EMULATOR_HASH, Settings, simulate

ELEMENTS = ("Mg", "Si", "Ca", "Ti", "Cr", "Ni")
# Teff, logg of the first and second star (Brewer et al. 2016; Biazzo et al. 2015; Mack et al. 2014), rounded.
STARS = {
    "HD 240430 - HD 240429": ((5803, 4.33), (5878, 4.43)),
    "XO-2N - XO-2S": ((5290, 4.43), (5320, 4.42)),
    "HD 20782 - HD 20781": ((5790, 4.41), (5320, 4.48)),
}


def _published(folder):
    """Pair -> element -> ([X/H] of the first, of the second)."""
    brewer = read_composition(folder / "brewer.csv").values
    biazzo = read_composition(folder / "biazzo2015_XO2.csv").values
    mack = read_composition(folder / "mack14_abundances.csv").values
    sides = (
        (brewer["HD 240430"], brewer["HD 240429"]),
        (biazzo["XO2N"], biazzo["XO2S"]),
        (mack["HD20782"], mack["HD20781"]),
    )
    return {
        name: {element: (one[element][0], two[element][0]) for element in ("Fe", *ELEMENTS)}
        for name, (one, two) in zip(STARS, sides)
    }


def test_known_differences_are_recovered(shared_data):
    published = _published(shared_data / "reference" / "wide_binaries")
    survey = simulate(Settings(elements=ELEMENTS, pairs=300, survey_sizes=(500, 200), test_stars=10), seed=4)
    rows = []
    for name, sides in STARS.items():
        for side, (teff, logg) in enumerate(sides):
            x = {e: pair[side] for e, pair in published[name].items()}
            row = {"TEFF": teff, "LOGG": logg, "FE_H": x["Fe"]}
            rows.append(row | {f"{e.upper()}_FE": x[e] - x["Fe"] for e in ELEMENTS})
    truth = Table(rows=rows)
    # the bias that the simulated survey has for the most similar of its stars
    place = np.column_stack([survey.truth[n] for n in ("TEFF", "LOGG", "FE_H")]) / [150, 0.15, 0.1]
    here = np.column_stack([truth[n] for n in ("TEFF", "LOGG", "FE_H")]) / [150, 0.15, 0.1]
    similar = ((place[None] - here[:, None]) ** 2).sum(axis=2).argmin(axis=1)
    raw = truth.copy()
    for name in truth.colnames:
        raw[name] = truth[name] + survey.bias[name][similar]
        raw[f"{name}_ERR"] = {"TEFF": 15.0}.get(name, 0.015)
    raw["OBSID"] = np.arange(len(raw)) + 10_000_000
    raw["SNR"] = 100.0
    both = vstack([survey.catalog, raw], metadata_conflicts="silent")
    both.meta.update({"EMUHASH": EMULATOR_HASH, "SOLSCALE": "Asplund2009"})
    ids = np.array(raw["OBSID"]).astype(str)
    one, two = survey.pairs[0].first.ids, survey.pairs[0].second.ids
    first, second = np.concatenate([one, ids[0::2]]), np.concatenate([two, ids[1::2]])
    pairs = PairTable("binaries", Stars(first), Stars(second), np.ones(len(first)))
    catalog = Catalog.from_table(both)
    calibration = learn(catalog, [pairs], survey.clusters, survey.labels)
    evidence = calibration.evidence
    found = evidence[(evidence["LABEL"] == "FE_H") & (evidence["SET"] == "binaries")]
    good = np.array(found["GOOD"])[-3:]
    assert good[0] < 0.05  # HD 240430 truly differs from HD 240429, by 0.19 dex
    assert good[1] > 0.3
    assert good[2] > 0.3
    table = apply(catalog, calibration).table[-6:]
    for name in truth.colnames[2:]:
        known = np.array(truth[name][0::2]) - np.array(truth[name][1::2])
        calibrated = np.array(table[name][0::2]) - np.array(table[name][1::2])
        np.testing.assert_allclose(calibrated, known, atol=0.05, err_msg=name)
    assert np.array(table["FE_H"])[0] - np.array(table["FE_H"])[1] > 0.12
