"""Learning: a small closure, the traps of the field, and one sentence for every bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibration.catalog import Catalog
from calibration.clusters import constrains
from calibration.coverage import Coverage
from calibration.learning import LearnSettings, learn_corrections
from calibration.matching import Matcher
from calibration.references import ClusterTable, LabelTable, PairTable, Stars
from calibration.simulate import simulate
from calibration.summary import summary
from phdlspec.errors import UserError

from .conftest import SMALL


def _labels(n=50, labels=("TEFF",), start=0, scale="Asplund2009", name="ref"):
    ids = np.arange(start, start + n).astype(str)
    return LabelTable(name, Stars(ids), {k: (np.zeros(n), np.full(n, 0.1)) for k in labels}, scale)


def test_closure_of_a_small_survey(survey, calibration):
    raw = survey.noise_free[survey.test]
    for name in ("FE_H", "MG_FE"):
        value, error = calibration.bias(name, raw)
        wrong = value - survey.bias[name][survey.test] + survey.offsets["survey1"][name]
        assert np.sqrt(np.mean(wrong**2)) < 0.25 * survey.bias[name][survey.test].std() + 0.01
        assert np.mean(np.abs(wrong) < 2 * error) > 0.75


def test_discrepant_pairs_and_offsets_are_found(survey, calibration):
    found = {one.name: one for one in calibration.labels["FE_H"].sets}
    assert 0.1 < found["binaries"].discrepant < 0.4
    offset, error = calibration.labels["FE_H"].nuisance["survey2: zero point"]
    true = survey.offsets["survey1"]["FE_H"] - survey.offsets["survey2"]["FE_H"]
    assert offset == pytest.approx(true, abs=4 * error + 0.01)


def test_carbon_of_evolved_stars_is_left_out(calibration):
    rows = calibration.evidence[np.asarray(calibration.evidence["LABEL"]).astype(str) == "C_FE"]
    shared = np.asarray(rows["KIND"]).astype(str) != "labels"
    assert np.all(np.asarray(rows["LOGG"])[shared] > 3.4)
    np.testing.assert_array_equal(constrains("C_FE", np.array([2.0, 4.4])), [False, True])
    np.testing.assert_array_equal(constrains("MG_FE", np.array([2.0, 4.4])), [True, True])


def test_pairs_do_not_explain_their_own_noise():
    """[Fe/H] is label and coordinate: pairs of pure noise must not give it a slope."""
    rng = np.random.default_rng(5)
    quiet = replace(SMALL, trend_peak_to_peak=(1e-6, 2e-6), elements=(), members=0, survey_sizes=(), pairs=400)
    survey = simulate(replace(quiet, discrepant=0.0), seed=int(rng.integers(100)))
    calibration = learn_corrections(Catalog.from_table(survey.catalog), survey.pairs)
    raw = survey.noise_free[survey.test]
    value, _ = calibration.bias("FE_H", raw)
    slope = np.polyfit(raw[:, 2], value, 1)[0]
    assert abs(slope) < 0.05
    assert not calibration.labels["FE_H"].has_zero_point


def test_match_by_position(survey):
    table = survey.catalog.copy()
    rng = np.random.default_rng(2)
    table["RA"], table["DEC"] = rng.uniform(0, 360, len(table)), rng.uniform(-60, 60, len(table))
    catalog = Catalog.from_table(table)
    stars = Stars(None, np.array(table["RA"][:20]) + 1e-5, np.array(table["DEC"][:20]))
    np.testing.assert_array_equal(Matcher(catalog).find(stars), np.arange(20))
    far = Stars(None, np.array([10.0, np.nan]), np.array([89.0, 0.0]))
    np.testing.assert_array_equal(Matcher(catalog).find(far), [-1, -1])


def test_a_star_without_an_identifier_is_found_by_its_position(survey):
    table = survey.catalog.copy()
    rng = np.random.default_rng(2)
    table["RA"], table["DEC"] = rng.uniform(0, 360, len(table)), rng.uniform(-60, 60, len(table))
    names = np.array(table["OBSID"][:20]).astype(str)
    names[[3, 7]] = ""  # as masked entries of a table are read
    stars = Stars(names, np.array(table["RA"][:20]), np.array(table["DEC"][:20]))
    stars.ra[7] = stars.ra[8]  # the place of another star, which is found by its name
    stars.dec[7] = stars.dec[8]
    found = Matcher(Catalog.from_table(table)).find(stars)
    assert list(found) == [*range(7), -1, *range(8, 20)]


def test_excluded_label_is_left_out(catalog, survey):
    every = {(name, "MG_FE") for name in ("binaries", "M67", "survey1", "survey2")}
    settings = LearnSettings(exclude=frozenset(every), labels=None)
    calibration = learn_corrections(catalog, survey.pairs, [], survey.labels[:1], settings)
    assert "no reference constrains it" in calibration.skipped["MG_FE"]


def test_no_reference(catalog):
    with pytest.raises(UserError, match="no reference given"):
        learn_corrections(catalog)


def test_no_overlap(catalog):
    with pytest.raises(UserError, match="no reference star is in"):
        learn_corrections(catalog, labels=[_labels(start=10_000_000)])


def test_one_reference_star(catalog):
    with pytest.raises(UserError, match="too few reference stars .* at most 1 "):
        learn_corrections(catalog, labels=[_labels(n=1)])


def test_element_missing_everywhere(catalog):
    catalog.table["SI_FE"], catalog.table["SI_FE_ERR"] = np.nan, 0.1
    tables = [_labels(labels=("TEFF", "SI_FE"))]
    with pytest.raises(UserError, match="SI_FE cannot be calibrated: it is missing"):
        learn_corrections(catalog, labels=tables, settings=LearnSettings(labels=("SI_FE",)))
    with pytest.raises(UserError, match="label ZZ_FE is unknown"):
        learn_corrections(catalog, labels=[_labels()], settings=LearnSettings(labels=("ZZ_FE",)))


def test_all_pairs_flagged(catalog, survey):
    catalog.table["FLAG"] = 1
    with pytest.raises(UserError, match="all 150 pairs .* have a flagged star"):
        learn_corrections(catalog, survey.pairs)
    with pytest.raises(UserError, match="all 60 stars .* are flagged"):
        learn_corrections(catalog, clusters=survey.clusters)


def test_duplicate_identifiers(catalog):
    catalog.table["OBSID"][1] = catalog.table["OBSID"][0]
    with pytest.raises(UserError, match="identifier 0 occurs 2 times in column OBSID"):
        learn_corrections(catalog, labels=[_labels()])


def test_two_references_of_one_name(catalog, survey):
    with pytest.raises(UserError, match="two references are called"):
        learn_corrections(catalog, labels=[survey.labels[0], survey.labels[0]])


def test_unknown_anchor(catalog, survey):
    with pytest.raises(UserError, match="none of the tables of labels"):
        learn_corrections(catalog, labels=survey.labels, settings=LearnSettings(anchor="nobody"))


def test_wrong_solar_scale(survey):
    with pytest.raises(UserError, match="ref: unknown solar scale 'Lodders'"):
        _labels(labels=("FE_H",), scale="Lodders")
    with pytest.raises(UserError, match="solar scale of FE_H is not stated"):
        _labels(labels=("FE_H",), scale=None)
    table = survey.catalog.copy()
    table.meta["SOLSCALE"] = "Grevesse2007"
    with pytest.raises(UserError, match="its solar scale is Grevesse2007"):
        Catalog.from_table(table)


def test_solar_scale_is_converted(catalog, survey):
    """The same survey stated on another scale gives the same calibration, shifted by the difference of "
    "the Suns."""
    original = survey.labels[0]
    moved = LabelTable("survey1", original.stars, original.values, "Grevesse2007")
    settings = LearnSettings(labels=("FE_H",))
    one = learn_corrections(catalog, labels=[original], settings=settings).bias("FE_H", survey.noise_free[:5])[0]
    two = learn_corrections(catalog, labels=[moved], settings=settings).bias("FE_H", survey.noise_free[:5])[0]
    np.testing.assert_allclose(two - one, 0.05, atol=0.005)


