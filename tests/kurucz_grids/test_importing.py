import numpy as np
import pytest
from astropy.table import Table

from kurucz_grids import importing
from kurucz_grids.importing import import_grid
from phdlspec.errors import UserError
from phdlspec.gridfile import Grid
from phdlspec.gridfile.parts import GridParts
from phdlspec.labels import GRID_LABELS
from phdlspec.wavelength import log_grid, vacuum_to_air

WAVE = log_grid(3680.0, 9130.0, 1 / 40_000)
KEYS = {"medium": "vacuum", "resolving_power": np.inf, "origin": "a test", "progress": False}


def _flux(depth, wave=WAVE):
    return 1 - depth * np.exp(-0.5 * (np.log(wave / 5000.0) / 1e-4) ** 2)


def _arrays(**changes):
    arrays = {
        "wave": WAVE,
        "flux": np.stack([_flux(0.3), _flux(0.6)]),
        "labels": np.array([[5777.0, 4.4, 0.0], [4500.0, 2.0, -1.0]]),
        "label_names": np.array(["TEFF", "LOGG", "FE_H"]),
    }
    arrays.update(changes)
    return {name: values for name, values in arrays.items() if values is not None}


def _save(path, **changes):
    np.savez(path, **_arrays(**changes))
    return path


def test_arrays_with_labels(tmp_path):
    import_grid(_save(tmp_path / "a.npz"), tmp_path / "g.h5", **KEYS)
    with Grid(tmp_path / "g.h5") as grid:
        assert grid.n_done == 2
        assert not grid.has_jacobian
        assert grid.labels[1, GRID_LABELS.index("FE_H")] == -1.0
        assert grid.labels[0, GRID_LABELS.index("VMIC")] > 0.7
        assert grid.attrs["origin"] == "a test"
        assert grid.attrs["imported_medium"] == "vacuum"
        assert abs(grid.wave[grid.flux(1).argmin()] - 5000) < 0.5
        # The equivalent width survives the change of resolution.
        width = (1 - grid.flux(1)).sum() / 8750
        assert np.isclose(width, (1 - _flux(0.6)).sum() / 40_000, rtol=1e-3)
        assert np.isnan(grid.continuum(0)).all()


def test_flux_with_continuum_and_derivatives(tmp_path):
    continuum = np.full((2, len(WAVE)), 3e6) * np.linspace(1, 0.5, len(WAVE))
    jacobian = np.zeros((2, 32, len(WAVE)))
    jacobian[:, 7] = -(1 - _flux(0.2))
    path = _save(
        tmp_path / "a.npz", flux=_arrays()["flux"] * continuum, continuum=continuum, jacobian=jacobian,
        jacobian_names=np.array(GRID_LABELS.names),
    )  # fmt: skip
    import_grid(path, tmp_path / "g.h5", form="full", **KEYS)
    with Grid(tmp_path / "g.h5") as grid:
        assert grid.resolving_power == 12_000
        assert grid.flux(0).max() == pytest.approx(1.0, abs=1e-4)
        assert grid.continuum(0)[0] == pytest.approx(3e6, rel=0.02)
        assert grid.jacobian(1)[7].min() < -0.05


def test_air_is_turned_into_vacuum(tmp_path):
    keys = {**KEYS, "medium": "air"}
    import_grid(_save(tmp_path / "a.npz", wave=vacuum_to_air(WAVE)), tmp_path / "g.h5", **keys)
    with Grid(tmp_path / "g.h5") as grid:
        assert abs(grid.wave[grid.flux(1).argmin()] - 5000) < 0.5


def test_folder_of_text_on_a_linear_grid(tmp_path):
    wave = np.arange(3685.0, 9125.0, 0.05)
    spectra = tmp_path / "spectra"
    spectra.mkdir()
    np.savetxt(spectra / "sun.txt", np.column_stack([wave, _flux(0.5, wave)]))
    np.save(spectra / "giant.npy", np.column_stack([wave, 2e5 * _flux(0.5, wave), np.full_like(wave, 2e5)]))
    (spectra / "bad.txt").write_text("no spectrum at all\n")
    table = Table(
        {
            "FILE": ["sun.txt", "giant.npy", "bad.txt"],
            "teff": [5777.0, 4500.0, 5000.0],
            "logg": [4.4, 2.0, 3.0],
            "fe_h": [0.0, -1.0, 0.0],
            "mg_fe": [0.0, 0.3, 0.0],
        }
    )
    table.write(tmp_path / "labels.csv")
    import_grid(spectra, tmp_path / "g.h5", label_table=tmp_path / "labels.csv", **KEYS)
    with Grid(tmp_path / "g.h5") as grid:
        assert list(grid.rows()) == [0, 1]
        assert grid.labels[1, GRID_LABELS.index("MG_FE")] == 0.3
        assert np.allclose(grid.flux(0), grid.flux(1), atol=1e-5)
        assert grid.reason[2].startswith("bad.txt cannot be read (could not convert string")


