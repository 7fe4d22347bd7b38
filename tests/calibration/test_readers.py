"""Readers of reference tables: own schema, APOGEE and GALAH with their flags, and the published files "
"at hand."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from calibration.binaries import read_pairs, read_published_abundances
from calibration.clusters import Diffusion, read_clusters, read_diffusion_template
from calibration.scales import read_solar_scale
from calibration.surveys import position_of_2mass, read_labels, stars_of
from phdlspec.errors import UserError
from phdlspec.tables import read_any_table


def test_own_schema_with_flags_and_scale(tmp_path):
    path = tmp_path / "mine.ecsv"
    table = Table({"ID": ["a", "b"], "MG_FE": [0.1, 0.2], "MG_FE_ERR": [0.01, 0.02], "MG_FE_FLAG": [0, 4]})
    table.meta["SOLSCALE"] = "Asplund2009"
    table.write(path)
    labels = read_labels(path)
    value, error = labels.values["MG_FE"]
    assert value[0] == 0.1
    assert np.isnan(value[1])
    assert labels.solar_scale == "Asplund2009"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,MG_FE,MG_FE_ERR\na,0.1,0.1\n", "solar scale of MG_FE is not stated"),
        ("ID,TEFF\na,5000\n", "no column of errors TEFF_ERR"),
        ("ID,TEFF,TEFF_ERR\na,5000,10\na,5001,10\n", "occurs 2 times"),
        ("name,TEFF,TEFF_ERR\na,5000,10\n", "no identifier"),
        ("ID,TEFF,TEFF_ERR\na,5000,0\n", "without a positive error"),
        ("ID,x\na,1\n", "no label column found"),
    ],
)
def test_bad_label_tables(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_labels(path)


_STAR = "2M08511476+1147238"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("e.csv", "", "e.csv: the file is empty"),
        ("e.txt", "# a comment\n\n", "e.txt: is empty, expected a table with names"),
        ("b.yaml", "{}", "expected stars by name with teff"),
        ("b.yaml", "sun: {teff: 5772 1, abundances: 3}", "expected stars by name with teff"),
        ("b.yaml", "sun: {teff: hot 1}", "b.yaml: teff of sun is 'hot 1', expected a number and its error"),
        ("b.yaml", "sun: {teff: 5772 1, abundances: {Mg: 7.6 x}}", "Mg of sun is '7.6 x', expected a number"),
        ("b.yaml", b"sun: \xe9", "b.yaml: cannot be read as YAML"),
        ("c.txt", f"{_STAR} 4.0 M67\n\n{_STAR} low M67\n", "c.txt: line 3 is '2M08.* low M67', expected three"),
        ("c.txt", f"{_STAR} 4.0 M67\n{_STAR} 4.0\n", "c.txt: line 2 is .* expected three entries"),
    ],
)
def test_what_is_no_table_of_labels_is_refused_in_a_sentence(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    readers = (read_labels, read_clusters) if name.endswith(".txt") else (read_labels,)
    for read in readers:
        with pytest.raises(UserError, match=message) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_benchmark_stars_in_yaml(tmp_path):
    path = tmp_path / "stars.yaml"
    path.write_text("sun: {teff: 5772 1, logg: 4.44 0.01, feh: 0.0 0.02, abundances: {Mg: 7.65 0.03}}\n"
                    "other: {teff: 5000 10, logg: 4.5, feh:, abundances:}\n")  # fmt: skip
    values = read_labels(path).values
    np.testing.assert_array_equal(values["TEFF"], [[5772, 5000], [1, 10]])
    np.testing.assert_array_equal(values["LOGG"][0], [4.44, np.nan])
    np.testing.assert_allclose(values["MG_FE"][0], [0.05, np.nan])
    np.testing.assert_allclose(values["MG_FE"][1][0], np.hypot(0.03, 0.02))


def test_apogee_flags(tmp_path):
    path = tmp_path / "allStar.fits"
    n = 7
    table = Table({"APOGEE_ID": [f"2M0000000{i}+0000000" for i in range(n)], "RA": np.arange(n) * 1.0})
    table["DEC"] = 1.0
    table["ASPCAPFLAG"] = np.array([0, 1 << 23, 0, 0, 1 << 16, 0, 0])
    table["STARFLAG"] = np.array([0, 0, 1 << 4, 0, 0, 0, 0])
    table["EXTRATARG"] = np.array([0, 0, 0, 1 << 4, 0, 0, 0])
    for name, value in (("TEFF", 5000.0), ("FE_H", 0.1), ("MG_FE", 0.2)):
        table[name] = np.full(n, value)
        table[f"{name}_ERR"] = 0.01
    table["MG_FE_FLAG"] = np.array([0, 0, 0, 0, 0, 1, 0])
    table["TEFF"][6] = -9999.0
    table.write(path)
    labels = read_labels(path)
    assert list(labels.stars.ids) == [table["APOGEE_ID"][i] for i in (0, 4, 5, 6)]
    np.testing.assert_array_equal(np.isfinite(labels.values["TEFF"][0]), [True, False, True, False])
    np.testing.assert_array_equal(np.isfinite(labels.values["MG_FE"][0]), [True, True, False, True])
    assert labels.solar_scale == "APOGEE-DR17"


@pytest.mark.parametrize("release", [3, 4])
def test_galah_flags(tmp_path, release):
    path = tmp_path / "galah.fits"
    table = Table({"sobject_id": np.arange(4), "flag_sp": [0, 1, 0, 0]})
    if release == 4:
        table["gaiadr3_source_id"] = np.arange(4) + 4_295_806_720_000_000_000
    table["snr_px_ccd3" if release == 4 else "snr_c3_iraf"] = [50.0, 50.0, 10.0, 50.0]
    for name in ("teff", "fe_h", "Mg_fe"):
        table[name], table[f"e_{name}"], table[f"flag_{name}"] = 1.0, 0.1, [0, 0, 0, 1]
    table.remove_column("flag_teff")
    table.write(path)
    labels = read_labels(path)
    assert len(labels.stars) == 2
    assert len(str(labels.stars.ids[0])) == (19 if release == 4 else 1)
    np.testing.assert_array_equal(np.isfinite(labels.values["MG_FE"][0]), [True, False])
    np.testing.assert_array_equal(np.isfinite(labels.values["FE_H"][0]), [True, release == 4])


def test_2mass_names():
    ra, dec = position_of_2mass(np.array(["2M18401164+4324434", "2M00000000-0030300", "HD 1"]))
    np.testing.assert_allclose(ra[:2], [280.048500, 0.0], atol=1e-5)
    np.testing.assert_allclose(dec[:2], [43.412056, -0.508333], atol=1e-5)
    assert np.isnan(ra[2])


def test_pairs(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("ID_1,ID_2,P_PAIR,D_FE_H,D_FE_H_ERR\n1,2,0.9,0.05,0.01\n3,4,1,,\n")
    pairs = read_pairs(path)
    np.testing.assert_array_equal(pairs.probability, [0.9, 1.0])
    assert pairs.difference["FE_H"][0][0] == 0.05
    path.write_text("ID_1,ID_2\n1,2\n2,1\n")
    with pytest.raises(UserError, match="occurs 2 times"):
        read_pairs(path)
    path.write_text("ID_1,ID_2\n1,1\n")
    with pytest.raises(UserError, match="paired with itself"):
        read_pairs(path)


def test_clusters_of_one_file(tmp_path):
    path = tmp_path / "members.csv"
    path.write_text("RA,DEC,CLUSTER,P_MEMBER\n1,2,M67,0.9\n3,4,N188,1\n5,6,M67,1\n")
    assert [(c.name, len(c.stars)) for c in read_clusters(path)] == [("M67", 2), ("N188", 1)]
    path.write_text("RA,DEC,P_MEMBER\n1,2,1.9\n")
    with pytest.raises(UserError, match="between 0 and 1"):
        read_clusters(path)


def test_diffusion_template_file(tmp_path):
    path = tmp_path / "template.csv"
    path.write_text("LOGG,DEPLETION\n4.5,0.4\n3.5,0\n4.1,1\n")
    shape = Diffusion(table=read_diffusion_template(path)).shape([3.0, 4.1, 4.3])
    np.testing.assert_allclose(shape, [0, 1, 0.7])


def _read_stars(path):
    return stars_of(read_any_table(path), path, ("source_id",))


_AT_HAND = {
    "Ness-Clusters.txt": read_clusters,
    "benchmarks.yaml": read_labels,
    "clusters_physical_logg.txt": read_labels,
    "gbs_v3_tmass_gaiadr3_hip_allwise_all_lite.fits": read_labels,
    "irfm_temp.fits": read_labels,
    "wide_binaries/CIchondrites.csv": read_published_abundances,
    "wide_binaries/asplund2009.csv": read_solar_scale,
    "wide_binaries/atomicmass.csv": read_published_abundances,
    "wide_binaries/biazzo2015_XO2.csv": read_published_abundances,
    "wide_binaries/brewer.csv": read_published_abundances,
    "wide_binaries/mack14_abundances.csv": read_published_abundances,
    "wide_binaries/mcdonough2001.csv": read_published_abundances,
    "wide_binaries/melendez2017.csv": read_published_abundances,
    "wide_binaries/ramirez2015_XO2.csv": read_published_abundances,
    "wide_binaries/teske16_wasp94AB.csv": read_published_abundances,
    "wide_binaries/tgas.csv": _read_stars,
}


def test_every_file_at_hand_has_a_reader(shared_data):
    folder = shared_data / "reference"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files - {"wide_binaries/README.md"} == set(_AT_HAND)
    for name, read in _AT_HAND.items():
        assert read(folder / name), name


def test_label_tables_at_hand(shared_data):
    folder = shared_data / "reference"
    irfm = read_labels(folder / "irfm_temp.fits")
    assert len(irfm.stars) == len(set(irfm.stars.ids)) > 20000
    assert np.isfinite(irfm.stars.ra).all()
    gbs = read_labels(next(folder.glob("gbs_v3*.fits")))
    assert len(gbs.stars) == 192
    assert set(gbs.values) == {"TEFF", "LOGG", "FE_H"}
    yaml = read_labels(folder / "benchmarks.yaml")
    star = list(yaml.stars.ids).index("HD122563")
    assert yaml.values["FE_H"][0][star] == -2.64
    assert yaml.values["MG_FE"][0][star] == pytest.approx(5.30 - 7.60 + 2.64)
    gravity = read_labels(folder / "clusters_physical_logg.txt")
    assert len(gravity.stars) == len(set(gravity.stars.ids))
    sizes = {c.name: len(c.stars) for c in read_clusters(folder / "clusters_physical_logg.txt")}
    assert sizes["M67"] == 37
    sizes = {c.name: len(c.stars) for c in read_clusters(folder / "Ness-Clusters.txt")}
    assert (len(sizes), sizes["M67"]) == (19, 23)


def test_pair_tables_at_hand(shared_data):
    """The published differences, the two studies of XO-2 among each other too."""
    folder = shared_data / "reference" / "wide_binaries"
    ramirez = read_published_abundances(folder / "ramirez2015_XO2.csv").values["Delta[X/H]"]
    biazzo = read_published_abundances(folder / "biazzo2015_XO2.csv")
    assert ramirez["Fe"][0] == pytest.approx(0.055, abs=0.002)
    from_stars, stated = biazzo.difference("XO2N", "XO2S"), biazzo.values["deltaXH"]
    common = sorted(set(ramirez) & set(stated))
    for element in common:
        assert from_stars[element][0] == pytest.approx(stated[element][0], abs=0.0051)
    gap = np.array([(ramirez[e][0] - stated[e][0]) / np.hypot(ramirez[e][1], stated[e][1]) for e in common])
    assert len(common) >= 20
    assert np.sqrt(np.mean(gap**2)) < 2.0
    kronos = read_published_abundances(folder / "brewer.csv").difference("HD 240430", "HD 240429")
    assert kronos["Fe"][0] == pytest.approx(0.19)
    assert read_published_abundances(folder / "mack14_abundances.csv").values["HD20782"]["Na"] == (-0.08, 0.03)
    teske = read_published_abundances(folder / "teske16_wasp94AB.csv").values
    assert teske["deltaX/H_nostrong"]["Na"] == (0.0, 0.006)
    assert read_published_abundances(folder / "melendez2017.csv").values["[X/H]"]["C"] == (0.043, 0.014)
    assert read_published_abundances(folder / "mcdonough2001.csv").values["bulkearth"]["Mg"][0] == 154000
    assert len(read_published_abundances(folder / "atomicmass.csv").values["weight"]) > 80
    assert len(_read_stars(folder / "tgas.csv")) == 2


def test_a_vizier_table_is_a_reference_as_it_comes(tmp_path):
    table = Table(
        {
            "_RAJ2000": [10.0, 20.0], "_DEJ2000": [1.0, 2.0], "Star": ["HD1", "HD2"], "Teff": [5000.0, 5100.0],
            "e_Teff": [30.0, 40.0], "__Fe_H_": [-0.1, 0.1], "e__Fe_H_": [0.03, 0.04], "S_N": [100, 200],
        }
    )  # fmt: skip
    path = tmp_path / "vizier.fits"
    table.write(path)
    labels = read_labels(path, "Asplund2009")
    assert set(labels.values) == {"TEFF", "FE_H"}
    assert list(labels.values["FE_H"][1]) == [0.03, 0.04]
    assert list(labels.stars.ra) == [10.0, 20.0]


def test_a_metallicity_is_not_taken_for_iron_in_silence(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("ID,TEFF,TEFF_ERR,[M/H],e_[M/H]\na,5000,50,-0.5,0.1\nb,5100,50,-0.4,0.1\n")
    with pytest.raises(UserError, match=r"column \[M/H\] comes near FE_H.*--rename \[M/H\]=FE_H"):
        read_labels(path, "Asplund2009")
    assert set(read_labels(path, "Asplund2009", rename={"[M/H]": "FE_H"}).values) == {"TEFF", "FE_H"}
    assert set(read_labels(path, "Asplund2009", rename={"[M/H]": "-"}).values) == {"TEFF"}


def test_occam_is_a_table_of_clusters_as_it_comes(tmp_path):
    path = tmp_path / "occam.csv"
    path.write_text(
        "CLUSTER,APOGEE_ID,FE_H,FE_H_ERR,RV_PROB,FEH_PROB,PM_PROB,CG_PROB\n"
        "NGC 2682,2M08511476+1147238,0.0,0.01,0.9,0.001,0.8,1.0\n"
        "NGC 2682,2M08512618+1153520,0.0,0.01,0.5,0.9,0.005,0.0\n"
        "NGC 188,2M00465966+8513157,0.1,0.01,0.4,0.9,0.9,-1\n"
    )
    first, second = read_clusters(path)
    assert (first.name, second.name) == ("NGC 188", "NGC 2682")
    assert list(second.stars.ids) == ["2M08511476+1147238"]  # by velocity and proper motion, not by [Fe/H]
    assert second.stars.ra[0] == pytest.approx(132.8115, abs=1e-3)


def test_a_table_of_members_of_another_survey(tmp_path):
    path = tmp_path / "m67.csv"
    path.write_text("Source,RA_ICRS,DE_ICRS,Proba\n604911375,132.8,11.8,0.9\n604911376,132.9,11.7,0.4\n")
    (cluster,) = read_clusters(path)
    assert list(cluster.stars.ids) == ["604911375", "604911376"]
    assert list(cluster.probability) == [0.9, 0.4]


def test_galah_without_positions_is_found_by_its_2mass_names(tmp_path):
    path = tmp_path / "galah.csv"
    path.write_text("tmass_id,dr3_source_id,flag_sp,teff,e_teff\n08511476+1147238,5,0,5000,50\n")
    stars = read_labels(path).stars
    assert stars.ra[0] == pytest.approx(132.8115, abs=1e-3)
    assert stars.ids[0] == "5"