def test_tables_validate_themselves():
    stars = Stars(np.array(["a", "b"]))
    with pytest.raises(UserError, match="P_PAIR"):
        PairTable("p", stars, stars, np.array([0.5, 1.5]))
    with pytest.raises(UserError, match="differ in length"):
        PairTable("p", stars, Stars(np.array(["c"])), np.ones(2))
    with pytest.raises(UserError, match="P_MEMBER"):
        ClusterTable("c", stars, np.array([0.5, np.nan]))
    with pytest.raises(UserError, match="identifiers"):
        Stars()


def test_a_star_alone_does_not_widen_the_reach():
    random = np.random.default_rng(3)
    x = np.column_stack([random.uniform(4800, 6200, 60), random.uniform(1.5, 4.6, 60), random.uniform(-1.4, 0.3, 60)])
    alone = np.vstack([x, [5400.0, 4.0, -2.45]])
    there = np.array([[5400.0, 4.0, -2.48]])
    assert not Coverage.of(alone).covers_axes(there)[0]
    assert Coverage.of(np.vstack([alone, there, there])).covers_axes(there)[0]
    assert Coverage.of(alone).covers_axes(x).all()


def test_the_summary_tells_offsets_and_scatter_by_reference(calibration):
    told = summary(calibration).splitlines()
    assert sum("survey2" in line and "±" in line for line in told) == len(calibration.labels)
    assert any(line.strip().startswith("survey1:") and "stars used" in line for line in told)
    assert any(line.strip().startswith("[Mg/Fe]") and "binaries" in line for line in told)