@pytest.mark.parametrize(
    ("changes", "keys", "words"),
    [
        ({"labels": None}, {}, "give a table"),
        ({"wave": None}, {}, "no array 'wave'"),
        ({"flux": np.ones((3, len(WAVE)))}, {}, "flux has shape"),
        ({"label_names": np.array(["TEFF", "LOGG", "MH"])}, {}, "no FE_H"),
        ({"label_names": np.array(["TEFF", "LOGG", "FE_H", "X"])}, {}, "labels have shape"),
        ({"label_names": np.array(["TEFF", "LOGG", "teff"])}, {}, "TEFF is there twice"),
        ({"label_names": np.array([1, 2, 3])}, {}, "expected names"),
        ({"labels": np.array([[5.777, 4.4, 0.0], [4.5, 2.0, 0.0]])}, {}, "TEFF of row 1 is 5.777, expected 1000"),
        ({"jacobian": np.zeros((2, 32, len(WAVE)), np.int8)}, {}, "order of the jacobian is not known: it lacks VMIC"),
        ({"wave": 5000.0}, {}, r"wave has shape \(\)"),
        ({"wave": np.stack([WAVE, WAVE])}, {}, "the same for all spectra"),
        ({"wave": WAVE + 0j}, {}, "wave holds complex numbers"),
        ({"flux": np.ones((2, len(WAVE)), np.complex64)}, {}, "expected real numbers"),
        ({"flux": np.full((2, len(WAVE)), 1e5)}, {}, "not normalised"),
        ({"flux": np.full((2, len(WAVE)), 0.5)}, {}, "upper envelope is 0.5"),
        ({"flux": np.full((2, len(WAVE)), 1e-6)}, {}, "not normalised"),
        ({"flux": np.full((2, len(WAVE)), np.nan)}, {}, "not finite"),
        ({"wave": WAVE[::-1]}, {}, "do not increase"),
        ({"wave": WAVE * 1.1}, {}, "covers"),
        ({"continuum": np.zeros((2, len(WAVE)))}, {}, "not positive"),
        ({"labels": np.array([["hot", "4.4", "0"], ["1", "2", "0"]])}, {}, "labels holds text, expected numbers"),
        ({"labels": np.array([[5777.0, 4.4, 0.0], [np.nan, 2.0, 0.0]])}, {}, "TEFF of row 2 is missing"),
        ({}, {"medium": "ether"}, "expected 'air' or 'vacuum'"),
        ({}, {"resolving_power": 2000.0}, "cannot make the survey form"),
        ({}, {"form": "tiny"}, "no form 'tiny'"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path, changes, keys, words):
    path = _save(tmp_path / "a.npz", **changes)
    with pytest.raises(UserError, match=words) as caught:
        import_grid(path, tmp_path / "g.h5", **{**KEYS, **keys})
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("5000,low,0", "labels.csv: logg holds text, expected numbers"),
        ("5000,,0", "labels.csv: LOGG of row 2 is missing or not finite"),
    ],
)
def test_a_label_that_is_no_number_is_refused_in_a_sentence(tmp_path, row, words):
    path = tmp_path / "labels.csv"
    path.write_text(f"teff,logg,fe_h\n5777,4.4,0\n{row}\n")
    with pytest.raises(UserError, match=words) as caught:
        import_grid(_save(tmp_path / "a.npz"), tmp_path / "g.h5", label_table=path, **KEYS)
    assert "\n" not in str(caught.value)


def test_derivatives_are_put_in_the_order_of_the_labels(tmp_path):
    names = GRID_LABELS.names[::-1]
    labels = np.stack([GRID_LABELS.complete({"TEFF": teff})[::-1] for teff in (5777.0, 4500.0)])
    jacobian = np.zeros((2, 32, len(WAVE)), np.float32)
    jacobian[:, names.index("TEFF")] = 1e-4
    path = _save(tmp_path / "a.npz", labels=labels, label_names=np.array(names), jacobian=jacobian)
    import_grid(path, tmp_path / "g.h5", **KEYS)
    with Grid(tmp_path / "g.h5") as grid:
        assert grid.jacobian(0)[0].max() == pytest.approx(1e-4, rel=1e-3)
        assert not grid.jacobian(0)[1:].any()
    (tmp_path / "labels.csv").write_text("teff,logg,fe_h\n5777,4.4,0\n4500,2,0\n")
    path = _save(tmp_path / "b.npz", labels=None, label_names=None, jacobian=jacobian)
    with pytest.raises(UserError, match="it has no names"):
        import_grid(path, tmp_path / "h.h5", label_table=tmp_path / "labels.csv", **KEYS)


