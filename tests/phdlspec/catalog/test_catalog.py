"""Catalogues: inputs, rows, resume, faults, the same table however it is made. A quick fitter stands in for the fit."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table

import phdlspec
import phdlspec.catalog.chunks as chunks_module
from phdlspec.catalog import CatalogJob, expand_inputs, make_catalog, write_packed
from phdlspec.catalog.inputs import read_reference
from phdlspec.catalog.quality import write_quality
from phdlspec.catalog.rows import NAMES, covariance, to_arrays, to_table
from phdlspec.catalog.store import ChunkStore
from phdlspec.cli import main
from phdlspec.default_emulator import load_emulator
from phdlspec.errors import UserError
from phdlspec.fitting.result import Fitted
from phdlspec.fitting.settings import FitSettings
from phdlspec.flags import STAR_WORDS, StarFlag
from phdlspec.io import write_lamost
from phdlspec.lsf import NativeGrid
from phdlspec.masks import MaskInterval
from phdlspec.mock import mock_lamost
from phdlspec.tables import write_table

GRID = NativeGrid(3690.0, 1.0 / 8750.0, 7909, 3500.0)


def quick_fit(spectra, emulator, settings):
    """Values that depend on the spectrum alone."""
    results = []
    for spectrum in spectra:
        random = np.random.default_rng(int(abs(spectrum.flux[:50]).sum() * 1e6) % 2**31)
        draws = random.normal(size=(200, len(NAMES)))
        cov = np.cov(draws.T)
        value = draws.mean(0)
        err = np.sqrt(np.diag(cov))
        results.append(
            Fitted(
                NAMES, value, err, value - err, value, value + err, err, np.zeros(len(NAMES), dtype=int), cov,
                mode="fast",
                chi2=3000.0, npix=3000, snr=spectrum.snr, path=spectrum.path, meta=spectrum.meta,
                diagnostics={"pareto_k": 0.2},
            )
        )  # fmt: skip
    return results


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(chunks_module, "fit_batch", quick_fit)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Ten mock files, one of them damaged, one no spectrum."""
    folder = tmp_path_factory.mktemp("spectra")
    for i in range(8):
        mock = mock_lamost(np.ones(GRID.size), GRID, 5500.0, 50.0, i, identifier=f"{i:03d}")
        write_lamost(mock, folder / f"spec-{i:03d}.fits.gz")
    (folder / "spec-008.fits.gz").write_bytes((folder / "spec-001.fits.gz").read_bytes()[:1000])
    fits.PrimaryHDU().writeto(folder / "spec-009.fits")
    return folder


def job(folder, out, checkpoint, chunk=3) -> CatalogJob:
    references = tuple(expand_inputs([folder]))
    return CatalogJob(references, str(out), FitSettings(mode="fast"), str(checkpoint), "cpu", chunk=chunk)


def replace_meta(spectrum, **meta):
    return replace(spectrum, meta={**spectrum.meta, **meta})


def same(first: Table, second: Table) -> bool:
    names = [name for name in first.colnames if name != "SECONDS"]
    return all(np.array_equal(first[n], second[n], equal_nan=first[n].dtype.kind == "f") for n in names)


