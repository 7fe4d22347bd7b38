"""Isochrones in the formats of MIST, PARSEC, YREC and lachesis-grids, whole and damaged."""

import h5py
import numpy as np
import pytest

from phdlspec.ages.composition import metallicity_term
from phdlspec.ages.describe import describe
from phdlspec.ages.readers import read_isochrones
from phdlspec.ages.stages import Stage
from phdlspec.errors import UserError
from tests.phdlspec.ages.toys import AGES, MAIN, METALLICITIES, SUBGIANT, isochrone, write_mist_cmd, write_parsec


def test_mist_folder(tmp_path):
    for feh in METALLICITIES:
        write_mist_cmd(tmp_path / f"MIST_v1.2_feh_{feh:+.2f}.iso.cmd", feh)
    found = read_isochrones(tmp_path)
    assert found.shape == (len(METALLICITIES), len(AGES), 90)
    assert found.facts.solar_scale == "Asplund et al. (2009)"
    assert found.facts.z_sun == 0.0142
    assert sorted(found.magnitudes) == ["BP", "G", "KS", "RP"]
    truth = isochrone(AGES[2], METALLICITIES[1])
    np.testing.assert_allclose(found.quantities["log_teff"][1, 2], truth["log_teff"], atol=1e-10)
    np.testing.assert_allclose(found.quantities["surface_mh"][1, 2], METALLICITIES[1] - 0.05)
    np.testing.assert_allclose(found.magnitudes["KS"][1, 2], 4.74 - 2.5 * truth["log_l"] - 1.5, atol=1e-6)


def test_alpha_enhanced_mist_has_the_metallicity_of_salaris(tmp_path):
    found = read_isochrones(write_mist_cmd(tmp_path / "a.iso.cmd", -0.5, alpha=0.4))
    assert found.facts.alpha_fe == 0.4
    np.testing.assert_allclose(found.mh, -0.5 + metallicity_term(0.4), atol=1e-6)
    assert "[alpha/Fe] = +0.40" in describe(found)


def test_parsec_table(tmp_path):
    found = read_isochrones(write_parsec(tmp_path / "output.dat"))
    assert found.facts.name == "PARSEC v1.2S"
    assert found.facts.surface
    np.testing.assert_allclose(found.mh, METALLICITIES, atol=1e-6)
    np.testing.assert_allclose(found.log_age, AGES, atol=1e-6)
    # Phases end at whole multiples of the points of a phase, and what lies between is on the isochrone.
    truth = isochrone(AGES[0], METALLICITIES[0])
    for phase, last in ((1, MAIN - 1), (2, MAIN + SUBGIANT - 1)):
        at = int(np.flatnonzero(found.eep == 200 * (phase + 1))[0])
        assert found.quantities["log_teff"][0, 0, at] == pytest.approx(truth["log_teff"][last], abs=1e-4)
    on = np.isfinite(found.quantities["log_l"][0, 0])
    expected = np.interp(found.quantities["mass"][0, 0, on], truth["mass"], truth["log_l"])
    np.testing.assert_allclose(found.quantities["log_l"][0, 0, on], expected, atol=5e-3)  # masses of four digits


def test_hdf5_of_lachesis(tmp_path, toy_path, toy):
    with np.load(toy_path) as file:
        data, names = file["data"], [str(c) for c in file["columns"]]
    with h5py.File(tmp_path / "mist_toy.h5", "w") as file:
        file.attrs["storage"], file.attrs["columns"] = "sparse_v1", names
        lengths = np.full(len(METALLICITIES) * len(AGES), 90)
        file["values"], file["lengths"] = data, lengths
        file["offsets"] = np.cumsum(lengths) - lengths
        file["feh_values"], file["age_values"] = METALLICITIES, AGES
    data[:, names.index("phase")] = 0
    with h5py.File(tmp_path / "mist_toy.h5", "r+") as file:
        file["values"][...] = data
    found = read_isochrones(tmp_path / "mist_toy.h5")
    assert found.facts.solar_scale == "Grevesse & Sauval (1998)"
    np.testing.assert_allclose(found.quantities["logg"], toy.quantities["logg"])