def test_a_damaged_file_is_refused_in_a_sentence(tmp_path):
    path = _save(tmp_path / "a.npz")
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:middle], whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.npz: neither a whole npz"):
            import_grid(path, tmp_path / "g.h5", **KEYS)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("MGFE", 0.4, "MGFE is not in the label table, did you mean MG_FE"),
        ("alpha_fe", 0.4, "alpha_fe is not in the label table"),
        ("M_H", -1.0, "M_H is not in the label table"),
        ("LI_FE", 0.0, "LI_FE is not"),
        ("VBROAD", 30.0, "VBROAD of row 1 is 30, expected 0 to 0: broadened"),
        ("Teff", 4000.0, "TEFF is there twice"),
    ],
)
def test_columns_that_look_like_labels_are_not_ignored(tmp_path, column, value, words):
    path = tmp_path / "labels.csv"
    path.write_text(f"teff,logg,fe_h,{column}\n5777,4.4,0,{value}\n4500,2.0,0,{value}\n")
    with pytest.raises(UserError, match=words):
        import_grid(_save(tmp_path / "a.npz"), tmp_path / "g.h5", label_table=path, **KEYS)


def test_units_of_labels_are_converted_or_refused(tmp_path):
    table = Table({"TEFF": [5.777, 4.5], "LOGG": [4.4, 2.0], "FE_H": [0.0, -1.0], "VBROAD": [0, 0], "NAME": ["a", "b"]})
    table["TEFF"].unit, table["LOGG"].unit = "kK", "dex"
    table.write(tmp_path / "labels.ecsv")
    import_grid(_save(tmp_path / "a.npz"), tmp_path / "g.h5", label_table=tmp_path / "labels.ecsv", **KEYS)
    with Grid(tmp_path / "g.h5") as grid:
        assert grid.labels[:, :2] == pytest.approx(np.array([[5777.0, 4.4], [4500.0, 2.0]]))
    table["TEFF"].unit = "km"
    table.write(tmp_path / "labels.ecsv", overwrite=True)
    with pytest.raises(UserError, match="TEFF is in km, expected K"):
        import_grid(tmp_path / "a.npz", tmp_path / "h.h5", label_table=tmp_path / "labels.ecsv", **KEYS)


def _folder(tmp_path):
    spectra = tmp_path / "spectra"
    spectra.mkdir()
    np.save(spectra / "good.npy", np.column_stack([WAVE, _flux(0.5)]))
    coarse = np.geomspace(3650.0, 9200.0, 400)
    np.save(spectra / "coarse.npy", np.column_stack([coarse, np.ones(400)]))
    np.save(spectra / "scalar.npy", 5.0)
    np.save(spectra / "complex.npy", np.column_stack([WAVE, _flux(0.5) + 0j]))
    (spectra / "four.txt").write_text("1 2 3 4\n2 3 4 5\n")
    (spectra / "empty.txt").write_text("")
    (spectra / "binary.txt").write_bytes(bytes(range(256)))
    names = ["coarse.npy", "scalar.npy", "complex.npy", "four.txt", "empty.txt", "binary.txt", "good.npy"]
    rows = "".join(f"{name},5777,4.4,0\n" for name in names)
    (tmp_path / "labels.csv").write_text("FILE,TEFF,LOGG,FE_H\n" + rows)
    return spectra


@pytest.mark.filterwarnings("error")
def test_a_bad_spectrum_is_a_row_with_its_reason_and_the_others_go_on(tmp_path):
    import_grid(_folder(tmp_path), tmp_path / "g.h5", label_table=tmp_path / "labels.csv", **KEYS)
    with Grid(tmp_path / "g.h5") as grid:
        assert list(grid.rows()) == [6]
        words = ("wavelength step", "shape ()", "complex128", "4 columns", "no numbers", "not text")
        for word, reason in zip(words, grid.reason):
            assert word in reason


def test_an_interrupted_import_goes_on(tmp_path, monkeypatch):
    path, out = _save(tmp_path / "a.npz"), tmp_path / "g.h5"
    convert, seen = importing._convert, []

    def interrupted(*arguments):
        seen.append(arguments)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return convert(*arguments)

    monkeypatch.setattr(importing, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_grid(path, out, **KEYS)
    with pytest.raises(UserError, match=r"g\.h5\.parts: holds an unfinished grid"):
        import_grid(path, out, **{**KEYS, "origin": "another"})
    import_grid(path, out, **KEYS)
    assert len(seen) == 3  # the first row was kept
    with Grid(out) as grid:
        assert grid.n_done == 2
    assert not GridParts(out).exists()


def test_an_existing_grid_is_not_overwritten(tmp_path):
    (tmp_path / "g.h5").touch()
    with pytest.raises(UserError, match="exists already"):
        import_grid(_save(tmp_path / "a.npz"), tmp_path / "g.h5", **KEYS)