def test_inputs_are_found_once_and_in_order(folder, tmp_path):
    everything = expand_inputs([folder])
    assert len(everything) == 10
    assert everything == sorted(everything)
    assert expand_inputs([folder / "spec-001.fits.gz", folder])[0].endswith("spec-001.fits.gz")
    assert len(expand_inputs([folder / "spec-001.fits.gz", folder])) == 10
    assert expand_inputs([f"{folder}/spec-00[0-4].fits.gz"]) == everything[:5]
    (folder / "list.txt").write_text("# two of them\nspec-002.fits.gz\n\nspec-000.fits.gz\n")
    assert [Path(r).name for r in expand_inputs([folder / "list.txt"])] == ["spec-002.fits.gz", "spec-000.fits.gz"]
    (folder / "list.txt").unlink()
    assert expand_inputs(["missing.fits"]) == ["missing.fits"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no spectra"):
        expand_inputs([tmp_path / "empty"])


def test_a_folder_is_searched_for_spectra_alone(folder, tmp_path):
    spectrum = read_reference(str(folder / "spec-000.fits.gz"))
    pixels = Table({"wave_vac": spectrum.wave, "flux": spectrum.flux, "ivar": spectrum.ivar})
    pixels.write(tmp_path / "spectrum.csv")
    pixels.write(tmp_path / "spectrum.ecsv")
    (tmp_path / "plain.csv").write_text("4000,1,1\n4001,2,1\n")
    (tmp_path / "empty.csv").touch()  # told as a row
    Table({"label": ["TEFF"], "value": [5000.0]}).write(tmp_path / "result.ecsv")  # as `phdlspec fit` writes them
    Table({"OBSID": ["1"], "TEFF": [5000.0]}).write(tmp_path / "labels.csv")
    for name in ("c.fits", ".part-1-c.fits", "d.fits"):
        (tmp_path / name).touch()
    found = [Path(name).name for name in expand_inputs([tmp_path], tmp_path / "c.fits")]
    assert found == ["d.fits", "empty.csv", "plain.csv", "spectrum.csv", "spectrum.ecsv"]


def test_packed_spectra_are_the_same(folder, tmp_path):
    spectra = [read_reference(str(folder / f"spec-{i:03d}.fits.gz")) for i in range(3)]
    write_packed(tmp_path / "pack.h5", spectra)
    references = expand_inputs([tmp_path / "pack.h5"])
    assert len(references) == 3
    back = read_reference(references[2])
    assert np.allclose(back.flux, spectra[2].flux, rtol=1e-6)
    assert np.array_equal(back.mask, spectra[2].mask)
    assert back.arms == spectra[2].arms
    assert back.meta["OBSID"] == "002"
    with pytest.raises(UserError, match="counted from 0"):
        read_reference(f"{tmp_path / 'pack.h5'}[7]")
    named = [replace(spectra[0], meta={**spectra[0].meta, "DESIG": "LAMOST J1", "GAIA_ID": "42"}), spectra[1]]
    write_packed(tmp_path / "named.h5", named)
    back = [read_reference(f"{tmp_path / 'named.h5'}[{i}]").meta for i in range(2)]
    assert [(m["OBJECT"], m["GAIA_ID"]) for m in back] == [("LAMOST J1", "42"), ("", "")]


def test_a_catalogue_has_a_row_for_every_input(quick, folder, toy_checkpoint, tmp_path):
    out = tmp_path / "c.fits"
    make_catalog(job(folder, out, toy_checkpoint), progress=False)
    table = Table.read(out, hdu="CATALOG")
    assert [Path(str(f)).name for f in table["FILE"]] == sorted(p.name for p in folder.iterdir())
    bad = np.asarray(table["FLAG"]) == int(StarFlag.UNREADABLE)
    assert bad.sum() == 2
    assert bad[-2:].all()
    assert all(str(r) for r in table["REASON"][bad])
    assert np.isnan(np.ma.filled(table["TEFF"].astype(float), np.nan)[bad]).all()
    assert str(table["TEFF"].unit) == "K"
    header = fits.getheader(out, "CATALOG")
    assert header["SOLSCALE"] == "Asplund2009"
    assert len(header["EMUHASH"]) == 16
    assert header.comments["TTYPE1"]
    assert not ChunkStore(out).folder.exists()


def test_covariances_survive_in_one_byte_each(quick, folder, toy_checkpoint, tmp_path):
    out = tmp_path / "c.fits"
    make_catalog(job(folder, out, toy_checkpoint), progress=False)
    names, matrix = covariance(str(out), 1)
    expected = quick_fit([read_reference(str(folder / "spec-001.fits.gz"))], None, None)[0].cov
    size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert names == NAMES
    assert np.abs((matrix - expected) / size).max() < 0.005


@pytest.mark.parametrize("stop_after", [0, 1, 3])
def test_a_stopped_run_goes_on_to_the_same_catalogue(quick, folder, toy_checkpoint, tmp_path, monkeypatch, stop_after):
    whole = make_catalog(job(folder, tmp_path / "whole.fits", toy_checkpoint), progress=False)
    out = tmp_path / "stopped.fits"
    write, count = ChunkStore.write, [0]

    def stop(self, index, references, arrays):
        if count[0] == stop_after:
            raise KeyboardInterrupt
        count[0] += 1
        write(self, index, references, arrays)

    monkeypatch.setattr(ChunkStore, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        make_catalog(job(folder, out, toy_checkpoint), progress=False)
    monkeypatch.setattr(ChunkStore, "write", write)
    with pytest.raises(UserError, match="--resume"):
        make_catalog(job(folder, out, toy_checkpoint), progress=False)
    # Chunks whose files were cut or changed by a crash of the machine are made again.
    for number, path in enumerate(list(ChunkStore(out).folder.glob("chunk_*.npz"))[:2]):
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        path.write_bytes(content[:100] if number else content[:middle] + b"\xff" * 64 + content[middle + 64 :])
    assert same(make_catalog(job(folder, out, toy_checkpoint), resume=True, progress=False), whole)


@pytest.fixture
def stopped(quick, folder, toy_checkpoint, tmp_path, monkeypatch) -> ChunkStore:
    """A catalogue of four chunks that was stopped when all of them were done and nothing was written."""
    out = tmp_path / "c.fits"
    with monkeypatch.context() as patch:
        patch.setattr("phdlspec.catalog.run._write", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_catalog(job(folder, out, toy_checkpoint), progress=False)
    return ChunkStore(out)


def _interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def _swap(paths):
    first, second = paths[0].read_bytes(), paths[1].read_bytes()
    paths[0].write_bytes(second)
    paths[1].write_bytes(first)


def _change(paths, change):
    """Change the arrays of a chunk and leave what it says of itself."""
    with np.load(paths[1], allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    change(arrays)
    np.savez_compressed(paths[1], **arrays)


FAULTS = {
    "swapped": (_swap, 2),
    "doubled": (lambda paths: paths[1].write_bytes(paths[0].read_bytes()), 1),
    "cut": (lambda paths: paths[1].write_bytes(paths[1].read_bytes()[:-50]), 1),
    "fewer rows": (lambda paths: _change(paths, lambda a: a.update({n: v[:2] for n, v in a.items() if v.ndim})), 1),
    "other type": (lambda paths: _change(paths, lambda a: a.update(value=a["value"].astype(int))), 1),
    "edited": (lambda paths: _change(paths, lambda a: a["value"].__setitem__((0, 0), 5000.0)), 1),
    "less": (lambda paths: _change(paths, lambda a: a.pop("value")), 1),
    "no description": (lambda paths: _change(paths, lambda a: a.pop("about")), 1),
    "text": (lambda paths: paths[1].write_text("chapter one"), 1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_chunks_that_were_touched_are_made_again(stopped, folder, toy_checkpoint, tmp_path, monkeypatch, caplog, fault):
    whole = make_catalog(job(folder, tmp_path / "whole.fits", toy_checkpoint), progress=False)
    touch, again = FAULTS[fault]
    touch(sorted(stopped.folder.glob("chunk_*.npz")))
    fitted = []
    monkeypatch.setattr(chunks_module, "fit_batch", lambda *a: fitted.append(len(a[0])) or quick_fit(*a))
    with caplog.at_level("WARNING"):
        assert same(make_catalog(job(folder, stopped.out, toy_checkpoint), resume=True, progress=False), whole)
    assert len(fitted) == again
    assert sum("it is made again" in record.getMessage() for record in caplog.records) == again


def test_without_its_description_a_stopped_run_is_not_thrown_away(stopped, folder, toy_checkpoint):
    (stopped.folder / "job.json").unlink()
    with pytest.raises(UserError, match="holds finished chunks, but no job.json"):
        make_catalog(job(folder, stopped.out, toy_checkpoint), resume=True, progress=False)
    assert len(list(stopped.folder.glob("chunk_*.npz"))) == 4


@pytest.mark.parametrize("content", ["[1, 2]", "null", "{", "\x00\xff", "[" * 100_000])
def test_a_description_that_was_touched_is_one_sentence(stopped, folder, toy_checkpoint, content):
    (stopped.folder / "job.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match="job.json: damaged") as caught:
        make_catalog(job(folder, stopped.out, toy_checkpoint), resume=True, progress=False)
    assert len(str(caught.value)) < 500


def test_another_version_does_not_go_on(stopped, folder, toy_checkpoint, monkeypatch):
    monkeypatch.setattr("phdlspec.catalog.job.__version__", "99.0")
    with pytest.raises(UserError, match=r"another version of phdlspec \(.*, now 99.0\)"):
        make_catalog(job(folder, stopped.out, toy_checkpoint), resume=True, progress=False)


@pytest.mark.parametrize(("what", "key"), [("--known", "known_table"), ("--resolving-power", "resolving_power")])
def test_a_table_that_changed_does_not_go_on(quick, folder, toy_checkpoint, tmp_path, what, key):
    table = tmp_path / "t.csv"
    table.write_text("OBSID,TEFF,TEFF_ERR,wave,resolving_power\n001,5000,50,5000,1500\n")
    one = job(folder, tmp_path / "c.fits", toy_checkpoint)
    if key == "known_table":
        one = replace(one, settings=replace(one.settings, known_table=str(table)))
    else:
        one = replace(one, resolving_power=table)
    ChunkStore(one.out).open(one.identity(load_emulator(toy_checkpoint).checkpoint_hash), resume=False)
    table.write_text(table.read_text().replace("5000", "5100"))
    with pytest.raises(UserError, match=rf"another {what} \(SHA-256 \w+ of .* before, now SHA-256 \w+ of .*\)"):
        make_catalog(one, resume=True, progress=False)


def test_files_of_others_beside_the_chunks_stay(stopped, folder, toy_checkpoint):
    names = ("notes.txt", "chunk_abc.npz", "chunk_0000009.txt")
    for name in names:
        (stopped.folder / name).write_text("mine")
    make_catalog(job(folder, stopped.out, toy_checkpoint), resume=True, progress=False)
    assert sorted(path.name for path in stopped.folder.iterdir()) == sorted(names)


def test_a_second_run_on_one_catalogue_is_refused(quick, folder, toy_checkpoint, tmp_path):
    out = tmp_path / "c.fits"
    with ChunkStore(out).lock(), pytest.raises(UserError, match="c.fits: another run is making it"):
        make_catalog(job(folder, out, toy_checkpoint), progress=False)


def _no_fit(spectra, emulator, settings):
    raise AssertionError("fitted again")


def test_a_finished_catalogue_is_not_made_again(quick, folder, toy_checkpoint, tmp_path, monkeypatch, capsys):
    out = tmp_path / "c.fits"
    first = make_catalog(job(folder, out, toy_checkpoint), progress=False)
    content = out.read_bytes()
    monkeypatch.setattr(chunks_module, "fit_batch", _no_fit)
    assert same(make_catalog(job(folder, out, toy_checkpoint), resume=True), first)
    assert "was finished before with the same inputs and settings, nothing is fitted" in capsys.readouterr().out
    assert out.read_bytes() == content
    with pytest.raises(UserError, match="c.fits: exists already; .*--overwrite"):
        make_catalog(job(folder, out, toy_checkpoint), progress=False)
    with pytest.raises(UserError, match=r"made with another --chunk \(\d+ before, now 5\); .*--overwrite"):
        make_catalog(job(folder, out, toy_checkpoint, chunk=5), resume=True, progress=False)
    assert out.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"no FITS", None], ids=["empty", "text", "cut off"])
def test_what_is_no_whole_catalogue_is_not_taken_for_one(quick, folder, toy_checkpoint, tmp_path, content):
    out = tmp_path / "c.fits"
    whole = make_catalog(job(folder, out, toy_checkpoint), progress=False).copy()
    out.write_bytes(out.read_bytes()[: out.stat().st_size // 2] if content is None else content)
    with pytest.raises(UserError, match="--overwrite"):
        make_catalog(job(folder, out, toy_checkpoint), resume=True, progress=False)
    assert same(make_catalog(job(folder, out, toy_checkpoint), overwrite=True, progress=False), whole)


def test_a_run_that_overwrites_can_be_stopped_too(quick, folder, toy_checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "c.fits"
    first = make_catalog(job(folder, out, toy_checkpoint), progress=False).copy()
    content = out.read_bytes()

    def interrupted(spectra, emulator, settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(chunks_module, "fit_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_catalog(job(folder, out, toy_checkpoint), overwrite=True, progress=False)
    assert out.read_bytes() == content
    fitted = []
    monkeypatch.setattr(chunks_module, "fit_batch", lambda *a: fitted.append(len(a[0])) or quick_fit(*a))
    assert same(make_catalog(job(folder, out, toy_checkpoint), resume=True, progress=False), first)
    assert sum(fitted) == 8


def test_killed_while_it_clears_up_a_run_is_finished(quick, folder, toy_checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "c.fits"
    unlink, left = Path.unlink, []

    def killed(self, missing_ok=False):
        if self.parent.name == "c.fits.parts" and ".part-" not in self.name:
            left.append(self)
            if len(left) == 3:
                raise KeyboardInterrupt
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        make_catalog(job(folder, out, toy_checkpoint), progress=False)
    monkeypatch.setattr(Path, "unlink", unlink)
    monkeypatch.setattr(chunks_module, "fit_batch", _no_fit)
    assert len(make_catalog(job(folder, out, toy_checkpoint), resume=True, progress=False)) == 10


def test_another_configuration_does_not_continue_a_run(quick, folder, toy_checkpoint, tmp_path):
    out = tmp_path / "c.fits"
    ChunkStore(out).open(job(folder, out, toy_checkpoint).identity("a checkpoint"), resume=False)
    with pytest.raises(UserError, match="another --emulator"):
        make_catalog(job(folder, out, toy_checkpoint), resume=True, progress=False)


def test_the_size_of_chunks_does_not_matter(quick, folder, toy_checkpoint, tmp_path):
    tables = [
        make_catalog(job(folder, tmp_path / f"{n}.fits", toy_checkpoint, chunk=n), progress=False) for n in (1, 4, 50)
    ]
    assert same(tables[0], tables[1])
    assert same(tables[0], tables[2])


def test_names_and_reasons_beyond_ascii_are_written(quick, folder, toy_checkpoint, tmp_path):
    references = (*expand_inputs([folder])[:2], str(tmp_path / "é 5000 Å.fits"))
    out = tmp_path / "c.fits"
    make_catalog(CatalogJob(references, str(out), FitSettings(mode="fast"), str(toy_checkpoint), "cpu"), progress=False)
    table = Table.read(out, hdu="CATALOG")
    assert str(table["FILE"][2]).endswith("\\xe9 5000 A.fits")
    assert int(table["FLAG"][2]) == int(StarFlag.UNREADABLE)


@pytest.mark.parametrize("name", ["恒星".encode(), "étoile".encode("latin-1"), b"\x1b[31mred\nline"])
def test_folders_and_commands_in_any_encoding(quick, folder, toy_checkpoint, tmp_path, monkeypatch, capsys, name):
    there = tmp_path / os.fsdecode(name)
    there.mkdir()
    for number in (0, 8):  # one that is read and one that is damaged
        shutil.copy(folder / f"spec-{number:03d}.fits.gz", there / f"{there.name}-{number}.fits.gz")
    out = there / f"{there.name}.fits"
    command = ["catalog", str(there), "--out", str(out), "--emulator", str(toy_checkpoint), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["phdlspec", *command])
    assert main(command) == 0
    assert main([*command, "--resume"]) == 0
    table = Table.read(out, hdu="CATALOG")
    assert list(table["FLAG"]) == [0, int(StarFlag.UNREADABLE)]
    for words in (*table["FILE"], *table["REASON"]):
        assert str(words).isascii()
        assert str(words).isprintable()
    printed = "".join(capsys.readouterr())
    assert "\x1b" not in printed


def test_the_command_is_kept_as_it_can_be_given_again(quick, folder, toy_checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "with blank $HOME.fits"
    command = ["catalog", str(folder), "--out", str(out), "--emulator", str(toy_checkpoint), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["phdlspec", *command])
    assert main([*command, "--no-report"]) == 0
    history = "".join(f"{line:72s}" for line in fits.getheader(out, "CATALOG")["HISTORY"])
    assert shlex.split(re.search(r"COMMAND: (phdlspec.*?cpu)", history)[1]) == ["phdlspec", *command]


def test_hostile_texts_are_texts(quick, folder, toy_checkpoint, tmp_path):
    hostile = ("=cmd|' /C calc'!A0", "<script>alert(1)</script>", "\x1b]0;x\x07", "a\x00b", "</td>\n|x|")
    spectra = [read_reference(str(folder / "spec-000.fits.gz")) for _ in hostile]
    table = phdlspec.fit_many(
        [replace_meta(s, OBSID=text, CLASS=text, OBJECT=text) for s, text in zip(spectra, hostile)],
        load_emulator(toy_checkpoint, "cpu"),
    )
    assert list(table["OBSID"][:2]) == list(hostile[:2])
    assert list(table["OBJECT"][2:]) == ["\\x1b]0;x\\x07", "a\\x00b", "</td>\\n|x|"]
    write_table(table, tmp_path / "c.fits")
    write_quality(table, tmp_path / "c.html")
    assert "<script>alert" not in (tmp_path / "c.html").read_text()
    assert list(Table.read(tmp_path / "c.fits")["CLASS"]) == list(table["CLASS"])


def test_numbers_beyond_float32_are_infinite_without_a_word(quick, folder, toy_checkpoint):
    (one,) = quick_fit([read_reference(str(folder / "spec-000.fits.gz"))], None, None)
    value = one.value.copy()
    value[0] = 1e60
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = to_table(to_arrays([replace(one, chi2=1e300, value=value)], ["a.fits"]))
    assert table["CHI2"][0] == np.inf
    assert table[one.names[0]][0] == np.inf


def test_remarks_reach_the_catalogue_and_the_terminal(quick, folder, toy_checkpoint, tmp_path, capsys):
    with fits.open(folder / "spec-001.fits.gz") as hdus:
        hdus[0].header["CLASS"] = "QSO"
        hdus.writeto(tmp_path / "qso.fits")
    inputs = [str(tmp_path / "qso.fits"), str(folder / "spec-002.fits.gz")]
    options = ["--emulator", str(toy_checkpoint), "--device", "cpu", "--no-report"]
    assert main(["catalog", *inputs, "--out", str(tmp_path / "c.fits"), *options]) == 0
    assert "1 with remarks (see WARNINGS)" in capsys.readouterr().out
    told = Table.read(tmp_path / "c.fits", hdu="CATALOG")["WARNINGS"].filled("")
    assert list(told) == ["the survey classified this spectrum as QSO, not as a star", ""]


def test_masks_that_differ_in_their_frame_are_other_settings(folder, toy_checkpoint, tmp_path):
    before = job(folder, tmp_path / "c.fits", toy_checkpoint)
    identities = [
        replace(before, settings=replace(before.settings, masks=(MaskInterval("a", 5000.0, 5001.0, frame),)))
        for frame in ("star", "observed")
    ]
    assert identities[0].identity("0") != identities[1].identity("0")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"settings": FitSettings(mode="fast", seed=2)}, r"another --seed \(1 before, now 2\); give"),
        ({"settings": FitSettings(mode="fast", priors=("vmic",))}, r"--prior \(nothing before, now \['vmic'\]\)"),
        ({"medium": "air"}, r"another --medium \(nothing before, now air\)"),
        ({"chunk": 4, "columns": ("xh",)}, r"another --chunk \(3 before, now 4\), and another --columns"),
    ],
)
def test_resuming_names_the_option_that_differs(quick, folder, toy_checkpoint, tmp_path, changed, words):
    out = tmp_path / "c.fits"
    before = job(folder, out, toy_checkpoint)
    checkpoint = load_emulator(toy_checkpoint, "cpu").checkpoint_hash
    ChunkStore(out).open(before.identity(checkpoint), resume=False)
    with pytest.raises(UserError, match=words):
        make_catalog(replace(before, **changed), resume=True, progress=False)


def test_a_catalogue_has_the_columns_that_are_asked_for(quick, folder, toy_checkpoint, tmp_path):
    asked = replace(job(folder, tmp_path / "c.fits", toy_checkpoint), columns=("xh", "flag-names"))
    table = make_catalog(asked, progress=False)
    assert np.allclose(table["MG_H"], table["MG_FE"] + table["FE_H"], equal_nan=True)
    assert str(table["FLAG_NAMES"][8]) == "UNREADABLE"
    assert "TEFF_P16" not in table.colnames


def test_chunks_of_an_unknown_job_are_not_taken_over(quick, folder, toy_checkpoint, tmp_path):
    out = tmp_path / "c.fits"
    store = ChunkStore(out)
    store.folder.mkdir()
    left = store.folder / "chunk_0000000.npz"
    left.write_bytes(b"left by a run that was killed while it cleared up")
    store.open({"list of inputs": "another"}, resume=False)
    assert not left.exists()


def test_a_batch_that_does_not_fit_is_halved(folder, toy_checkpoint, tmp_path, monkeypatch):
    sizes = []

    def hungry(spectra, emulator, settings):
        sizes.append(len(spectra))
        if len(spectra) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return quick_fit(spectra, emulator, settings)

    monkeypatch.setattr(chunks_module, "fit_batch", hungry)
    table = make_catalog(job(folder, tmp_path / "c.fits", toy_checkpoint, chunk=8), progress=False)
    assert max(sizes) == 8
    assert (np.asarray(table["FLAG"])[:8] == 0).all()


def test_a_full_disk_is_one_sentence(quick, folder, toy_checkpoint, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("phdlspec.items.np.savez_compressed", full)
    with pytest.raises(UserError, match="the disk is full"):
        make_catalog(job(folder, tmp_path / "c.fits", toy_checkpoint), progress=False)


def test_the_quality_page_is_self_contained(quick, folder, toy_checkpoint, tmp_path):
    table = make_catalog(job(folder, tmp_path / "c.fits", toy_checkpoint), progress=False)
    write_quality(table, tmp_path / "c.html")
    page = (tmp_path / "c.html").read_text()
    assert "Bokeh.embed" in page
    assert not re.search(r"<(script|link)[^>]*\b(src|href)=", page)  # nothing is fetched
    for star in table[:3]:
        assert Path(str(star["FILE"])).name in page or str(star["OBSID"]) in page


def test_the_quality_page_is_thinned_names_flags_and_has_room_for_its_axes(
    quick, folder, toy_checkpoint, tmp_path, monkeypatch
):
    table = make_catalog(job(folder, tmp_path / "c.fits", toy_checkpoint), progress=False)
    table["SNR"] = 50.0
    table["FLAG"][2] = int(StarFlag.POOR_FIT)
    monkeypatch.setattr("phdlspec.catalog.quality.MOST_DRAWN", 5)
    write_quality(table, tmp_path / "c.html")
    page = (tmp_path / "c.html").read_text()
    assert "5 of them are drawn" in page
    assert STAR_WORDS[StarFlag.POOR_FIT] in page
    ranges = [(float(a), float(b)) for a, b in re.findall(r'"start":([0-9.]+),"end":([0-9.]+)', page)]
    assert any(low < 50.0 / 1.04 and high > 50.0 * 1.04 for low, high in ranges)  # though all S/N are equal


def test_the_command(quick, folder, toy_checkpoint, tmp_path, capsys):
    out = tmp_path / "c.fits"
    options = ["--emulator", str(toy_checkpoint), "--device", "cpu", "--also", "hdf5"]
    assert main(["catalog", str(folder), "--out", str(out), *options]) == 0
    assert "10 stars, 8 that may be used, 2 without a result" in capsys.readouterr().out
    assert out.with_suffix(".html").exists()
    assert out.with_suffix(".h5").exists()
    assert main(["catalog", str(folder), "--out", str(out), "--workers", "0", *options]) == 1


def test_the_command_on_a_finished_catalogue(quick, folder, toy_checkpoint, tmp_path, monkeypatch, capsys):
    out = tmp_path / "c.fits"
    command = ["catalog", str(folder), "--out", str(out), "--emulator", str(toy_checkpoint), "--device", "cpu"]
    assert main([*command, "--no-report"]) == 0
    assert main(command) == 1
    assert "c.fits: exists already; choose another --out, or add --overwrite" in capsys.readouterr().err
    assert main([*command, "--no-report", "--overwrite"]) == 0
    monkeypatch.setattr(chunks_module, "fit_batch", _no_fit)
    assert main([*command, "--resume", "--also", "hdf5"]) == 0
    assert "nothing is fitted" in capsys.readouterr().out
    assert out.with_suffix(".html").exists()
    assert out.with_suffix(".h5").exists()


@pytest.mark.parametrize(
    ("out", "options", "words"),
    [
        ("c.fits.gz", [], "c.fits.gz: .*not compressed, expected an --out that ends in .fits"),
        ("c.csv", [], "expected an --out that ends in .fits"),
        ("folder.fits", [], "folder.fits: is a folder"),
        ("page.fits", [], "page.html: is a folder"),
        ("table.fits", ["--also", "hdf5"], "table.h5: exists already.*--overwrite"),
        ("input.fits", ["--also", "hdf5", "--overwrite"], "input.h5: is an input"),
        ("file.txt/c.fits", [], "file.txt is no folder that you may write to"),
        ("c.fits", ["--also", "parquet"], "needs pyarrow"),
    ],
)
def test_outputs_are_checked_before_the_fit(tmp_path, monkeypatch, capsys, out, options, words):
    for name in ("folder.fits", "page.html"):
        (tmp_path / name).mkdir()
    for name in ("table.h5", "input.h5", "file.txt"):
        (tmp_path / name).touch()
    monkeypatch.setattr("phdlspec.commands.catalog.find_spec", lambda name: name == "h5py")
    monkeypatch.setattr("phdlspec.commands.catalog.expand_inputs", _no_fit)
    assert main(["catalog", str(tmp_path / "input.h5"), "--out", str(tmp_path / out), *options]) == 1
    message = capsys.readouterr().err
    assert re.search(words, message)
    assert message.count("\n") == 1


def test_a_folder_that_must_not_be_written_is_said_before_the_fit(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert main(["catalog", "a.fits", "--out", str(tmp_path / "new" / "c.fits")]) == 1
    assert f"{tmp_path} is no folder that you may write to" in capsys.readouterr().err


def test_spectra_in_memory(quick, folder, toy_emulator):
    spectra = [read_reference(str(folder / f"spec-{i:03d}.fits.gz")) for i in range(3)]
    table = phdlspec.fit_many(spectra, toy_emulator)
    assert len(table) == 3
    assert list(table["OBSID"]) == ["000", "001", "002"]


def test_reports_of_single_stars_are_linked_from_the_page(quick, folder, toy_checkpoint, tmp_path, capsys):
    out = tmp_path / "c.fits"
    options = ["--emulator", str(toy_checkpoint), "--device", "cpu"]
    assert main(["catalog", str(folder), "--out", str(out), "--reports", "2", *options]) == 0
    pages = sorted((tmp_path / "c.reports").iterdir())
    assert len(pages) == 2
    text = out.with_suffix(".html").read_text()
    assert all(f"c.reports/{page.name}" in text for page in pages)
    assert main(["catalog", str(folder), "--out", str(tmp_path / "d.fits"), "--reports", "some", *options]) == 1
    assert "expected all, flagged or a number" in capsys.readouterr().err