def test_yrec_table(tmp_path):
    names = "Age_gyr,LogL_lsun,Log_g,log_Teff,X_cen,Mass_msun,Mass_input,Metallicity_input"
    lines = [names]
    for k, (m, t, g, lum) in enumerate(zip(*(isochrone(9.6, 0.0)[c] for c in ("mass", "log_teff", "log_g", "log_l")))):
        lines.append(f"4.0,{lum},{g},{t},{0.3 if k < MAIN else 0.0},{m},{m},0.0")
    lines.append(",,,,,,,")
    (tmp_path / "iso_age4_0_feh0_0.csv").write_text("\n".join(lines))
    found = read_isochrones(tmp_path / "iso_age4_0_feh0_0.csv")
    assert found.shape[:2] == (1, 1)
    assert found.facts.name == "YREC"


def test_stages_of_the_toy(toy):
    stage = toy.quantities["stage"][2, 3]
    assert (np.diff(stage) >= 0).all()
    # The foot is a knee: within a few points of where the toy's own giant branch begins.
    assert abs(int((stage == Stage.MAIN_SEQUENCE).sum()) - MAIN) <= 1
    assert abs(int((stage <= Stage.SUBGIANT).sum()) - MAIN - SUBGIANT) <= 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("Av = 0.000", "Av = 0.310"), "reddened"),
        (lambda text: "\n".join(text.splitlines()[:150]), "cut or damaged"),
        (lambda text: text.replace("log_Teff", "log_T"), "without the column log_Teff"),
        (lambda text: text.replace("Yinit", "Y"), "does not state its composition"),
        (lambda text: text.replace("log10_isochrone_age_yr", "age"), "without a column of ages"),
        (lambda text: "# MIST version number  = 1.2\n# a track\n", "composition"),
        (lambda text: "a,b\n1,2\n", "not a file of isochrones"),
    ],
)
def test_damaged_mist(tmp_path, change, message):
    path = write_mist_cmd(tmp_path / "a.iso.cmd", 0.0, ages=AGES[:2])
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=message):
        read_isochrones(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("Av=0.0 mag", "Av=0.5 mag"), "reddened"),
        (lambda text: text.replace("\n 0.0", "\n 0.0 1", 1), "cut or damaged"),
        (
            lambda text: "\n".join(line for line in text.splitlines() if "logAge" not in line),
            "no line names the columns",
        ),
        (lambda text: text.replace("logTe ", "logTT "), "no column logTe"),
    ],
)
def test_damaged_parsec(tmp_path, change, message):
    path = write_parsec(tmp_path / "output.dat", AGES[:2], METALLICITIES[:2])
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=message):
        read_isochrones(path)


def test_folders_that_cannot_be_one_set(tmp_path):
    with pytest.raises(UserError, match="without files"):
        read_isochrones(tmp_path)
    write_mist_cmd(tmp_path / "a.iso.cmd", 0.0)
    write_mist_cmd(tmp_path / "b.iso.cmd", 0.0)
    with pytest.raises(UserError, match="a.iso.cmd has"):
        read_isochrones(tmp_path)
    write_mist_cmd(tmp_path / "b.iso.cmd", 0.3, alpha=0.4)
    with pytest.raises(UserError, match="alpha"):
        read_isochrones(tmp_path)
    write_parsec(tmp_path / "b.iso.cmd")
    with pytest.raises(UserError, match="MIST 1.2 and PARSEC"):
        read_isochrones(tmp_path)


def test_unknown_names(tmp_path):
    with pytest.raises(UserError, match="did you mean parsec"):
        read_isochrones("parsek")
    with pytest.raises(UserError, match="known sets are mist"):
        read_isochrones(tmp_path / "nowhere")


def test_sets_at_hand(shared_data):
    folder = shared_data / "isochrones"
    for name, count in (("mist", 12), ("parsec", 11)):
        found = read_isochrones(next(folder.glob(f"lachesis_{name}*.npz")))
        assert len(found.mh) == count
        sun = np.argmin(np.abs(found.mh)), np.argmin(np.abs(found.log_age - 9.66))
        on = np.flatnonzero(np.isfinite(found.quantities["mass"][sun]))
        one = on[np.argmin(np.abs(found.quantities["initial_mass"][sun][on] - 1.0))]
        assert abs(10 ** found.quantities["log_teff"][sun][one] - 5772) < 120
